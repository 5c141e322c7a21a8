"""A process that still works for a run that is over writes nothing: the token in OUT is another run's."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cxrbatch.errors import OutputLocked, OutputNotWritable
from cxrbatch.output.folder.fence import FENCE_FILE, inside_fence, raise_fence, token_of
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.folder.place import Place
from cxrbatch.output.report.intent import PRINTING
from cxrbatch.output.report.write_folder import write_result
from cxrbatch.run.record import open_place
from cxrbatch.system.record_json import to_json
from tests.factories.output import make_study_result

# Opens OUT, as a driver does, prints on the side, as a worker of it on another machine would, and is killed.
DRIVER = """
import os, pickle, signal, sys
from pathlib import Path
from cxrbatch.output.folder.opening import open_output
from cxrbatch.run.record import open_place
out = Path(sys.argv[1])
with open_output(out) as ledger:
    Path(sys.argv[2]).write_bytes(pickle.dumps(open_place(out, ledger)))
    os.kill(os.getpid(), signal.SIGKILL)
"""
# Prints one report; stops, as if the disk hung, at the fault point that is named.
WORKER = """
import os, pickle, signal, sys
from pathlib import Path
from cxrbatch.errors import OutputNotWritable
from cxrbatch.system import faults
from cxrbatch.system.record_json import from_json
from cxrbatch.output.report.write_folder import write_result
from cxrbatch.records import StudyResult
place = pickle.loads(Path(sys.argv[1]).read_bytes())
stops = [sys.argv[3]]
faults.arm(lambda name: os.kill(os.getpid(), signal.SIGSTOP) if name in stops and not stops.clear() else None)
try:
    write_result(from_json(Path(sys.argv[2]).read_text(), StudyResult), place, {"maps.npz": b"of the old run"})
except OutputNotWritable as error:
    sys.exit(str(error))
"""


@pytest.fixture
def orphan_place(tmp_path: Path) -> Path:
    """Leave OUT behind as a driver that was killed does, and return the file with what its workers know of it."""
    place = tmp_path / "place"
    ended = subprocess.run([sys.executable, "-c", DRIVER, str(tmp_path / "out"), str(place)], check=False)
    assert ended.returncode == -signal.SIGKILL
    return place


@contextmanager
def worker_stopped_at(point: str, place: Path) -> Iterator[subprocess.Popen[str]]:
    """Let a worker of the killed driver print, up to this fault point."""
    result = place.with_name("result.json")
    result.write_text(to_json(replace(make_study_result(), pictures=False)))
    command = [sys.executable, "-c", WORKER, str(place), str(result), point]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as worker:
        try:
            _, status = os.waitpid(worker.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            yield worker
        finally:
            worker.kill()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_worker_of_a_killed_driver_that_goes_on_writes_nothing(tmp_path: Path, orphan_place: Path) -> None:
    out = tmp_path / "out"
    with worker_stopped_at("report-write", orphan_place) as worker, open_output(out):
        before = contents(out)
        worker.send_signal(signal.SIGCONT)
        _, said = worker.communicate()
        assert worker.returncode == 1
        assert "another run holds it by now" in said
        assert contents(out) == before
        assert not (out / PRINTING).exists()


def test_a_run_waits_for_who_is_writing_and_takes_over_what_that_leaves(tmp_path: Path, orphan_place: Path) -> None:
    out = tmp_path / "out"
    with worker_stopped_at("files-rename", orphan_place) as worker:
        began = time.monotonic()
        timer = threading.Timer(0.3, worker.send_signal, [signal.SIGCONT])
        timer.start()
        with open_output(out):
            assert time.monotonic() - began > 0.25
            assert worker.wait(60) == 0, "it had begun to write while OUT was nobody's"
            assert not list(out.rglob(".cxrbatch-tmp-*"))
            assert not list((out / PRINTING).glob("*")), "settled"


def test_a_writer_that_hangs_keeps_the_next_run_out(tmp_path: Path) -> None:
    token = raise_fence(tmp_path)
    with inside_fence(tmp_path) as held:
        assert held == token
        with pytest.raises(OutputLocked, match="still writing a report here"):
            raise_fence(tmp_path, patience_s=0.1)
    assert raise_fence(tmp_path) == token_of(tmp_path) != token


def test_every_session_has_a_token_of_its_own_in_the_same_file(tmp_path: Path) -> None:
    seen, inodes = set(), set()
    for _ in range(3):
        with open_output(tmp_path / "out") as ledger:
            place = open_place(tmp_path / "out", ledger)
            seen.add(place.token)
            inodes.add((tmp_path / "out" / FENCE_FILE).stat().st_ino)
            place.check()
        with pytest.raises(OutputNotWritable):
            _after_another_session(tmp_path / "out", place)
    assert (len(seen), len(inodes)) == (3, 1)
    assert (tmp_path / "out" / FENCE_FILE).stat().st_mode & 0o777 == 0o640


def _after_another_session(out: Path, place: Place) -> None:
    with open_output(out):
        write_result(replace(make_study_result(), pictures=False), place)


@pytest.mark.parametrize("spoil", ["rm", "other"])
def test_a_driver_whose_fence_is_gone_or_another_one_records_nothing_more(tmp_path: Path, spoil: str) -> None:
    out = tmp_path / "out"
    with open_output(out) as ledger:
        if spoil == "rm":
            (out / FENCE_FILE).unlink()
        else:  # as on a file server that dropped the lock of a machine it did not hear of for a while
            token = raise_fence(out)
        with pytest.raises(OutputNotWritable, match="is gone" if spoil == "rm" else "another run holds it"):
            ledger.remember("some", "fact")
        with pytest.raises(OutputNotWritable), ledger.home.place.writing():
            pass
        ledger.home.place = Place(out, ()) if spoil == "rm" else Place(out, (), token)


def test_without_locks_the_token_alone_keeps_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    place = Place(tmp_path, (), raise_fence(tmp_path))
    with place.writing():
        pass
    raise_fence(tmp_path)
    with pytest.raises(OutputNotWritable, match="another run"), place.writing():
        pass
