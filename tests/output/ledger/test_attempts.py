"""What fails run after run is refused after three; what may pass never is; and one study never ends a run."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.errors import EngineError, ExitCode, ImageRejected, Reason, TaskFailed, WorkerCrashed, WorkerTimedOut
from cxrbatch.intake import discover, read
from cxrbatch.output.ledger.attempts import ATTEMPTS
from cxrbatch.output.ledger.index import FileIndex
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.results import StudyResults
from cxrbatch.output.report import report as printed_report
from cxrbatch.output.run_json import RunReport
from cxrbatch.records import ImageFile, IndexedFile, PrintedStudy, Radiograph, Scores, storable_ns
from cxrbatch.run import headers, source
from cxrbatch.run.engine_slot import EngineSlot
from cxrbatch.run.source import Postponed
from cxrbatch.system.workers import WorkerPool
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import read_rows, run_quietly, write_image
from tests.run.test_torture_runs import in_this_process
from tests.watch.test_daemon import Daemon, settings_of

pytestmark = pytest.mark.hostile("9.8 errors that come back")

SECRET = "DOE^JANE"
BAD, GOOD = "bad.png", "good.png"
COUNTED: list[tuple[Exception, Reason, str]] = [
    (SyntaxError(SECRET), Reason.UNEXPECTED_ERROR, "SyntaxError"),
    (RecursionError(SECRET), Reason.UNEXPECTED_ERROR, "RecursionError"),
    (AssertionError(SECRET), Reason.UNEXPECTED_ERROR, "AssertionError"),
    (KeyError(SECRET), Reason.UNEXPECTED_ERROR, "KeyError"),
    (UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET), Reason.UNEXPECTED_ERROR, "UnicodeDecodeError"),
    (OverflowError(SECRET), Reason.UNEXPECTED_ERROR, "OverflowError"),
    (StopIteration(SECRET), Reason.UNEXPECTED_ERROR, "StopIteration"),
    (TaskFailed("SystemExit", SECRET), Reason.UNEXPECTED_ERROR, "SystemExit"),
    # Libraries take this for their own complaints about content.
    (OSError(SECRET), Reason.UNEXPECTED_ERROR, "OSError"),
    (OSError(errno.EINVAL, SECRET), Reason.UNEXPECTED_ERROR, "OSError"),
    (WorkerCrashed(-9), Reason.DECODER_CRASHED, "SIGKILL"),
    (WorkerTimedOut(60, waiting=True), Reason.DECODE_TIMEOUT, "waited for longer than 60 s"),
]
MAY_PASS: list[Exception] = [
    *(OSError(number, "not now") for number in (errno.EACCES, errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOENT)),
    ImportError("libjpeg.so.62"),
]


def name_of(error: Any) -> str:
    return f"{type(error).__name__} {getattr(error, 'errno', '') or ''}".strip()


@pytest.fixture(autouse=True)
def _no_worker_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerPool, "run_ahead", in_this_process)


class Runs:
    """One input folder with a good and a bad radiograph, and runs over it."""

    def __init__(self, folder: Path) -> None:
        self.images, self.out = folder / "images", folder / "out"
        self.engine = str(write_tiny_bundle(folder / "engines"))
        write_image(self.images / GOOD, 20, 60, 120, 240)
        write_image(self.images / BAD, 200, 10, 10, 10)

    def run(self, **settings: Any) -> RunReport:
        report = run_quietly(self.images, self.out, **{"engine": self.engine} | settings)
        assert self.row(GOOD)["status"] == "scored"
        return report

    def row(self, path: str = BAD) -> dict[str, str]:
        return next(row for row in read_rows(self.out / "images.csv") if row["path"] == path)

    def ends(self, times: int, **settings: Any) -> list[tuple[int, str, str]]:
        """Return exit code, status and reason of so many runs."""
        found = []
        for _ in range(times):
            code = self.run(**settings).exit_code
            found.append((int(code), self.row()["status"], self.row()["reason"]))
        return found


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


class Fault:
    """Raises an error for the bad file for as long as it is there, and counts."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.raised = 0
        self.raised_at: list[float] = []

    def strike(self, path: str) -> None:
        if self.error is not None and path.endswith(BAD):
            self.raised += 1
            self.raised_at.append(time.monotonic())
            raise self.error


@pytest.fixture
def break_reading(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], Fault]:
    def arm(error: Exception) -> Fault:
        fault, real = Fault(error), read.read_radiograph

        def read_or_fail(path: Path, settings: Any, *, source_px: int) -> Radiograph:
            fault.strike(str(path))
            return real(path, settings, source_px=source_px)

        monkeypatch.setattr(read, "read_radiograph", read_or_fail)
        return fault

    return arm


@pytest.fixture
def break_index(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], Fault]:
    def arm(error: Exception) -> Fault:
        fault, real = Fault(error), discover.index_file

        def index_or_fail(root: Path, file: ImageFile, settings: Any) -> IndexedFile:
            fault.strike(file.path)
            return real(root, file, settings)

        monkeypatch.setattr(discover, "index_file", index_or_fail)
        return fault

    return arm


FAILED, DEFERRED = (int(ExitCode.SOME_STUDIES_FAILED), "failed", ""), (3, "pending", "")


def refused(reason: Reason) -> tuple[int, str, str]:
    return (int(ExitCode.DONE), "rejected", reason.value)


@pytest.mark.parametrize(("error", "reason", "says"), COUNTED, ids=name_of)
def test_an_error_that_comes_back_in_reading_is_refused_after_three_runs(
    runs: Runs, break_reading: Callable[[Exception], Fault], error: Exception, reason: Reason, says: str
) -> None:
    fault = break_reading(error)
    assert runs.ends(5) == [FAILED, FAILED, *[refused(reason)] * 3]
    assert says in runs.row()["message"]
    assert SECRET not in (runs.out / "images.csv").read_text() + (runs.out / "cxrbatch.log").read_text()
    assert fault.raised == ATTEMPTS


@pytest.mark.parametrize(
    ("error", "reason", "says"), [one for one in COUNTED if one[1] is Reason.UNEXPECTED_ERROR], ids=name_of
)
def test_an_error_that_comes_back_in_a_header_is_refused_after_three_runs(
    runs: Runs, break_index: Callable[[Exception], Fault], error: Exception, reason: Reason, says: str
) -> None:
    fault = break_index(error)
    assert runs.ends(5) == [DEFERRED, DEFERRED, *[refused(reason)] * 3]
    assert says in runs.row()["message"]
    assert SECRET not in (runs.out / "images.csv").read_text() + (runs.out / "cxrbatch.log").read_text()
    assert fault.raised == ATTEMPTS


@pytest.mark.parametrize("error", [WorkerCrashed(-9), WorkerTimedOut(60, waiting=True)], ids=name_of)
def test_a_header_whose_worker_is_killed_or_waits_is_refused_after_three_runs(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real = headers.index_files

    def index_or_die(job: headers.IndexJob) -> Any:
        if any(file.path == BAD for file in job.files):
            raise error
        return real(job)

    monkeypatch.setattr(headers, "index_files", index_or_die)
    reason = Reason.DECODER_CRASHED if isinstance(error, WorkerCrashed) else Reason.DECODE_TIMEOUT
    assert runs.ends(4) == [DEFERRED, DEFERRED, *[refused(reason)] * 2]


@pytest.mark.parametrize("where", ["reading", "header"])
@pytest.mark.parametrize("error", MAY_PASS, ids=name_of)
def test_what_may_pass_is_never_refused(
    runs: Runs,
    break_reading: Callable[[Exception], Fault],
    break_index: Callable[[Exception], Fault],
    error: Exception,
    where: str,
) -> None:
    fault = break_reading(error) if where == "reading" else break_index(error)
    assert runs.ends(5) == [FAILED if where == "reading" else DEFERRED] * 5
    fault.error = None
    assert runs.ends(1) == [(0, "scored", "")]


@pytest.mark.parametrize("where", ["reading", "header"])
def test_a_file_that_changes_counts_anew(
    runs: Runs, break_reading: Callable[[Exception], Fault], break_index: Callable[[Exception], Fault], where: str
) -> None:
    (break_reading if where == "reading" else break_index)(KeyError("x"))
    before = FAILED if where == "reading" else DEFERRED
    assert runs.ends(2) == [before] * 2
    write_image(runs.images / BAD, 10, 10, 200, 10)
    assert runs.ends(3) == [before, before, refused(Reason.UNEXPECTED_ERROR)]


@pytest.mark.parametrize("where", ["reading", "header"])
def test_a_refused_file_is_tried_again_on_demand(
    runs: Runs, break_reading: Callable[[Exception], Fault], break_index: Callable[[Exception], Fault], where: str
) -> None:
    fault = (break_reading if where == "reading" else break_index)(KeyError("x"))
    before = FAILED if where == "reading" else DEFERRED
    assert runs.ends(3)[-1] == refused(Reason.UNEXPECTED_ERROR)
    assert runs.ends(3, retry="rejected") == [before, before, refused(Reason.UNEXPECTED_ERROR)]
    fault.error = None
    assert runs.ends(1) == [refused(Reason.UNEXPECTED_ERROR)]
    assert runs.ends(1, retry="rejected") == [(0, "scored", "")]


def test_a_failure_that_passes_leaves_no_trace(runs: Runs, break_reading: Callable[[Exception], Fault]) -> None:
    fault = break_reading(KeyError("x"))
    assert runs.ends(2) == [FAILED] * 2
    fault.error = None
    assert runs.ends(1) == [(0, "scored", "")]
    assert runs.row()["message"] == ""
    fault.error = KeyError("x")
    write_image(runs.images / BAD, 10, 10, 200, 10)
    assert runs.ends(2) == [FAILED] * 2


# --------------------------------------------------------------------------- the engine


@pytest.fixture
def nan_engine(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let the engine give no number for the bad radiograph, which is bright in its first corner."""
    real, is_broken = OnnxRuntimeEngine.infer, [True]

    def infer(engine: OnnxRuntimeEngine, pixels: Any) -> Scores:
        scores = real(engine, pixels)
        corner = pixels[:, 0, : pixels.shape[2] // 4, : pixels.shape[3] // 4].mean(axis=(1, 2))
        if is_broken[0]:
            scores.probabilities[corner > 150] = np.nan
        return scores

    monkeypatch.setattr(OnnxRuntimeEngine, "infer", infer)
    return is_broken


def test_an_image_without_a_number_is_refused_after_three_runs_until_another_engine_comes(
    runs: Runs, nan_engine: list[bool], tmp_path: Path
) -> None:
    assert runs.ends(4) == [FAILED, FAILED, *[refused(Reason.UNEXPECTED_ERROR)] * 2]
    assert "gave no number" in runs.row()["message"]
    other = str(write_tiny_bundle(tmp_path / "others", labels=("TopLeft", "TopRight")))
    assert runs.ends(4, engine=other) == [FAILED, FAILED, *[refused(Reason.UNEXPECTED_ERROR)] * 2]
    nan_engine[0] = False
    assert runs.ends(1, engine=other) == [refused(Reason.UNEXPECTED_ERROR)]
    assert runs.ends(1) == [(0, "scored", "")]


def test_a_study_that_makes_the_engine_raise_costs_itself(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    real = OnnxRuntimeEngine.infer

    def infer(engine: OnnxRuntimeEngine, pixels: Any) -> Scores:
        if (pixels[:, 0, :16, :16].mean(axis=(1, 2)) > 150).any():
            raise ValueError(SECRET)
        return real(engine, pixels)

    monkeypatch.setattr(OnnxRuntimeEngine, "infer", infer)
    assert runs.ends(4) == [FAILED, FAILED, *[refused(Reason.UNEXPECTED_ERROR)] * 2]
    assert "ValueError" in runs.row()["message"]


def test_an_engine_that_raises_for_everything_is_no_fault_of_the_studies(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def infer(_: object, pixels: Any) -> Scores:
        raise TypeError("broken")

    # It works as it is opened, and not afterwards.
    monkeypatch.setattr(
        EngineSlot,
        "open",
        lambda slot: SimpleNamespace(infer=lambda pixels: infer(slot, pixels), description=slot.description),
    )
    for _ in range(4):
        with pytest.raises(EngineError, match="TypeError"):
            run_quietly(runs.images, runs.out, engine=runs.engine)
    monkeypatch.undo()
    monkeypatch.setattr(WorkerPool, "run_ahead", in_this_process)
    assert runs.ends(1) == [(0, "scored", "")]


# --------------------------------------------------------------------------- printing and recording


def test_a_report_that_cannot_be_printed_is_given_up_after_three_runs(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, is_broken = printed_report.print_study, [True]

    def print_or_fail(result: Any, *args: Any, **options: Any) -> PrintedStudy:
        if is_broken[0] and result.images[0].path == BAD:
            raise ZeroDivisionError("no room for a table")
        return real(result, *args, **options)

    monkeypatch.setattr(printed_report, "print_study", print_or_fail)
    codes = [int(runs.run().exit_code) for _ in range(5)]
    assert codes == [3, 3, 0, 0, 0]
    with Ledger(runs.out) as ledger:
        (study,) = [row for row in ledger.results.study_rows() if row.result and row.result.images[0].path == BAD]
    assert (study.status, study.n_scored, study.report_html) == ("reported", 1, "")
    assert "could not be printed" in study.message
    assert "--retry rejected" in study.message
    assert runs.row()["status"] == "scored"
    is_broken[0] = False
    assert runs.run(retry="rejected").exit_code == ExitCode.DONE
    with Ledger(runs.out) as ledger:
        (study,) = list(ledger.results.study_rows(study.study_key))
    assert (study.status, study.message) == ("reported", "")
    assert (runs.out / study.report_html).is_file()


@pytest.mark.parametrize("part", [StudyResults, FileIndex])
def test_what_the_ledger_cannot_hold_costs_one_study(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, part: type[StudyResults | FileIndex]
) -> None:
    real: Callable[..., Any] = part.record

    def record_or_fail(ledger_part: Any, recorded: Any, **options: Any) -> Any:
        if part is StudyResults:
            bad = recorded.result.images[0].path == BAD
        else:
            bad = any(entry.file.path == BAD and entry.rejection is None for entry in recorded)
        if bad:
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        return real(ledger_part, recorded, **options)

    monkeypatch.setattr(part, "record", record_or_fail)
    before = FAILED if part is StudyResults else DEFERRED
    assert runs.ends(4) == [before, before, *[refused(Reason.UNEXPECTED_ERROR)] * 2]


@pytest.mark.parametrize("number", [2**63, -(2**70), 10**40])
def test_a_time_that_sqlite_cannot_hold_ends_no_run(runs: Runs, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = discover.walk

    def walk_with_odd_times(*args: Any, **options: Any) -> Iterator[ImageFile]:
        for file in real(*args, **options):
            yield ImageFile(file.path, file.size_bytes, storable_ns(number)) if file.path == BAD else file

    monkeypatch.setattr(source, "walk", walk_with_odd_times)
    statuses = [status for _, status, _ in runs.ends(4)]
    assert set(statuses) <= {"pending", "rejected", "failed", "scored"}


def test_a_verdict_is_given_at_once(runs: Runs, break_reading: Callable[[Exception], Fault]) -> None:
    break_reading(ImageRejected(Reason.UNREADABLE_PIXELS, "damaged"))
    assert runs.ends(1) == [refused(Reason.UNREADABLE_PIXELS)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(WorkerCrashed(-11), Reason.DECODER_CRASHED), (WorkerTimedOut(60), Reason.DECODE_TIMEOUT)],
    ids=name_of,
)
def test_a_crash_and_a_decoder_that_spins_are_verdicts(
    runs: Runs, break_reading: Callable[[Exception], Fault], error: Exception, reason: Reason
) -> None:
    break_reading(error)
    assert runs.ends(1) == [refused(reason)]


# --------------------------------------------------------------------------- the daemon


def test_a_daemon_does_not_try_a_header_each_time_it_looks() -> None:
    now = [0.0]
    postponed, file = Postponed(900.0, clock=lambda: now[0]), ImageFile(BAD, 10, 10)
    assert not postponed.holds(file)
    postponed.note(file)
    now[0] = 899.0
    assert postponed.holds(file)
    assert not postponed.holds(ImageFile(BAD, 10, 11))
    postponed.note(file)
    now[0] += 901.0
    assert not postponed.holds(file)


@pytest.mark.parametrize("where", ["reading", "header"])
def test_a_daemon_counts_one_try_in_retry_s(
    runs: Runs,
    break_reading: Callable[[Exception], Fault],
    break_index: Callable[[Exception], Fault],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    fault = (break_reading if where == "reading" else break_index)(KeyError("x"))
    settings = settings_of(runs.engine, retry_s=1.5, settle_s=0.1)
    daemon = Daemon(runs.images, runs.out, lambda: settings, monkeypatch)

    def steps() -> Iterator[Callable[[], bool]]:
        yield lambda: daemon.status(BAD) == "rejected"

    daemon.run(steps())
    assert len(fault.raised_at) == ATTEMPTS
    # The first try comes when the file does, at any moment between two retries.
    assert all(later - earlier >= 1.4 for earlier, later in itertools.pairwise(fault.raised_at[1:]))
    assert daemon.rows()[BAD]["reason"] == Reason.UNEXPECTED_ERROR.value
