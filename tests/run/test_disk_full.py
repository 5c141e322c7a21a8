"""Real file systems that are full, read-only or limited: the run stops cleanly, and the next one finishes the job."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrbatch.errors import ExitCode, OutputNotWritable
from cxrbatch.system.faults import VARIABLE
from tests.factories.engine import write_tiny_bundle
from tests.factories.faulted import FaultedRuns
from tests.factories.outputs import leftovers, snapshot
from tests.factories.studies import run_quietly, write_image

ENOUGH_KB = 4096
# From hardly a ledger to nearly everything; what one run needs lies in between.
SIZES_KB = (48, 160, 272, 320, 384)


@pytest.fixture(scope="module")
def runs() -> Iterator[FaultedRuns]:
    with FaultedRuns() as runs:
        yield runs


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return str(write_tiny_bundle(tmp_path / "engines"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for number in range(4):
        write_image(folder / f"{number}.png", 20 + 60 * number, 60, 120, 240 - number)
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = mount("-t", "tmpfs", "-o", f"size={ENOUGH_KB}k", "tmpfs", str(folder))
    if mounted:
        pytest.skip(f"this machine lets nobody mount a small disk: {mounted}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def mount(*arguments: str) -> str:
    """Mount, and return what went wrong, if anything."""
    if os.geteuid() != 0:
        return "not root"
    done = subprocess.run(["mount", *arguments], check=False, stderr=subprocess.PIPE, text=True)
    return done.stderr.strip() if done.returncode else ""


def test_a_full_disk_stops_the_run_and_room_lets_the_next_one_finish(
    images: Path, disk: Path, engine: str, tmp_path: Path, runs: FaultedRuns
) -> None:
    assert runs.run(images, tmp_path / "uninterrupted", engine).exit_code == ExitCode.DONE
    codes = []
    for size_kb in SIZES_KB:
        out = disk / f"out-{size_kb}"
        used_kb = sum(path.stat().st_blocks for path in disk.rglob("*")) // 2
        mount("-o", f"remount,size={used_kb + size_kb}k", str(disk))
        ended = runs.run(images, out, engine)
        codes.append(ended.exit_code)
        assert ended.exit_code == ExitCode.DONE or "Check free space" in ended.said or "Make room" in ended.said
        assert "Traceback" not in ended.said
        mount("-o", f"remount,size={ENOUGH_KB}k", str(disk))
        assert runs.run(images, out, engine).exit_code == ExitCode.DONE
        assert leftovers(out) == []
        assert snapshot(out) == snapshot(tmp_path / "uninterrupted")
    assert codes.count(ExitCode.OUTPUT_NOT_WRITABLE) >= 3
    assert set(codes) <= {ExitCode.OUTPUT_NOT_WRITABLE, ExitCode.DONE}


@pytest.mark.parametrize("file_kb", [1, 16, 40, 64])
def test_a_limit_on_the_size_of_files_stops_the_run_or_fails_a_study(
    images: Path, engine: str, tmp_path: Path, runs: FaultedRuns, file_kb: int
) -> None:
    assert runs.run(images, tmp_path / "unlimited", engine).exit_code == ExitCode.DONE
    ended = runs.run(images, tmp_path / "out", engine, file_bytes=file_kb * 1024)
    assert ended.exit_code in {ExitCode.OUTPUT_NOT_WRITABLE, ExitCode.SOME_STUDIES_FAILED}, ended.said
    assert "Traceback" not in ended.said
    assert runs.run(images, tmp_path / "out", engine).exit_code == ExitCode.DONE
    assert leftovers(tmp_path / "out") == []
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "unlimited")


def test_a_read_only_output_is_told_and_stays_as_is(images: Path, disk: Path, engine: str, runs: FaultedRuns) -> None:
    out = disk / "out"
    assert runs.run(images, out, engine).exit_code == ExitCode.DONE
    before = snapshot(out)
    write_image(images / "new.png", 10, 200, 10, 10)
    assert mount("-o", "remount,ro", str(disk)) == ""
    for folder in (out, disk / "another"):
        ended = runs.run(images, folder, engine)
        assert ended.exit_code == ExitCode.OUTPUT_NOT_WRITABLE
        assert "cannot be written (Read-only file system)" in ended.said
    assert snapshot(out) == before
    assert mount("-o", "remount,rw", str(disk)) == ""
    assert runs.run(images, out, engine).exit_code == ExitCode.DONE
    assert len(snapshot(out)) > len(before)


# --------------------------------------------------------------------------- through real worker processes


def test_a_worker_without_room_stops_the_run(
    images: Path, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: FaultedRuns
) -> None:
    monkeypatch.setenv(VARIABLE, "files-written:3=edquot")
    with pytest.raises(OutputNotWritable, match="Make room"):
        run_quietly(images, tmp_path / "out", engine=engine)
    assert leftovers(tmp_path / "out") == []
    assert runs.run(images, tmp_path / "out", engine).exit_code == ExitCode.DONE


def test_workers_that_are_killed_as_they_write_leave_nothing_half_written(
    images: Path, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: FaultedRuns
) -> None:
    """As the kernel does where memory is short; the run itself goes on, and nobody would tidy up after it."""
    monkeypatch.setenv(VARIABLE, "files-written:3=kill")
    for number in (2, 3):  # two studies tell as much as four, and cost half as many workers
        (images / f"{number}.png").unlink()
    report = run_quietly(images, tmp_path / "out", engine=engine)
    assert (report.studies, report.exit_code) == ({"failed": 2}, ExitCode.SOME_STUDIES_FAILED)
    assert all("worker process died (SIGKILL)" in failure for failure in report.failures.values())
    assert leftovers(tmp_path / "out") == []
    assert runs.run(images, tmp_path / "out", engine).exit_code == ExitCode.DONE
