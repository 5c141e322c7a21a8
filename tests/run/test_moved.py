"""OUT, its ledger or its lock moved, removed or replaced while somebody is at work: exit code 6, and nothing false.

And two first runs on one new OUT at the same moment, of which one wins.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cxrbatch.config import MARKER_FILE
from cxrbatch.errors import ExitCode, OutputLocked, OutputNotWritable, UsageError
from cxrbatch.output.folder.marker import Marker, create_marker, read_marker
from cxrbatch.output.folder.opening import held_output, open_output
from cxrbatch.output.ledger.ledger import LEDGER_FILE
from tests.factories.engine import write_tiny_bundle
from tests.factories.faulted import ROOT, FaultedRuns
from tests.factories.judged import disagreements
from tests.factories.studies import read_rows, write_image
from tests.output.ledger.test_ledger import indexed

PATIENCE_S = 120.0
EVERY = bool(os.environ.get("CXRBATCH_EVERY_FAULT"))


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return str(write_tiny_bundle(tmp_path / "engines"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(4):
        write_image(tmp_path / "images" / f"{number}.png", 20 + 60 * number, 60, 120, 240)
    return tmp_path / "images"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


# In a shell, with OUT as the working directory's `out`.
LOSSES = {
    "renamed": "mv out moved",
    "removed": "rm -rf out",
    "replaced by nothing": "mv out moved; mkdir out",
    "replaced by a copy": "cp -a out copy; mv out moved; mv copy out",
    "replaced by a link": "mv out moved; mkdir empty; ln -s empty out",
    "replaced by a file": "mv out moved; touch out",
    "ledger removed": "rm out/ledger.sqlite",
    "ledger replaced": "cp out/ledger.sqlite copy; mv copy out/ledger.sqlite",
    "ledger replaced by text": "mv out/ledger.sqlite old; echo > out/ledger.sqlite",
    "lock removed": "rm out/.cxrbatch.lock",
    "reports removed": "rm -rf out/reports",
    "reports renamed": "mv out/reports out/old",
    "reports replaced": "mv out/reports out/old; mkdir out/reports",
}
MOMENTS = (
    *(("report-write", 2), ("intent-written", 2), ("files-renamed", 12), ("report-written", 2), ("ledger-commit", 14)),
    *(("ledger-committed", 14), ("tidied", 2), ("tidied", 4), ("table-write", 1), ("table-written", 2)),
)


@pytest.fixture(scope="module")
def runs() -> Iterator[FaultedRuns]:
    with FaultedRuns() as runs:
        yield runs


@pytest.mark.hostile("9.7 OUT moved")
@pytest.mark.parametrize(
    ("loss", "moment"),
    [
        pytest.param(loss, moment, id=f"{loss}-{moment[0]}-{moment[1]}")
        for number, loss in enumerate(LOSSES)
        for position, moment in enumerate(MOMENTS)
        if EVERY or (number + position) % 4 == 0
    ],
)
def test_a_run_that_loses_its_output_ends_with_6_and_leaves_the_place_alone(
    runs: FaultedRuns, images: Path, out: Path, engine: str, loss: str, moment: tuple[str, int]
) -> None:
    run = tuple(arguments("run", images, out, engine))
    ended = runs.command(*run, at=moment, do=f"cd {out.parent}; {LOSSES[loss]}")
    assert ended.exit_code == ExitCode.OUTPUT_NOT_WRITABLE, ended.said
    assert "written" in ended.said
    assert "while this run was at work" in ended.said
    if loss in ("renamed", "removed"):
        assert not out.exists(), "it is not made anew where it was"
    if loss in ("replaced by nothing", "replaced by a link"):
        assert list(out.iterdir()) == [], "nothing is written to a folder of somebody else's"
    if not out.with_name("moved").exists():
        return
    subprocess.run(["rm", "-rf", str(out)], check=True)
    out.with_name("moved").rename(out)
    assert runs.command(*run).exit_code == ExitCode.DONE
    assert disagreements(out) == []
    assert {(row["status"], row["revision"]) for row in read_rows(out / "studies.csv")} == {("reported", "1")}


@pytest.mark.hostile("9.7 OUT moved")
@pytest.mark.parametrize(
    "loss",
    ["mv out moved", "mv out moved; mkdir out", "mv state old", "rm state/ledger.sqlite", "rm state/.cxrbatch.lock"],
)
def test_a_run_with_a_state_elsewhere_notices_both_places(
    runs: FaultedRuns, images: Path, out: Path, engine: str, loss: str
) -> None:
    more = ("--state", str(out.with_name("state")))
    command = (*arguments("run", images, out, engine), *more)
    ended = runs.command(*command, at=("tidied", 2), do=f"cd {out.parent}; {loss}")
    assert ended.exit_code == ExitCode.OUTPUT_NOT_WRITABLE, ended.said


@pytest.mark.hostile("9.7 OUT moved")
def test_the_end_of_a_run_is_looked_at_too(out: Path) -> None:
    with pytest.raises(OutputNotWritable, match="moved, removed or unmounted"), open_output(out) as ledger:
        ledger.index.record([indexed("a.dcm", "s1")])
        out.rename(out.with_name("moved"))
    assert not out.exists()


@pytest.mark.hostile("9.7 OUT moved")
@pytest.mark.parametrize("command", ["report", "prune"])
def test_other_commands_notice_it_too(runs: FaultedRuns, images: Path, out: Path, engine: str, command: str) -> None:
    runs.run(images, out, engine)
    more = {"report": ("--no-pdf", "--workers", "1"), "prune": ("--older-than", "90d", "--yes")}[command]
    ended = runs.command(command, str(out), *more, at=("table-write", 1), do=f"mv {out} {out.with_name('moved')}")
    assert ended.exit_code == ExitCode.OUTPUT_NOT_WRITABLE, ended.said
    assert "while this run was at work" in ended.said
    assert not out.exists()


@pytest.mark.hostile("9.7 OUT moved")
@pytest.mark.parametrize("loss", ["renamed", "replaced by nothing", "ledger removed"])
def test_an_idle_daemon_notices_and_ends_with_6(images: Path, out: Path, engine: str, loss: str) -> None:
    with started("watch", images, out, engine, "--settle", "0", "--interval", "0.5") as daemon:
        wait_until(lambda: (out / "studies.csv").exists() and len(reported(out)) == 4 and is_quiet(out))
        subprocess.run(["sh", "-ec", LOSSES[loss]], cwd=out.parent, check=True)
        assert daemon.wait(timeout=PATIENCE_S) == ExitCode.OUTPUT_NOT_WRITABLE
        assert daemon.stderr is not None
        assert "while this run was at work" in daemon.stderr.read().decode()
    assert not out.exists() or loss != "renamed"


@pytest.mark.hostile("9.7 OUT moved")
def test_a_log_that_is_removed_begins_anew_and_the_run_goes_on(
    runs: FaultedRuns, images: Path, out: Path, engine: str
) -> None:
    command = arguments("run", images, out, engine)
    assert runs.command(*command, at=("tidied", 2), do=f"rm {out}/cxrbatch.log").exit_code == ExitCode.DONE
    assert "tables written" in (out / "cxrbatch.log").read_text()
    assert disagreements(out) == []


@pytest.mark.hostile("9.7 OUT moved")
def test_a_report_folder_that_is_removed_in_the_middle_is_a_failure(
    runs: FaultedRuns, images: Path, out: Path, engine: str
) -> None:
    command = arguments("run", images, out, engine)
    remove_one = f"cd {out}/reports; rm -rf $(ls | head -n 1)"
    assert runs.command(*command, at=("tidied", 3), do=remove_one).exit_code == ExitCode.SOME_STUDIES_FAILED
    assert sorted(row["status"] for row in read_rows(out / "studies.csv")) == ["failed", *["reported"] * 3]
    assert runs.command(*command).exit_code == ExitCode.DONE
    assert disagreements(out) == []


# --------------------------------------------------------------------------- two first runs


@pytest.mark.hostile("9.7 two first runs")
@pytest.mark.parametrize("states", [("", "one"), ("one", "two"), ("", "")], ids=["out-dir", "dir-dir", "out-out"])
def test_of_two_first_runs_at_the_same_moment_one_wins(
    images: Path, out: Path, engine: str, states: tuple[str, str], tmp_path: Path
) -> None:
    """Both are stopped just before the deciding step, and go on together."""
    barrier = tmp_path / "barrier"
    barrier.mkdir()
    runs = []
    for state in states:
        more = ["--state", str(tmp_path / state)] if state else []
        runs.append(spawn("-c", RACER, str(barrier), *arguments("run", images, out, engine), *more))
    # Of two with one lock, only one comes so far; the other has to have seen it locked before that one goes on.
    wait_until(lambda: len(list(barrier.glob("ready-*"))) + sum(run.poll() is not None for run in runs) == len(runs))
    assert len(list(barrier.glob("ready-*"))) == len({*states})
    (barrier / "go").touch()
    codes = [ended(run) for run in runs]
    assert sorted(codes) in ([ExitCode.DONE, ExitCode.OUTPUT_LOCKED], [ExitCode.DONE, ExitCode.USAGE]), codes
    winner = states[codes.index(ExitCode.DONE)]
    ledgers = [path for path in (out, tmp_path / "one", tmp_path / "two") if (path / LEDGER_FILE).exists()]
    assert ledgers == [tmp_path / winner if winner else out]
    assert disagreements(out, ledger=ledgers[0] / LEDGER_FILE) == []
    assert len(reported(out)) == 4


@pytest.mark.hostile("9.7 two first runs")
def test_many_first_runs_with_a_state_each_leave_one_ledger(
    images: Path, out: Path, engine: str, tmp_path: Path
) -> None:
    states = [tmp_path / f"state{number}" for number in range(4)]
    command = arguments("run", images, out, engine)
    runs = [spawn("-m", "cxrbatch", *command, "--state", str(state)) for state in states]
    codes = [ended(run) for run in runs]
    assert codes.count(ExitCode.DONE) == 1
    assert set(codes) <= {ExitCode.DONE, ExitCode.OUTPUT_LOCKED, ExitCode.USAGE}
    assert len([state for state in states if (state / LEDGER_FILE).exists()]) == 1


@pytest.mark.hostile("9.7 two first runs")
@pytest.mark.parametrize("has_links", [True, False])
def test_a_marker_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", refuse_links)
    assert create_marker(tmp_path, Marker(state="/one"))
    assert not create_marker(tmp_path, Marker(state="/two"))
    monkeypatch.setattr(Path, "exists", lambda _: False)  # as both see it who look before the other's step
    assert not create_marker(tmp_path, Marker(state="/three"))
    monkeypatch.undo()
    assert read_marker(tmp_path).state == "/one"
    assert os.listdir(tmp_path) == [MARKER_FILE]


def refuse_links(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.hostile("9.7 two first runs")
def test_a_link_whose_answer_was_lost_counts_as_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS sends a request again when no answer came; the second one then finds the name taken, by the first."""
    link = os.link

    def twice(*names: Path) -> None:
        link(*names)
        link(*names)

    monkeypatch.setattr(os, "link", twice)
    assert create_marker(tmp_path, Marker(state="/one"))


@pytest.mark.hostile("9.7 two first runs")
def test_a_claim_keeps_others_out_and_its_own_command_goes_on_after_a_kill(out: Path, tmp_path: Path) -> None:
    out.mkdir()
    with held_output(out, state=str(tmp_path / "one")):
        assert read_marker(out).claimed
        with pytest.raises(UsageError, match="give the same --state"), open_output(out, state=str(tmp_path / "two")):
            pass
        with pytest.raises(OutputLocked), open_output(out, state=str(tmp_path / "one")):
            pass
    with open_output(out, state=str(tmp_path / "one")) as ledger:
        ledger.index.record([indexed("a.dcm", "s1")])
    assert not read_marker(out).claimed
    with sqlite3.connect(tmp_path / "one" / LEDGER_FILE) as database:
        assert database.execute("SELECT count(*) FROM files").fetchone() == (1,)


# --------------------------------------------------------------------------- processes

RACER = """
import pathlib, sys, time
from cxrbatch.cli import run_command_line
from cxrbatch.system import faults

def wait(point):
    if point == "marker-link":
        pathlib.Path(sys.argv[1], f"ready-{time.monotonic_ns()}").touch()
        while not pathlib.Path(sys.argv[1], "go").exists():
            time.sleep(0.001)

if __name__ == "__main__":
    faults.arm(wait)
    sys.exit(run_command_line(sys.argv[2:]))
"""


def spawn(*arguments: str) -> subprocess.Popen[bytes]:
    more = {"PYTHONPATH": str(ROOT), "CXRBATCH_PIXEL_CHECK": "false", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=os.environ | more, stdout=pipe, stderr=pipe)


def arguments(command: str, images: Path, out: Path, engine: str) -> list[str]:
    return [command, str(images), "-o", str(out), "-e", engine, "--workers", "1", "--threads", "1", "--no-pdf"]


def ended(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code, once there is one."""
    try:
        process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.communicate()
    return process.returncode


@contextmanager
def started(command: str, images: Path, out: Path, engine: str, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    process = spawn("-m", "cxrbatch", *arguments(command, images, out, engine), *more)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_quiet(out: Path) -> bool:
    """Tell whether nothing has been written to OUT for a while: its other tables come after that of the studies."""
    with suppress(FileNotFoundError):  # what is not there any more was there a moment ago
        return time.time() - max(path.stat().st_mtime for path in (out, *out.iterdir())) > 0.6
    return False


def reported(out: Path) -> list[dict[str, str]]:
    return [row for row in read_rows(out / "studies.csv") if row["status"] == "reported"]
