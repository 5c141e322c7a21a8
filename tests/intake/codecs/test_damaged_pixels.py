"""Pixel data that are damaged but decode: the decoder warned, or nothing did."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.read import read_radiograph
from cxrbatch.model.data.pixels import ImageChunk, prepare_chunk
from cxrbatch.records import InputSpec, Radiograph
from tests.factories.damage import Damage, drop, end_early, hole, swap
from tests.factories.encoded import Pixels, encode_frame
from tests.factories.intake import blobs, dataset, jpeg_bytes, with_frame, write_dicom

SHARED = Path(os.environ.get("CXRBATCH_SHARED_DATA", "/nowhere")) / "dicom"
needs_shared_data = pytest.mark.skipif(not SHARED.is_dir(), reason="CXRBATCH_SHARED_DATA is not set")
pytestmark = pytest.mark.hostile("9.3 damaged pixels")

DAMAGED = {Reason.UNREADABLE_PIXELS, Reason.TRUNCATED_PIXELS}
ENCODED = [
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    RLELossless,
]
HOLES = [hole("00"), hole("FF"), hole("random")]
HOLE_NAMES = ["00", "FF", "random"]
PLACES = [0.1, 0.5, 0.97]


@cache
def noisy_image(bits: int = 12) -> Pixels:
    """Return an image with so much noise that no codec makes less than 40 KB of it."""
    noise = np.random.default_rng(5).normal(0, 2 ** (bits - 5), (320, 256))
    return np.clip(blobs(bits=bits) + noise, 0, 2**bits - 1).astype(np.uint8 if bits <= 8 else np.uint16)


@cache
def header_of(syntax: UID) -> tuple[Dataset, bytes]:
    pixels = noisy_image(8 if syntax == JPEGBaseline8Bit else 12)
    return dataset(pixels, transfer_syntax=syntax), encode_frame(pixels, syntax)


def read_frame(folder: Path, header: Dataset, frame: bytes) -> Radiograph:
    return read_file(folder, with_frame(header, frame))


def read_file(folder: Path, content: bytes) -> Radiograph:
    (folder / "image").write_bytes(content)
    return read_radiograph(folder / "image", Settings())


def refusal_of(read: Callable[[], object]) -> Reason:
    with pytest.raises(ImageRejected) as raised:
        read()
    return raised.value.reason


@pytest.mark.parametrize("syntax", ENCODED, ids=lambda uid: uid.keyword)
def test_the_healthy_frames_are_read(tmp_path: Path, syntax: UID) -> None:
    header, frame = header_of(syntax)
    assert len(frame) > 3 * 4096
    assert Flag.DAMAGE_SUSPECT not in read_frame(tmp_path, header, frame).flags


@pytest.mark.parametrize("syntax", ENCODED, ids=lambda uid: uid.keyword)
def test_they_are_read_as_well_after_a_report_was_printed_in_the_same_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: UID
) -> None:
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)  # as WeasyPrint leaves it
    assert Flag.DAMAGE_SUSPECT not in read_frame(tmp_path, *header_of(syntax)).flags


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("damage", HOLES, ids=HOLE_NAMES)
@pytest.mark.parametrize("syntax", ENCODED, ids=lambda uid: uid.keyword)
def test_a_hole_is_refused(tmp_path: Path, syntax: UID, damage: Damage, where: float) -> None:
    header, frame = header_of(syntax)
    assert refusal_of(lambda: read_frame(tmp_path, header, damage(frame, where))) in DAMAGED


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("damage", [end_early, drop])
@pytest.mark.parametrize("syntax", ENCODED, ids=lambda uid: uid.keyword)
def test_what_is_missing_is_refused(tmp_path: Path, syntax: UID, damage: Damage, where: float) -> None:
    header, frame = header_of(syntax)
    assert refusal_of(lambda: read_frame(tmp_path, header, damage(frame, where))) in DAMAGED


JPEG_DCT_AND_LOSSLESS = ENCODED[:4]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("syntax", JPEG_DCT_AND_LOSSLESS, ids=lambda uid: uid.keyword)
def test_an_early_end_of_jpeg_is_truncated(tmp_path: Path, syntax: UID, where: float) -> None:
    header, frame = header_of(syntax)
    assert refusal_of(lambda: read_frame(tmp_path, header, end_early(frame, where))) is Reason.TRUNCATED_PIXELS


# Nothing tells of the place of a block in JPEG 2000's coded data, nor of bytes that keep their number in RLE. Swapped
# blocks of a lossless JPEG have as many bits as before, but for a few, which may be none.
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(
    "syntax", [JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSLossless, JPEGLSNearLossless], ids=lambda uid: uid.keyword
)
def test_swapped_blocks_are_refused(tmp_path: Path, syntax: UID, where: float) -> None:
    header, frame = header_of(syntax)
    assert refusal_of(lambda: read_frame(tmp_path, header, swap(frame, where))) in DAMAGED


def picture(**options: object) -> bytes:
    colour = np.dstack([noisy_image(8)] * 3)
    return jpeg_bytes(colour if options.pop("colour", False) else colour[..., 0], **options)


PICTURES = {
    "grey": {"quality": 92},
    "progressive": {"quality": 92, "progressive": True},
    "colour": {"quality": 92, "colour": True, "subsampling": 2},
    "restarts": {"quality": 92, "restart_marker_rows": 1},
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("damage", [*HOLES, end_early, drop], ids=[*HOLE_NAMES, "early end", "dropped"])
@pytest.mark.parametrize("kind", PICTURES)
def test_a_damaged_jpeg_file_is_refused(tmp_path: Path, kind: str, damage: Damage, where: float) -> None:
    content = picture(**PICTURES[kind])
    read_file(tmp_path, content)
    refused = refusal_of(lambda: read_file(tmp_path, damage(content, where)))
    assert refused in DAMAGED | {Reason.INCONSISTENT_HEADER}


def insert(content: bytes, marker: bytes, what: bytes) -> bytes:
    at = content.index(marker)
    return content[:at] + what + content[at:]


# What cameras and old software write beside the data; libjpeg warns of some of it.
ODDITIES: dict[str, Callable[[bytes], bytes]] = {
    "trailer": lambda jpeg: jpeg + b"SEFT" * 500,
    "padding to an even length": lambda jpeg: jpeg + b"\0" * (1 + len(jpeg) % 2),
    "bytes between two markers": lambda jpeg: insert(jpeg, b"\xff\xdb", b"\x00\x12\x34"),
    "APP1 shorter than its data": lambda jpeg: insert(jpeg, b"\xff\xdb", b"\xff\xe1\x00\x04" + b"abcdef"),
    "unknown JFIF revision": lambda jpeg: jpeg.replace(b"JFIF\0\x01", b"JFIF\0\x07"),
    "unknown Adobe transform": lambda jpeg: insert(jpeg, b"\xff\xdb", b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x09"),
    "comment": lambda jpeg: insert(jpeg, b"\xff\xdb", b"\xff\xfe\0\x06text"),
    "fill bytes before a marker": lambda jpeg: insert(jpeg, b"\xff\xdb", b"\xff\xff\xff"),
    "fill bytes before the end": lambda jpeg: jpeg[:-2] + b"\xff\xff" + jpeg[-2:],
    "two bytes before the end": lambda jpeg: jpeg[:-2] + b"\0\0" + jpeg[-2:],
    "another spectral selection": lambda jpeg: jpeg.replace(b"\x01\x01\x00\x00\x3f\x00", b"\x01\x01\x00\x00\x00\x00"),
    "bad ICC profile": lambda jpeg: insert(jpeg, b"\xff\xdb", b"\xff\xe2\0\x10ICC_PROFILE\0\x05\x02"),
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_oddities_that_are_no_damage_are_read(tmp_path: Path, oddity: str) -> None:
    content = picture(quality=92)
    odd = ODDITIES[oddity](content)
    assert odd != content
    np.testing.assert_array_equal(read_file(tmp_path, odd).display, read_file(tmp_path, content).display)


@pytest.mark.parametrize("oddity", sorted({*ODDITIES} - {"trailer"}))
def test_oddities_do_not_hide_damage(tmp_path: Path, oddity: str) -> None:
    odd = ODDITIES[oddity](hole("00")(picture(quality=92), 0.5))
    assert refusal_of(lambda: read_file(tmp_path, odd)) in DAMAGED


@pytest.mark.parametrize("spare", [1, 3])
def test_a_few_spare_bytes_before_the_end_of_a_lossless_frame_are_read(tmp_path: Path, spare: int) -> None:
    header, frame = header_of(JPEGLosslessSV1)
    read_frame(tmp_path, header, frame[:-2] + bytes(spare) + frame[-2:])


def test_bytes_left_over_in_a_lossless_frame_are_damage(tmp_path: Path) -> None:
    header, frame = header_of(JPEGLosslessSV1)
    odd = frame[:-2] + bytes(40) + frame[-2:]
    assert refusal_of(lambda: read_frame(tmp_path, header, odd)) is Reason.UNREADABLE_PIXELS


@pytest.mark.parametrize("options", [{}, {"tile_size": (256, 256)}, {"precinct_size": (128, 128)}, {"no_jp2": False}])
def test_jpeg_2000_of_other_encoders_options_is_read_and_its_holes_refused(
    tmp_path: Path, options: dict[str, object]
) -> None:
    header, _ = header_of(JPEG2000Lossless)
    stream = BytesIO()
    Image.fromarray(noisy_image()).save(stream, "JPEG2000", **{"no_jp2": True, "irreversible": False, **options})
    frame = stream.getvalue()
    read_frame(tmp_path, header, frame)
    for damage in HOLES:
        damaged = damage(frame, 0.6)
        assert refusal_of(partial(read_frame, tmp_path, header, damaged)) in DAMAGED


def test_packets_that_were_emptied_are_noticed_by_what_is_left_over(tmp_path: Path) -> None:
    header, frame = header_of(JPEG2000Lossless)
    start = frame.index(b"\xff\x93") + 2
    emptied = frame[:start] + bytes(16) + frame[start + 16 :]
    assert refusal_of(lambda: read_frame(tmp_path, header, emptied)) is Reason.UNREADABLE_PIXELS


def test_flat_jpeg_2000_with_empty_packets_is_no_damage(tmp_path: Path) -> None:
    pixels = np.zeros((1024, 1024), np.uint16)
    pixels[200:700, 300:600] = np.arange(300) * 3
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG2000", no_jp2=True, quality_layers=[40, 10, 1])
    header = dataset(pixels, transfer_syntax=JPEG2000Lossless)
    read_frame(tmp_path, header, stream.getvalue())


def deflated(folder: Path) -> bytes:
    path = write_dicom(folder / "deflated", pixels=noisy_image(), transfer_syntax=DeflatedExplicitVRLittleEndian)
    return path.read_bytes()


@pytest.mark.parametrize("where", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("damage", [*HOLES, drop], ids=[*HOLE_NAMES, "dropped"])
def test_a_damaged_deflated_data_set_is_refused(tmp_path: Path, damage: Damage, where: float) -> None:
    content = deflated(tmp_path)
    read_file(tmp_path, content)
    refused = refusal_of(lambda: read_file(tmp_path, damage(content, where)))
    assert refused in DAMAGED | {Reason.UNREADABLE_HEADER}


def test_a_cut_deflated_data_set_is_truncated(tmp_path: Path) -> None:
    content = deflated(tmp_path)
    assert refusal_of(lambda: read_file(tmp_path, content[:-1000])) is Reason.TRUNCATED_PIXELS
    assert refusal_of(lambda: read_file(tmp_path, content[:-20])) is Reason.TRUNCATED_PIXELS


def test_padding_behind_a_deflated_data_set_is_read(tmp_path: Path) -> None:
    read_file(tmp_path, deflated(tmp_path) + bytes(3))


@pytest.mark.parametrize("filling", ["00", "FF"])
@pytest.mark.parametrize("bits", [8, 12])
def test_a_hole_in_native_pixels_is_flagged(tmp_path: Path, bits: int, filling: str) -> None:
    content = write_dicom(tmp_path / "a", pixels=noisy_image(bits), transfer_syntax=ExplicitVRLittleEndian).read_bytes()
    assert Flag.DAMAGE_SUSPECT not in read_file(tmp_path, content).flags
    assert Flag.DAMAGE_SUSPECT in read_file(tmp_path, hole(filling)(content, 0.5)).flags


@needs_shared_data
@pytest.mark.parametrize("damage", [*HOLES, end_early], ids=[*HOLE_NAMES, "early end"])
@pytest.mark.parametrize(
    "name",
    [
        "transfer_syntaxes/RG3_JPLL",
        "transfer_syntaxes/RG3_JPLY",
        "transfer_syntaxes/RG3_JLSL",
        "transfer_syntaxes/RG3_RLE",
        "chest/siim_cr_jpeg_baseline.dcm",
        "chest/rg1_cr_pa_mono1_15bit_j2k.dcm",
    ],
)
def test_real_files_with_damaged_pixels_are_refused(tmp_path: Path, name: str, damage: Damage) -> None:
    header = pydicom.dcmread(SHARED / name)
    header.BodyPartExamined, header.ViewPosition, header.Modality = "CHEST", "PA", "CR"
    frame = get_frame(header.PixelData, 0, number_of_frames=1)
    read_frame(tmp_path, header, frame)
    assert refusal_of(lambda: read_frame(tmp_path, header, damage(frame, 0.5))) in DAMAGED


def test_training_names_the_damaged_file(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    good.write_bytes(jpeg_bytes(noisy_image(8)))
    bad.write_bytes(end_early(jpeg_bytes(noisy_image(8)), 0.5))
    prepared = prepare_chunk(ImageChunk((0, 1), (good, bad), InputSpec(size_px=64)))
    assert prepared.rows == (0,)
    assert [image.path for image in prepared.bad] == [bad]
    assert "truncated_pixels" in prepared.bad[0].reason


def test_a_frame_of_another_library_still_has_its_bits(tmp_path: Path) -> None:
    pixels = noisy_image()
    frame = bytes(imagecodecs.ljpeg_encode(pixels, bitspersample=12))
    read_frame(tmp_path, dataset(pixels, transfer_syntax=JPEGLosslessSV1), frame)
