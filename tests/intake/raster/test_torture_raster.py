"""The torture list of PROMISES.md, section PNG/JPEG: what is shown of them, by value."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrbatch.errors import Flag, Reason
from tests.factories.bombs import compressed_zeros
from tests.factories.encoded import chunk
from tests.factories.intake import blobs, jpeg_bytes, png_bytes
from tests.factories.torture import Entry, content, processed, refused

GRAY = blobs(bits=8)
UNTOLD = (Flag.NO_VIEW, Flag.NO_BODY_PART)
JPEG = (*UNTOLD, Flag.LOSSY)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
RAMP_16 = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> Callable[[Path], object]:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return content(stream.getvalue())


def png(header: bytes, *chunks: bytes) -> Callable[[Path], object]:
    return content(SIGNATURE + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b""))


def packed(pixels: Any) -> bytes:
    """Return the IDAT data of rows of bytes, unfiltered."""
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))


def bomb() -> Callable[[Path], object]:
    data = compressed_zeros(13_001 * 13_000)
    build = png(struct.pack(">LLBBBBB", 13_000, 13_000, 8, 0, 0, 0, 0), chunk(b"IDAT", data))
    assert len(data) < 200_000
    return build


def palette() -> Image.Image:
    image = Image.fromarray((GRAY // 2).astype(np.uint8)).convert("P")
    image.putpalette([level * 2 for level in range(128) for _ in range(3)])
    return image


def alpha(mode: str) -> Image.Image:
    image = Image.fromarray(GRAY).convert(mode)
    image.putalpha(Image.fromarray(np.where(np.arange(256) < 100, 0, 255).astype(np.uint8)[np.newaxis].repeat(320, 0)))
    return image


def animated() -> Callable[[Path], object]:
    frames = [Image.fromarray(GRAY), Image.fromarray((255 - GRAY).astype(np.uint8))]
    return saved(frames[0], save_all=True, append_images=frames[1:])


def with_exif(orientation: int) -> Callable[[Path], object]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return content(jpeg_bytes(np.ascontiguousarray(np.rot90(GRAY)), exif=exif, subsampling=0, quality=100))


def damaged(find: bytes, back: int) -> Callable[[Path], object]:
    data = bytearray(png_bytes(GRAY))
    data[data.index(find) - back] ^= 0xFF
    return content(bytes(data))


def text_bomb() -> Callable[[Path], object]:
    data = png_bytes(GRAY)
    bombed = chunk(b"zTXt", b"Comment\0\0" + compressed_zeros(200_000_000))
    return content(data[:33] + bombed + data[33:])


def transparent() -> Any:
    return np.where(np.arange(256) < 100, 0, GRAY)


ONE_BIT = GRAY > 127
ENTRIES = [
    processed("8-bit grey", content(png_bytes(GRAY)), lambda: GRAY, *UNTOLD, tolerance=0),
    processed("16-bit grey scales", content(png_bytes(RAMP_16)), lambda: RAMP_16 / 257, *UNTOLD),
    processed("most compressed", content(png_bytes(GRAY, compress_level=9)), lambda: GRAY, *UNTOLD, tolerance=0),
    processed(
        "2-bit grey",
        png(struct.pack(">LLBBBBB", 256, 64, 2, 0, 0, 0, 0), chunk(b"IDAT", packed(np.full((64, 64), 0x1B, np.uint8)))),
        lambda: np.tile([0, 85, 170, 255], (64, 64)),
        *UNTOLD,
    ),
    processed("1-bit", saved(Image.fromarray(ONE_BIT)), lambda: ONE_BIT * 255, *UNTOLD, tolerance=0),
    processed("palette", saved(palette()), lambda: GRAY // 2 * 2, *UNTOLD, tolerance=1),
    processed("RGB of greys", saved(Image.fromarray(GRAY).convert("RGB")), lambda: GRAY, *UNTOLD, tolerance=0),
    processed("grey with alpha", saved(alpha("LA")), transparent, *UNTOLD, tolerance=0),
    processed("RGB with alpha", saved(alpha("RGBA")), transparent, *UNTOLD, tolerance=0),
    processed("animated: the first picture", animated(), lambda: GRAY, *UNTOLD, tolerance=0),
    processed("JPEG", content(jpeg_bytes(GRAY, quality=100)), lambda: GRAY, *JPEG, tolerance=3),
    processed(
        "progressive JPEG", content(jpeg_bytes(GRAY, quality=100, progressive=True)), lambda: GRAY, *JPEG, tolerance=3
    ),
    processed("JPEG rotated by EXIF", with_exif(6), lambda: GRAY, *JPEG, tolerance=3),
    refused("CMYK", saved(Image.fromarray(GRAY).convert("CMYK"), "JPEG"), Reason.UNSUPPORTED_PHOTOMETRIC),
    refused("169-megapixel bomb in 170 KB", bomb(), Reason.TOO_LARGE),
    refused("bad CRC of the header", damaged(b"IDAT", 6), Reason.UNREADABLE_PIXELS, Reason.UNREADABLE_HEADER),
    refused("bad CRC of the pixels", damaged(b"IEND", 6), Reason.UNREADABLE_PIXELS),
    refused("zTXt bomb", text_bomb(), Reason.UNREADABLE_PIXELS),
    refused("cut PNG", content(png_bytes(GRAY)[:-200]), Reason.TRUNCATED_PIXELS),
    refused("cut JPEG", content(jpeg_bytes(GRAY)[:-200]), Reason.TRUNCATED_PIXELS),
    refused("thumbnail", content(png_bytes(GRAY[:60, :60])), Reason.TOO_SMALL),
    refused("no IHDR", content(SIGNATURE + chunk(b"IDAT", packed(GRAY)) + bytes(200)), Reason.UNREADABLE_HEADER),
    refused("no IDAT", png(struct.pack(">LLBBBBB", 256, 320, 8, 0, 0, 0, 0)), Reason.UNREADABLE_PIXELS),
    refused("black", content(png_bytes(np.zeros((100, 100), np.uint8))), Reason.BLANK),
    refused("white", content(png_bytes(np.full((100, 100), 255, np.uint8))), Reason.BLANK),
    refused("HTML posing as png", content(b"<html>" * 50), Reason.NOT_AN_IMAGE),
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_raster(entry: Entry, tmp_path: Path) -> None:
    entry.check(tmp_path)
