"""The log: whole lines, none lost when it begins anew, and never the end of a run."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.config import LOG_FILE
from cxrbatch.errors import ExitCode
from cxrbatch.intake.discover import is_output_folder
from cxrbatch.output.folder.marker import HeldMarker
from cxrbatch.system import durable
from cxrbatch.system.logbook import LINES_MISSING, LogLimits, log_event, logging_to
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import run_quietly, write_image

KILOBYTE = 1 / 1024
SMALL = LogLimits(max_mb=KILOBYTE, backups=200)


def write_lines(folder: Path, numbers: range, limits: LogLimits = SMALL) -> None:
    with logging_to(folder, limits):
        for number in numbers:
            log_event("counted", number=number)


def entries(*files: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def logs(folder: Path) -> list[Path]:
    """Return the logs of a folder, oldest first."""
    backups = sorted(folder.glob(f"{LOG_FILE}.*"), key=lambda path: -int(path.suffix[1:]))
    return [*backups, folder / LOG_FILE]


def numbers_in(folder: Path) -> list[int]:
    return [entry["number"] for entry in entries(*logs(folder)) if "number" in entry]


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_line_is_json_with_time_level_event_and_facts(tmp_path: Path) -> None:
    with logging_to(tmp_path):
        log_event("study done", study_key="0" * 16, images_scored=2)
    (entry,) = entries(tmp_path / LOG_FILE)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {"level": "info", "event": "study done", "study_key": "0" * 16, "images_scored": 2}


def test_a_log_that_is_long_begins_anew_and_no_line_is_lost(tmp_path: Path) -> None:
    for start in range(0, 500, 100):  # five runs, one after the other
        write_lines(tmp_path, range(start, start + 100))
    assert len(logs(tmp_path)) > 30
    assert numbers_in(tmp_path) == list(range(500))
    assert max(path.stat().st_size for path in logs(tmp_path)) <= 1024


def test_only_the_oldest_goes_when_there_are_too_many(tmp_path: Path) -> None:
    write_lines(tmp_path, range(200), LogLimits(max_mb=KILOBYTE, backups=2))
    assert [path.name for path in logs(tmp_path)] == [f"{LOG_FILE}.2", f"{LOG_FILE}.1", LOG_FILE]
    kept = numbers_in(tmp_path)
    assert kept == list(range(kept[0], 200))
    assert 20 < len(kept) < 40


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_every_log_is_for_the_group_to_read_under_any_umask(tmp_path: Path, umask: int) -> None:
    former = os.umask(umask)
    try:
        write_lines(tmp_path, range(50))
    finally:
        os.umask(former)
    assert {stat.S_IMODE(path.stat().st_mode) for path in logs(tmp_path)} == {0o640}
    assert not list(tmp_path.glob(f"{durable.TEMPORARY_PREFIX}*"))


def test_an_output_folder_is_known_for_one_at_every_moment_of_a_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    HeldMarker(tmp_path).update(output_id="0123456789abcdef")
    seen: list[bool] = []

    def watched(step: Callable[..., Any]) -> Callable[..., Any]:
        def step_and_look(*arguments: Any, **options: Any) -> Any:
            seen.append(is_output_folder(tmp_path))
            done = step(*arguments, **options)
            seen.append(is_output_folder(tmp_path))
            return done

        return step_and_look

    for name in ("replace", "hardlink_to", "unlink"):
        monkeypatch.setattr(Path, name, watched(getattr(Path, name)))
    write_lines(tmp_path, range(50))
    assert len(seen) > 20
    assert all(seen)


def test_a_file_system_without_hard_links_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "hardlink_to", no_room)
    write_lines(tmp_path, range(100))
    assert len(logs(tmp_path)) > 5
    assert numbers_in(tmp_path) == list(range(100))


def test_a_rotation_without_room_goes_on_in_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(durable, "replace_bytes", no_room)
        write_lines(tmp_path, range(100))
    assert (tmp_path / LOG_FILE).stat().st_size > 1024
    write_lines(tmp_path, range(100, 150))
    assert numbers_in(tmp_path) == list(range(150))
    assert (tmp_path / LOG_FILE).stat().st_size <= 1024


class Killed(BaseException):
    """Stands for SIGKILL: nothing of cxrbatch catches it."""


@pytest.mark.parametrize("last_step", range(1, 12))
def test_a_process_killed_anywhere_in_a_rotation_loses_and_doubles_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_step: int
) -> None:
    write_lines(tmp_path, range(50))
    steps = 0

    def deadly(step: Callable[..., Any]) -> Callable[..., Any]:
        def step_or_die(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps >= last_step:
                raise Killed
            return step(*arguments, **options)

        return step_or_die

    written = 50
    with monkeypatch.context() as patched:
        for name in ("replace", "hardlink_to", "unlink"):
            patched.setattr(Path, name, deadly(getattr(Path, name)))
        with pytest.raises(Killed), logging_to(tmp_path, SMALL):
            for written in range(50, 200):
                log_event("counted", number=written)
    durable.remove_temporaries(tmp_path)
    write_lines(tmp_path, range(written, written + 1))
    assert numbers_in(tmp_path) == list(range(written + 1))


def test_a_line_that_a_power_cut_left_half_written_spoils_no_other(tmp_path: Path) -> None:
    write_lines(tmp_path, range(1))
    with (tmp_path / LOG_FILE).open("a") as log:
        log.write('{"time": "2026-')
    write_lines(tmp_path, range(1, 3))
    lines = (tmp_path / LOG_FILE).read_text().splitlines()
    assert [json.loads(line)["number"] for line in (lines[0], *lines[2:])] == [0, 1, 2]


def test_a_log_that_is_moved_away_is_begun_anew(tmp_path: Path) -> None:
    with logging_to(tmp_path):
        log_event("counted", number=0)
        (tmp_path / LOG_FILE).rename(tmp_path / "elsewhere")
        log_event("counted", number=1)
    assert [entries(tmp_path / name)[0]["number"] for name in ("elsewhere", LOG_FILE)] == [0, 1]


FULL_DISK = """
import resource, sys
from pathlib import Path
from cxrbatch.system.logbook import log_event, logging_to

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

with logging_to(Path(sys.argv[1])):
    log_event("counted", number=0)
    limit(1000)
    for number in range(1, 40):
        log_event("counted", number=number)
    limit(resource.RLIM_INFINITY)
    log_event("counted", number=40)
"""


def test_a_full_disk_ends_nothing_is_told_once_and_leaves_whole_lines(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == f"cxrbatch: {tmp_path / LOG_FILE}: cannot be written (File too large); going on without it.\n"
    written = entries(tmp_path / LOG_FILE)
    *before, missing, last = written
    assert [entry["number"] for entry in before] == list(range(len(before)))
    assert (missing["event"], missing["lines"]) == (LINES_MISSING, 40 - len(before))
    assert last["number"] == 40
    assert 5 < len(before) < 20


def test_a_run_whose_log_cannot_be_written_goes_on_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "images" / "a.png", 20, 60, 120, 240)
    (tmp_path / "out" / LOG_FILE).mkdir(parents=True)
    report = run_quietly(tmp_path / "images", tmp_path / "out", engine=str(write_tiny_bundle(tmp_path / "engines")))
    assert report.exit_code == ExitCode.DONE
    assert report.files == {"scored": 1}
    assert capsys.readouterr().err.count("going on without it") == 1


def test_a_run_keeps_its_log_within_the_limits_of_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[LogLimits | None] = []

    def watched(folder: Path, limits: LogLimits | None) -> AbstractContextManager[None]:
        taken.append(limits)
        return logging_to(folder, limits)

    monkeypatch.setattr("cxrbatch.output.folder.opening.logging_to", watched)
    write_image(tmp_path / "images" / "a.png", 20, 60, 120, 240)
    engine = str(write_tiny_bundle(tmp_path / "engines"))
    run_quietly(tmp_path / "images", tmp_path / "out", engine=engine, log_max_mb=3, log_backups=2)
    assert taken == [LogLimits(3, 2)]


def test_a_fact_that_is_no_json_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path):
        log_event("counted", number=object())  # type: ignore[arg-type]
        log_event("counted", number=1)
    assert numbers_in(tmp_path) == [1]
    assert "TypeError" in capsys.readouterr().err
