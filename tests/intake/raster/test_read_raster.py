import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile as PillowFile, ImageOps

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.discover import index_file
from cxrbatch.intake.raster.read_raster import _upright
from cxrbatch.intake.read import read_radiograph
from cxrbatch.records import ImageFile, Radiograph
from tests.factories.encoded import chunk
from tests.factories.intake import blobs, jpeg_bytes, png_bytes

SETTINGS = Settings()


def read(tmp_path: Path, content: bytes, settings: Settings = SETTINGS) -> Radiograph:
    (tmp_path / "image").write_bytes(content)
    return read_radiograph(tmp_path / "image", settings)


def outcome(tmp_path: Path, content: bytes, settings: Settings = SETTINGS) -> tuple[Reason | None, Reason | None]:
    """Return the reasons that the index and the reading give, in that order."""
    (tmp_path / "image").write_bytes(content)
    indexed = index_file(tmp_path, ImageFile("image", 0, 0), settings)
    stated = indexed.rejection.reason if indexed.rejection else None
    try:
        read_radiograph(tmp_path / "image", settings)
    except ImageRejected as rejected:
        return stated, rejected.reason
    return stated, None


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_claiming(rows: int, columns: int, bits: int = 8) -> bytes:
    """Return a small PNG whose header claims any size, with a valid CRC."""
    content = png_bytes(blobs(bits=8))
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", columns, rows, bits, 0, 0, 0, 0))
    return content[:8] + header + content[33:]


def png_of_wrong_bytes() -> bytes:
    """Return a PNG with the right sum of wrong bytes, so that the decoder and not the checksum finds them."""
    content = png_bytes(blobs(80, 72, bits=8))
    at = content.index(b"IDAT")
    (length,) = struct.unpack_from(">L", content, at - 4)
    data = bytearray(content[at + 4 : at + 4 + length])
    data[36] ^= 0xFF
    return content[: at - 4] + chunk(b"IDAT", bytes(data)) + content[at + 8 + length :]


def test_eight_bit_grey_is_shown_as_it_is(tmp_path: Path) -> None:
    pixels = blobs(bits=8)
    radiograph = read(tmp_path, png_bytes(pixels))
    np.testing.assert_array_equal(radiograph.display, pixels)
    assert radiograph.flags == (Flag.NO_VIEW, Flag.NO_BODY_PART)
    assert (radiograph.rows, radiograph.columns) == (320, 256)


def test_sixteen_bit_grey_is_scaled_not_saturated(tmp_path: Path) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    radiograph = read(tmp_path, png_bytes(ramp))
    assert np.abs(radiograph.display - ramp / 257).max() <= 0.5


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_sixteen_bit_files_of_fewer_bits_use_the_whole_scale(tmp_path: Path, bits: int) -> None:
    pixels = blobs(bits=bits)
    radiograph = read(tmp_path, png_bytes(pixels))
    assert np.abs(radiograph.display - pixels * 255.0 / ((1 << bits) - 1)).max() <= 0.5


def test_an_eight_bit_image_and_its_sixteen_bit_twin_look_the_same(tmp_path: Path) -> None:
    pixels = blobs(bits=8)
    twin = pixels.astype(np.uint16) * 257
    np.testing.assert_array_equal(read(tmp_path, png_bytes(pixels)).display, read(tmp_path, png_bytes(twin)).display)


def test_grey_in_colour_is_the_grey(tmp_path: Path) -> None:
    pixels = blobs(bits=8)
    content = png_bytes(np.repeat(pixels[..., np.newaxis], 3, axis=2))
    np.testing.assert_array_equal(read(tmp_path, content).display, pixels)


def test_colour_becomes_luma(tmp_path: Path) -> None:
    pixels = np.zeros((90, 90, 3), np.uint8)
    pixels[:30, :, 0], pixels[30:60, :, 1], pixels[60:, :, 2] = 255, 255, 255
    display = read(tmp_path, png_bytes(pixels)).display
    assert [int(display[row, 0]) for row in (0, 30, 60)] == [76, 150, 29]


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray((np.arange(10000) % 2).astype(np.uint8).reshape(100, 100)).convert("P")
    image.putpalette([200, 200, 200, 40, 40, 40])
    display = read(tmp_path, saved(image)).display
    assert display[0, :2].tolist() == [200, 40]


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    pixels = np.zeros((100, 100), bool)
    pixels[:, 50:] = True
    display = read(tmp_path, saved(Image.fromarray(pixels))).display
    assert display[0, [0, 99]].tolist() == [0, 255]


@pytest.mark.parametrize("channels", [2, 4])
def test_transparent_is_black(tmp_path: Path, channels: int) -> None:
    pixels = np.full((100, 100, channels), 200, np.uint8)
    pixels[..., -1] = 255
    pixels[:40, :, -1] = 0
    pixels[40:60, :, -1] = 128
    display = read(tmp_path, png_bytes(pixels)).display
    assert [int(display[row, 0]) for row in (0, 50, 99)] == [0, 100, 200]


def test_jpeg_grey_is_close_and_flagged_lossy(tmp_path: Path) -> None:
    pixels = blobs(bits=8)
    radiograph = read(tmp_path, jpeg_bytes(pixels))
    assert np.abs(radiograph.display.astype(int) - pixels).mean() < 2
    assert radiograph.flags == (Flag.NO_VIEW, Flag.NO_BODY_PART, Flag.LOSSY)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, orientation: Any) -> None:
    upright = np.zeros((96, 160), np.uint8)
    upright[:48, :80], upright[:48, 80:], upright[48:, :80] = 60, 120, 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    radiograph = read(tmp_path, jpeg_bytes(_upright(upright, undo), exif=exif))
    assert (radiograph.rows, radiograph.columns) == (96, 160)
    corners = [int(radiograph.display[row, column]) for row in (10, 80) for column in (10, 150)]
    assert corners == pytest.approx([60, 120, 200, 0], abs=2)


def test_the_orientation_is_that_of_pillow(tmp_path: Path) -> None:
    from PIL import Image

    pixels = blobs(96, 160, bits=8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = jpeg_bytes(pixels, exif=exif)
        with Image.open(BytesIO(content)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(read(tmp_path, content).display.shape, expected.shape)
        assert np.abs(read(tmp_path, content).display.astype(int) - expected).max() <= 2


def test_equal_pixels_have_equal_hashes_however_they_are_packed(tmp_path: Path) -> None:
    pixels = blobs(bits=8)
    one, other = (read(tmp_path, png_bytes(pixels, compress_level=level)) for level in (1, 9))
    pixels[0, 0] ^= 1
    changed = read(tmp_path, png_bytes(pixels))
    assert one.stored_sha256 == other.stored_sha256 != changed.stored_sha256


def test_large_images_are_reduced(tmp_path: Path) -> None:
    radiograph = read(tmp_path, png_bytes(blobs(2000, 1500, bits=8)))
    assert radiograph.display.shape == (1024, 768)
    assert (radiograph.rows, radiograph.columns) == (2000, 1500)


@pytest.mark.parametrize(
    ("rows", "columns", "reason"),
    [
        (13000, 13000, Reason.TOO_LARGE),
        (2**31 - 1, 2**31 - 1, Reason.TOO_LARGE),
        (63, 4000, Reason.TOO_SMALL),
        (0, 100, Reason.UNREADABLE_HEADER),
    ],
)
def test_the_size_is_judged_before_decoding(tmp_path: Path, rows: int, columns: int, reason: Reason) -> None:
    assert outcome(tmp_path, png_claiming(rows, columns)) == (reason,) * 2


def test_a_bomb_that_pillow_would_warn_of_is_refused_in_silence(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    bomb = chunk(b"IDAT", zlib.compress(bytes(13001 * 13000), 9))
    content = png_claiming(13000, 13000)[:33] + bomb + chunk(b"IEND", b"")
    assert outcome(tmp_path, content) == (Reason.TOO_LARGE,) * 2
    assert not recwarn.list


def test_a_text_bomb_in_a_png_is_refused_uninflated(tmp_path: Path) -> None:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9))
    content = png_bytes(blobs(bits=8))
    tracemalloc.start()
    assert outcome(tmp_path, content[:33] + text + content[33:]) == (None, Reason.UNREADABLE_PIXELS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_damaged_file_is_refused_also_where_reports_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WeasyPrint sets this for the whole process when it is imported."""
    monkeypatch.setattr(PillowFile, "LOAD_TRUNCATED_IMAGES", True)
    assert outcome(tmp_path, png_of_wrong_bytes()) == (None, Reason.UNREADABLE_PIXELS)


def test_thousands_of_damaged_files_do_not_wear_the_interpreter_out(tmp_path: Path) -> None:
    """imagecodecs' PNG decoder would have given up a thousand references to None by then."""
    content = png_of_wrong_bytes()
    before = sys.getrefcount(None)
    for _ in range(1000):
        assert outcome(tmp_path, content) == (None, Reason.UNREADABLE_PIXELS)
    assert sys.getrefcount(None) > before - 500


def test_a_jpeg_with_a_second_frame_header_is_refused(tmp_path: Path) -> None:
    content = jpeg_bytes(blobs(bits=8))
    at = content.index(b"\xff\xc0")
    liar = b"\xff\xc0" + struct.pack(">HBHHB3B", 11, 8, 100, 100, 1, 1, 0x11, 0)
    indexed, reading = outcome(tmp_path, content[:at] + liar + content[at:])
    assert indexed is None
    assert reading in (Reason.INCONSISTENT_HEADER, Reason.UNREADABLE_PIXELS)


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.999])
@pytest.mark.parametrize("encode", [png_bytes, jpeg_bytes])
def test_a_cut_file_is_truncated(tmp_path: Path, encode: Callable[..., bytes], kept: float) -> None:
    content = encode(blobs(bits=8))
    assert outcome(tmp_path, content[: int(len(content) * kept)]) == (None, Reason.TRUNCATED_PIXELS)


def test_a_bad_checksum_is_unreadable(tmp_path: Path) -> None:
    content = bytearray(png_bytes(blobs(bits=8)))
    content[content.index(b"IEND") - 6] ^= 0xFF
    assert outcome(tmp_path, bytes(content)) == (None, Reason.UNREADABLE_PIXELS)


@pytest.mark.parametrize(
    "head", [b"\x89PNG\r\n\x1a\n" + b"\0" * 200, b"\xff\xd8\xff" + b"\0" * 200, b"\xff\xd8\xff\xe0"]
)
def test_a_signature_alone_is_an_unreadable_header(tmp_path: Path, head: bytes) -> None:
    assert outcome(tmp_path, head) == (Reason.UNREADABLE_HEADER,) * 2


def test_a_print_file_is_refused(tmp_path: Path) -> None:
    content = saved(Image.fromarray(blobs(bits=8)).convert("CMYK"), "JPEG")
    assert outcome(tmp_path, content) == (Reason.UNSUPPORTED_PHOTOMETRIC,) * 2


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_are_blank(tmp_path: Path, level: int) -> None:
    assert outcome(tmp_path, png_bytes(np.full((100, 100), level, np.uint8))) == (None, Reason.BLANK)
