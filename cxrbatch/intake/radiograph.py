"""What DICOM and raster files have in common: what a header told, and the Radiograph put together."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cxrbatch.errors import Flag
from cxrbatch.intake.screen import screen_pixels
from cxrbatch.records import Gray8, Header, Radiograph, Rejection


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the header of a readable file tells; `rejection` is there when it gets no score."""

    header: Header
    flags: tuple[Flag, ...] = ()
    rejection: Rejection | None = None


def assemble_radiograph(header: Header, display: Gray8, flags: tuple[Flag, ...], stored_sha256: str) -> Radiograph:
    """Put a radiograph together from its display image, uint8 [H,W], 0..255.

    Raises:
        ImageRejected: there is nothing to see on it (blank).
    """
    screen_pixels(display)
    return Radiograph(
        header=header,
        display=display,
        rows=header.rows,
        columns=header.columns,
        flags=tuple(dict.fromkeys(flags)),
        stored_sha256=stored_sha256,
        display_sha256=hashlib.sha256(str(display.shape).encode() + display.tobytes()).hexdigest(),
    )
