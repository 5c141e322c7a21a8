"""The torture list of PROMISES.md, sections Files and Not what we score, for one file; runs are in test_batch."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, Reason
from cxrbatch.intake.anatomy import check_anatomy
from cxrbatch.intake.discover import walk
from cxrbatch.intake.read import read_radiograph
from cxrbatch.records import ImageFile, IndexedFile
from cxrbatch.run.headers import Deferred, IndexJob, index_files
from tests.factories.intake import blobs, jpeg_bytes, png_bytes, write_dicom
from tests.factories.torture import (
    NAME,
    PIXELS,
    Entry,
    content,
    edited,
    full,
    outcome,
    processed,
    refused,
    shown,
)

PIXEL_TAG = b"\xe0\x7f\x10\x00OW"
LOOSE = Settings(pixel_check=False)


def cut(at: Callable[[bytes], int]) -> Callable[[Path], object]:
    return edited(lambda data: data[: at(data)])


def linked_outside(path: Path) -> None:
    outside = path.parent.parent / f"{path.parent.name} outside.dcm"
    write_dicom(outside)
    path.symlink_to(outside)


ENTRIES = [
    refused("zero bytes", content(b""), Reason.NOT_AN_IMAGE),
    refused("under 132 bytes", content(b"\0" * 131), Reason.NOT_AN_IMAGE),
    refused("cut in the file meta", cut(lambda _: 150), Reason.UNREADABLE_HEADER),
    refused("cut in the header", cut(lambda data: data.index(PIXEL_TAG) - 30), Reason.UNREADABLE_HEADER),
    refused("cut in the pixels", cut(lambda data: len(data) - 100), Reason.TRUNCATED_PIXELS),
    refused("symlink out of the tree", linked_outside, Reason.UNSAFE_PATH),
    refused("HTML posing as dcm", content(b"<!DOCTYPE html><html>404</html>" * 20), Reason.NOT_AN_IMAGE),
    refused("gzip posing as dcm", content(b"\x1f\x8b\x08" + bytes(300)), Reason.NOT_AN_IMAGE),
    refused("zip posing as dcm", content(b"PK\x03\x04" + bytes(300)), Reason.NOT_AN_IMAGE),
    refused("TIFF posing as dcm", content(b"II*\0" + bytes(300)), Reason.NOT_AN_IMAGE),
    refused(
        "Git LFS pointer", content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), Reason.NOT_AN_IMAGE
    ),
    refused("text posing as dcm", content(b"Dear colleague, " * 40), Reason.NOT_AN_IMAGE),
    refused("own SR object", full(Modality="SR", Manufacturer="cxrbatch"), Reason.OWN_OUTPUT),
    refused("own secondary capture", full(Modality="OT", Manufacturer="cxrbatch"), Reason.OWN_OUTPUT),
    refused("own PDF object", full(Modality="DOC", Manufacturer="cxrbatch", PixelData=None), Reason.OWN_OUTPUT),
    refused("black", full(pixels=np.zeros((320, 256), np.uint16)), Reason.BLANK),
    refused("white", full(pixels=np.full((320, 256), 4095, np.uint16)), Reason.BLANK),
    refused("constant", full(pixels=np.full((320, 256), 900, np.uint16)), Reason.BLANK),
    refused("constant with two noisy levels", full(pixels=blobs(bits=12) % 2 + 900), Reason.BLANK),
    refused("lateral by tag", full(ViewPosition="LL"), Reason.NOT_FRONTAL),
    refused("lateral by orientation", full(ViewPosition=None, PatientOrientation=["A", "F"]), Reason.NOT_FRONTAL),
    refused("lateral by description", full(ViewPosition=None, SeriesDescription="Thorax seitlich"), Reason.NOT_FRONTAL),
    processed("lateral that says nothing", full(ViewPosition=None), shown, Flag.NO_VIEW),
    refused("hand", full(BodyPartExamined="HAND"), Reason.NOT_CHEST),
    refused("hip", full(BodyPartExamined="HIP"), Reason.NOT_CHEST),
    refused("breast", full(BodyPartExamined="BREAST", Modality="MG"), Reason.NOT_RADIOGRAPH),
    refused("breast called CR", full(BodyPartExamined="BREAST"), Reason.NOT_CHEST),
    refused("teeth", full(BodyPartExamined="JAW", Modality="PX"), Reason.NOT_RADIOGRAPH),
    refused("teeth called DX", full(BodyPartExamined="", SeriesDescription="Teeth"), Reason.NOT_CHEST),
    refused("a hand by its description", full(BodyPartExamined=None, StudyDescription="Hand links"), Reason.NOT_CHEST),
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_one_file(entry: Entry, tmp_path: Path) -> None:
    entry.check(tmp_path)


@pytest.mark.parametrize("name", [b"caf\xe9.dcm", b"new\nline.dcm", b"n" * 251 + b".dcm", b"no suffix", b"=cmd|x.dcm"])
def test_hostile_names_are_read_like_any_other(tmp_path: Path, name: bytes) -> None:
    content(full_bytes(tmp_path))(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)))
    got = outcome(tmp_path, os.fsdecode(name), LOOSE)
    assert (got.reason, got.flags) == (None, ())


def full_bytes(folder: Path) -> bytes:
    full()(folder / ".seed")
    return (folder / ".seed").read_bytes()


@pytest.mark.parametrize(
    "name",
    ["DICOMDIR", "copy.dcm.part", "copy.tmp", ".image.dcm", ".complete", ".lock", ".processing"],
)
def test_unfinished_and_hidden_files_are_not_met(tmp_path: Path, name: str) -> None:
    content(full_bytes(tmp_path))(tmp_path / name)
    assert list(walk(tmp_path)) == []


@pytest.mark.parametrize("kind", ["FIFO", "socket", "link to a device", "symlink loop", "link that leads nowhere"])
def test_special_files_are_passed_over_without_a_hang(tmp_path: Path, kind: str) -> None:
    special = tmp_path / "special.dcm"
    if kind == "FIFO":
        os.mkfifo(special)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(special))
    else:
        targets = {"link to a device": Path("/dev/zero"), "symlink loop": special}
        special.symlink_to(targets.get(kind, tmp_path / "gone"))
    met = list(walk(tmp_path))
    # A link out of the tree has a row, unread; it cannot hang.
    assert [outcome(tmp_path, file.path, LOOSE).reason for file in met] == [Reason.UNSAFE_PATH] * len(met)
    assert len(met) == (kind == "link to a device")


@pytest.mark.parametrize(
    "trouble", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "gone"), OSError(5, "I/O")]
)
def test_what_cannot_be_read_now_is_deferred_and_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: OSError
) -> None:
    full()(tmp_path / NAME)
    job = IndexJob(tmp_path, (ImageFile(NAME, 0, 0),), LOOSE)

    def fail(*_: Any, **__: Any) -> None:
        raise trouble

    with monkeypatch.context() as locked:
        locked.setattr(Path, "open", fail)
        [deferred] = index_files(job)
    assert isinstance(deferred, Deferred)
    [found] = index_files(job)
    assert isinstance(found, IndexedFile)
    assert found.rejection is None


def test_a_growing_file_is_refused_until_it_is_whole(tmp_path: Path) -> None:
    whole = full_bytes(tmp_path)
    reasons = []
    for size in (100, len(whole) // 3, len(whole) - 2, len(whole)):
        (tmp_path / NAME).write_bytes(whole[:size])
        reasons.append(outcome(tmp_path, NAME, LOOSE).reason)
    assert reasons == [Reason.NOT_AN_IMAGE, Reason.TRUNCATED_PIXELS, Reason.TRUNCATED_PIXELS, None]


def test_an_inverted_image_is_scored_and_flagged(tmp_path: Path) -> None:
    from cxrbatch.phantom.draw import draw_phantom

    phantom = draw_phantom(3, rows=256)
    look = {"WindowCenter": phantom.window_center, "WindowWidth": phantom.window_width, "BitsStored": 12}
    write_dicom(tmp_path / NAME, pixels=phantom.stored, PhotometricInterpretation="MONOCHROME1", **look)
    radiograph = check_anatomy(read_radiograph(tmp_path / NAME, Settings()), Settings())
    assert radiograph.flags == (Flag.POLARITY_SUSPECT,)


@pytest.mark.parametrize("encode", [png_bytes, jpeg_bytes])
def test_a_picture_that_is_no_chest_is_refused_by_its_pixels(tmp_path: Path, encode: Any) -> None:
    from cxrbatch.errors import ImageRejected
    from tests.factories.anatomy import draw_body_part

    (tmp_path / NAME).write_bytes(encode(draw_body_part("hand")))
    radiograph = read_radiograph(tmp_path / NAME, Settings())
    with pytest.raises(ImageRejected) as caught:
        check_anatomy(radiograph, Settings())
    assert caught.value.reason is Reason.NOT_CHEST


def test_twins_of_both_photometric_interpretations_look_the_same(tmp_path: Path) -> None:
    full()(tmp_path / "2.dcm")
    full(pixels=(4095 - PIXELS).astype(np.uint16), PhotometricInterpretation="MONOCHROME1")(tmp_path / "1.dcm")
    one, two = (outcome(tmp_path, name, LOOSE).display for name in ("1.dcm", "2.dcm"))
    assert one is not None
    assert two is not None
    # A window is centred half a value beside the middle (PS3.3 C.11.2.1.2), which can round a level up or down.
    assert np.abs(one.astype(int) - two).max() <= 1
