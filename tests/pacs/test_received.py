"""What a received file says of itself: read within bounds, and told from what only its writer says."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from cxrbatch.intake.codecs.transfer_syntaxes import SUPPORTED
from cxrbatch.pacs.inbox import Inbox, Taken
from cxrbatch.pacs.received import Named, name_of
from tests.pacs.conftest import radiograph

NAMED = Named(ComputedRadiographyImageStorage, "1.2.3.4", "1.2.3")
UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)


def written(path: Path, dataset: Dataset, syntax: UID = ExplicitVRLittleEndian, maker: str = "1.2.3.99") -> Path:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.ImplementationClassUID = UID(maker)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("syntax", UNCOMPRESSED)
def test_it_is_read_in_every_syntax(tmp_path: Path, syntax: UID) -> None:
    assert syntax in SUPPORTED
    made = radiograph("1.2.3", "1.2.3.4")
    del made.PixelData
    assert name_of(written(tmp_path / "a.dcm", made, syntax)) == NAMED


def test_what_was_deflated_is_not_inflated_further_than_it_is_read(tmp_path: Path) -> None:
    made = radiograph("1.2.3", "1.2.3.4")
    del made.PixelData
    path = written(tmp_path / "a.dcm", made, DeflatedExplicitVRLittleEndian)
    whole = path.read_bytes()
    start = 144 + struct.unpack("<L", whole[140:144])[0]
    deflater, megabytes = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS), 200
    head = zlib.decompress(whole[start:], -zlib.MAX_WBITS)
    bomb = deflater.compress(head + struct.pack("<HH2s2xL", 0x7FE0, 0x10, b"OB", megabytes << 20))
    bomb += b"".join(deflater.compress(bytes(1 << 20)) for _ in range(megabytes)) + deflater.flush()
    path.write_bytes(whole[:start] + bomb)
    tracemalloc.start()
    try:
        assert name_of(path) == NAMED
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("missing", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"])
def test_what_does_not_name_its_study_or_itself_is_no_object(tmp_path: Path, missing: str) -> None:
    made = radiograph("1.2.3", "1.2.3.4")
    path = written(tmp_path / "a.dcm", made)
    setattr(made, missing, "")
    made.preamble = bytes(128)
    made.save_as(path)
    with pytest.raises(ValueError, match="does not name"):
        name_of(path)


def test_the_same_object_by_another_server_or_version_is_not_kept_twice(tmp_path: Path) -> None:
    with Inbox(tmp_path) as inbox:
        taken = []
        for maker, preamble, level in (
            ("1.2.3.98", bytes(128), 1),
            ("1.2.3.99", b"TIFF" * 32, 1),
            ("1.2.3.98", bytes(128), 2),
        ):
            made = radiograph("1.2.3", "1.2.3.4", level=level)
            made.SeriesInstanceUID, made.preamble = "1.2.3.5", preamble
            path = written(inbox.incoming / "received.dcm", made, maker=maker)
            taken.append(inbox.take(path, "1.2.3", "1.2.3.4"))
    assert taken == [Taken.STORED, Taken.KNOWN, Taken.STORED]
    assert len(list((tmp_path / "1.2.3").iterdir())) == 2


def test_a_wrong_length_of_file_meta_information_makes_no_two_files_the_same(tmp_path: Path) -> None:
    with Inbox(tmp_path) as inbox:
        for level in (1, 2):
            path = written(inbox.incoming / "received.dcm", radiograph("1.2.3", "1.2.3.4", level=level))
            content = bytearray(path.read_bytes())
            content[140:144] = b"\xff\xff\xff\x7f"
            path.write_bytes(content)
            assert inbox.take(path, "1.2.3", "1.2.3.4") is Taken.STORED
