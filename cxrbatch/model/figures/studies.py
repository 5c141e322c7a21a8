"""Images by study: which belong together, and whether a study has any finding at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cxrbatch.records import Float32

Groups = Sequence[NDArray[np.int64]]
"""Per study, the places of its images, int64 [n], n > 0."""


def group_images(study_of_image: Sequence[str]) -> Groups:
    """Return the studies in the order of their first images."""
    groups: dict[str, list[int]] = {}
    for at, study in enumerate(study_of_image):
        groups.setdefault(study, []).append(at)
    return [np.array(images, np.int64) for images in groups.values()]


def find_any(targets: Float32, normal: Sequence[bool], groups: Groups) -> Float32:
    """Return whether each study has any finding, float32 [S]: 1, 0, or nan where that is not known.

    One image that shows one is enough. Without any, every finding must be known to be absent in every image.

    Args:
        targets: float32 [N,C], 0 or 1; nan where unknown.
        normal: per label, whether it means that nothing was found.
        groups: the studies.
    """
    findings = ~np.array(normal, bool)
    shown = targets[:, findings] if findings.any() else 1.0 - targets
    of_image = np.where((shown == 1.0).any(axis=1), 1.0, np.where(np.isnan(shown).any(axis=1), np.nan, 0.0))
    return np.array([_any(of_image[images]) for images in groups], np.float32)


def _any(of_images: NDArray[np.float64]) -> float:
    return 1.0 if (of_images == 1.0).any() else float(of_images.sum())


def strongest(probabilities: Float32, groups: Groups) -> Float32:
    """Return each study's probabilities, the maximum over its images: float32 [N,C] -> float32 [S,C]."""
    return np.stack([probabilities[images].max(axis=0) for images in groups])
