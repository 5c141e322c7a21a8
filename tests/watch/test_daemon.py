"""The daemon: what it takes and when, and that it leaves what a run would have left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cxrbatch.cli import run_command_line
from cxrbatch.config import Settings
from cxrbatch.engine.bundle import load_bundle
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.errors import ConfigurationError, EngineError, ExitCode, UsageError
from cxrbatch.output.run_json import RunReport
from cxrbatch.records import Label
from cxrbatch.system.progress import RunProgress
from cxrbatch.system.stopping import Stopped
from cxrbatch.watch.daemon import Requests, watch_folder
from cxrbatch.watch.file_events import Waker
from tests.factories.engine import write_tiny_bundle
from tests.factories.ports import free_port
from tests.factories.studies import read_rows, run_quietly, write_image

LIMIT_S = 90.0


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return str(write_tiny_bundle(tmp_path / "engines"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def settings_of(engine: str, **more: Any) -> Settings:
    given: dict[str, Any] = {
        "engine": engine, "workers": 1, "pdf": False, "pixel_check": False, "settle_s": 0.4, "interval_s": 0.2,
    }  # fmt: skip
    return Settings(**given | more)


class Daemon:
    """`watch_folder` with someone at its side who does things while it sleeps, and ends it when all is done."""

    def __init__(self, images: Path, out: Path, load: Callable[[], Settings], monkeypatch: pytest.MonkeyPatch) -> None:
        self.images, self.out, self.load = images, out, load
        self.requests = Requests()
        self._steps: Iterator[Callable[[], bool] | None] = iter(())
        self._awaited: Callable[[], bool] | None = None
        self._deadline = time.monotonic() + LIMIT_S
        monkeypatch.setattr(Waker, "sleep", self._sleep)

    def run(self, steps: Iterator[Callable[[], bool] | None]) -> RunReport:
        """Run until the steps are over. A step yields what to wait for before the next one."""
        self._steps = steps
        with RunProgress(Console(quiet=True), counts=False) as progress:
            return watch_folder(self.images, self.out, self.load, progress, requests=self.requests)

    def rows(self) -> dict[str, dict[str, str]]:
        table = self.out / "images.csv"
        return {row["path"]: row for row in read_rows(table)} if table.exists() else {}

    def status(self, path: str) -> str:
        return self.rows().get(path, {}).get("status", "")

    def _sleep(self, seconds: float) -> bool:
        if time.monotonic() > self._deadline:
            raise AssertionError(f"the daemon never came to it; {self.rows()}")
        time.sleep(min(seconds, 0.05))
        if self._awaited is None or self._awaited():
            try:
                self._awaited = next(self._steps)
            except StopIteration:
                raise Stopped(signal.SIGTERM) from None
        return False


@pytest.fixture
def daemon(images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    return Daemon(images, out, lambda: settings_of(engine), monkeypatch)


WITHOUT = ("scored_at", "reported_at", "revision")


def without_times(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: cell for name, cell in row.items() if name not in WITHOUT} for row in rows]


def test_rows_equal_those_of_a_run_whichever_way_files_arrive(
    daemon: Daemon, images: Path, out: Path, engine: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for number in range(4):
        write_image(source / "study" / f"{number}.png", number * 20, 200 - number * 20, 128, 60)
    (source / "report.txt").write_text("no image")

    def arrive() -> Iterator[Callable[[], bool]]:
        shutil.copy(source / "report.txt", images)
        whole = (source / "study" / "0.png").read_bytes()
        (images / "study").mkdir()
        half = images / "study" / "0.png"
        half.write_bytes(whole[: len(whole) // 2])
        shutil.copy(source / "study" / "1.png", images / "study" / "1.png")
        yield lambda: daemon.status("study/1.png") == "scored"
        assert daemon.status("study/0.png") == "pending"
        half.write_bytes(whole)
        yield lambda: daemon.status("study/0.png") == "scored"
        shutil.copy(source / "study" / "2.png", images / "study" / ".being-copied")
        (images / "study" / ".being-copied").rename(images / "study" / "2.png")
        name = images / "study" / os.fsdecode(b"not-\xff-text.png")
        shutil.copy(source / "study" / "3.png", name)
        yield lambda: daemon.status("study/2.png") == "scored"
        name.rename(images / "study" / "3.png")
        yield lambda: daemon.status("study/3.png") == "scored" and daemon.status("report.txt") == "rejected"

    daemon.run(arrive())
    run_quietly(images, tmp_path / "by-run", engine=engine)
    expected = without_times(read_rows(tmp_path / "by-run" / "images.csv"))
    found = [row for row in without_times(read_rows(out / "images.csv")) if "not-" not in row["path"]]
    assert found == expected


def test_a_late_image_makes_a_new_revision(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(images, out, lambda: settings_of(engine, group_by="folder"), monkeypatch)

    def arrive() -> Iterator[Callable[[], bool]]:
        write_image(images / "study" / "a.png", 0, 80, 160, 240)
        yield lambda: daemon.status("study/a.png") == "scored"
        write_image(images / "study" / "b.png", 240, 80, 160, 0)
        yield lambda: daemon.status("study/b.png") == "scored"

    daemon.run(arrive())
    (study,) = read_rows(out / "studies.csv")
    assert (study["revision"], study["n_images"]) == ("2", "2")


def test_a_study_waits_as_a_whole_and_a_marker_ends_the_waiting(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(images, out, lambda: settings_of(engine, group_by="folder", settle_s=3600), monkeypatch)

    def arrive() -> Iterator[Callable[[], bool]]:
        for name in ("marked", "other"):
            write_image(images / name / "a.png", 0, 80, 160, 240)
        yield lambda: daemon.status("other/a.png") == "pending"
        assert daemon.status("marked/a.png") == "pending"
        (images / "marked" / ".complete").touch()
        yield lambda: daemon.status("marked/a.png") == "scored"

    report = daemon.run(arrive())
    assert daemon.status("other/a.png") == "pending"
    assert report.studies == {"pending": 1, "reported": 1}


def test_a_study_that_is_cut_short_is_refused_after_the_longest_wait(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(images, out, lambda: settings_of(engine, max_wait_s=2), monkeypatch)
    whole = write_image(images / "a.png", 0, 80, 160, 240).read_bytes()
    (images / "a.png").write_bytes(whole[:-20])

    def arrive() -> Iterator[Callable[[], bool]]:
        yield lambda: daemon.status("a.png") == "pending"
        yield lambda: daemon.status("a.png") == "rejected"
        assert daemon.rows()["a.png"]["reason"] == "truncated_pixels"
        (images / "a.png").write_bytes(whole)
        yield lambda: daemon.status("a.png") == "scored"

    daemon.run(arrive())


@pytest.mark.parametrize("is_empty", [False, True], ids=["vanished", "empty"])
def test_an_input_that_is_gone_for_a_while_is_waited_for(
    daemon: Daemon, images: Path, out: Path, is_empty: bool
) -> None:
    write_image(images / "a.png", 0, 80, 160, 240)
    away = images.with_name("away")

    def arrive() -> Iterator[Callable[[], bool] | None]:
        yield lambda: daemon.status("a.png") == "scored"
        images.rename(away)
        if is_empty:
            images.mkdir()
        yield lambda: "cannot be looked at" in (out / "cxrbatch.log").read_text()
        write_image(away / "b.png", 240, 80, 160, 0)
        if is_empty:
            images.rmdir()
        away.rename(images)
        yield lambda: daemon.status("b.png") == "scored"

    report = daemon.run(arrive())
    assert report.files == {"scored": 2}


def test_a_daemon_that_starts_while_the_share_is_away_waits_for_it(daemon: Daemon, images: Path, out: Path) -> None:
    write_image(images / "a.png", 0, 80, 160, 240)
    run_quietly(images, out, engine=daemon.load().engine)
    images.rename(images.with_name("away"))
    images.mkdir()

    def arrive() -> Iterator[Callable[[], bool]]:
        yield lambda: "cannot be looked at" in log_of(out)
        images.rmdir()
        images.with_name("away").rename(images)
        write_image(images / "b.png", 240, 80, 160, 0)
        yield lambda: daemon.status("b.png") == "scored"

    assert daemon.run(arrive()).files == {"scored": 2}


def test_once_says_that_the_input_is_away(images: Path, out: Path, engine: str) -> None:
    write_image(images / "a.png", 0, 80, 160, 240)
    run_quietly(images, out, engine=engine)
    (images / "a.png").unlink()
    with pytest.raises(UsageError, match="not one file is there"), RunProgress(Console(quiet=True)) as progress:
        watch_folder(images, out, lambda: settings_of(engine), progress, once=True)


def test_settings_that_can_be_read_but_not_used_change_nothing(
    images: Path, out: Path, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [settings_of(engine), settings_of(str(tmp_path / "no-engine")), settings_of(engine)]
    daemon = Daemon(images, out, lambda: answers.pop(0), monkeypatch)

    def arrive() -> Iterator[Callable[[], bool]]:
        yield (out / "metrics.prom").exists
        daemon.requests.reload = True
        yield lambda: "settings not reloaded" in log_of(out)
        write_image(images / "a.png", 0, 80, 160, 240)
        yield lambda: daemon.status("a.png") == "scored"

    daemon.run(arrive())


def test_months_of_passes_leave_no_counts_behind() -> None:
    with RunProgress(Console(quiet=True), counts=False) as progress:
        for _ in range(100):
            progress.begin("files indexed")
            progress.advance("files indexed")
            progress.finish("files indexed")
        progress.begin("files indexed")  # a pass that an error ended
        progress.begin("files indexed")
        assert len(progress._bars.tasks) <= 1


def test_a_reload_takes_new_settings_and_keeps_the_old_ones_where_they_are_wrong(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = ConfigurationError("no such key")
    answers: list[Settings | ConfigurationError] = [settings_of(engine), wrong, settings_of(engine, html=False)]

    def load() -> Settings:
        answer = answers.pop(0)
        if isinstance(answer, ConfigurationError):
            raise answer
        return answer

    daemon = Daemon(images, out, load, monkeypatch)

    def arrive() -> Iterator[Callable[[], bool]]:
        for number, name in enumerate(("a", "b", "c")):
            write_image(images / f"{name}.png", 10 * number, 80, 160, 240)
            yield lambda name=name: daemon.status(f"{name}.png") == "scored"  # type: ignore[misc]
            daemon.requests.reload = True
            yield lambda: not daemon.requests.reload

    answers.append(answers[-1])
    daemon.run(arrive())
    assert '"event": "settings not reloaded", "error": "no such key"' in log_of(out)
    printed = [row["report_html"] != "" for row in read_rows(out / "studies.csv")]
    assert sorted(printed) == [False, True, True]


def test_an_engine_that_was_built_again_is_taken_up_between_studies(
    images: Path, out: Path, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(images, out, lambda: settings_of(engine, reload_engine=True), monkeypatch)
    former = load_bundle(Path(engine))

    def replace_engine(source: Path) -> None:
        shutil.move(engine, tmp_path / "old" / source.name)
        shutil.copytree(source, engine)

    def arrive() -> Iterator[Callable[[], bool]]:
        write_image(images / "a.png", 0, 80, 160, 240)
        yield lambda: daemon.status("a.png") == "scored"
        broken = shutil.copytree(engine, tmp_path / "broken")
        (broken / "model.onnx").write_bytes(b"tampered")
        replace_engine(Path(broken))
        yield lambda: "engine not reloaded" in (out / "cxrbatch.log").read_text()
        write_image(images / "b.png", 240, 80, 160, 0)
        yield lambda: daemon.status("b.png") == "scored"
        assert len({row["engine_sha256"] for row in daemon.rows().values()}) == 1
        labels = [Label(name, operating_point=0.4) for name in ("TopLeft", "TopRight", "BottomLeft", "BottomRight")]
        other = write_tiny_bundle(tmp_path / "other", labels=tuple(labels))
        model = (other / "model.onnx").read_bytes()
        (other / "model.onnx").write_bytes(model[:100])
        replace_engine(other)
        yield lambda: log_of(out).count("engine not reloaded") == 2
        (Path(engine) / "model.onnx").write_bytes(model)  # the copy of the engine comes to its end
        yield lambda: "engine reloaded" in (out / "cxrbatch.log").read_text()
        yield (
            lambda: (
                {row["engine_sha256"] for row in daemon.rows().values()}
                == {load_bundle(Path(engine)).describe("onnx", "onnxruntime").sha256}
            )
        )

    (tmp_path / "old").mkdir()
    daemon.run(arrive())
    assert former.describe("onnx", "onnxruntime").sha256 not in (out / "images.csv").read_text()


def test_a_scraper_is_told_how_it_stands(images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr("cxrbatch.watch.daemon._METRICS_EVERY_S", 0.0)
    daemon = Daemon(images, out, lambda: settings_of(engine, metrics_port=port), monkeypatch)

    def ask(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def arrive() -> Iterator[Callable[[], bool]]:
        yield lambda: ask("/healthz")[0] == 200
        write_image(images / "a.png", 0, 80, 160, 240)
        yield lambda: 'cxrbatch_studies{status="reported"} 1.0' in ask("/metrics")[1]
        images.rename(images.with_name("away"))
        yield lambda: ask("/healthz")[0] == 503
        images.with_name("away").rename(images)
        yield lambda: '"status": "ok"' in ask("/healthz")[1]

    daemon.run(arrive())
    assert 'cxrbatch_files{status="scored"} 1.0' in (out / "metrics.prom").read_text()


def test_an_engine_that_begins_to_answer_otherwise_ends_the_daemon(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrbatch.watch.health.Watchdog.due", lambda _: True)
    daemon = Daemon(images, out, lambda: settings_of(engine), monkeypatch)
    infer = OnnxRuntimeEngine.infer

    def arrive() -> Iterator[Callable[[], bool]]:
        yield (out / "metrics.prom").exists
        monkeypatch.setattr(OnnxRuntimeEngine, "infer", lambda self, pixels: infer(self, 255 - pixels))
        yield lambda: False

    with pytest.raises(EngineError, match="scores a test picture otherwise"):
        daemon.run(arrive())


def test_once_waits_for_what_is_there_to_settle_and_ends(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(images / "a.png", 0, 80, 160, 240)
    slept: list[float] = []

    def sleep(_: Waker, seconds: float) -> bool:
        # As long as somebody waits for it, it is not whole.
        write_image(images / "late.png", 240, 80, 160, len(slept) % 200)
        slept.append(seconds)
        time.sleep(min(seconds, 0.2))
        return True  # again and again something happens

    monkeypatch.setattr(Waker, "sleep", sleep)
    with RunProgress(Console(quiet=True), counts=False) as progress:
        report = watch_folder(images, out, lambda: settings_of(engine, settle_s=1.0), progress, once=True)
    assert report.files == {"scored": 1, "pending": 1}
    assert report.exit_code == ExitCode.DONE


def test_events_only_wake(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out").mkdir()
    with Waker(tmp_path / "in", tmp_path / "in" / "out") as waker:
        end = time.monotonic() + LIMIT_S
        happened = False
        while not happened and time.monotonic() < end:
            # Again and again: the thread that listens may not have begun with the first one.
            (tmp_path / "in" / f"{time.monotonic_ns()}").touch()
            happened = waker.sleep(1)
        assert happened
        while waker.sleep(3):
            pass  # what came late
        (tmp_path / "in" / "out" / "own").touch()
        assert not waker.sleep(1)
        waker.wake()
        assert waker.sleep(60)


def test_without_events_it_is_just_a_sleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with Waker(tmp_path, tmp_path / "out") as waker:
        (tmp_path / "new").touch()
        assert not waker.sleep(0.3)


def test_signals_end_the_daemon_cleanly(images: Path, out: Path, engine: str, tmp_path: Path) -> None:
    write_image(images / "a.png", 0, 80, 160, 240)
    command = [
        sys.executable, "-m", "cxrbatch", "watch", str(images), "-o", str(out), "-e", engine, "--settle", "0.2",
        "--interval", "0.2", "--no-pdf", "--workers", "1",
    ]  # fmt: skip
    environment = os.environ | {"CXRBATCH_PIXEL_CHECK": "false", "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    killer = threading.Timer(LIMIT_S, child.kill)
    killer.start()
    try:
        while child.poll() is None and "study done" not in (log_of(out)):
            time.sleep(0.1)
        child.send_signal(signal.SIGHUP)
        while child.poll() is None and "reloading the settings" not in log_of(out):
            time.sleep(0.1)
        while child.poll() is None and log_of(out).count("run started") < 2:
            time.sleep(0.1)
        child.send_signal(signal.SIGTERM)
        printed, _ = child.communicate()
    finally:
        killer.cancel()
    assert child.returncode == ExitCode.DONE, printed.decode()
    assert b"1 reported" in printed
    assert not list(out.rglob(".cxrbatch-tmp-*"))


def log_of(out: Path) -> str:
    path = out / "cxrbatch.log"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize(("more", "code"), [([], ExitCode.DONE), (["--once"], 128 + signal.SIGTERM)])
def test_a_daemon_stopped_as_it_starts_has_done_its_duty(
    more: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("cxrbatch.watch.daemon.watch_folder", stopped)
    former = signal.getsignal(signal.SIGHUP)
    try:
        assert run_command_line(["watch", str(tmp_path), "-o", str(tmp_path.with_name("out")), *more]) == code
    finally:
        signal.signal(signal.SIGHUP, former)


def test_watch_needs_an_input_folder(tmp_path: Path) -> None:
    assert run_command_line(["watch", str(tmp_path / "missing"), "-o", str(tmp_path / "out")]) == ExitCode.USAGE
