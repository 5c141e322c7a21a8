"""A run on a cluster leaves what a local one does, bit for bit, whoever is killed on the way.

With CXRBATCH_EVERY_FAULT=1 (`make soak`) everybody is; without it one node, in the middle.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from cxrbatch.cluster import connect, feed, members
from cxrbatch.cluster.connect import Cluster
from cxrbatch.cluster.members import Work
from cxrbatch.cluster.node import process_chunk
from cxrbatch.config import Settings
from cxrbatch.errors import EngineError, ExitCode, OutputNotWritable, RunError, UsageError
from cxrbatch.output.run_json import RunReport
from cxrbatch.run import engine_slot
from cxrbatch.run.batch import SCORED, run_batch
from cxrbatch.run.processor import StudyProcessor, Workplace
from cxrbatch.system.progress import RunProgress
from tests.factories.engine import write_tiny_bundle
from tests.factories.faulted import ROOT
from tests.factories.judged import disagreements
from tests.factories.nodes import be_slow, die_of_deadly, lack_something
from tests.factories.outputs import leftovers, snapshot
from tests.factories.studies import read_rows, run_quietly, write_image
from tests.factories.varied import LABELS, POISON, write_varied_input

# That a busy disk is slow is for the log: it keeps no cluster from starting.
pytestmark = pytest.mark.filterwarnings("ignore:Creating scratch directories is taking:UserWarning")
soak = pytest.mark.skipif(
    not os.environ.get("CXRBATCH_EVERY_FAULT"), reason="part of `make soak`: starts many processes"
)
USUAL: dict[str, Any] = {"workers": 1, "threads": 1, "pdf": False, "pixel_check": False}
PLAIN = 18


class Watched(RunProgress):
    """Progress that lets a test act once so many studies were scored."""

    def __init__(self, at: int = 0, act: Callable[[], object] = lambda: None) -> None:
        super().__init__(Console(quiet=True))
        self._left, self._act = at, act

    def advance(self, what: str, steps: int = 1) -> None:
        super().advance(what, steps)
        self._left -= steps * (what == SCORED)
        if what == SCORED and self._left <= 0:
            act, self._act = self._act, lambda: None
            act()


@dataclass(frozen=True, slots=True)
class Archive:
    """An input folder, an engine, and what a local run leaves."""

    images: Path
    engine: str
    expected: dict[str, tuple[int, object]] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)

    def run(
        self, out: Path, cluster: Cluster, progress: RunProgress | None = None, work: Work = process_chunk
    ) -> RunReport:
        def make(at: Workplace) -> StudyProcessor:
            return replace(cluster.processor(at), work=work)

        settings = Settings(engine=self.engine, **USUAL, **self.asked)
        return run_batch(
            self.images, out, settings, progress or Watched(), means=replace(cluster.means(), make_processor=make)
        )

    def expect_as_local(self, out: Path) -> None:
        assert disagreements(out) == []
        assert leftovers(out) == []
        assert snapshot(out) == self.expected


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("archive")
    images = write_varied_input(folder / "images")
    for number in range(PLAIN):
        write_image(images / f"{number}.png", 20 + 9 * number, 60, 120 + number, 240)
    engine = str(write_tiny_bundle(folder / "engines", labels=LABELS, poison_value=POISON, ensemble=True))
    run_quietly(images, folder / "out", engine=engine)
    return Archive(images, engine, snapshot(folder / "out"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("local:2") as cluster:
        yield cluster


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def processes(cluster: Cluster) -> list[int]:
    """Return the process ids of the nodes that are there."""
    return sorted(cluster.client().run(os.getpid).values())


def kill(*processes: int) -> None:
    for process in processes:
        os.kill(process, signal.SIGKILL)


def refuse_to_open(*_: object, **__: object) -> None:
    raise AssertionError("the driver scores nothing, so it opens no engine")


def events(out: Path, name: str) -> list[str]:
    return [line for line in (out / "cxrbatch.log").read_text().splitlines() if f'"event": "{name}' in line]


def test_a_run_on_a_cluster_of_which_a_node_is_killed_is_as_a_local_one(
    archive: Archive, cluster: Cluster, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "LOOK_S", 0.2)
    monkeypatch.setattr(engine_slot, "open_engine", refuse_to_open)  # nodes are processes of their own
    report = archive.run(out, cluster, Watched(6, lambda: kill(processes(cluster)[0])))
    archive.expect_as_local(out)
    assert report.exit_code == ExitCode.SOME_STUDIES_FAILED, "one image has no number, as in a local run"
    assert len(events(out, "node lost")) == 1
    assert {"read", "infer", "pictures"} <= report.stage_s.keys()


def test_nodes_print_in_the_language_and_with_the_templates_of_the_driver(
    archive: Archive, cluster: Cluster, tmp_path: Path
) -> None:
    images, own = tmp_path / "images", tmp_path / "own"
    for number in range(2):
        write_image(images / f"{number}.png", 20 + 60 * number, 60, 120 + number, 240)
    own.mkdir()
    page = '{% extends "package/report.html.j2" %}{% block quality %}<p>Of this house</p>{% endblock %}'
    (own / "report.html.j2").write_text(page)
    asked = {"locale": "de", "templates": str(own)}
    run_quietly(images, tmp_path / "local", engine=archive.engine, **asked)
    assert "Of this house" in next((tmp_path / "local").glob("reports/*/report.html")).read_text()
    replace(archive, images=images, asked=asked).run(tmp_path / "out", cluster)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "local")


@soak
def test_all_nodes_killed_at_once_are_started_again(archive: Archive, cluster: Cluster, out: Path) -> None:
    archive.run(out, cluster, Watched(5, lambda: kill(*processes(cluster))))
    archive.expect_as_local(out)


@soak
def test_a_study_that_kills_its_node_three_times_is_failed_and_the_rest_goes_on(
    archive: Archive, cluster: Cluster, tmp_path: Path, out: Path
) -> None:
    images = tmp_path / "images"
    for number in range(10):
        write_image(images / f"{number}.png", 20 + 9 * number, 60, 120, 240)
    write_image(images / "deadly.png", 40, 60, 120, 240)
    deadly = replace(archive, images=images)
    report = deadly.run(out, cluster, work=die_of_deadly)
    assert report.studies == {"reported": 10, "failed": 1}
    assert len(events(out, "node lost")) == feed.KILLS
    (row,) = [row for row in read_rows(out / "images.csv") if row["status"] == "failed"]
    assert (row["path"], row["message"]) == (
        "deadly.png",
        "the node that was at work on its study died, 3 times; tried again in the next run (1 of 3 times)",
    )
    assert disagreements(out) == []
    assert run_quietly(images, out, engine=archive.engine).studies == {"reported": 11}, "a local run heals it"


@soak
def test_a_slow_node_does_not_hold_the_others_back(archive: Archive, cluster: Cluster, out: Path) -> None:
    cluster.client().wait_for_workers(2)
    slow, each_s = processes(cluster)[0], 4.0
    began = time.monotonic()
    archive.run(out, cluster, work=partial(be_slow, slow, each_s))
    took_s = time.monotonic() - began
    archive.expect_as_local(out)
    studies = len(read_rows(out / "studies.csv"))
    # It gets two chunks of four at most; with half of all it would be at work for longer than all of this took.
    assert feed.SMALLEST_CHUNK * each_s < took_s < studies / 2 * each_s


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(EngineError("the GPU fell off the bus"), marks=soak),
        OutputNotWritable("it was unmounted there"),
    ],
)
def test_a_node_whose_engine_or_share_fails_is_left_out(
    archive: Archive, cluster: Cluster, out: Path, error: RunError
) -> None:
    cluster.client().wait_for_workers(2)
    broken = processes(cluster)[0]
    archive.run(out, cluster, work=partial(lack_something, broken, error))
    archive.expect_as_local(out)
    assert str(error) in events(out, "node refused")[0]


@soak
def test_where_no_node_can_write_the_run_ends_as_with_a_full_disk(
    archive: Archive, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "REFUSED_PATIENCE_S", 0.5)
    with Cluster("local:1") as cluster, pytest.raises(OutputNotWritable, match=r"no node .*: the disk is full"):
        cluster.client().wait_for_workers(1)
        full = partial(lack_something, processes(cluster)[0], OutputNotWritable("the disk is full"))
        archive.run(out, cluster, work=full)
    assert leftovers(out) == []


@soak
def test_nodes_that_all_differ_end_the_run_in_plain_words(
    archive: Archive, cluster: Cluster, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "REFUSED_PATIENCE_S", 0.5)
    make = cluster.processor

    def older(at: Workplace) -> StudyProcessor:
        processor = make(at)
        told = processor._told()
        monkeypatch.setattr(type(processor), "_told", lambda _: replace(told, version="0.0.9"))
        return processor

    settings = Settings(engine=archive.engine, **USUAL)
    with pytest.raises(EngineError, match=r"no node .*: it has cxrbatch 0\.1\.0, the driver 0\.0\.9"):
        run_batch(archive.images, out, settings, Watched(), means=replace(cluster.means(), make_processor=older))
    assert read_rows(out / "studies.csv")
    assert leftovers(out) == []


def test_a_local_cluster_is_heard_on_this_machine_only_and_by_its_user(cluster: Cluster) -> None:
    client = cluster.client()
    assert client.scheduler.address.startswith("tls://127.0.0.1:")
    ours = {os.getpid(), *processes(cluster)}
    listening = [
        each.laddr.ip
        for process in ours
        for each in psutil.Process(process).net_connections()
        if each.status == "LISTEN"
    ]
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}


@pytest.mark.parametrize("where", ["", "local:0", "local:", "tcp://nowhere", "http://x:1", "/no/such/file"])
def test_what_is_no_cluster_is_refused(where: str) -> None:
    with pytest.raises(UsageError, match="neither local:N"):
        Cluster(where)


@contextmanager
def other_server() -> Iterator[str]:
    """Yield the address of a server that is no scheduler, and says so to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" * 4)
                    connection.close()

        threading.Thread(target=answer, daemon=True).start()
        yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def test_where_no_scheduler_answers_a_run_says_so_before_it_reads_headers(
    archive: Archive, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_CONNECT_S", 0.5)
    settings = Settings(engine=archive.engine, **USUAL)
    with other_server() as other:
        for where in ("tcp://127.0.0.1:9", other):
            with Cluster(where) as cluster, pytest.raises(RunError, match=f"{where}: no scheduler answers"):
                run_batch(archive.images, out, settings, Watched(), means=cluster.means())
    assert read_rows(out / "images.csv") == []


# --------------------------------------------------------------------------- a scheduler of somebody's own


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CXRBATCH_PIXEL_CHECK": "false"}
    with subprocess.Popen(
        [sys.executable, "-m", *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def scheduler(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    with started(*command, "--scheduler-file", str(file)) as process:
        wait_until(file.exists)
        yield process


def node(file: Path, *more: str) -> Any:
    """Start a node that nobody starts again."""
    command = ("distributed.cli.dask_worker", "--no-dashboard", "--no-nanny", "--nthreads", "2", "--host", "127.0.0.1")
    return started(*command, "--scheduler-file", str(file), "--local-directory", str(file.parent), *more)


def wait_until(holds: Callable[[], object], patience_s: float = 60) -> None:
    end = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def driver(archive: Archive, out: Path, where: str) -> Any:
    options = ("-e", archive.engine, "--no-pdf", "--workers", "1", "--threads", "1", "--cluster", where, "-q")
    return started("cxrbatch", "run", str(archive.images), "-o", str(out), *options)


def reports(out: Path) -> int:
    return len(list(out.glob("reports/*/result.json")))


@soak
def test_a_node_lost_for_good_is_done_without(archive: Archive, tmp_path: Path, out: Path) -> None:
    file = tmp_path / "scheduler.json"
    with scheduler(file), node(file) as one, node(file), Cluster(str(file)) as cluster:
        cluster.client().wait_for_workers(2)
        archive.run(out, cluster, Watched(5, lambda: kill(one.pid)))
    archive.expect_as_local(out)


@soak
def test_a_run_whose_scheduler_is_killed_says_so_and_goes_on_with_another(
    archive: Archive, tmp_path: Path, out: Path
) -> None:
    file = tmp_path / "scheduler.json"
    with (
        scheduler(file) as first,
        node(file),
        Cluster(str(file)) as cluster,
        pytest.raises(RunError, match="the scheduler of the cluster is gone"),
    ):
        archive.run(out, cluster, Watched(5, lambda: kill(first.pid)))
    assert len([row for row in read_rows(out / "studies.csv") if row["status"] == "reported"]) >= 5
    file.unlink()
    with scheduler(file), node(file), Cluster(str(file)) as cluster:
        archive.run(out, cluster)
    archive.expect_as_local(out)


@soak
@pytest.mark.parametrize("where", ["local:2", "a scheduler"])
def test_a_driver_that_is_killed_leaves_nobody_writing_and_the_next_one_goes_on(
    archive: Archive, tmp_path: Path, out: Path, where: str
) -> None:
    file = tmp_path / "scheduler.json"
    with scheduler(file), node(file):
        named = str(file) if where == "a scheduler" else where
        with driver(archive, out, named) as killed:
            wait_until(lambda: reports(out) >= 3)
            killed.kill()
            killed.wait()
        with driver(archive, out, named) as again:
            assert again.wait(120) == ExitCode.SOME_STUDIES_FAILED
        archive.expect_as_local(out)
        rows = Counter(row["study_key"] for row in read_rows(out / "studies.csv"))
        assert set(rows.values()) == {1}
