"""Refusing a split that leaks: nobody, and no picture, may be in two parts.

A model that was trained on a patient recognises the patient, and its figures measure that.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cxrbatch.errors import UsageError
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.records import Gray8

_CASES_SHOWN = 5


def check_patients(images: LabelledImages, *, allow_leak: bool) -> LabelledImages:
    """Refuse data with a patient in two parts; let it through with a note in `leaks` where allowed.

    Raises:
        UsageError: naming the images; never the patient.
    """
    by_patient = _group((sample.patient_id, sample) for sample in images.samples if sample.patient_id)
    return _refuse_shared(images, by_patient, "Patients with images in two parts", allow_leak=allow_leak)


def check_pixels(images: LabelledImages, digests: Sequence[str], *, allow_leak: bool) -> LabelledImages:
    """Refuse data with the same picture in two parts; let it through with a note in `leaks` where allowed.

    What counts is what the network sees: an image that was copied as PNG, JPEG without loss or DICOM, or
    renamed, is found though its files differ.

    Args:
        images: the images.
        digests: of their pixels (`hash_pixels`), in the order of the images.
        allow_leak: let it through.

    Raises:
        UsageError: naming the images.
    """
    by_picture = _group(zip(digests, images.samples, strict=True))
    return _refuse_shared(images, by_picture, "Pictures that are in two parts", allow_leak=allow_leak)


def hash_pixels(pixels: Gray8) -> list[str]:
    """Return the SHA-256 of each picture of uint8 [N,1,S,S]."""
    return [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pixels]


def _group(items: Iterable[tuple[str, Sample]]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for key, sample in items:
        groups[key].append(sample)
    return groups


def _refuse_shared(
    images: LabelledImages, groups: Mapping[str, list[Sample]], what: str, *, allow_leak: bool
) -> LabelledImages:
    shared = [samples for samples in groups.values() if len({sample.split for sample in samples}) > 1]
    if not shared:
        return images
    sentence = f"{what}: {len(shared)} ({_name_cases(images, shared)})."
    if not allow_leak:
        raise UsageError(
            f"{images.root}: {sentence} Figures on such a split measure recognition, not diagnosis. Mend the split, "
            f"remove it to have the images split by patient, or keep it with --allow-leak."
        )
    return replace(images, leaks=(*images.leaks, sentence))


def _name_cases(images: LabelledImages, shared: list[list[Sample]]) -> str:
    cases = []
    for samples in shared[:_CASES_SHOWN]:
        by_part = {sample.split: sample for sample in samples}
        cases.append(", ".join(f"{images.name_of(sample)} in {part}" for part, sample in sorted(by_part.items())))
    more = f"; and {len(shared) - _CASES_SHOWN} more" if len(shared) > _CASES_SHOWN else ""
    return "; ".join(cases) + more
