"""What tests let worker processes do. A worker loads the module of its task: this one takes it no time."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cxrbatch.system.worker_process import Frame, FrameKind


class Unpicklable(Exception):
    """Survives no pipe."""

    def __init__(self) -> None:
        super().__init__("no")
        self.owner = lambda: None


class Unraisable(Exception):
    """Can be sent, and not be made again: its class wants more than it keeps."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def own_pipe() -> int:
    """Return the descriptor of this worker's pipe."""
    (found,) = [int(link.name) for link in Path("/proc/self/fd").iterdir() if is_socket(link)]
    return found


def is_socket(link: Path) -> bool:
    try:
        return str(link.readlink()).startswith("socket:")
    except OSError:
        return False


def misbehave(how: str) -> Any:  # noqa: C901, PLR0912  # one table of faults
    """Stand in for a decoder, in a real process."""
    if how == "exits":
        os._exit(0)
    if how == "asks to exit":
        sys.exit(0)
    if how == "interrupts":
        raise KeyboardInterrupt
    if how == "closes everything":
        os.closerange(0, 256)
        time.sleep(600)
    if how == "closes everything and returns":
        os.closerange(0, 256)
    if how == "takes the pipe's number":
        pipe = own_pipe()
        os.close(pipe)
        os.dup2(os.open(os.devnull, os.O_WRONLY), pipe)
    if how == "writes nonsense":
        os.write(own_pipe(), b"warning: bad Huffman code\n" * 20)
        time.sleep(600)
    if how == "answers for another":
        os.write(own_pipe(), Frame(FrameKind.VALUE, 1, b"N.").to_bytes())
        time.sleep(600)
    if how == "answers no pickle":
        os.write(own_pipe(), Frame(FrameKind.VALUE, 10**6, b"no pickle").to_bytes())
        time.sleep(600)
    if how == "stops half-way":
        os.write(own_pipe(), Frame(FrameKind.VALUE, 1, bytes(1000)).to_bytes()[:500])
        os._exit(3)
    if how == "copies itself":
        os.fork()
    if how == "leaves a copy":
        if not os.fork():
            time.sleep(2)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "cannot be sent":
        return lambda: None
    if how == "raises what cannot be sent":
        raise Unpicklable
    if how == "raises what cannot be made":
        raise Unraisable("a", "b")
    return how


def sleep_and_return(task: tuple[int, float]) -> int:
    number, seconds = task
    time.sleep(seconds)
    return number


def count_bytes(content: bytes) -> int:
    return len(content)


def make_bytes(number: int) -> bytes:
    return bytes(number)


def kill_own_worker(really: bool) -> bool:
    if really:
        os.kill(os.getpid(), signal.SIGKILL)
    return really


def die() -> None:
    os._exit(17)


def die_now_and_then(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    if len(list(folder.iterdir())) <= 3:
        os.kill(os.getpid(), signal.SIGKILL)


def open_files(_: int) -> tuple[int, dict[str, str]]:
    links = {link.name: str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists()}
    time.sleep(0.3)
    return os.getpid(), links


def tell_pid(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def act(what: str | int) -> int:
    """Stand in for a decoder, in a real process: does what its argument says."""
    if what == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang up":
        os.kill(os.getpid(), signal.SIGHUP)
        return 7
    if what == "hang":
        time.sleep(600)
    if what == "allocate":
        return len(bytearray(4 * 2**30))
    if what == "raise":
        raise ValueError("no such window")
    time.sleep(0.2 if what == 0 else 0)
    return int(what)


def how_garbage_is_collected(_: object) -> tuple[bool, int]:
    return gc.isenabled(), gc.get_threshold()[0]


def compute(seconds: float) -> float:
    """Burn so many seconds of a core."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds


def stop_while_computing(seconds: float) -> float:
    """Burn so many seconds of a core, and stop in the middle; return how long all of that took."""
    return _stop_between(lambda: compute(seconds / 2))


def stop_while_sleeping(seconds: float) -> float:
    """Do nothing for so long, and stop in the middle; return how long all of that took."""
    return _stop_between(lambda: time.sleep(seconds / 2))


def _stop_between(spend: Callable[[], object]) -> float:
    began = time.monotonic()
    spend()
    os.kill(os.getpid(), signal.SIGSTOP)
    spend()
    return time.monotonic() - began


def read_all(path: Path) -> bytes:
    return path.read_bytes()


def compute_on_two_threads(seconds: float) -> float:
    threads = [threading.Thread(target=compute, args=(seconds,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds


def decode_like_bad_native_code(what: str) -> str:
    """Stand in for a decoder: read from address 0, spin, wait for ever, ask for too much memory, or return."""
    if what == "segfault":
        ctypes.string_at(0)
    if what == "spin":
        while time.monotonic():
            pass
    if what == "wait":
        time.sleep(600)
    if what == "memory":
        bytearray(8 * 2**30)
    return what


def faults_of_a_large_block(size: int) -> int:
    """Return how many pages the kernel had to bring for a block of so many bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
