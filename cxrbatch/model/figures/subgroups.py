"""The same figures for men and women, age bands and view positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cxrbatch.model.data.groups import AGE_BANDS, UNKNOWN, age_band
from cxrbatch.model.data.labelled import Sample
from cxrbatch.model.figures.figures import LabelledScores, MeasuredLabels, measure_labels


@dataclass(frozen=True, slots=True)
class SubgroupFigures:
    """One group of images, such as sex F, and what was measured on it alone."""

    column: str
    group: str
    images: int
    patients: int
    measured: MeasuredLabels


def measure_subgroups(scores: LabelledScores, samples: Sequence[Sample]) -> tuple[SubgroupFigures, ...]:
    """Measure every group of sex, age band and view that these images form; a column with one group is left out."""
    found: list[SubgroupFigures] = []
    for column, group_of in _COLUMNS.items():
        groups = np.array([group_of(sample) for sample in samples])
        names = sorted(set(groups.tolist()), key=_unknown_last)
        if len(names) > 1:
            found.extend(_measure_group(column, name, groups == name, scores, samples) for name in names)
    return tuple(found)


def _measure_group(
    column: str,
    name: str,
    images: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    scores: LabelledScores,
    samples: Sequence[Sample],
) -> SubgroupFigures:
    patients = {sample.patient for sample, inside in zip(samples, images.tolist(), strict=True) if inside}
    return SubgroupFigures(column, name, int(images.sum()), len(patients), measure_labels(scores.part(images)))


def _unknown_last(name: str) -> tuple[bool, int, str]:
    return name == UNKNOWN, AGE_BANDS.index(name) if name in AGE_BANDS else 0, name


_COLUMNS: dict[str, Callable[[Sample], str]] = {
    "sex": lambda sample: sample.sex or UNKNOWN,
    "age": lambda sample: age_band(sample.age),
    "view": lambda sample: sample.view or UNKNOWN,
}
