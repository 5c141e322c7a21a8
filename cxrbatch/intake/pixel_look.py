"""How stored pixel values want to look, and the mappings of PS3.3 C.11 that do so: tables, slopes and windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Levels = NDArray[np.float64]
WindowFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
WHITE = 255.0
_LARGEST_UNIT = 1e12


@dataclass(frozen=True, slots=True)
class Lut:
    """A lookup table (PS3.3 C.11.1.1.1): stored value `first` maps to `entries[0]`, values outside to the ends.

    `entries` is uint16 [n], 0..2**bits - 1.
    """

    first: int
    entries: NDArray[np.uint16]
    bits: int


@dataclass(frozen=True, slots=True)
class Window:
    """Center and width in modality units, and the function that PS3.3 C.11.2.1.2 and C.11.2.1.3 define."""

    center: float
    width: float
    function: WindowFunction = "LINEAR"

    @property
    def is_usable(self) -> bool:
        """Whether the standard defines what this window does: LINEAR from width 1 on, the others above 0.

        Numbers that no unit has are no window, either: with them not even the pixels' own levels can be told apart.
        """
        narrowest = 1 if self.function == "LINEAR" else 1 / _LARGEST_UNIT
        return bool(narrowest <= self.width <= _LARGEST_UNIT and abs(self.center) <= _LARGEST_UNIT)


@dataclass(frozen=True, slots=True)
class PixelLook:
    """How stored pixels want to look: the facts of the Image Pixel, Modality LUT and VOI LUT modules.

    `padding` is an inclusive range of stored values that are no part of the image. `inverse` says that low
    values are white. A VOI LUT wins over a window; with several of either, the first one. With neither, robust
    percentiles are black and white, or with `full_scale` the ends of what the bits can hold: then the pixels are
    a picture that is ready to look at.
    """

    bits_stored: int
    is_signed: bool = False
    padding: tuple[int, int] | None = None
    slope: float = 1.0
    intercept: float = 0.0
    modality_lut: Lut | None = None
    voi_lut: Lut | None = None
    window: Window | None = None
    inverse: bool = False
    full_scale: bool = False


def value_range(bits: int, is_signed: bool) -> tuple[int, int]:
    """Return the lowest and the highest value that `bits` can store."""
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)


def apply_modality(values: Levels, look: PixelLook) -> Levels:
    """Map stored values to modality units: Modality LUT Sequence, else slope and intercept (PS3.3 C.11.1)."""
    if look.modality_lut is not None:
        return apply_lut(values, look.modality_lut)
    return values * look.slope + look.intercept


def apply_lut(values: Levels, lut: Lut) -> Levels:
    """Map values, rounded to whole ones, through a lookup table; below and above it, its first and last entry."""
    index = np.clip(np.rint(values) - lut.first, 0, len(lut.entries) - 1)
    mapped: Levels = lut.entries[index.astype(np.int64)].astype(np.float64)
    return mapped


def apply_window(values: Levels, window: Window) -> Levels:
    """Map modality units to 0..255 as PS3.3 C.11.2.1.2.1 (LINEAR) and C.11.2.1.3 (the other two) define it."""
    center, width = window.center, window.width
    if window.function == "SIGMOID":
        return WHITE / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if window.function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1) * WHITE
    if width == 1:
        return np.where(values > center - 0.5, WHITE, 0.0)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1) * WHITE
