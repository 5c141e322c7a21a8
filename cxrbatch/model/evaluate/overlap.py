"""Why figures may be too good: the evaluated images are among those that the model learned from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from cxrbatch.engine.manifest import TrainingFacts
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.evaluate.record import counted

TRAINING_PART = "train"


def patients_sha256(samples: Iterable[Sample]) -> str:
    """Identify a set of patients: the same ones give the same 64 hex digits, whatever folder they lie in.

    An image of an unknown patient stands for itself, by its file name. Nobody can be recognised by the digest.
    """
    keys = sorted({sample.patient if sample.patient_id else f"file:{sample.path.name}" for sample in samples})
    return hashlib.sha256("\n".join(keys).encode("utf-8", "surrogateescape")).hexdigest()


def is_trained_on(training: TrainingFacts, data: LabelledImages) -> bool:
    """Tell whether the model learned from this data's training part, as far as its checkpoint says."""
    training_part = [sample for sample in data.samples if sample.split == TRAINING_PART]
    return bool(training_part) and training.patients.get(TRAINING_PART) == patients_sha256(training_part)


def find_overlap(evaluated: Sequence[Sample], data: LabelledImages, training: TrainingFacts) -> tuple[str, ...]:
    """Return, in sentences, how the evaluated images overlap with what the model may have learned from.

    The data's own split tells which patients are its training part; that the model learned from this very
    part is known where the checkpoint says so (`TrainingFacts.patients`).
    """
    learned_from = training.patients.get(TRAINING_PART, "")
    training_part = [sample for sample in data.samples if sample.split == TRAINING_PART]
    shared = {sample.patient for sample in evaluated} & {sample.patient for sample in training_part}
    if learned_from and learned_from == patients_sha256(evaluated):
        return ("The model learned from these very patients: its checkpoint names them as its training part.",)
    if not shared:
        return ()
    images = sum(sample.patient in shared for sample in evaluated)
    how = "learned from" if is_trained_on(training, data) else "may have learned from"
    shown = f"{counted(len(shared), 'patient')} of this data's training part, which the model {how}."
    return (f"Of {counted(len(evaluated), 'image')} {images} show {shown}",)
