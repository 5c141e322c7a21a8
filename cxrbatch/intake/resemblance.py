"""How much a picture resembles a frontal chest radiograph: what is measured in it, and a small network that weighs it.

`measure_features` is the place to start. Arrangement: the ranks of a coarse thumbnail, and which way edges run in
each of 8 x 8 cells (Dalal and Triggs 2005). Kind of picture: grey levels, flat areas, sharp and straight edges,
symmetry, detail at each scale. Ranks and local norms make most of it independent of window and contrast; every
picture is measured at one size, so that its size tells nothing. One hidden layer weighs them. Its numbers are in
resemblance.npz; scripts/fit_anatomy.py made them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.records import Float32, Gray8

Levels = NDArray[np.float64]

SIDE_PX = 128
CELLS, DIRECTIONS = 8, 8
THUMBNAIL = 16
NUMBERS = "resemblance.npz"
# Of the brightest to the darkest of a picture: an edge this steep is drawn, not shone through.
_STEEP, _STRAIGHT_FROM = 0.25, 0.15
_QUANTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
_EDGE_QUANTILES = (50, 75, 90, 95, 99, 99.8)
_BANDS = 5
# Beyond so many standard deviations of what chests measure, a figure says no more than that it is far off.
_FARTHEST = 4.0


@dataclass(frozen=True, slots=True)
class Network:
    """One hidden layer: `middle` and `scale` of the features, then weights [features, units] and [units]."""

    middle: Float32
    scale: Float32
    hidden: Float32
    hidden_bias: Float32
    out: Float32
    out_bias: float


def measure_features(picture: Gray8, ranks: Levels, likeness: float, valley: float) -> Float32:
    """Measure a picture whose lungs, if it has any, are dark.

    Args:
        picture: uint8 [H,W], 0..255; H and W at most a few hundred.
        ranks: the ranks of its grid, [n,n], 0..1, n a multiple of THUMBNAIL.
        likeness: how well the grid fits the plan of the chest, 0..1.
        valley: how dark the lung fields are.
    """
    step = ranks.shape[0] // THUMBNAIL
    thumbnail = ranks.reshape(THUMBNAIL, step, THUMBNAIL, step).mean(axis=(1, 3))
    shrinks = min(picture.shape) >= SIDE_PX
    by = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    square = np.asarray(cv2.resize(picture, (SIDE_PX, SIDE_PX), interpolation=by), np.uint8)
    arrangement = (likeness, valley, _correlation(ranks, ranks[:, ::-1]), _correlation(ranks, ranks[::-1]))
    quantiles = np.percentile(square, _QUANTILES)
    span = max(float(quantiles[-1] - quantiles[0]), 1.0)
    inner = (quantiles[1:-1] - quantiles[0]) / span
    kinds = (_histogram(square), inner, _edges(square, span), _detail(square, span))
    return np.concatenate([thumbnail.ravel(), _edge_directions(square), arrangement, *kinds]).astype(np.float32)


def resemblance(features: Float32) -> float:
    """Return the logarithm of the odds that these are a chest's features; 0 is even."""
    return weigh(features, _network())


def weigh(features: Float32, network: Network) -> float:
    """Let a network weigh the features of one picture."""
    scaled = np.clip((features - network.middle) / network.scale, -_FARTHEST, _FARTHEST)
    hidden = np.maximum(scaled @ network.hidden + network.hidden_bias, 0)
    return float(hidden @ network.out + network.out_bias)


@cache
def _network() -> Network:
    """Read the numbers, once per process."""
    with files("cxrbatch.intake").joinpath(NUMBERS).open("rb") as stored, np.load(stored, allow_pickle=False) as read:
        numbers = {name: read[name].astype(np.float32) for name in read.files}
    return Network(**{**numbers, "out_bias": float(numbers["out_bias"])})


def _edge_directions(square: Gray8) -> Levels:
    """Return how strong the edges of each direction are in each cell, by the strength of edges around it."""
    smooth = cv2.GaussianBlur(square, (0, 0), 1.0).astype(np.float32)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=1)
    strength, angle = cv2.cartToPolar(across, down)
    direction = np.asarray(angle) * (DIRECTIONS / (2 * np.pi))
    lower = direction.astype(np.intp)
    share = direction - lower
    cell = np.arange(SIDE_PX) * CELLS // SIDE_PX
    first = (cell[:, np.newaxis] * CELLS + cell) * DIRECTIONS
    # An edge between two directions counts for both, in part.
    size = CELLS * CELLS * DIRECTIONS
    sums = np.bincount((first + lower % DIRECTIONS).ravel(), (strength * (1 - share)).ravel(), size)
    sums += np.bincount((first + (lower + 1) % DIRECTIONS).ravel(), (strength * share).ravel(), size)
    cells = sums.reshape(CELLS, CELLS, DIRECTIONS)
    energy = (cells**2).sum(axis=2)
    around = cv2.blur(energy, (3, 3), borderType=cv2.BORDER_REPLICATE)
    beside = np.sqrt(np.asarray(around, np.float64) + 0.1 * energy.mean() + 1e-6)
    return np.asarray(np.sqrt(cells / beside[..., np.newaxis]).ravel(), np.float64)


def _histogram(square: Gray8) -> Levels:
    """Return how much lies in the commonest grey levels, and how many there are."""
    shares = np.bincount(square.ravel(), minlength=256) / square.size
    commonest = np.sort(shares)[::-1].cumsum()
    used = shares[shares > 0]
    entropy = -(used * np.log2(used)).sum()
    return np.concatenate([commonest[[0, 3, 15]], [entropy, np.log(used.size)]])


def _edges(square: Gray8, span: float) -> Levels:
    """Return how much is flat, how much is steep, how much of that runs straight along a side, and quantiles."""
    levels = square.astype(np.float32)
    across, down = np.abs(np.diff(levels, axis=1))[:-1], np.abs(np.diff(levels, axis=0))[:, :-1]
    steps = np.maximum(across, down) / span
    along_side = (np.minimum(across, down) < 0.15 * np.maximum(across, down))[steps > _STRAIGHT_FROM]
    straight = along_side.mean() if along_side.size > 20 else 0.5
    quantiles = np.log(np.percentile(steps, _EDGE_QUANTILES) + 1e-3)
    return np.concatenate([[(steps == 0).mean(), (steps > _STEEP).mean(), straight], quantiles])


def _detail(square: Gray8, span: float) -> Levels:
    """Return how much there is to see at each scale, the finest first."""
    finer, bands = square.astype(np.float32), []
    for _ in range(_BANDS):
        coarser = np.asarray(cv2.pyrDown(finer), np.float32)
        bands.append(float(np.std(finer - cv2.pyrUp(coarser, dstsize=finer.shape[::-1]))))
        finer = coarser
    return np.log(np.array(bands) / span + 1e-4)


def _correlation(one: Levels, other: Levels) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / max(np.sqrt((one**2).sum() * (other**2).sum()), 1e-12))
