"""A walk on threads meets what a walk on one thread does, in the same order; unchanged folders may be passed over."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cxrbatch.config import LOG_FILE, MARKER_FILE
from cxrbatch.intake import folders as folder_entries, walking
from cxrbatch.intake.walking import MetFolder, RememberedFolder, WalkManner, walk
from cxrbatch.records import ImageFile

THREADED = WalkManner(threads=4)


@pytest.fixture(autouse=True)
def every_look_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "SLOW_S", 1e-9)
    monkeypatch.setattr(walking, "_LOOKS_THAT_TELL", 1)
    monkeypatch.setattr(walking, "_FILES_AT_ONCE", 3)


def make_tree(root: Path, seed: int) -> None:
    """Write a tree with everything in it that a walk does not follow, or meets only at times."""
    draw = random.Random(seed)
    folders = [root]
    for number in range(30):
        folder = draw.choice(folders) / f"{draw.choice('abc.xyz')}{number}"
        folder.mkdir(parents=True, exist_ok=True)
        folders.append(folder)
        for name in draw.sample(
            ("1.dcm", "2.png", "z", "B", ".hidden", "x.tmp", "DICOMDIR", "a.part", "5", "6", "7"), 7
        ):
            (folder / name).write_bytes(b"x" * draw.randrange(9))
    (folders[3] / "loop").symlink_to(root)
    (folders[4] / "nowhere").symlink_to("gone")
    (folders[5] / "out.dcm").symlink_to("/etc/hostname")
    (folders[6] / "in.dcm").symlink_to(folders[7] / "1.dcm")
    os.mkfifo(folders[8] / "fifo")
    (folders[9] / ".lock").touch()
    (folders[10] / LOG_FILE).touch()
    (folders[10] / MARKER_FILE).write_text('{"output_id": "0123456789abcdef"}')
    (folders[11] / LOG_FILE).touch()


def everything(root: Path, manner: WalkManner) -> tuple[list[ImageFile], list[str], list[Path]]:
    errors: list[str] = []
    hidden: list[Path] = []
    files = walk(
        root,
        exclude=root / "out",
        on_error=lambda error: errors.append(str(error.filename)),
        on_hidden=hidden.append,
        manner=manner,
    )
    return list(files), errors, hidden


@pytest.mark.parametrize("seed", range(4))
def test_threads_meet_the_same_in_the_same_order(tmp_path: Path, seed: int) -> None:
    make_tree(tmp_path / "in", seed)
    alone = everything(tmp_path / "in", WalkManner())
    assert len(alone[0]) > 20
    assert alone[1:] != ([], [])
    for threads in (2, 8):
        assert everything(tmp_path / "in", WalkManner(threads=threads)) == alone


def test_a_folder_that_cannot_be_listed_is_told_of_in_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tmp_path, 1)
    real = os.scandir

    def refuse(folder: str) -> object:
        if folder != str(tmp_path) and folder.endswith(("1", "7")):
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    alone = everything(tmp_path, WalkManner())
    assert alone[1]
    assert everything(tmp_path, THREADED) == alone


def test_folders_that_vanish_while_they_are_waited_for_are_told_of(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:02}").mkdir()
        (tmp_path / f"{number:02}" / "1").write_bytes(b"x")
    errors: list[OSError] = []
    met = []
    for file in walk(tmp_path, on_error=errors.append, manner=THREADED):
        met.append(file.path)
        if len(met) == 1:
            for number in range(35, 40):
                (tmp_path / f"{number}" / "1").unlink()
                (tmp_path / f"{number}").rmdir()
    assert met == [f"{number:02}/1" for number in range(35)]
    # That they are gone is seen while they are listed, or already where their names are read.
    assert {error.filename for error in errors} <= {str(tmp_path / f"{number}") for number in range(35, 40)}


def test_a_root_that_is_not_there_is_an_error_on_threads_too(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(walk(tmp_path / "unmounted", manner=THREADED))


def test_looks_wait_together_where_each_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "SLOW_S", 0.001)
    for number in range(24):
        (tmp_path / f"p{number:02}" / "study").mkdir(parents=True)
        (tmp_path / f"p{number:02}" / "study" / "1").write_bytes(b"x")
    at_once, most, change = 0, 0, threading.Condition()
    real = folder_entries.describe_entry

    def slow(*arguments: object) -> object:
        """Take long: on a thread of the walk, until three others look, too, if they come."""
        nonlocal at_once, most
        is_alone = threading.current_thread() is threading.main_thread()
        with change:
            at_once += 1
            most = max(most, at_once)
            change.notify_all()
            change.wait_for(lambda: most >= 4, timeout=0.01 if is_alone else 5)
            at_once -= 1
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(walking, "describe_entry", slow)
    assert len(list(walk(tmp_path, manner=WalkManner(threads=8)))) == 24
    assert most >= 4


def test_where_looks_are_quick_there_are_no_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "SLOW_S", 60.0)
    monkeypatch.setattr(walking, "ThreadPoolExecutor", None)
    make_tree(tmp_path, 2)
    assert everything(tmp_path, THREADED) == everything(tmp_path, WalkManner())


def test_one_look_that_takes_long_such_as_at_a_folder_of_thousands_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "SLOW_S", 0.005)
    monkeypatch.setattr(walking, "_LOOKS_THAT_TELL", 40)
    monkeypatch.setattr(walking, "ThreadPoolExecutor", None)
    real = folder_entries.list_sorted

    def slow(folder: str) -> object:
        time.sleep(0.5 if folder == str(tmp_path) else 0)
        return real(folder)

    monkeypatch.setattr(walking, "list_sorted", slow)
    make_tree(tmp_path, 2)
    for number in range(60):
        (tmp_path / f"p{number:02}").mkdir()
    assert everything(tmp_path, THREADED) == everything(tmp_path, WalkManner())


def test_a_walk_that_is_left_ends_its_threads(tmp_path: Path) -> None:
    make_tree(tmp_path, 3)
    files = walk(tmp_path, manner=THREADED)
    next(files)
    files.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 60
    while any(thread.name.startswith("walk") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --------------------------------------------------------------------------- unchanged folders


def remembering(
    root: Path, threads: int
) -> tuple[dict[str, RememberedFolder], Callable[[], tuple[list[str], list[MetFolder]]]]:
    """Return what is remembered of folders, and what walks over them once more with that."""
    memory: dict[str, RememberedFolder] = {}

    def again() -> tuple[list[str], list[MetFolder]]:
        met: list[MetFolder] = []
        files = [file.path for file in walk(root, manner=WalkManner(threads, memory.get, met.append))]
        memory.update({folder.path: RememberedFolder(folder.mtime_ns, folder.folders) for folder in met})
        return files, met

    return memory, again


@pytest.mark.parametrize("threads", [1, 4])
def test_a_remembered_folder_is_not_listed_but_those_below_it_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    for name in ("a/x/1", "a/y/2", "b/3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    _, again = remembering(tmp_path, threads)
    assert again()[0] == ["a/x/1", "a/y/2", "b/3"]
    listed: list[str] = []
    real = os.scandir

    def noting(folder: str) -> object:
        listed.append(os.path.relpath(folder, tmp_path))
        return real(folder)

    monkeypatch.setattr(os, "scandir", noting)
    assert again()[0] == []
    assert listed == []
    (tmp_path / "a" / "y" / "new").write_bytes(b"x")
    os.utime(tmp_path / "a" / "y", ns=(1, 1))
    files, met = again()
    assert (files, listed) == (["a/y/2", "a/y/new"], ["a/y"])
    assert [folder.path for folder in met if folder.is_unchanged] == ["", "a/", "a/x/", "b/"]


def test_a_folder_tells_when_anything_in_it_changed_last_and_nothing_where_there_are_links(tmp_path: Path) -> None:
    for name, seconds in (("old/1", 5), ("old/2", 9), ("linked/1", 5)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, ns=(seconds, seconds))
    (tmp_path / "linked" / "2").symlink_to(tmp_path / "old" / "1")
    for name in ("old", "linked"):
        os.utime(tmp_path / name, ns=(7, 7))
    _, again = remembering(tmp_path, 1)
    told = {folder.path: folder.youngest_ns for folder in again()[1]}
    assert (told["old/"], told["linked/"]) == (9, None)
