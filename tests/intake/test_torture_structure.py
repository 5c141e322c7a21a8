"""The torture list of PROMISES.md, section Structure: DICOM files whose structure lies."""

import struct
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, Reason
from tests.factories.bombs import deflated_zeros
from tests.factories.intake import dataset
from tests.factories.torture import (
    FULL_WINDOW,
    PIXELS,
    Entry,
    before_patient,
    edited,
    full,
    processed,
    refused,
    relabelled,
    shown,
    swap,
)

SMALL = Settings(max_stored_px=1_000_000, pixel_check=False)


def bare(syntax: UID) -> Callable[[Path], object]:
    """Return a builder of the data set alone: no preamble, no file meta information."""

    def build(path: Path) -> None:
        made = dataset(PIXELS, transfer_syntax=syntax, **FULL_WINDOW)
        stream = DicomBytesIO()
        stream.is_little_endian, stream.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
        write_dataset(stream, made)
        path.write_bytes(stream.getvalue())

    return build


def deflate_bomb(data: bytes, size: int = 50_000_000) -> bytes:
    head = data[: data.index(b"1.2.840.10008.1.2.1.99") + 22]
    return head + deflated_zeros(size, start=struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, size))


def nested(depth: int) -> bytes:
    sequence = struct.pack("<HH2sHL", 0x0009, 0x1001, b"SQ", 0, 0xFFFFFFFF)
    return (sequence + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)) * depth


def starting(preamble: bytes) -> Callable[[bytes], bytes]:
    return lambda data: preamble + data[len(preamble) :]


def last_bytes_kept(count: int) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        start = data.index(b"\xe0\x7f\x10\x00OW") + 12
        return data[: start + count]

    return edit


LE, BE = ExplicitVRLittleEndian, ExplicitVRBigEndian
ENTRIES = [
    processed("no preamble, implicit", bare(ImplicitVRLittleEndian), shown, Flag.NO_TRANSFER_SYNTAX),
    processed("no preamble, explicit", bare(LE), shown, Flag.NO_TRANSFER_SYNTAX),
    processed("no preamble, file meta kept", edited(lambda data: data[132:]), shown),
    refused("no preamble and nothing that parses", edited(lambda data: data[140:]), Reason.NOT_AN_IMAGE),
    processed(
        "missing transfer syntax",
        edited(swap(b"\x02\x00\x10\x00UI", b"\x02\x00\x99\x00UI"), transfer_syntax=ImplicitVRLittleEndian),
        shown,
        Flag.NO_TRANSFER_SYNTAX,
    ),
    refused("little endian labelled big endian", edited(relabelled(LE, BE)), Reason.UNREADABLE_HEADER),
    refused("native pixels labelled RLE", edited(relabelled(LE, RLELossless)), Reason.INCONSISTENT_HEADER),
    refused(
        "unknown transfer syntax", edited(relabelled(LE, UID("1.2.840.9.9.9.9"))), Reason.UNSUPPORTED_TRANSFER_SYNTAX
    ),
    refused(
        "a query service as transfer syntax",
        edited(relabelled(LE, UID("1.2.840.10008.1.20"))),
        Reason.UNSUPPORTED_TRANSFER_SYNTAX,
    ),
    refused(
        "deflate bomb",
        edited(deflate_bomb, transfer_syntax=DeflatedExplicitVRLittleEndian),
        Reason.TOO_LARGE,
        settings=SMALL,
    ),
    refused("sequence depth 200", edited(before_patient(nested(200))), Reason.UNREADABLE_HEADER),
    refused("sequence depth 20000", edited(before_patient(nested(20_000))), Reason.UNREADABLE_HEADER),
    refused(
        "4 GB element length",
        edited(before_patient(struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 0xFFFFFFF0))),
        Reason.UNREADABLE_HEADER,
    ),
    refused("65535x65535 over 128 bytes", edited(last_bytes_kept(128), Rows=65535, Columns=65535), Reason.TOO_LARGE),
    refused("zero Rows", full(Rows=0), Reason.INCONSISTENT_HEADER),
    refused("no Columns", full(Columns=None), Reason.INCONSISTENT_HEADER),
    refused("Bits Stored 0", full(BitsStored=0), Reason.INCONSISTENT_HEADER),
    refused("Bits Stored above Bits Allocated", full(BitsStored=17), Reason.INCONSISTENT_HEADER),
    refused("Photometric Interpretation absent", full(PhotometricInterpretation=None), Reason.INCONSISTENT_HEADER),
    refused("100000 frames", full(NumberOfFrames=100_000), Reason.MULTI_FRAME),
    processed("PE preamble", edited(starting(b"MZ\x90\0")), shown, Flag.EXECUTABLE_PREAMBLE),
    processed("ELF preamble", edited(starting(b"\x7fELF")), shown, Flag.EXECUTABLE_PREAMBLE),
    processed("script preamble", edited(starting(b"#!/bin/sh\nrm -rf /\n")), shown, Flag.EXECUTABLE_PREAMBLE),
    processed(
        "bad charset",
        edited(swap(b"ISO_IR 100", b"NO_SUCH_ST"), SpecificCharacterSet="ISO_IR 100"),
        shown,
        Flag.CHARSET_REPLACED,
    ),
    processed("bad IS value", edited(swap(b"IS\x02\x0077", b"IS\x02\x00x!"), SeriesNumber=77), shown),
    processed("bad DS value", edited(swap(b"0.14\\0.14", b"wide\\high"), ImagerPixelSpacing=[0.14, 0.14]), shown),
    processed(
        "wrong VR", edited(swap(b"\x28\x00\x10\x00US\x02\x00\x40\x01", b"\x28\x00\x10\x00IS\x04\x00320 ")), shown
    ),
    refused("thumbnail", full(pixels=PIXELS[:60, :60]), Reason.TOO_SMALL),
    refused("localizer", full(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), Reason.NOT_RADIOGRAPH),
    refused("screenshot", full(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]), Reason.NOT_RADIOGRAPH),
    refused("no pixel data", full(PixelData=None), Reason.NO_PIXEL_DATA),
    refused("float pixel data", full(PixelData=None, FloatPixelData=b"\0" * 8), Reason.NO_PIXEL_DATA),
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_structure(entry: Entry, tmp_path: Path) -> None:
    entry.check(tmp_path)


def test_pydicom_reads_the_untouched_image(tmp_path: Path) -> None:
    """The edits above start from a file that is right."""
    full()(tmp_path / "a.dcm")
    assert (pydicom.dcmread(tmp_path / "a.dcm").pixel_array == PIXELS).all()
