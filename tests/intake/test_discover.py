import hashlib
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, Reason
from cxrbatch.intake.discover import index_file, raster_identity, study_key, walk
from cxrbatch.records import ImageFile, IndexedFile
from tests.factories.intake import blobs, jpeg_bytes, png_bytes, write_dicom

SETTINGS = Settings()


def paths(root: Path, **options: Any) -> list[str]:
    return [file.path for file in walk(root, **options)]


def index(root: Path, path: str, settings: Settings = SETTINGS) -> IndexedFile:
    return index_file(root, ImageFile(path, 0, 0), settings)


def test_files_come_sorted_folder_by_folder(tmp_path: Path) -> None:
    for name in ("b/2.dcm", "b/1.dcm", "a/z/deep.dcm", "a/1", "0.png"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"x")
    assert paths(tmp_path) == ["0.png", "a/1", "a/z/deep.dcm", "b/1.dcm", "b/2.dcm"]


def test_size_and_time_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"12345")
    os.utime(tmp_path / "one", ns=(1, 1_700_000_000_123_456_789))
    assert list(walk(tmp_path)) == [ImageFile("one", 5, 1_700_000_000_123_456_789)]


@pytest.mark.parametrize("name", [".hidden", "a.tmp", "a.dcm.part", "B.PART", "DICOMDIR", "dicomdir", ".git/x"])
def test_what_is_not_finished_or_not_an_image_is_not_met(tmp_path: Path, name: Any) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    assert paths(tmp_path) == []


def test_special_files_are_passed_over_without_a_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        (tmp_path / "link-to-fifo").symlink_to(tmp_path / "fifo")
        assert paths(tmp_path) == []


def test_the_output_folder_inside_the_input_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "out" / "reports").mkdir(parents=True)
    (tmp_path / "out" / "reports" / "image.jpg").write_bytes(b"x")
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "in.png").write_bytes(b"x")
    assert paths(tmp_path, exclude=tmp_path / "out") == ["output/in.png"]


def test_linked_folders_and_loops_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "one").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "real" / "up").symlink_to(tmp_path / "real")
    assert paths(tmp_path) == ["real/one"]


def test_a_link_to_a_file_inside_is_read(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm")
    (tmp_path / "b.dcm").symlink_to("a.dcm")
    first, second = (index_file(tmp_path, file, SETTINGS) for file in walk(tmp_path))
    assert first.study_key == second.study_key
    assert second.rejection is None


def test_a_link_that_leads_out_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    secret = write_dicom(tmp_path / "secret.dcm")
    (tmp_path / "in" / "link.dcm").symlink_to(secret)
    [file] = walk(tmp_path / "in")
    refused = index_file(tmp_path / "in", file, SETTINGS)
    assert refused.rejection is not None
    assert refused.rejection.reason is Reason.UNSAFE_PATH
    assert refused.header.study_instance_uid == ""


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"new\nline.png", b"x" * 251 + b".png", b"  ;$(id).png"])
def test_hostile_names_are_read_like_any_other(tmp_path: Path, name: Any) -> None:
    target = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118 - a name that is no text
    with open(target, "wb") as stream:  # noqa: PTH123
        stream.write(png_bytes(blobs(bits=8)))
    [file] = walk(tmp_path)
    indexed = index_file(tmp_path, file, SETTINGS)
    assert os.fsencode(file.path) == name
    assert indexed.rejection is None
    assert re.fullmatch(r"[0-9a-f]{16}", indexed.study_key)


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "locked").mkdir()
    (tmp_path / "open.png").write_bytes(b"x")
    real = os.scandir

    def refuse(folder: Any) -> Any:
        if str(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    errors: list[OSError] = []
    assert paths(tmp_path, on_error=errors.append) == ["open.png"]
    assert [error.filename for error in errors] == [str(tmp_path / "locked")]


def test_a_root_that_is_not_there_is_an_error_not_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        paths(tmp_path / "unmounted")


@given(st.text())
def test_a_study_key_is_always_safe_in_a_path(identity: str) -> None:
    try:
        os.fsencode(identity)
    except UnicodeEncodeError:
        return  # a surrogate that no file name decodes to
    assert re.fullmatch(r"[0-9a-f]{16}", study_key(identity))


def test_the_study_key_is_the_head_of_the_sha256() -> None:
    assert study_key("1.2.3") == hashlib.sha256(b"1.2.3").hexdigest()[:16]


def test_images_of_one_study_share_a_key_whatever_their_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write_dicom(tmp_path / "a", StudyInstanceUID="1.2.3")
    write_dicom(tmp_path / "sub" / "b", StudyInstanceUID="1.2.3")
    assert index(tmp_path, "a").study_key == index(tmp_path, "sub/b").study_key == study_key("1.2.3")


def test_a_raster_file_is_a_study_or_its_folder_is(tmp_path: Path) -> None:
    assert raster_identity("a/b.png", "file") == "a/b.png"
    assert raster_identity("a/b.png", "folder") == "a"
    assert raster_identity("b.png", "folder") == "."
    (tmp_path / "b.png").write_bytes(png_bytes(blobs(bits=8)))
    (tmp_path / "c.jpg").write_bytes(jpeg_bytes(blobs(bits=8)))
    by_folder = Settings(group_by="folder")
    assert index(tmp_path, "b.png").study_key != index(tmp_path, "c.jpg").study_key
    assert index(tmp_path, "b.png", by_folder).study_key == index(tmp_path, "c.jpg", by_folder).study_key


def test_a_study_folder_of_mimic_is_one_study() -> None:
    one, other = "p10/p10000032/s50414267/02aa804e.jpg", "p10/p10000032/s50414267/174413ec.jpg"
    assert raster_identity(one, "file") == raster_identity(other, "file") == "p10/p10000032/s50414267"
    assert raster_identity("p10/p10000032/s53189527/2a2277a9.jpg", "file") == "p10/p10000032/s53189527"
    assert raster_identity("scans/s1/a.jpg", "file") == "scans/s1/a.jpg"


def test_a_folder_that_is_locked_is_passed_over_and_reported(tmp_path: Path) -> None:
    for folder in ("done", "busy"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.2.3#4.5.6.dcm").write_bytes(b"x")
        (tmp_path / folder / ".complete").touch()
    (tmp_path / "busy" / ".lock").touch()
    errors: list[OSError] = []
    assert paths(tmp_path, on_error=errors.append) == ["done/1.2.3#4.5.6.dcm"]
    assert [error.filename for error in errors] == [str(tmp_path / "busy")]
    (tmp_path / "busy" / ".lock").unlink()
    assert len(paths(tmp_path)) == 2


def test_a_study_may_lie_at_any_depth(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*(f"d{level}" for level in range(60)))
    deep.mkdir(parents=True)
    write_dicom(deep / "IM1", StudyInstanceUID="1.2.3")
    [file] = walk(tmp_path)
    assert index(tmp_path, file.path).study_key == study_key("1.2.3")


def test_raster_files_say_what_they_do_not_say(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(png_bytes(blobs(300, 200, bits=8)))
    (tmp_path / "b").write_bytes(jpeg_bytes(blobs(300, 200, bits=8)))
    assert index(tmp_path, "a").flags == (Flag.NO_VIEW, Flag.NO_BODY_PART)
    assert index(tmp_path, "b").flags == (Flag.NO_VIEW, Flag.NO_BODY_PART, Flag.LOSSY)
    assert (index(tmp_path, "a").header.rows, index(tmp_path, "a").header.columns) == (300, 200)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"DICM", "text"),
        (b"<!DOCTYPE html><html>" * 20, "text"),
        (b"PK\x03\x04" + b"\0" * 300, "ZIP"),
        (b"\x1f\x8b\x08" + b"\0" * 300, "gzip"),
        (b"II*\x00" + b"\0" * 300, "TIFF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (bytes(range(256)) * 4, "unknown"),
        (b"\0" * 131, "unknown"),
    ],
)
@pytest.mark.parametrize("name", ["a.dcm", "a.png"])
def test_what_is_no_image_belongs_to_no_study(tmp_path: Path, content: bytes, says: str, name: Any) -> None:
    (tmp_path / name).write_bytes(content)
    indexed = index(tmp_path, name)
    assert indexed.study_key == ""
    assert indexed.rejection is not None
    assert indexed.rejection.reason is Reason.NOT_AN_IMAGE
    assert says in indexed.rejection.message


def test_a_refused_dicom_still_belongs_to_its_study(tmp_path: Path) -> None:
    write_dicom(tmp_path / "lateral", StudyInstanceUID="1.2.3", ViewPosition="LL")
    indexed = index(tmp_path, "lateral")
    assert indexed.study_key == study_key("1.2.3")
    assert indexed.rejection is not None
    assert indexed.rejection.reason is Reason.NOT_FRONTAL


def test_a_file_that_is_gone_or_locked_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        index(tmp_path, "gone.dcm")

    def locked(*_args: Any, **_options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    write_dicom(tmp_path / "locked.dcm")
    monkeypatch.setattr(Path, "open", locked)
    with pytest.raises(PermissionError):
        index(tmp_path, "locked.dcm")
