"""Other parts of the body, drawn with a few strokes: soft tissue and bones, bright on black."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cxrbatch.records import Gray8

SIDE = 256
BODY_PARTS = ("knee", "hand", "foot", "elbow", "pelvis", "skull", "abdomen", "lumbar spine", "breast", "teeth")

_middles = (np.arange(SIDE) + 0.5) / SIDE
_down, _across = np.meshgrid(_middles, _middles, indexing="ij")
Canvas = NDArray[np.float64]


def draw_body_part(name: str) -> Gray8:
    """Return uint8 [256,256], air black and bone white."""
    canvas = _STROKES[name]()
    return np.asarray(np.rint(np.clip(canvas / np.percentile(canvas, 99.5), 0, 1) * 255), np.uint8)


def _ball(x: float, y: float, width: float, height: float) -> Canvas:
    inside: Canvas = np.clip(1 - ((_across - x) / width) ** 2 - ((_down - y) / height) ** 2, 0, 1)
    return np.asarray(np.sqrt(inside), np.float64)


def _rod(x0: float, y0: float, x1: float, y1: float, radius: float) -> Canvas:
    dx, dy = x1 - x0, y1 - y0
    along = np.clip(((_across - x0) * dx + (_down - y0) * dy) / (dx * dx + dy * dy), 0, 1)
    distance = np.hypot(_across - x0 - along * dx, _down - y0 - along * dy)
    inside: Canvas = np.clip(1 - distance / radius, 0, 1)
    return np.asarray(np.sqrt(inside), np.float64)


def _limb(x0: float, y0: float, x1: float, y1: float, radius: float) -> Canvas:
    return 0.5 * _rod(x0, y0, x1, y1, radius) + 0.6 * _rod(x0, y0, x1, y1, radius * 0.4)


def _knee() -> Canvas:
    joint = 0.7 * (_ball(0.5, 0.44, 0.24, 0.1) + _ball(0.5, 0.58, 0.24, 0.09))
    return _limb(0.5, -0.2, 0.5, 1.2, 0.34) + joint


def _hand() -> Canvas:
    tips = ((0.12, 0.5), (0.3, 0.15), (0.46, 0.08), (0.62, 0.12), (0.78, 0.28))
    fingers = [_limb(0.4 + 0.05 * number, 0.65, x, y, 0.055) for number, (x, y) in enumerate(tips)]
    return sum(fingers, 0.5 * _ball(0.5, 0.7, 0.22, 0.2) + _limb(0.5, 0.8, 0.5, 1.2, 0.16))


def _pelvis() -> Canvas:
    wings = 0.5 * (_ball(0.27, 0.35, 0.2, 0.25) + _ball(0.73, 0.35, 0.2, 0.25))
    legs = _limb(0.2, 0.65, 0.15, 1.2, 0.12) + _limb(0.8, 0.65, 0.85, 1.2, 0.12)
    return 0.6 * _ball(0.5, 0.5, 0.52, 0.7) + wings + legs + 0.5 * _rod(0.5, -0.2, 0.5, 0.45, 0.08)


def _skull() -> Canvas:
    orbits = 0.2 * (_ball(0.38, 0.5, 0.07, 0.06) + _ball(0.62, 0.5, 0.07, 0.06))
    return np.clip(0.8 * _ball(0.5, 0.45, 0.35, 0.42) + 0.4 * _rod(0.5, 0.8, 0.5, 1.2, 0.15) - orbits, 0, None)


def _abdomen() -> Canvas:
    gas = 0.15 * (_ball(0.3, 0.4, 0.08, 0.06) + _ball(0.68, 0.45, 0.1, 0.05))
    hips = 0.3 * (_ball(0.2, 0.9, 0.2, 0.2) + _ball(0.8, 0.9, 0.2, 0.2))
    return 0.7 * _ball(0.5, 0.5, 0.55, 0.9) + 0.35 * _rod(0.5, -0.2, 0.5, 1, 0.07) + hips - gas


def _teeth() -> Canvas:
    teeth = [0.4 * _rod(0.12 + 0.055 * n, 0.5, 0.12 + 0.055 * n, 0.65, 0.03) for n in range(14)]
    return sum(teeth, 0.4 * _ball(0.5, 0.5, 0.5, 0.4))


_STROKES = {
    "knee": _knee,
    "hand": _hand,
    "foot": lambda: _limb(0.2, 0.75, 0.85, 0.85, 0.12) + _limb(0.25, 0.1, 0.25, 0.75, 0.14),
    "elbow": lambda: _limb(0.1, 1.1, 0.5, 0.5, 0.14) + _limb(0.5, 0.5, 1.1, 0.2, 0.14),
    "pelvis": _pelvis,
    "skull": _skull,
    "abdomen": _abdomen,
    "lumbar spine": lambda: 0.7 * _rod(0.5, -0.2, 0.55, 1.2, 0.3) + 0.5 * _rod(0.55, -0.2, 0.6, 1.2, 0.1),
    "breast": lambda: 0.8 * _ball(0, 0.5, 0.6, 0.42),
    "teeth": _teeth,
}
