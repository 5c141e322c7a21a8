"""Points carried between stored pixels and the engine's square as `Geometry` says, to hold what is drawn against it."""

from __future__ import annotations

from cxrbatch.records import Geometry


def to_input(geometry: Geometry, x: float, y: float) -> tuple[float, float]:
    """Map a point in stored pixels to the engine's input square."""
    return x * geometry.scale_x + geometry.offset_x, y * geometry.scale_y + geometry.offset_y


def to_stored(geometry: Geometry, x: float, y: float) -> tuple[float, float]:
    """Map a point in the engine's input square to stored pixels."""
    return (x - geometry.offset_x) / geometry.scale_x, (y - geometry.offset_y) / geometry.scale_y
