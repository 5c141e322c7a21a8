"""Standard output and error that are full, closed, gone or never read: the work goes on, and the exit code is true."""

from __future__ import annotations

import fcntl
import inspect
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from cxrbatch.cli import commands
from cxrbatch.errors import ExitCode
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.system.standard_streams import LastingStream
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import read_rows, run_quietly, write_image

pytestmark = pytest.mark.hostile("9.14 stdout and stderr that are full or gone")

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0
# What these print is what they are for: that it could not be printed, the exit code tells.
PRINTING = {"doctor", "engines", "inspect", "schema", "status"}
# These leave results in a folder.
WORKING = {
    "adjust", "build", "compare", "demo", "describe", "evaluate", "export", "import", "merge", "pretrain", "pull",
    "receive", "repair", "report", "send", "serve", "shard", "train", "watch", "work",
}  # fmt: skip
BOTH = {"bench", "prune", "run"}


@dataclass(frozen=True, slots=True)
class Terminal:
    """What a command gets for its standard output and error; `master` closes a terminal once the work has begun."""

    descriptor: int | None
    master: int = -1

    def popen(self, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "CXRBATCH_PIXEL_CHECK": "false"}
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=self.descriptor, stderr=self.descriptor,
            start_new_session=True, preexec_fn=self._prepare,  # noqa: PLW1509  # nothing else closes descriptors
        )  # fmt: skip
        if self.master >= 0:
            threading.Thread(target=self._hang_up, args=(child,)).start()
        return child

    def _prepare(self) -> None:
        if self.master >= 0:
            fcntl.ioctl(1, termios.TIOCSCTTY, 0)
        if self.descriptor is None:
            os.close(1)
            os.close(2)

    def _hang_up(self, child: subprocess.Popen[bytes]) -> None:
        while child.poll() is None and not heeds_hangup(child.pid):
            time.sleep(0.01)
        os.close(self.master)


def heeds_hangup(pid: int) -> bool:
    """Tell whether a process ignores SIGHUP, or has its own use for it: until then it ends with its terminal."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    masks = re.findall(r"^Sig(?:Ign|Cgt):\s*(\w+)$", text, re.MULTILINE)
    return any(int(mask, 16) >> (signal.SIGHUP - 1) & 1 for mask in masks)


@contextmanager
def full() -> Iterator[Terminal]:
    with Path("/dev/full").open("wb") as file:
        yield Terminal(file.fileno())


@contextmanager
def closed() -> Iterator[Terminal]:
    yield Terminal(None)


@contextmanager
def left() -> Iterator[Terminal]:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield Terminal(writer)
    os.close(writer)


@contextmanager
def unread() -> Iterator[Terminal]:
    """A pipe whose reader lives and reads nothing, and that is full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for size in (65536, 1):
        try:
            while os.write(writer, b"x" * size):
                pass
        except BlockingIOError:
            pass
    os.set_blocking(writer, True)
    yield Terminal(writer)
    os.close(reader)
    os.close(writer)


@contextmanager
def hung_up() -> Iterator[Terminal]:
    """A terminal that somebody closes while the work is on: what is written fails with EIO, and SIGHUP comes."""
    master, slave = pty.openpty()
    yield Terminal(slave, master)
    os.close(slave)


@contextmanager
def left_terminal() -> Iterator[Terminal]:
    """A terminal that is closed already, and not the one that rules this process."""
    master, slave = pty.openpty()
    os.close(master)
    yield Terminal(slave)
    os.close(slave)


WAYS = [full, closed, left, unread, hung_up]


Way = Callable[[], AbstractContextManager[Terminal]]


def cxrbatch(way: Way, *arguments: str | Path) -> int:
    with way() as terminal:
        child = terminal.popen([sys.executable, "-m", "cxrbatch", *arguments])
        try:
            return child.wait(LIMIT_S)
        finally:
            child.kill()
            child.wait()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, an engine, and what a run made of them."""
    folder = tmp_path_factory.mktemp("results")
    for name in ("a", "b"):
        write_image(folder / "images" / f"{name}.png", 20, 60, 120, 240)
    engine = write_tiny_bundle(folder / "engines")
    run_quietly(folder / "images", folder / "out", engine=str(engine))
    return folder


@pytest.fixture
def stage(results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(results, tmp_path / "stage"))


@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_done_whatever_becomes_of_the_terminal(way: Way, results: Path, tmp_path: Path) -> None:
    (engine,) = (path.parent for path in results.rglob("engine.json"))
    out = tmp_path / "out"
    assert cxrbatch(way, "run", results / "images", "-o", out, "-e", engine, "--workers", "1") == ExitCode.DONE
    assert [row["status"] for row in read_rows(out / "images.csv")] == ["scored", "scored"]
    assert len(list(out.glob("reports/*/report.pdf"))) == 2
    with Ledger(out) as ledger:  # which was not opened in the place of a closed standard error
        ledger.store.check()


@pytest.mark.parametrize("way", [unread, hung_up])
def test_the_daemon_works_until_it_is_told_to_stop(way: Way, results: Path, tmp_path: Path) -> None:
    (engine,) = (path.parent for path in results.rglob("engine.json"))
    out, images = tmp_path / "out", Path(shutil.copytree(results / "images", tmp_path / "images"))
    command = [
        sys.executable, "-m", "cxrbatch", "watch", str(images), "-o", str(out), "-e", str(engine), "--settle", "0.2",
        "--interval", "0.2", "--no-pdf", "--workers", "1",
    ]  # fmt: skip
    end = time.monotonic() + LIMIT_S
    with ExitStack() as stack:
        child = stack.enter_context(way()).popen(command)
        stack.callback(child.kill)
        for name in ("a", "later"):
            write_image(images / f"{name}.png", 20, 60, 120, 240)
            while not is_scored(out, f"{name}.png"):
                assert child.poll() is None
                assert time.monotonic() < end
                time.sleep(0.1)
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == ExitCode.DONE


def is_scored(out: Path, path: str) -> bool:
    table = out / "images.csv"
    return table.exists() and {row["path"]: row["status"] for row in read_rows(table)}.get(path) == "scored"


@pytest.mark.parametrize(
    ("arguments", "leaves"),
    [
        (["report", "out", "--workers", "1", "--no-pdf"], "out/studies.csv"),
        (["repair", "out"], "out/studies.csv"),
        (["prune", "out", "--older-than", "1d", "--yes"], "out/studies.csv"),
        (
            ["watch", "images", "-o", "watched", "-e", "{engine}", "--once", "--settle", "0", "--no-pdf"],
            "watched/images.csv",
        ),
        (["bench", "-e", "{engine}", "--seconds", "0.1", "--batch-sizes", "1", "--json", "bench.json"], "bench.json"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_leaves_its_results_in_a_folder_ends_with_0(
    stage: Path, arguments: list[str], leaves: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stage)
    (engine,) = (path.parent for path in stage.rglob("engine.json"))
    assert cxrbatch(full, *(each.format(engine=engine) for each in arguments)) == ExitCode.DONE
    assert (stage / leaves).exists()


@pytest.mark.parametrize(
    ("arguments", "way"),
    [
        *((["--version"], way) for way in (full, closed, left, left_terminal)),
        (["run", "--help"], full),
        (["status", "out", "--json"], full),
        (["status", "out"], left),
        (["inspect", "--json", "images/a.png"], left_terminal),
        (["engines"], full),
        (["doctor"], closed),
        (["prune", "out", "--older-than", "1d"], full),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value.__name__,
)
def test_what_could_not_be_printed_is_told_by_the_exit_code(
    way: Way, arguments: list[str], results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(results)
    assert cxrbatch(way, *arguments) == ExitCode.OUTPUT_NOT_WRITABLE


def test_a_reader_that_has_seen_enough_gets_no_explanation(results: Path) -> None:
    command = f"{sys.executable} -m cxrbatch status {results / 'out'} --json | head -c 1"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, check=True)
    assert (ended.stdout, ended.stderr) == (b"{", b"")


def test_a_slow_reader_of_what_a_command_is_for_gets_all_of_it(results: Path) -> None:
    command = f"{sys.executable} -m cxrbatch status {results / 'out'} --json | (sleep 3; cat)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, check=True)
    assert json.loads(ended.stdout)["studies"] == {"reported": 2}


@pytest.mark.parametrize("code", [["--no-such-option"], ["status", "/no/such/folder"]])
def test_a_wrong_command_keeps_its_exit_code(code: list[str]) -> None:
    for way in (full, closed):
        assert cxrbatch(way, *code) == ExitCode.USAGE


def test_every_command_is_of_one_kind_or_the_other() -> None:
    assert {*PRINTING, *WORKING, *BOTH} == set(commands.commands)
    for name, command in commands.commands.items():
        assert command.callback
        assert ("put_work_first()" in inspect.getsource(command.callback)) is (name not in PRINTING), name


# --------------------------------------------------------------------------- the stream itself


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_writing_holds_nobody_up_and_what_was_dropped_is_told(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = LastingStream(writer)
    stream.hurry()
    started = time.monotonic()
    for number in range(5000):
        stream.write(b"%d " % number * 20)
    stream.finish(0.1)
    assert time.monotonic() - started < 10
    assert os.path.samestat(os.fstat(writer), Path(os.devnull).stat()), "a library that writes there would wait"
    read = b""
    os.set_blocking(reader, False)
    end = time.monotonic() + LIMIT_S
    while b"messages are missing here" not in read:
        assert time.monotonic() < end
        with suppress(BlockingIOError):
            read += os.read(reader, 65536)
    assert read.startswith(b"0 0 ")
    while os.path.samestat(os.fstat(writer), Path(os.devnull).stat()):
        assert time.monotonic() < end
        time.sleep(0.05)
        with suppress(BlockingIOError):
            os.read(reader, 65536)


def test_a_full_disk_that_has_room_again_gets_what_comes_then(tmp_path: Path) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    stream = LastingStream(descriptor)
    assert stream.write(b"lost") == 4
    assert stream.failure is not None
    os.dup2(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), stream._real)
    stream.write(b"kept")
    assert (tmp_path / "log").read_bytes() == b"kept"
    os.close(descriptor)


def test_a_pipe_that_somebody_made_non_blocking_gets_everything(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    stream, read = LastingStream(writer), bytearray()

    def drain() -> None:
        while len(read) < 100_000:
            time.sleep(0.001)
            read.extend(os.read(reader, 65536))

    thread = threading.Thread(target=drain)
    thread.start()
    stream.write(b"x" * 100_000)
    thread.join(60)
    assert (len(read), stream.failure) == (100_000, None)


def test_names_that_no_terminal_can_show_end_nothing(results: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"odd-\xff-\xe4.png")
    shutil.copy(results / "images" / "a.png", odd)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "cxrbatch", "inspect", str(odd)]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == ExitCode.DONE
