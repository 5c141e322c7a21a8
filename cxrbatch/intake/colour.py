"""How much of a picture is in colour; a radiograph is grey, or has one tint for each shade of grey."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A tint of sepia or blue is no colour: it goes with the shade. JPEG's colour noise stays below this many levels.
COLOURED_BY_LEVELS = 24
_SHADES = 32
_ABOUT_PX = 65_536
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def coloured_share(pixels: NDArray[Any]) -> float:
    """Return the share of the pixels, 0..1, whose colour is not that of other pixels of their brightness.

    Args:
        pixels: [H,W] or [H,W,1..4] as grey, grey+alpha, RGB or RGBA, uint8 or uint16.
    """
    if pixels.ndim == 2 or pixels.shape[2] < 3:
        return 0.0
    step = max(1, int(np.sqrt(pixels.shape[0] * pixels.shape[1] / _ABOUT_PX)))
    some = pixels[::step, ::step].reshape(-1, pixels.shape[2]).astype(np.float32) * (255 / np.iinfo(pixels.dtype).max)
    # What is transparent will be black.
    colours = some[:, :3] * (some[:, 3:] / 255) if pixels.shape[2] == 4 else some
    shades = np.minimum((colours @ _LUMA) * (_SHADES / 256), _SHADES - 1).astype(np.intp)
    counts = np.maximum(np.bincount(shades, minlength=_SHADES), 1)
    farthest = np.zeros(len(colours), np.float32)
    for channel in (0, 2):
        leaning = colours[:, channel] - colours[:, 1]
        tint = np.bincount(shades, leaning, _SHADES) / counts
        farthest = np.maximum(farthest, np.abs(leaning - tint[shades]))
    return float((farthest > COLOURED_BY_LEVELS).mean())
