"""How images are put into groups by who is on them: one set of age bands, and one word for what is not known."""

from __future__ import annotations

import math

UNKNOWN = "unknown"

_BANDS = ((0, 17), (18, 39), (40, 59), (60, 79))
_OLDEST = f"{_BANDS[-1][1] + 1}+"
AGE_BANDS = (*(f"{youngest}-{oldest}" for youngest, oldest in _BANDS), _OLDEST)
"""Years, both ends included, the youngest first."""


def age_band(age: float | None) -> str:
    """Return the band of an age in years, such as 40-59."""
    if age is None or not math.isfinite(age) or age < 0:
        return UNKNOWN
    return next((name for name, (_, oldest) in zip(AGE_BANDS, _BANDS, strict=False) if age < oldest + 1), _OLDEST)
