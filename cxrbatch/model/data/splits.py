"""Splitting labelled data by patient, stratified and the same each time; and refusing a split that leaks.

Start at `split_data`, `check_patients` and `check_pixels`.

Parts are drawn in the manner of iterative stratification (Sechidis et al. 2011), with patients in place of
examples: labels are dealt with from the rarest on, and each patient who shows the label goes to the part that
has least of its share, seats being dealt as Webster did: half of what the patient brings counts already, so
that a patient with many images does not land in a small part. One rule so serves findings, classes and two-way
labels alike, which the stratified group splitters of scikit-learn do not.

Nobody, and no picture, may be in two parts: a model that was trained on a patient recognises the patient, and its
figures measure that.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cxrbatch.engine.training_facts import CALIBRATION_PART
from cxrbatch.errors import UsageError
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.data.options import DataOptions
from cxrbatch.pages.retelling import kept
from cxrbatch.records import Gray8


def split_data(images: LabelledImages, options: DataOptions) -> LabelledImages:
    """Give each image a part. Parts that the data brings along stay; val, where missing, is cut from train.

    What is set aside for calibration is cut last, so that val and test are the same with and without it.

    Raises:
        UsageError: there is nothing to train on, or too few patients to cut a part from.
    """
    given = {sample.split for sample in images.samples}
    if not given & {"", "train"}:
        raise UsageError(
            f"{images.root}: all images belong to {' and '.join(sorted(given))}; none is left to train on."
        )
    cut = 0.0
    if not {"val", "train"} <= given:
        fractions = {"val": options.val_fraction}
        if "test" not in given and options.test_fraction:
            fractions["test"] = options.test_fraction
        cut = sum(fractions.values())
        images = _deal(images, {"train": 1.0 - cut, **fractions}, options.seed)
    if options.set_aside and CALIBRATION_PART not in given:
        share = options.set_aside / (1.0 - cut)
        images = _deal(images, {"train": 1.0 - share, CALIBRATION_PART: share}, options.seed)
    return images


def split_into_folds(images: LabelledImages, folds: int, seed: int) -> tuple[LabelledImages, ...]:
    """Split as many times as there are folds; each image outside of a given test part is validated on once.

    Raises:
        UsageError: there are fewer patients than folds.
    """
    dealt = _deal(images, {f"fold {fold}": 1.0 / folds for fold in range(folds)}, seed, anew=True)
    return tuple(_validated_on(dealt, f"fold {fold}") for fold in range(folds))


def assign_patients(counts: NDArray[np.float64], fractions: Sequence[float], seed: int) -> NDArray[np.int64]:
    """Assign patients to parts.

    Args:
        counts: float64 [P,C], how many images of a patient show label c; each row has an image somewhere.
        fractions: what each of the F parts shall hold of every label; they sum to 1.
        seed: decides between equals, and in which order patients come.

    Returns:
        int64 [P], the part of each patient.
    """
    shares = np.asarray(fractions, np.float64)
    total = np.maximum(counts.sum(axis=0), 1.0)
    taken = np.zeros((len(shares), counts.shape[1]))
    parts = np.full(len(counts), -1)
    order = np.random.default_rng(seed).permutation(len(counts))
    # Patients with many images first: those with few can still even out what they did.
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    while (waiting := order[parts[order] < 0]).size:
        left = counts[waiting].sum(axis=0)
        label = int(np.argmin(np.where(left > 0, left, np.inf)))
        for patient in waiting[counts[waiting, label] > 0]:
            filled = taken + counts[patient] / 2
            of_label = filled[:, label] / (shares * total[label])
            of_all = filled.sum(axis=1) / (shares * total.sum())
            part = min(range(len(shares)), key=list(zip(of_label, of_all, strict=True)).__getitem__)
            parts[patient] = part
            taken[part] += counts[patient]
    return _fill_empty(parts, counts, len(shares))


def _fill_empty(parts: NDArray[np.int64], counts: NDArray[np.float64], n_parts: int) -> NDArray[np.int64]:
    """Give each part that got nobody, its share being less than a patient, the smallest one of the fullest part."""
    for part in range(n_parts):
        if not (parts == part).any() and len(parts) >= n_parts:
            fullest = np.flatnonzero(parts == np.bincount(parts, minlength=n_parts).argmax())
            parts[fullest[counts[fullest].sum(axis=1).argmin()]] = part
    return parts


def _deal(images: LabelledImages, shares: dict[str, float], seed: int, *, anew: bool = False) -> LabelledImages:
    """Deal the images that are not yet in val or test (or, anew, not in test) to the parts with these shares."""
    free = [row for row, sample in enumerate(images.samples) if _is_free(sample, anew=anew)]
    # By name, so that neither the order of the table nor the place of the folder changes the split.
    patients = [
        sample.patient_id or sample.group or images.name_of(sample) for sample in map(images.samples.__getitem__, free)
    ]
    names = sorted(set(patients))
    if len(names) < len(shares):
        raise UsageError(
            f"{images.root}: too few patients ({len(names)}) to split their images into {', '.join(shares)}. "
            f"Bring images of more patients, or check the patient column."
        )
    number = {name: index for index, name in enumerate(names)}
    groups = np.array([number[patient] for patient in patients])
    counts = _count_labels([images.samples[row] for row in free], groups, len(names))
    dealt, parts = assign_patients(counts, list(shares.values()), seed), list(shares)
    split = {row: parts[dealt[group]] for row, group in zip(free, groups, strict=True)}
    samples = (replace(sample, split=split.get(row, sample.split)) for row, sample in enumerate(images.samples))
    return replace(images, samples=tuple(samples))


def _is_free(sample: Sample, *, anew: bool) -> bool:
    return sample.split in {"", "train"} or (anew and sample.split != "test")


def _count_labels(samples: Sequence[Sample], groups: NDArray[np.int64], patients: int) -> NDArray[np.float64]:
    """Count per patient the images that show each label and, in a last column, those that show none."""
    shown = np.array([sample.targets for sample in samples]) == 1.0
    columns = np.column_stack([shown, ~shown.any(axis=1)]).astype(np.float64)
    counts = np.zeros((patients, columns.shape[1]))
    np.add.at(counts, groups, columns)
    return counts


def _validated_on(dealt: LabelledImages, fold: str) -> LabelledImages:
    parts = {"test": "test", fold: "val"}
    return replace(
        dealt, samples=tuple(replace(sample, split=parts.get(sample.split, "train")) for sample in dealt.samples)
    )


_CASES_SHOWN = 5


# --------------------------------------------------------------------------- leaks


def check_patients(images: LabelledImages, *, allow_leak: bool) -> LabelledImages:
    """Refuse data with a patient, or a publication, in two parts; let it through with a note in `leaks` where allowed.

    Raises:
        UsageError: naming the images; never the patient.
    """
    by_patient = _group((sample.patient, sample) for sample in images.samples if sample.patient_id)
    images = _refuse_shared(
        images, by_patient, kept("Patients with images in two parts: {count} ({names})."), allow_leak=allow_leak
    )
    by_group = _group((sample.patient, sample) for sample in images.samples if sample.group and not sample.patient_id)
    return _refuse_shared(
        images, by_group, kept("Publications with figures in two parts: {count} ({names})."), allow_leak=allow_leak
    )


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
    return _refuse_shared(
        images, by_picture, kept("Pictures that are in two parts: {count} ({names})."), allow_leak=allow_leak
    )


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
    sentence = what.format(count=len(shared), names=_name_cases(images, shared))
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
