"""Whether maps point at a finding: better than chance, than always the same place, and than shuffled weights do.

A map that passes is "validated". Start at `check_maps`; where its maps come from is for others to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, rankdata

from cxrbatch.model.figures.bootstrap import COVERAGE, draw_resamples, resample_mean
from cxrbatch.model.figures.metrics import Mask
from cxrbatch.output.report.heatmap import find_peak, is_faint
from cxrbatch.pages.retelling import kept
from cxrbatch.records import Float32, MapCheck

MIN_IMAGES, MIN_PATIENTS = 20, 10
"""Fewer marked images, or of fewer patients, tell nothing: with 20, a share of one half is known to within 0.22."""

LEAST_LIMIT, HIGHEST_LIMIT = 0.25, 0.5
"""Between these lies what a map and one of shuffled weights may have in common, as a rank correlation.

The limit is what the network's own maps of two different patients have in common: Arun et al. (2021) call maps
degraded that are less alike than pairs of maps of different images. Maps of few cells resemble each other by chance
(the rank correlation of 49 independent cells has a standard error of 0.14), so less than 0.25 is not asked for; with
more than 0.5, a quarter of what varies is the same, whatever the network's own maps do.
"""

_RESAMPLES = 1000
_PAIRS = 50
_GRID = 64
_TAIL = (1 - COVERAGE) / 2

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MarkedMap:
    """One image on which a finding is marked, and what was drawn of it.

    `covered` is bool [H,W], over the image or the square: what is marked. `cam` is float32 [h,w], the network's map in
    logits; `shuffled` float32 [R,h,w] those of R copies with shuffled weights. `spread` lays a map over [H,W].
    """

    patient: str
    covered: Mask
    cam: Float32
    shuffled: Float32
    spread: Callable[[Float32], Float32]


def enough_marked(patients: Sequence[str]) -> bool:
    """Tell whether so many marked images, one patient each, can tell anything."""
    return len(patients) >= MIN_IMAGES and len(set(patients)) >= MIN_PATIENTS


def check_maps(marked: Sequence[MarkedMap], source: str = "") -> MapCheck:
    """Check one label's maps on the images on which it is marked, at least one.

    Args:
        marked: the images; `shuffled` may be empty where there are not enough of them.
        source: which images these are, for people.
    """
    patients = [each.patient for each in marked]
    hits = np.array([_points_at(each.spread(each.cam), each.covered, faint_counts=True) for each in marked], float)
    chance = np.array([each.covered.mean() for each in marked], float)
    found = MapCheck(len(marked), len(set(patients)), _rounded(hits), _rounded(chance), source=source)
    if not enough_marked(patients):
        return replace(
            found,
            reason=_TOO_FEW.format(
                images=found.images, patients=found.patients, needed=MIN_IMAGES, needed_patients=MIN_PATIENTS
            ),
        )
    weights = draw_resamples(patients, count=_RESAMPLES, seed=0)

    def low_end(difference: Values) -> float:
        return round(float(np.quantile(resample_mean(difference, weights), _TAIL)), 4)

    same_place = _point_at_same_place(marked, patients)
    shuffled = np.array([_share_of_copies(each) for each in marked], float)
    found = replace(
        found,
        over_chance=low_end(hits - chance),
        same_place=_rounded(same_place),
        over_same_place=low_end(hits - same_place),
        shuffled_hits=_rounded(shuffled),
        over_shuffled=low_end(hits - shuffled),
        likeness=_likeness(marked),
        likeness_limit=_likeness_limit(marked, patients),
    )
    reason = _why_not(found, is_better=_wins_more_patients(hits - same_place, patients))
    return replace(found, validated=not reason, reason=reason)


_TOO_FEW = kept(
    "there are too few marked images, {images} of {patients} patients; it takes {needed} of {needed_patients}"
)
_NO_MORE_THAN_CHANCE = kept(
    "their peaks lie in what is marked on {hits} of the images, no more than chance may hit ({chance})"
)
_NO_MORE_THAN_ONE_PLACE = kept(
    "their peaks lie in what is marked on {hits} of the images, no more than always pointing at the same place may "
    "({same_place})"
)
_MUCH_THE_SAME = kept(
    "a copy of the network with shuffled weights draws much the same (rank correlation {likeness}, where {limit} is "
    "the limit)"
)
_NO_MORE_THAN_SHUFFLED = kept(
    "their peaks lie in what is marked on {hits} of the images, no more than a copy of the network with shuffled "
    "weights may ({shuffled})"
)


def _why_not(found: MapCheck, *, is_better: bool) -> str:
    """Say why maps are not validated; empty where they are."""
    hits = f"{found.hits:.0%}"
    if not _above(found.over_chance):
        return _NO_MORE_THAN_CHANCE.format(hits=hits, chance=f"{found.chance:.0%}")
    if not (_above(found.over_same_place) and is_better):
        return _NO_MORE_THAN_ONE_PLACE.format(hits=hits, same_place=f"{found.same_place:.0%}")
    if found.likeness is None or found.likeness_limit is None:
        return kept("a copy of the network with shuffled weights draws nothing that they could be compared with")
    if found.likeness > found.likeness_limit:
        return _MUCH_THE_SAME.format(likeness=f"{found.likeness:.2f}", limit=f"{found.likeness_limit:.2f}")
    if not _above(found.over_shuffled):
        return _NO_MORE_THAN_SHUFFLED.format(hits=hits, shuffled=f"{found.shuffled_hits:.0%}")
    return ""


def _above(low: float | None) -> bool:
    return low is not None and low > 0


def _rounded(values: Values) -> float:
    return round(float(values.mean()), 4)


def _points_at(activation: Float32, covered: Mask, *, faint_counts: bool) -> bool:
    """Tell whether the peak lies in what is marked; a map that would not be drawn points at nothing."""
    if not float(activation.max()) > 0 or (faint_counts and is_faint(activation)):  # also of NaN
        return False
    return bool(covered[find_peak(activation)])


def _share_of_copies(marked: MarkedMap) -> float:
    """Return how many of the copies with shuffled weights hit; however low their peaks are, they count."""
    hits = [_points_at(marked.spread(cam), marked.covered, faint_counts=False) for cam in marked.shuffled]
    return float(np.mean(hits)) if hits else 0.0


# --------------------------------------------------------------------------- always the same place


def _point_at_same_place(marked: Sequence[MarkedMap], patients: Sequence[str]) -> Values:
    """Return, float64 [N] of 0 and 1, who is hit at the peak of the mean of all other patients' marks."""
    grids = np.stack([_on_grid(each.covered) for each in marked])
    names = np.array(patients, dtype=object)
    hits = np.zeros(len(marked))
    for name in dict.fromkeys(patients):
        own = names == name
        row, column = _highest(grids[~own].mean(axis=0))
        for image in np.flatnonzero(own).tolist():
            height, width = marked[image].covered.shape
            hits[image] = marked[image].covered[int(row * height), int(column * width)]
    return hits


def _on_grid(covered: Mask) -> Float32:
    """Return what is marked on a grid that all images share, in parts of their height and width."""
    return np.asarray(cv2.resize(covered.astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_AREA), np.float32)


def _highest(mean: Float32) -> tuple[float, float]:
    """Return the peak as (row, column) in parts of the height and width, well inside where several places share it."""
    smooth = np.asarray(cv2.GaussianBlur(mean, (0, 0), _GRID / 32), np.float32)
    row, column = find_peak(smooth)
    return (row + 0.5) / _GRID, (column + 0.5) / _GRID


def _wins_more_patients(difference: Values, patients: Sequence[str]) -> bool:
    """Tell whether more patients are won than lost than chance would have it: McNemar's exact test (1947), one-sided.

    Beside the bootstrap: of few differences that all point one way, resamples are too sure.
    """
    names = np.array(patients, dtype=object)
    sums = [difference[names == name].sum() for name in dict.fromkeys(patients)]
    won, lost = sum(each > 0 for each in sums), sum(each < 0 for each in sums)
    return won + lost > 0 and float(binomtest(won, won + lost, alternative="greater").pvalue) <= _TAIL


# --------------------------------------------------------------------------- shuffled weights


def _likeness(marked: Sequence[MarkedMap]) -> float | None:
    """Return the mean rank correlation of the maps with those of shuffled weights; None where most of them are flat."""
    found = [
        rank_correlation(each.cam, cam) for each in marked for cam in each.shuffled if np.isfinite(each.shuffled).all()
    ]
    told = [value for value in found if value is not None]
    copies = sum(len(each.shuffled) for each in marked)
    return round(float(np.mean(told)), 4) if told and 2 * len(told) >= copies else None


def _likeness_limit(marked: Sequence[MarkedMap], patients: Sequence[str]) -> float:
    """Return how much may be alike: as much as the network's maps of different patients are, within the limits."""
    generator = np.random.default_rng(0)
    pairs: list[float] = []
    for _ in range(_PAIRS):
        one, other = (int(place) for place in generator.permutation(len(marked))[:2])
        if patients[one] != patients[other]:
            value = rank_correlation(marked[one].cam, marked[other].cam)
            pairs += [] if value is None else [value]
    alike = float(np.mean(pairs)) if pairs else 0.0
    return round(min(max(alike, LEAST_LIMIT), HIGHEST_LIMIT), 4)


def rank_correlation(one: Float32, other: Float32) -> float | None:
    """Return Spearman's correlation of two maps, -1..1, with its sign; None where one of them is flat."""
    ranks = [rankdata(cam.ravel()) for cam in (one, other)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
