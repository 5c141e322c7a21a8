"""Every reason to doubt an evaluation's figures, in sentences. Start at `find_cautions`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec

from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.model.data.labelled import LabelledImages, Sample, count_patients, patients_sha256
from cxrbatch.model.evaluate.acquaintance import Acquaintance, describe_chosen, describe_learned, is_certain
from cxrbatch.model.evaluate.doubts import Shortcut, find_overlap, is_trained_on
from cxrbatch.model.evaluate.record import Caution
from cxrbatch.model.evaluate.scoring import ScoredImages
from cxrbatch.model.figures.figure_lines import describe_too_few
from cxrbatch.model.figures.figures import LabelledScores, MeasuredLabels
from cxrbatch.pages.retelling import kept, nkept
from cxrbatch.pages.wording import counted
from cxrbatch.records import EngineDescription


@dataclass(frozen=True, slots=True)
class Scored:
    """Everything that is measured: the model, the data, what it said of the images, and that beside the truth.

    `outputs` are the places of the measured labels among the model's outputs; `cut` tells that the part was
    not the data's own. `met` says which of the images the model knows from its training.
    """

    model: EngineDescription
    data: LabelledImages
    images: ScoredImages
    outputs: tuple[int, ...]
    scores: LabelledScores
    cut: bool
    met: Acquaintance

    @property
    def columns(self) -> dict[str, int]:
        """Which of the model's outputs each measured label is."""
        return {label.name: place for label, place in zip(self.scores.labels, self.outputs, strict=True)}

    @property
    def training(self) -> TrainingFacts:
        """What the model says of its training."""
        return msgspec.convert(self.model.training, TrainingFacts)


def find_cautions(scored: Scored, measured: MeasuredLabels, shortcuts: Sequence[Shortcut]) -> Iterator[Caution]:
    """Yield every reason to doubt the figures, the gravest first."""
    yield from _overlaps(scored)
    yield from _shared_choices(scored)
    yield from _unknown_patients(scored)
    for predictor, rivals in groupby(shortcuts, key=lambda shortcut: shortcut.predictor):
        if near := [shortcut for shortcut in rivals if shortcut.near]:
            yield Caution("doubtful", _rivalry(predictor, near))
    judged = {label.label for label in measured.labels}
    if missing := [label.name for label in scored.model.labels if label.name not in judged]:
        yield Caution(
            "note", kept("The data says nothing about {names}: not evaluated.").format(names=", ".join(missing))
        )
    if few := describe_too_few(measured):
        yield Caution("note", few)
    if scored.images.refused:
        yield Caution(
            "note",
            kept("Not scored, and in no figure: {images}.").format(images=counted(len(scored.images.refused), "image")),
        )
    yield from (Caution("note", sentence) for sentence in scored.data.notes)


def _overlaps(scored: Scored) -> Iterator[Caution]:
    """Yield whom the model knows already, and what spoils the data itself, with how much that says."""
    void = kept("{sentence} The figures below say nothing about new patients.")
    learned = describe_learned(scored.met, scored.images.samples)
    if learned and is_certain(scored.met):
        yield Caution("void", void.format(sentence=learned))
    elif learned:
        yield Caution(
            "doubtful",
            kept(
                "{sentence} IDs as short as these may be another collection's own count of its patients. If they are "
                "the same patients, the figures say nothing about new ones."
            ).format(sentence=learned),
        )
    guessed = () if scored.met.is_told else find_overlap(scored.images.samples, scored.data, scored.training)
    yield from (Caution("void", void.format(sentence=sentence)) for sentence in (*guessed, *scored.data.leaks))


def _shared_choices(scored: Scored) -> Iterator[Caution]:
    samples = scored.images.samples
    if chosen := describe_chosen(scored.met, samples) or is_choosing_part(scored.training, samples):
        yield Caution("doubtful", chosen)
    if scored.cut and not scored.met.is_told and not is_trained_on(scored.training, scored.data):
        yield Caution(
            "doubtful",
            kept(
                "The data brings no such part, so it was cut from it. These patients are new to the model only if it "
                "was trained elsewhere, or with the same data options and seed."
            ),
        )


def _unknown_patients(scored: Scored) -> Iterator[Caution]:
    unknown = count_patients(scored.images.samples)[1]
    if scored.met.is_told and unknown:
        yield Caution(
            "note",
            nkept(
                "{count} image of unknown patients: whether the model learned from them is told by the very pictures "
                "alone.",
                "{count} images of unknown patients: whether the model learned from them is told by the very pictures "
                "alone.",
                unknown,
            ).format(count=unknown),
        )


def is_choosing_part(training: TrainingFacts, samples: Sequence[Sample]) -> str:
    """Say the same of a model whose checkpoint knows its parts by one digest each."""
    digest = patients_sha256(samples)
    if all(training.patients.get(part) != digest for part in training.choosing_parts):
        return ""
    return kept(
        "On these very patients training chose the epoch, the calibration or the operating points: these figures "
        "promise a little too much."
    )


def _rivalry(predictor: str, near: Sequence[Shortcut]) -> str:
    """Say that a trivial predictor, whose shortcuts are given, does about as well as the model."""
    reaches, is_near = kept("{name} ({auroc})"), kept("{name} ({auroc}, within its interval)")
    named = ", ".join(
        (reaches if shortcut.reaches else is_near).format(name=shortcut.label, auroc=f"{shortcut.auroc:.3f}")
        for shortcut in near
    )
    return kept(
        "{predictor} alone reaches the model's AUROC for {list}. The model may have learned that instead of the "
        "finding."
    ).format(predictor=predictor.capitalize(), list=named)
