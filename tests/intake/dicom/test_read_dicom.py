import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.discover import index_file
from cxrbatch.intake.read import HEAD_BYTES, read_radiograph
from cxrbatch.records import ImageFile, Radiograph
from tests.factories.intake import blobs, coded, dataset, jpeg_bytes, lut_item, write_dicom

SETTINGS = Settings()
SHARED = Path(os.environ.get("CXRBATCH_SHARED_DATA", "/nowhere")) / "dicom"
needs_shared_data = pytest.mark.skipif(not SHARED.is_dir(), reason="CXRBATCH_SHARED_DATA is not set")
SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
]


def read(path: Path, settings: Settings = SETTINGS) -> Radiograph:
    return read_radiograph(path, settings)


def outcome(path: Path, settings: Settings = SETTINGS) -> tuple[Reason | None, Reason | None]:
    """Return the reasons that the index and the reading give, in that order."""
    indexed = index_file(path.parent, ImageFile(path.name, 0, 0), settings)
    stated = indexed.rejection.reason if indexed.rejection else None
    try:
        read(path, settings)
    except ImageRejected as rejected:
        return stated, rejected.reason
    return stated, None


def bare(path: Path, made: Dataset) -> Path:
    """Write the data set alone, Implicit VR Little Endian, without preamble and file meta information."""
    stream = pydicom.filebase.DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, True
    pydicom.filewriter.write_dataset(stream, made)
    path.write_bytes(stream.getvalue())
    return path


# --------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_same_pixels_look_the_same_in_every_lossless_syntax(tmp_path: Path, syntax: UID, bits: int) -> None:
    pixels = blobs(bits=bits)
    window = {"WindowCenter": 1 << bits - 1, "WindowWidth": 1 << bits, "BitsStored": bits}
    plain = read(write_dicom(tmp_path / "plain", pixels=pixels, **window))
    other = read(write_dicom(tmp_path / "other", pixels=pixels, transfer_syntax=syntax, **window))
    np.testing.assert_array_equal(other.display, plain.display)
    assert other.display_sha256 == plain.display_sha256
    expected = pixels.astype(float) * 255 / ((1 << bits) - 1)
    assert np.abs(plain.display - expected).max() <= 0.51
    assert other.header.transfer_syntax == syntax


def test_the_header_is_read_as_text(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a",
        StudyInstanceUID="1.2.3",
        AccessionNumber="A77 ",
        StudyDate="20260131",
        PatientSex="F",
        PatientAge="044Y",
        StudyDescription="Thorax p.a.",
    )
    header = read(path).header
    assert header.study_instance_uid == "1.2.3"
    assert header.accession_number == "A77"
    assert header.study_date == "20260131"
    assert (header.patient_name, header.patient_sex, header.patient_age) == ("Doe^Jane", "F", "044Y")
    assert (header.modality, header.body_part, header.view) == ("CR", "CHEST", "PA")
    assert (header.rows, header.columns, header.photometric) == (320, 256, "MONOCHROME2")
    assert header.transfer_syntax == "1.2.840.10008.1.2.1"


def test_large_images_are_reduced_and_keep_their_stored_size(tmp_path: Path) -> None:
    radiograph = read(write_dicom(tmp_path / "a", pixels=blobs(2464, 2022)))
    assert radiograph.display.shape == (1024, 840)
    assert (radiograph.rows, radiograph.columns) == (2464, 2022)


def test_a_reduced_jpeg_2000_looks_like_the_whole_one(tmp_path: Path) -> None:
    pixels = cv2.resize(blobs(308, 253), (2022, 2464), interpolation=cv2.INTER_CUBIC).astype(np.uint16)
    whole = read(write_dicom(tmp_path / "a", pixels=pixels)).display.astype(int)
    reduced = read(write_dicom(tmp_path / "b", pixels=pixels, transfer_syntax=JPEG2000Lossless)).display.astype(int)
    assert np.abs(whole - reduced).mean() < 0.6


def test_monochrome_twins_look_the_same(tmp_path: Path) -> None:
    pixels = blobs()
    twin = (4095 - pixels).astype(np.uint16)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    white = read(write_dicom(tmp_path / "2", pixels=pixels, **window))
    black = read(write_dicom(tmp_path / "1", pixels=twin, PhotometricInterpretation="MONOCHROME1", **window))
    np.testing.assert_allclose(white.display.astype(int), black.display.astype(int), atol=1)


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted", "flags"),
    [
        ("MONOCHROME2", None, False, ()),
        ("MONOCHROME2", "IDENTITY", False, ()),
        ("MONOCHROME1", None, True, ()),
        ("MONOCHROME1", "INVERSE", True, ()),
        ("MONOCHROME2", "INVERSE", True, (Flag.POLARITY_FROM_LUT,)),
    ],
)
def test_polarity_is_decided_once(
    tmp_path: Path,
    photometric: str,
    shape: Any,
    inverted: bool,
    flags: tuple[Flag, ...],
) -> None:
    pixels = blobs()
    path = write_dicom(
        tmp_path / "a",
        pixels=pixels,
        PhotometricInterpretation=photometric,
        PresentationLUTShape=shape,
        WindowCenter=2048,
        WindowWidth=4096,
    )
    radiograph = read(path)
    rises = np.corrcoef(pixels.ravel(), radiograph.display.ravel())[0, 1]
    assert rises == pytest.approx(-1 if inverted else 1, abs=1e-3)
    assert radiograph.flags == flags


def test_of_several_windows_the_first_is_used(tmp_path: Path) -> None:
    several = read(write_dicom(tmp_path / "a", WindowCenter=[1000, 3000], WindowWidth=[2000, 100]))
    one = read(write_dicom(tmp_path / "b", WindowCenter=1000, WindowWidth=2000))
    np.testing.assert_array_equal(several.display, one.display)


def test_signed_pixels_with_a_negative_rescale(tmp_path: Path) -> None:
    pixels = (blobs().astype(np.int32) - 2048).astype(np.int16)
    radiograph = read(
        write_dicom(
            tmp_path / "a",
            pixels=pixels,
            BitsStored=12,
            RescaleSlope=2,
            RescaleIntercept=-100,
            WindowCenter=-99,
            WindowWidth=8190,
        )
    )
    expected = ((2.0 * pixels - 100) - (-99.5)) / 8189 + 0.5
    assert np.abs(radiograph.display - np.clip(expected, 0, 1) * 255).max() <= 0.51


@pytest.mark.parametrize("undefined_length", [False, True])
@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_lookup_tables_are_read_from_the_file(
    tmp_path: Path,
    keyword: str,
    undefined_length: bool,
    syntax: UID,
) -> None:
    pixels = blobs()
    entries = np.linspace(0, 1023, 4096).astype(np.uint16)[::-1]
    made = dataset(pixels, transfer_syntax=syntax)
    item = lut_item(entries, first=0, bits=10)
    if syntax == ExplicitVRBigEndian:
        item[0]["LUTData"].value = entries.astype(">u2").tobytes()
    setattr(made, keyword, item)
    made[keyword].is_undefined_length = undefined_length
    if keyword == "ModalityLUTSequence":
        made.WindowCenter, made.WindowWidth = 512, 1024
    made.save_as(tmp_path / "a", enforce_file_format=True)
    radiograph = read(tmp_path / "a")
    assert np.abs(radiograph.display - entries[pixels] * (255 / 1023)).max() <= 0.51


def test_overlay_bits_are_masked(tmp_path: Path) -> None:
    pixels = blobs(bits=12)
    dirty = (pixels | (np.arange(256, dtype=np.uint16) % 2 << 13)).astype(np.uint16)
    window = {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12}
    clean = read(write_dicom(tmp_path / "a", pixels=pixels, **window))
    masked = read(write_dicom(tmp_path / "b", pixels=dirty, **window))
    np.testing.assert_array_equal(masked.display, clean.display)
    assert masked.stored_sha256 != clean.stored_sha256


def test_padding_is_black(tmp_path: Path) -> None:
    pixels = np.clip(blobs(), 500, 4000)
    pixels[:50] = 0
    radiograph = read(
        write_dicom(
            tmp_path / "a", pixels=pixels, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1", BitsStored=12
        )
    )
    assert radiograph.display[:50].max() == 0
    assert radiograph.display[50:].max() == 255


def test_an_odd_number_of_bytes_is_padded(tmp_path: Path) -> None:
    pixels = blobs(101, 99, bits=8)
    assert read(write_dicom(tmp_path / "a", pixels=pixels)).display.shape == (101, 99)


def test_a_header_longer_than_the_first_read(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a")
    content = path.read_bytes()
    at = content.index(b"\x10\x00\x10\x00PN")
    private = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, HEAD_BYTES + 5000) + bytes(HEAD_BYTES + 5000)
    path.write_bytes(content[:at] + private + content[at:])
    assert outcome(path) == (None, None)


# --------------------------------------------------------------------------- hashes


def test_equal_hashes_mean_equal_pixels(tmp_path: Path) -> None:
    pixels = blobs()
    first = read(write_dicom(tmp_path / "a", pixels=pixels, PatientID="1"))
    copy = read(write_dicom(tmp_path / "b", pixels=pixels, PatientID="2"))
    implicit = read(write_dicom(tmp_path / "c", pixels=pixels, transfer_syntax=ImplicitVRLittleEndian))
    reshaped = read(write_dicom(tmp_path / "d", pixels=pixels.reshape(256, 320)))
    pixels[0, 0] ^= 1
    changed = read(write_dicom(tmp_path / "e", pixels=pixels))
    assert first.stored_sha256 == copy.stored_sha256 == implicit.stored_sha256
    assert len({first.stored_sha256, reshaped.stored_sha256, changed.stored_sha256}) == 3


def test_the_hash_of_an_encoded_image_does_not_depend_on_the_reduction(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a", pixels=blobs(1200, 1000), transfer_syntax=JPEG2000Lossless)
    small = read(path, Settings(max_display_px=300))
    large = read(path, Settings(max_display_px=1024))
    assert small.display.shape == (300, 250)
    assert small.stored_sha256 == large.stored_sha256
    assert small.display_sha256 == large.display_sha256


# --------------------------------------------------------------------------- read with a flag


def test_a_bare_data_set_is_implicit_and_flagged(tmp_path: Path) -> None:
    path = bare(tmp_path / "a", dataset(blobs(), transfer_syntax=ImplicitVRLittleEndian))
    radiograph = read(path)
    assert radiograph.flags == (Flag.NO_TRANSFER_SYNTAX,)
    assert radiograph.header.transfer_syntax == ImplicitVRLittleEndian


def test_a_missing_transfer_syntax_is_assumed_where_the_length_fits(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a", transfer_syntax=ImplicitVRLittleEndian)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x02\x00\x10\x00UI", b"\x02\x00\x99\x00UI", 1))
    assert read(path).flags == (Flag.NO_TRANSFER_SYNTAX,)


def test_a_bare_data_set_of_another_length_is_refused(tmp_path: Path) -> None:
    made = dataset(blobs(), transfer_syntax=ImplicitVRLittleEndian, Columns=200)
    assert outcome(bare(tmp_path / "a", made)) == (Reason.INCONSISTENT_HEADER,) * 2


@pytest.mark.parametrize("preamble", [b"MZ", b"\x7fELF"])
def test_an_executable_preamble_is_flagged(tmp_path: Path, preamble: bytes) -> None:
    path = write_dicom(tmp_path / "a")
    path.write_bytes(preamble + path.read_bytes()[len(preamble) :])
    assert read(path).flags == (Flag.EXECUTABLE_PREAMBLE,)


@pytest.mark.parametrize(
    ("charset", "name", "expected", "flags"),
    [
        ("ISO_IR 192", "Müller^Jörg".encode(), "Müller^Jörg", ()),
        ("ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg", ()),
        ("", "Müller^Jörg".encode("latin-1"), "Müller^Jörg", (Flag.CHARSET_REPLACED,)),
        ("", "Müller^Jörg".encode(), "Müller^Jörg", (Flag.CHARSET_REPLACED,)),
        ("ISO_IR 192", b"M\xfcller", "M\ufffdller", (Flag.CHARSET_REPLACED,)),
        ("NO_SUCH_SET", b"Doe", "Doe", (Flag.CHARSET_REPLACED,)),
        ("\\ISO 2022 IR 87", b"Yamada=\x1b$B;3ED\x1b(B", "Yamada=山田", ()),
    ],
)
def test_names_in_character_sets(
    tmp_path: Path,
    charset: str,
    name: bytes,
    expected: str,
    flags: tuple[Flag, ...],
) -> None:
    path = write_dicom(tmp_path / "a", PatientName="N" * 40, SpecificCharacterSet="ISO_IR 100")
    content = path.read_bytes()
    padded = name + b" " * (40 - len(name))
    stated = charset.encode() + b" " * (len(charset) % 2)
    element = b"\x08\x00\x05\x00CS"
    assert element + b"\x0a\x00ISO_IR 100" in content
    content = content.replace(element + b"\x0a\x00ISO_IR 100", element + struct.pack("<H", len(stated)) + stated)
    path.write_bytes(content.replace(b"N" * 40, padded))
    radiograph = read(path)
    assert radiograph.header.patient_name == expected
    assert radiograph.flags == flags


def test_invalid_values_do_not_fail_and_do_not_warn(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = write_dicom(tmp_path / "a", PatientAge="044Y", StudyDate="20260131", RescaleSlope="1.5", WindowWidth="4096")
    content = path.read_bytes()
    for good, bad in ((b"044Y", b"58  "), (b"20260131", b"31.1.26 "), (b"1.5 ", b"one "), (b"4096", b"wide")):
        assert good in content
        content = content.replace(good, bad)
    path.write_bytes(content)
    radiograph = read(path)
    assert radiograph.header.patient_age == "58"
    assert radiograph.header.study_date == "31.1.26"
    assert not recwarn.list


def test_rows_with_a_wrong_vr_are_read(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a")
    content = path.read_bytes()
    assert content.count(b"\x28\x00\x10\x00US\x02\x00\x40\x01") == 1
    path.write_bytes(content.replace(b"\x28\x00\x10\x00US\x02\x00\x40\x01", b"\x28\x00\x10\x00IS\x04\x00320 "))
    assert read(path).rows == 320


def test_control_characters_do_not_reach_the_header(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a", StudyDescription="Q" * 12)
    path.write_bytes(path.read_bytes().replace(b"Q" * 12, b"a\r\n\tb\x00\x1fc\x7fd  "))
    assert read(path).header.study_description == "a   b  c d"


def test_the_view_code_sequence_is_read(tmp_path: Path) -> None:
    lateral = write_dicom(tmp_path / "a", ViewPosition="", ViewCodeSequence=coded("left lateral"))
    assert outcome(lateral) == (Reason.NOT_FRONTAL,) * 2
    frontal = write_dicom(tmp_path / "b", ViewPosition="", ViewCodeSequence=coded("postero-anterior"))
    assert read(frontal).flags == ()


# --------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": "CT"}, Reason.NOT_RADIOGRAPH),
        ({"BodyPartExamined": "HAND"}, Reason.NOT_CHEST),
        ({"ViewPosition": "LATERAL"}, Reason.NOT_FRONTAL),
        ({"PresentationIntentType": "FOR PROCESSING"}, Reason.NOT_FOR_PRESENTATION),
        ({"Manufacturer": "cxrbatch"}, Reason.OWN_OUTPUT),
        ({"PixelData": None}, Reason.NO_PIXEL_DATA),
        ({"StudyInstanceUID": None}, Reason.UNREADABLE_HEADER),
        ({"Rows": 0}, Reason.INCONSISTENT_HEADER),
        ({"Rows": None}, Reason.INCONSISTENT_HEADER),
        ({"Rows": 400}, Reason.INCONSISTENT_HEADER),
        ({"Rows": 65535, "Columns": 65535}, Reason.TOO_LARGE),
        ({"Rows": 40}, Reason.TOO_SMALL),
        ({"NumberOfFrames": 100000}, Reason.MULTI_FRAME),
        ({"BitsStored": 0}, Reason.INCONSISTENT_HEADER),
        ({"BitsStored": 17}, Reason.INCONSISTENT_HEADER),
        ({"HighBit": 16}, Reason.INCONSISTENT_HEADER),
        ({"BitsAllocated": 32}, Reason.INCONSISTENT_HEADER),
        ({"BitsAllocated": None}, Reason.INCONSISTENT_HEADER),
        ({"PhotometricInterpretation": None}, Reason.INCONSISTENT_HEADER),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, Reason.UNSUPPORTED_PHOTOMETRIC),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.UNSUPPORTED_PHOTOMETRIC),
    ],
    ids=str,
)
def test_headers_are_refused_by_the_index_and_by_the_reading_alike(
    tmp_path: Path,
    changes: dict[str, Any],
    reason: Reason,
) -> None:
    assert outcome(write_dicom(tmp_path / "a", **changes)) == (reason, reason)


def test_files_cut_anywhere_have_one_reason(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a", transfer_syntax=ExplicitVRLittleEndian)
    content = path.read_bytes()
    pixels_at = content.index(b"\xe0\x7f\x10\x00OW") + 12
    expected = {
        0: Reason.NOT_AN_IMAGE,
        100: Reason.NOT_AN_IMAGE,
        140: Reason.UNREADABLE_HEADER,
        pixels_at - 60: Reason.UNREADABLE_HEADER,
        pixels_at + 1: Reason.TRUNCATED_PIXELS,
        len(content) - 2: Reason.TRUNCATED_PIXELS,
    }
    for length, reason in expected.items():
        path.write_bytes(content[:length])
        assert outcome(path) == (reason, reason), length
    for length in range(132, pixels_at, 7):
        path.write_bytes(content[:length])
        indexed, reading = outcome(path)
        assert indexed is reading is not None, length


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, HTJ2KLossless])
@pytest.mark.parametrize("kept", [0.3, 0.95])
def test_cut_encoded_frames_are_truncated(tmp_path: Path, syntax: UID, kept: float) -> None:
    path = write_dicom(tmp_path / "a", transfer_syntax=syntax)
    content = path.read_bytes()
    start = content.index(b"\xe0\x7f\x10\x00OB")
    path.write_bytes(content[: start + int((len(content) - start) * kept)])
    assert outcome(path) == (None, Reason.TRUNCATED_PIXELS)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, HTJ2KLossless])
def test_noise_instead_of_an_encoded_frame_is_unreadable(tmp_path: Path, syntax: UID) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
    path = write_dicom(tmp_path / "a", transfer_syntax=syntax, PixelData=pydicom.encaps.encapsulate([noise]))
    indexed, reading = outcome(path)
    assert indexed is None
    assert reading in (Reason.UNREADABLE_PIXELS, Reason.TRUNCATED_PIXELS)


def relabel(path: Path, old: UID, new: UID) -> Path:
    """Write another transfer syntax of the same length into the file meta information."""
    assert len(old) == len(new) or len(old) + len(old) % 2 == len(new) + len(new) % 2
    size = len(old) + len(old) % 2
    path.write_bytes(path.read_bytes().replace(old.encode().ljust(size, b"\0"), new.encode().ljust(size, b"\0"), 1))
    return path


def test_native_pixels_labelled_rle_are_refused(tmp_path: Path) -> None:
    path = relabel(write_dicom(tmp_path / "a"), ExplicitVRLittleEndian, RLELossless)
    assert outcome(path) == (Reason.INCONSISTENT_HEADER,) * 2


def test_little_endian_labelled_big_endian_is_refused(tmp_path: Path) -> None:
    path = relabel(write_dicom(tmp_path / "a"), ExplicitVRLittleEndian, ExplicitVRBigEndian)
    assert outcome(path) == (Reason.UNREADABLE_HEADER,) * 2


def test_an_unknown_transfer_syntax_is_refused_by_name(tmp_path: Path) -> None:
    path = relabel(write_dicom(tmp_path / "a"), ExplicitVRLittleEndian, UID("1.2.840.10008.9.9.9"))
    assert outcome(path) == (Reason.UNSUPPORTED_TRANSFER_SYNTAX,) * 2


def test_a_deflate_bomb_is_refused_half_way(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a", transfer_syntax=DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    head = content[: content.index(b"1.2.840.10008.1.2.1.99") + 22]
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    element = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 50_000_000)
    bomb = (
        deflater.compress(element) + b"".join(deflater.compress(bytes(1_000_000)) for _ in range(50)) + deflater.flush()
    )
    path.write_bytes(head + bomb)
    assert outcome(path, Settings(max_stored_px=1_000_000)) == (Reason.TOO_LARGE,) * 2


@pytest.mark.parametrize("depth", [200, 20_000])
def test_deep_sequences_do_not_overflow(tmp_path: Path, depth: int) -> None:
    path = write_dicom(tmp_path / "a")
    content = path.read_bytes()
    at = content.index(b"\x10\x00\x10\x00PN")
    opening = struct.pack("<HH2sHL", 0x0009, 0x1001, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    path.write_bytes(content[:at] + opening * depth + content[at:])
    assert outcome(path) == (Reason.UNREADABLE_HEADER,) * 2


def test_an_element_of_4_gb_is_refused(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a")
    content = path.read_bytes()
    at = content.index(b"\x10\x00\x10\x00PN")
    liar = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 0xFFFFFFF0)
    path.write_bytes(content[:at] + liar + content[at:])
    assert outcome(path) == (Reason.UNREADABLE_HEADER,) * 2


def test_a_frame_of_another_size_than_the_header_says_is_refused(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a", transfer_syntax=JPEG2000Lossless, Rows=330)
    assert outcome(path) == (None, Reason.INCONSISTENT_HEADER)


def test_a_colour_frame_labelled_monochrome_is_refused(tmp_path: Path) -> None:
    frame = jpeg_bytes(np.zeros((320, 256, 3), np.uint8))
    made: dict[str, Any] = {
        "PixelData": pydicom.encaps.encapsulate([frame]),
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
    }
    path = write_dicom(tmp_path / "a", transfer_syntax=JPEG2000Lossless, **made)
    relabel(path, JPEG2000Lossless, JPEGBaseline8Bit)
    assert outcome(path) == (None, Reason.UNSUPPORTED_PHOTOMETRIC)


@pytest.mark.parametrize("level", [0, 700, 4095])
def test_a_constant_image_is_blank(tmp_path: Path, level: int) -> None:
    path = write_dicom(tmp_path / "a", pixels=np.full((320, 256), level, np.uint16), BitsStored=12)
    assert outcome(path) == (None, Reason.BLANK)


def test_no_message_names_the_patient(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{"Modality": "CT"}, {"Rows": 0}, {"PixelData": None}, {"BitsStored": 0}]
    for number, change in enumerate(changes):
        path = write_dicom(tmp_path / str(number), PatientName="CANARY^BIRD", PatientID="CANARY77", **change)
        with pytest.raises(ImageRejected) as caught:
            read(path)
        assert "CANARY" not in str(caught.value)


# --------------------------------------------------------------------------- real files


@needs_shared_data
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("cr_mono1_10bit_no_preamble.dcm", (Flag.NO_TRANSFER_SYNTAX,)),
        ("nih_00000001_000_dx.dcm", (Flag.NO_BODY_PART, Flag.NO_VIEW)),
        ("rg1_cr_pa_mono1_15bit_j2k.dcm", (Flag.LOSSY,)),
        ("siim_cr_jpeg_baseline.dcm", (Flag.LOSSY,)),
        ("siim_cr_tag_says_monochrome1.dcm", (Flag.LOSSY,)),
    ],
)
def test_real_chest_radiographs_are_accepted(name: str, flags: tuple[Flag, ...]) -> None:
    radiograph = read(SHARED / "chest" / name)
    assert radiograph.flags == flags
    middle, spine = radiograph.display.shape[0] // 2, radiograph.display.shape[1] // 2
    lung, mediastinum = radiograph.display[middle, spine // 2], radiograph.display[middle, spine]
    assert (lung < mediastinum) is not ("tag_says" in name)


@needs_shared_data
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("not_chest/MG1_J2KI", Reason.NOT_CHEST),
        ("not_chest/bad_sequence.dcm", Reason.NOT_RADIOGRAPH),
        ("not_chest/mlut_18.dcm", Reason.NOT_RADIOGRAPH),
        ("not_chest/vlut_04.dcm", Reason.NOT_RADIOGRAPH),
        *(
            (f"transfer_syntaxes/RG3_{kind}", Reason.NOT_CHEST)
            for kind in ("JLSL", "JLSN", "JPLL", "JPLY", "RLE", "UNC")
        ),
    ],
)
def test_real_files_of_other_things_are_refused(name: str, reason: Reason) -> None:
    assert outcome(SHARED / name) == (reason, reason)
