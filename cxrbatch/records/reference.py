"""What the images were like that an engine was validated on: what the images of a run are compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

AGE_BANDS = ("0 to 17", "18 to 39", "40 to 59", "60 to 74", "75 and older")
_BAND_STARTS = (18.0, 40.0, 60.0, 75.0)
OTHER_VIEW = "other"


@dataclass(frozen=True, slots=True)
class TrainingReference:
    """Distributions over the validation images of an engine's training; how its labels score is in each `Label`.

    `images` counts them. `grey` are percentiles, 0 to 100, of the mean grey value 0..255 of what the engine sees of an
    image; `views` and `ages` count those of which it is known, by `view_of` and `age_band`; `called` is, per label, the
    share of them that is called, where classes exclude each other. Empty where nothing is known.
    """

    images: int = 0
    grey: tuple[float, ...] = ()
    views: dict[str, int] = field(default_factory=dict)
    ages: dict[str, int] = field(default_factory=dict)
    called: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = (self.images, *self.views.values(), *self.ages.values())
        numbers = (*self.grey, *self.called.values())
        if min(counts) < 0 or not all(map(math.isfinite, numbers)) or list(self.grey) != sorted(self.grey):
            raise ValueError("the reference must have counts of at least 0, and finite, rising percentiles")


def view_of(text: str) -> str:
    """Return which view an image counts for: PA, AP or other; empty where none is told."""
    named = text.strip().upper()
    return named if named in {"", "PA", "AP"} else OTHER_VIEW


def age_band(years: float | None) -> str:
    """Return the band that an age falls into; empty for none."""
    return "" if years is None else AGE_BANDS[sum(years >= start for start in _BAND_STARTS)]
