"""PNG and JPEG files as strangers make them: foreign chunks, large profiles, trailers, rotation, stray white pixels."""

import struct
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from cxrbatch.config import Settings
from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.raster.orientation import read_png_orientation
from cxrbatch.intake.raster.png import MAX_INFLATED_BYTES
from cxrbatch.intake.raster.read_raster import _upright
from cxrbatch.intake.read import inspect_file, read_radiograph
from cxrbatch.records import Gray8
from tests.factories.encoded import chunk
from tests.factories.intake import blobs, jpeg_bytes, png_bytes

LOOSE = Settings(pixel_check=False)
GRAY = blobs(bits=8)
IMAGE = blobs(bits=12)
PNG, JPEG = png_bytes(GRAY), jpeg_bytes(GRAY)
HEAD = 33
ICC = zlib.compress(np.random.default_rng(1).integers(0, 256, 2_000_000, np.uint8).tobytes())

chunks = pytest.mark.hostile("9.8 PNG with foreign chunks")
profiles = pytest.mark.hostile("9.9 metadata without measure")
trailers = pytest.mark.hostile("9.9 JPEG with a trailer")
rotation = pytest.mark.hostile("9.9 rotation stated elsewhere")
outliers = pytest.mark.hostile("9.9 stray white pixels")


def both(tmp_path: Path, content: bytes) -> tuple[Reason | None, Gray8 | None]:
    """Return what becomes of a file, by index and reading alike: a reason, or the display image."""
    path = tmp_path / "image"
    path.write_bytes(content)
    try:
        inspected = inspect_file(path, LOOSE)[1]
        stated = inspected.rejection.reason if inspected.rejection else None
        radiograph = read_radiograph(path, LOOSE)
    except ImageRejected as rejected:
        return rejected.reason, None
    assert stated is None
    assert (inspected.header.rows, inspected.header.columns) == (radiograph.rows, radiograph.columns)
    return None, radiograph.display


def shown(tmp_path: Path, content: bytes) -> Gray8:
    reason, display = both(tmp_path, content)
    assert reason is None
    assert display is not None
    return display


def in_front(*inserted: bytes, content: bytes = PNG) -> bytes:
    return content[:HEAD] + b"".join(inserted) + content[HEAD:]


def behind(*inserted: bytes, content: bytes = PNG) -> bytes:
    return content[:-12] + b"".join(inserted) + content[-12:]


def without_sum(name: bytes, data: bytes) -> bytes:
    return chunk(name, data)[:-4] + b"\0\1\2\3"


ODD_CHUNKS = {
    "foreign": chunk(b"vpAg", b"\0" * 9),
    "foreign, empty": chunk(b"foOo", b""),
    "foreign, wrong sum": without_sum(b"foOo", b"x"),
    "digits": chunk(b"ab12", b"x"),
    "tRNS, empty": chunk(b"tRNS", b""),
    "tRNS, far too long": chunk(b"tRNS", bytes(900)),
    "gAMA, empty": chunk(b"gAMA", b""),
    "gAMA of 0": chunk(b"gAMA", bytes(4)),
    "cHRM, cut": chunk(b"cHRM", b"1"),
    "pHYs, cut": chunk(b"pHYs", b"12"),
    "sBIT, cut": chunk(b"sBIT", b""),
    "iCCP, empty": chunk(b"iCCP", b""),
    "iCCP of an unknown method": chunk(b"iCCP", b"icc\0\7" + ICC[:40]),
    "zTXt that does not inflate": chunk(b"zTXt", b"Comment\0\0nonsense"),
    "iTXt, cut": chunk(b"iTXt", b"Comment\0\1"),
    "eXIf of nonsense": chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
    "eXIf that points at itself": chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\x01\x0d\0\xff\xff\xff\x7f\0\0\0\0"),
    "animation, cut": chunk(b"acTL", b"12"),
    "animation of 2**32 pictures": chunk(b"acTL", b"\xff" * 8),
    "frame of no animation": chunk(b"fdAT", b"12"),
    "palette of grey": chunk(b"PLTE", b"12"),
    "time of nowhere": chunk(b"tIME", b"\xff" * 7),
}


@chunks
@pytest.mark.parametrize("place", [in_front, behind])
@pytest.mark.parametrize("odd", ODD_CHUNKS.values(), ids=ODD_CHUNKS)
def test_a_chunk_that_is_no_picture_changes_nothing(tmp_path: Path, odd: bytes, place: Callable[..., bytes]) -> None:
    if odd[4:8] == b"PLTE" and place is behind:
        odd = chunk(b"tEXt", b"a\0b")
    np.testing.assert_array_equal(shown(tmp_path, place(odd)), GRAY)


@chunks
@pytest.mark.parametrize("place", [in_front, behind])
@pytest.mark.parametrize(
    "odd",
    [
        *(chunk(name, b"x") for name in (b"FOoo", b"CgBI", b"IHDR", b"\0\1\2\3", b"@[`{")),
        *(without_sum(name, b"") for name in (b"fo o", b"\xff\xff\xff\xff", b"IDAT")),
        PNG[8:HEAD],
        chunk(b"IHDR", struct.pack(">LLBBBBB", 60_000, 60_000, 16, 0, 0, 0, 0)),
    ],
)
def test_a_chunk_that_may_change_the_picture_is_refused_at_once(
    tmp_path: Path, odd: bytes, place: Callable[..., bytes]
) -> None:
    assert both(tmp_path, place(odd)) == (Reason.UNREADABLE_PIXELS, None)


@chunks
@pytest.mark.parametrize("kept", [-1, -4, -12, -13, 60, 40])
def test_a_png_that_is_cut_or_has_zeros_at_its_end_is_still_arriving(tmp_path: Path, kept: int) -> None:
    cut = PNG[:kept]
    assert both(tmp_path, cut) == (Reason.TRUNCATED_PIXELS, None)
    if kept <= -12:
        assert both(tmp_path, cut + bytes(500)) == (Reason.TRUNCATED_PIXELS, None)


@chunks
@pytest.mark.parametrize(
    ("bits", "colour", "pixels"),
    [
        (1, 0, np.packbits(GRAY > 127, axis=1)),
        (4, 0, (GRAY[:, ::2] & 0xF0) | (GRAY[:, 1::2] >> 4)),
        (2, 3, (GRAY >> 6).reshape(320, 64, 4) @ np.array([64, 16, 4, 1], np.uint8)),
    ],
    ids=["1 bit", "4 bits", "palette of 2 bits without a palette"],
)
def test_few_bits_a_pixel_have_an_outcome(tmp_path: Path, bits: int, colour: int, pixels: Any) -> None:
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    header = struct.pack(">LLBBBBB", 256, 320, bits, colour, 0, 0, 0)
    content = PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", data) + PNG[-12:]
    reason, display = both(tmp_path, content)
    assert (reason is None) == (colour == 0)
    assert display is None or np.unique(display).size == 1 << bits


@chunks
@pytest.mark.parametrize(("bits", "colour"), [(3, 0), (0, 0), (255, 0), (16, 3), (8, 1), (8, 5), (8, 7), (4, 2)])
def test_bits_and_colours_that_no_png_has_are_refused(tmp_path: Path, bits: int, colour: int) -> None:
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", 256, 320, bits, colour, 0, 0, 0))
    assert both(tmp_path, PNG[:8] + header + PNG[HEAD:])[0] in (Reason.UNREADABLE_PIXELS, Reason.UNREADABLE_HEADER)


# --------------------------------------------------------------------------- metadata without measure


def app(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def with_segments(*segments: bytes, content: bytes = JPEG) -> bytes:
    return content[:2] + b"".join(segments) + content[2:]


@profiles
@pytest.mark.parametrize(
    "large",
    [
        chunk(b"iCCP", b"icc\0\0" + ICC),
        chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(30_000_000))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<x/>" * 1_000_000),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0" + bytes(2_000_000)),
        b"".join(chunk(b"tEXt", b"Comment\0" + b"x" * 900) for _ in range(3000)),
        chunk(b"prVt", bytes(5_000_000)),
    ],
    ids=["profile", "text", "deflated text", "XMP", "EXIF", "3000 texts", "private"],
)
@pytest.mark.parametrize("place", [in_front, behind])
def test_large_metadata_are_no_reason_to_refuse_a_png(
    tmp_path: Path, large: bytes, place: Callable[..., bytes]
) -> None:
    np.testing.assert_array_equal(shown(tmp_path, place(large)), GRAY)


@profiles
@pytest.mark.parametrize("name", [b"zTXt", b"iCCP", b"iTXt"])
@pytest.mark.parametrize("parts", [1, 3])
def test_what_inflates_without_end_is_refused_without_being_held(tmp_path: Path, name: bytes, parts: int) -> None:
    deflated = zlib.compress(bytes(MAX_INFLATED_BYTES // parts + 1000), 9)
    keyword = b"Comment\0\1\0\0\0" if name == b"iTXt" else b"Comment\0\0"
    bomb = b"".join(chunk(name, keyword + deflated) for _ in range(parts))
    assert both(tmp_path, in_front(bomb)) == (Reason.UNREADABLE_PIXELS, None)


@profiles
def test_large_profiles_are_no_reason_to_refuse_a_jpeg(tmp_path: Path) -> None:
    parts = [ICC[at : at + 65_000] for at in range(0, len(ICC), 65_000)]
    profile = [app(0xE2, b"ICC_PROFILE\0" + bytes([n + 1, len(parts)]) + part) for n, part in enumerate(parts)]
    expected = shown(tmp_path, JPEG)
    np.testing.assert_array_equal(shown(tmp_path, with_segments(*profile, app(0xFE, b"x" * 60_000))), expected)


# --------------------------------------------------------------------------- trailers

TRAILERS = {
    "5 KB of zeros": bytes(5000),
    "3 MB of zeros": bytes(3_000_000),
    "a video of the phone": b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(200_000),
    "another picture": jpeg_bytes(blobs(400, 300, bits=8, seed=3)),
    "ten other pictures": JPEG * 10,
    "Samsung": bytes(100) + b"\0\0\x01\x0aImage_UTC_Data1600000000000SEFH" + bytes(6000) + b"SEFT",
    "one byte": b"\0",
    "ends of images": b"\xff\xd9" * 3000,
}


@trailers
@pytest.mark.parametrize("trailer", TRAILERS.values(), ids=TRAILERS)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}], ids=str)
def test_what_is_behind_a_jpeg_is_none_of_it(tmp_path: Path, trailer: bytes, options: dict[str, Any]) -> None:
    content = jpeg_bytes(GRAY, **options)
    np.testing.assert_array_equal(shown(tmp_path, content + trailer), shown(tmp_path, content))


@trailers
@pytest.mark.parametrize("kept", [0.3, 0.8, 0.999])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}], ids=str)
@pytest.mark.parametrize("thumbnail", [False, True])
def test_a_cut_jpeg_is_truncated_whatever_ends_in_it(
    tmp_path: Path, kept: float, options: dict[str, Any], thumbnail: bool
) -> None:
    content = jpeg_bytes(GRAY, **options)
    if thumbnail:
        content = with_segments(app(0xE1, b"Exif\0\0" + jpeg_bytes(GRAY[:80, :80])), content=content)
    cut = content[: int(kept * len(content))]
    assert both(tmp_path, cut) == (Reason.TRUNCATED_PIXELS, None)
    assert both(tmp_path, cut + bytes(5000)) == (Reason.TRUNCATED_PIXELS, None)


@trailers
def test_a_thumbnail_is_not_the_end(tmp_path: Path) -> None:
    content = with_segments(app(0xE1, b"Exif\0\0" + jpeg_bytes(GRAY[:80, :80])), app(0xFE, b"\xff\xd9\xff\xda" * 50))
    np.testing.assert_array_equal(shown(tmp_path, content), shown(tmp_path, JPEG))


@trailers
def test_filling_before_a_marker_is_allowed(tmp_path: Path) -> None:
    content = JPEG[:2] + b"\xff\xff\xff" + JPEG[2:-2] + b"\xff\xff" + JPEG[-2:]
    np.testing.assert_array_equal(shown(tmp_path, content), shown(tmp_path, JPEG))


@trailers
def test_a_jpeg_of_no_height_is_refused_in_words(tmp_path: Path) -> None:
    at = JPEG.index(b"\xff\xc0") + 5
    content = JPEG[:at] + b"\0\0" + JPEG[at + 2 :]
    assert both(tmp_path, content) == (Reason.UNREADABLE_HEADER, None)


# --------------------------------------------------------------------------- rotation

SIGNPOST = np.zeros((96, 160), np.uint8)
SIGNPOST[:48, :80], SIGNPOST[:48, 80:], SIGNPOST[48:, :80] = 60, 120, 200
UNDO = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[0x0112] = orientation
    return made.tobytes()


def xmp(orientation: int, form: str = 'tiff:Orientation="{}"') -> bytes:
    said = form.format(orientation)
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {said}</x:xmpmeta>'.encode()


def raw_profile(orientation: int, kind: str = "exif") -> bytes:
    block = exif(orientation)
    lines = [block.hex()[at : at + 72] for at in range(0, 2 * len(block), 72)]
    return f"\n{kind}\n{len(block):8}\n{chr(10).join(lines)}\n".encode()


def turned(orientation: int) -> bytes:
    return png_bytes(_upright(SIGNPOST, UNDO[orientation]))


PNG_ROTATIONS: dict[str, Callable[[int], bytes]] = {
    "eXIf": lambda o: chunk(b"eXIf", exif(o)[6:]),
    "eXIf as in JPEG": lambda o: chunk(b"eXIf", exif(o)),
    "raw profile, deflated": lambda o: chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(o))),
    "raw profile, plain": lambda o: chunk(b"tEXt", b"Raw profile type exif\0" + raw_profile(o)),
    "raw profile of APP1": lambda o: chunk(
        b"zTXt", b"Raw profile type APP1\0\0" + zlib.compress(raw_profile(o, "generic profile"))
    ),
    "XMP attribute": lambda o: chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(o)),
    "XMP element": lambda o: chunk(
        b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(o, "><tiff:Orientation>{}</tiff:Orientation>")
    ),
    "XMP, deflated": lambda o: chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(o))),
    "EXIF wins over XMP": lambda o: (
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(9 - o)) + chunk(b"eXIf", exif(o)[6:])
    ),
    "EXIF of no sense, XMP speaks": lambda o: (
        chunk(b"eXIf", exif(77)[6:]) + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(o))
    ),
}


@rotation
@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
@pytest.mark.parametrize("place", [in_front, behind])
@pytest.mark.parametrize("stated", PNG_ROTATIONS.values(), ids=PNG_ROTATIONS)
def test_the_rotation_of_a_png_is_undone(
    tmp_path: Path, stated: Callable[[int], bytes], place: Callable[..., bytes], orientation: int
) -> None:
    content = place(stated(orientation), content=turned(orientation))
    np.testing.assert_array_equal(shown(tmp_path, content), SIGNPOST)


@rotation
@pytest.mark.parametrize("place", [in_front, behind])
def test_the_index_sees_the_rotation_of_a_large_png(tmp_path: Path, place: Callable[..., bytes]) -> None:
    pixels = blobs(700, 500, bits=8)
    content = place(chunk(b"eXIf", exif(6)[6:]), content=png_bytes(_upright(pixels, 8)))
    assert len(content) > 2 * 64 * 1024
    np.testing.assert_array_equal(shown(tmp_path, content), pixels)


@rotation
@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path: Path, orientation: int) -> None:
    content = in_front(chunk(b"eXIf", exif(orientation)[6:]))
    np.testing.assert_array_equal(shown(tmp_path, content), GRAY)
    segments = with_segments(app(0xE1, exif(orientation)))
    np.testing.assert_array_equal(shown(tmp_path, segments), shown(tmp_path, JPEG))


JPEG_ROTATIONS: dict[str, Callable[[int], list[bytes]]] = {
    "behind 300 KB of others": lambda o: [*[app(0xE2, bytes(60_000))] * 5, app(0xE1, exif(o))],
    "second APP1": lambda o: [app(0xE1, b"Other\0" + bytes(100)), app(0xE1, exif(o))],
    "second EXIF": lambda o: [app(0xE1, b"Exif\0\0" + b"nonsense"), app(0xE1, exif(o))],
    "XMP": lambda o: [app(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(o))],
    "EXIF wins over XMP": lambda o: [
        app(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(9 - o)),
        app(0xE1, exif(o)),
    ],
    "with MPF": lambda o: [app(0xE1, exif(o)), app(0xE2, b"MPF\0II*\0\x08\0\0\0\0\0\0\0\0\0")],
}


@rotation
@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("stated", JPEG_ROTATIONS.values(), ids=JPEG_ROTATIONS)
def test_the_rotation_of_a_jpeg_is_undone(
    tmp_path: Path, stated: Callable[[int], list[bytes]], orientation: int
) -> None:
    content = jpeg_bytes(_upright(SIGNPOST, UNDO[orientation]), quality=100)
    display = shown(tmp_path, with_segments(*stated(orientation), content=content))
    assert display.shape == SIGNPOST.shape
    assert np.abs(display.astype(int) - SIGNPOST).max() <= 6


@rotation
def test_the_end_of_a_file_is_searched_for_whole_chunks_only() -> None:
    stated = chunk(b"eXIf", exif(6)[6:])
    assert read_png_orientation(PNG[:100], b"x" * 50 + stated + PNG[-12:]) == 6
    for damaged in (stated[:-1] + b"\0", stated[8:], b"\xff\xff\xff\xff" + stated[4:], b"eXIf", b"IeXIf"):
        assert read_png_orientation(PNG[:100], b"x" * 50 + damaged) == 1


# --------------------------------------------------------------------------- stray white pixels


def with_white(share: float, values: Any = 65535, bits: int = 12) -> Any:
    """Return 12-bit pixels of which a share, spread evenly, has other values; and where these are."""
    pixels = blobs(bits=bits).astype(np.uint16)
    where = np.zeros(pixels.size, bool)
    where[:: max(1, round(1 / share))] = True
    pixels.flat[where] = np.resize(values, where.sum())
    return pixels, where.reshape(pixels.shape)


def with_text(bits: int, antialiased: bool) -> Any:
    pixels = blobs(640, 512, bits=bits)
    mask = np.zeros(pixels.shape, np.uint8)
    line = cv2.LINE_AA if antialiased else cv2.LINE_8
    for row in (100, 560):
        cv2.putText(mask, "RIGHT 21.11.2026", (20, row), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 255, 2, line)
    return np.maximum(pixels, mask.astype(np.uint16) * 257), mask > 0


def expected(pixels: Any, bits: int) -> Any:
    return np.minimum(pixels * (255.0 / ((1 << bits) - 1)), 255)


@outliers
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("share", [1e-5, 5e-4, 0.01, 0.04])
def test_white_pixels_do_not_darken_an_image(tmp_path: Path, bits: int, share: float) -> None:
    pixels, white = with_white(share, bits=bits)
    assert 0 < white.mean() < 0.05
    display = shown(tmp_path, png_bytes(pixels))
    assert np.abs(display - expected(pixels, bits)).max() <= 0.51
    assert (display[white] == 255).all()


@outliers
@pytest.mark.parametrize("value", [4096, 5000, 9000, 20_000, 40_000, 65_534])
def test_a_few_hot_pixels_of_any_value_do_not_darken_an_image(tmp_path: Path, value: int) -> None:
    pixels, _ = with_white(2e-4, value)
    assert np.abs(shown(tmp_path, png_bytes(pixels)) - expected(pixels, 12)).max() <= 0.51


@outliers
@pytest.mark.parametrize("antialiased", [False, True])
def test_text_in_the_white_of_sixteen_bits_does_not_darken_an_image(tmp_path: Path, antialiased: bool) -> None:
    pixels, text = with_text(12, antialiased)
    assert text.mean() > 0.01
    assert np.abs(shown(tmp_path, png_bytes(pixels)) - expected(pixels, 12)).max() <= 0.51


@outliers
@pytest.mark.parametrize("form", ["RGB", "RGBA", "hot RGB"])
def test_twelve_bits_in_sixteen_bits_of_colour_are_no_black_picture(tmp_path: Path, form: str) -> None:
    pixels = IMAGE.copy()
    if form.startswith("hot"):
        pixels[5, 5] = 65535
    planes = [pixels] * 3 + [np.full_like(pixels, 65535)] * (form == "RGBA")
    content = cv2.imencode(".png", np.dstack(planes))[1].tobytes()
    # OpenCV's weights of the three colours add up to one but for a rounding.
    assert np.abs(shown(tmp_path, content) - expected(pixels, 12)).max() <= 1


@outliers
def test_colour_of_sixteen_bits_keeps_its_order(tmp_path: Path) -> None:
    pixels = np.zeros((90, 90, 3), np.uint16)
    pixels[:30, :, 0], pixels[30:60, :, 1], pixels[60:, :, 2] = 65535, 65535, 65535
    content = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    display = shown(tmp_path, content)
    assert [int(display[row, 0]) for row in (0, 30, 60)] == [76, 150, 29]


@outliers
@pytest.mark.parametrize("bits", [9, 10, 11, 12, 13, 14, 15, 16])
def test_a_healthy_image_keeps_the_scale_of_its_maximum(tmp_path: Path, bits: int) -> None:
    for seed in range(3):
        pixels = blobs(bits=bits, seed=seed)
        pixels.flat[:400] = (1 << bits) - 1
        assert np.abs(shown(tmp_path, png_bytes(pixels)) - expected(pixels, bits)).max() <= 0.51


@outliers
@pytest.mark.parametrize("factor", [256, 257])
def test_a_dark_image_of_eight_bits_stretched_to_sixteen_stays_as_dark(tmp_path: Path, factor: int) -> None:
    pixels = GRAY // 8
    pixels[7, 7] = 255
    stretched = pixels.astype(np.uint16) * factor
    assert np.abs(shown(tmp_path, png_bytes(stretched)).astype(int) - pixels).max() <= 1


@outliers
@pytest.mark.parametrize("level", [0, 1, 900, 4095, 65535])
def test_nothing_but_noise_and_a_hot_pixel_is_still_blank(tmp_path: Path, level: int) -> None:
    noise = np.random.default_rng(0).integers(-3, 4, (200, 200))
    pixels = np.clip(level + noise, 0, 65535).astype(np.uint16)
    pixels[3, 3] = 65535
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    assert both(tmp_path, stream.getvalue()) == (Reason.BLANK, None)


# --------------------------------------------------------------------------- files of any size

endless = pytest.mark.hostile("9.8 files of any size")
ENDLESS = {
    "PNG of empty chunks": PNG[:HEAD] + chunk(b"foOo", b"") * 1_000_000 + PNG[HEAD:],
    "JPEG of empty comments": JPEG[:-2] + b"\xff\xfe\0\2" * 1_000_000,
    "JPEG of filling": JPEG[:-2] + b"\xff" * 50_000_000,
    "JPEG of restarts": JPEG[:-2] + b"\xff\xd0" * 20_000_000,
    "JPEG of scans": JPEG[:-2] + b"\xff\xda\0\2" * 1_000_000,
}


@endless
@pytest.mark.parametrize("name", ENDLESS)
def test_a_picture_of_millions_of_parts_is_refused_in_time(tmp_path: Path, name: str) -> None:
    started = time.process_time()
    assert both(tmp_path, ENDLESS[name])[0] in (Reason.TRUNCATED_PIXELS, Reason.UNREADABLE_PIXELS)
    assert time.process_time() - started < 5
