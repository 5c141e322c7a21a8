"""Files are there whole or not at all, with the modes that PROMISES.md names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrbatch.system import durable


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    former = os.umask(request.param)
    yield request.param
    os.umask(former)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_replacing_puts_the_new_content_under_the_old_name(tmp_path: Path) -> None:
    target = tmp_path / "images.csv"
    durable.replace_text(target, "old")
    durable.replace_text(target, "new")
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["images.csv"]


def test_an_error_while_writing_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "report.pdf"
    target.write_bytes(b"revision 1")
    with pytest.raises(RuntimeError, match="half way"), durable.replacing(target) as temporary:
        temporary.write_bytes(b"revis")
        raise RuntimeError("half way")
    assert target.read_bytes() == b"revision 1"
    assert os.listdir(tmp_path) == ["report.pdf"]


def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "reports" / "0123456789abcdef"
    durable.make_folder(folder)
    durable.replace_bytes(folder / "result.json", b"{}")
    assert [mode_of(folder.parent), mode_of(folder), mode_of(folder / "result.json")] == [0o750, 0o750, 0o640]


def test_bytes_of_a_name_that_are_not_utf8_are_written_escaped(tmp_path: Path) -> None:
    durable.replace_text(tmp_path / "images.csv", os.fsdecode(b"caf\xe9.dcm"))
    assert (tmp_path / "images.csv").read_text() == "caf\\udce9.dcm"


def test_only_our_own_leftovers_are_removed(tmp_path: Path) -> None:
    nested = tmp_path / "reports" / "k"
    nested.mkdir(parents=True)
    (nested / f"{durable.TEMPORARY_PREFIX}1f.pdf").touch()
    (nested / "report.pdf").touch()
    assert durable.remove_temporaries(tmp_path) == 1
    assert os.listdir(nested) == ["report.pdf"]


def test_several_files_are_replaced_together(tmp_path: Path) -> None:
    durable.replace_text(tmp_path / "a.jpg", "old")
    durable.replace_files(tmp_path, {"a.jpg": b"new", "b.jpg": b"more"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.jpg": b"new", "b.jpg": b"more"}


def test_one_file_that_cannot_be_written_leaves_all_as_they_were(tmp_path: Path) -> None:
    durable.replace_text(tmp_path / "a.jpg", "old")
    with pytest.raises(FileNotFoundError):
        durable.replace_files(tmp_path, {"a.jpg": b"new", "no-such-folder/b.jpg": b"more"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.jpg": b"old"}
