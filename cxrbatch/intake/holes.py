"""Whether a hole is in native pixels: the bytes of a block that was lost read as one value, across whatever is there.

No decoder can notice it, since every byte is a valid pixel. But a hole follows the order in which pixels are stored,
from somewhere in one row to somewhere in another, while what is black or white in a radiograph goes on above or below.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.integer[Any]]
Positions = NDArray[np.int64]

# A hole of a disk's sector is not told from a line that somebody drew; one of a page (4 KiB) is.
_HOLE_BYTES = 2048
_BLOCKS_IN_HOLE = 8
# So that an image that is mostly black is not copied as a whole.
_BLOCKS_AT_ONCE = 1 << 14
# Where a run of pixels is compared with the row above its start and the row below its end.
_PROBES = 32
_FEW = _PROBES // 4
# What is at least so near to the value of the run, of the range of the image, goes on there.
_NEAR = 1 / 64


def has_hole(stored: Pixels) -> bool:
    """Tell whether a long run of one value in [H,W] pixels has hardly anything near to it above and below.

    A run to the end of the image has nothing below: it may as well be a border.
    """
    columns = stored.shape[1]
    flat = np.ascontiguousarray(stored).reshape(-1)
    starts, ends = _find_runs(flat, _HOLE_BYTES // _BLOCKS_IN_HOLE // stored.dtype.itemsize)
    inside = (starts >= columns) & (ends + columns <= len(flat))
    starts, ends = starts[inside], ends[inside]
    if not len(starts):
        return False
    values = flat[starts].astype(np.int64)
    near = max(1, int(_NEAR * (int(flat.max()) - int(flat.min()))))
    spans = np.linspace(0, np.minimum(ends - starts, columns) - 1, _PROBES).astype(np.int64)
    above = np.abs(flat[starts - columns + spans].astype(np.int64) - values) <= near
    below = np.abs(flat[ends + columns - 1 - spans].astype(np.int64) - values) <= near
    return bool(((above.sum(axis=0) <= _FEW) & (below.sum(axis=0) <= _FEW)).any())


def _find_runs(flat: Pixels, block: int) -> tuple[Positions, Positions]:
    """Return where runs of one value start and end which hold nearly as many whole blocks as a hole does."""
    blocks = flat[: len(flat) // block * block].reshape(-1, block)
    # The last column first: of an image's blocks, few are left for the comparison of the others.
    candidates = np.flatnonzero(blocks[:, 0] == blocks[:, -1])
    parts = [candidates[at : at + _BLOCKS_AT_ONCE] for at in range(0, len(candidates), _BLOCKS_AT_ONCE)]
    is_constant = [(blocks[part] == blocks[part, :1]).all(axis=1) for part in parts]
    constant = candidates[np.concatenate(is_constant)] if parts else candidates
    values = blocks[constant, 0]
    breaks = np.flatnonzero((np.diff(constant) != 1) | (values[1:] != values[:-1])) + 1
    firsts = np.concatenate(([0], breaks)).astype(np.int64)[: len(constant)]
    lasts = np.concatenate((breaks, [len(constant)])).astype(np.int64)[: len(firsts)] - 1
    is_long = lasts - firsts >= _BLOCKS_IN_HOLE - 2
    starts, ends = constant[firsts[is_long]] * block, (constant[lasts[is_long]] + 1) * block
    steps = np.arange(block)
    return starts - _count_like(flat, starts, starts[:, None] - 1 - steps), ends + _count_like(
        flat, starts, ends[:, None] + steps
    )


def _count_like(flat: Pixels, starts: Positions, at: Positions) -> Positions:
    """Count for each run how many pixels, from the first position [R,N] on and in the image, are of its value."""
    like = (flat[np.clip(at, 0, len(flat) - 1)] == flat[starts][:, None]) & (at >= 0) & (at < len(flat))
    counts: Positions = np.logical_and.accumulate(like, axis=1).sum(axis=1)
    return counts
