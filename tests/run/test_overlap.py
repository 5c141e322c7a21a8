"""Headers are read one by one where that is quick, and on threads where files answer late: the same comes out."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrbatch.config import Settings
from cxrbatch.errors import Reason
from cxrbatch.records import ImageFile, IndexedFile
from cxrbatch.run import headers, overlap
from cxrbatch.run.headers import read_headers
from cxrbatch.run.overlap import each_overlapping
from cxrbatch.system.workers import WorkerPool
from tests.factories.slow_headers import DEADLY, index_late


@pytest.fixture(autouse=True)
def nothing_is_known_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "_waits", False)


def thread_of(seconds: float) -> str:
    time.sleep(seconds)
    return threading.current_thread().name


def answer_late(number: int) -> int:
    time.sleep(0.02)
    return number


def test_where_most_files_answer_late_the_rest_is_done_on_threads_in_order_and_so_is_what_comes_next() -> None:
    here = threading.current_thread().name
    assert each_overlapping(thread_of, [0.0] * 7 + [0.004] + [0.0] * 24, 4) == [here] * 32, "one says nothing"
    late = each_overlapping(thread_of, [0.004] * 32, 4)
    assert late[:8] == [here] * 8
    assert set(late[8:]) <= {f"overlapping_{number}" for number in range(4)}
    started = time.monotonic()
    assert each_overlapping(answer_late, range(64), 16) == list(range(64))
    assert time.monotonic() - started < 64 * 0.02 / 2, "they waited beside each other"
    assert each_overlapping(thread_of, [0.004], 4) == [here]
    assert each_overlapping(thread_of, [0.004] * 9, 1) == [here] * 9, "as it is asked for"


def test_what_computes_for_long_waits_for_nothing() -> None:
    def compute(_: int) -> str:
        end = time.thread_time() + 0.004
        while time.thread_time() < end:
            pass
        return threading.current_thread().name

    assert set(each_overlapping(compute, range(12), 4)) == {threading.current_thread().name}


def test_a_lack_of_memory_in_one_thread_is_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "_waits", True)

    def fail(number: int) -> int:
        if number == 20:
            raise MemoryError
        return number

    with pytest.raises(MemoryError):
        each_overlapping(fail, range(64), 4)


@pytest.fixture
def workers() -> Iterator[WorkerPool]:
    with WorkerPool(1, memory_mb=512) as pool:
        yield pool


def test_a_header_on_a_slow_share_that_ends_its_worker_costs_that_file_alone(
    workers: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "index_files", index_late)
    names = [f"{number:02}" for number in range(80)]
    names[40] = DEADLY
    files = iter([ImageFile(name, 1, 1) for name in names])
    settings = Settings(walk_threads=16, workers=1)
    first, second = read_headers(tmp_path, files, workers, settings)
    assert [entry.file.path for entry in (*first, *second)] == names
    found = [entry for entry in (*first, *second) if isinstance(entry, IndexedFile)]
    refused = {entry.file.path: entry.rejection.reason for entry in found if entry.rejection is not None}
    assert refused == {DEADLY: Reason.DECODER_CRASHED}
    assert {entry.study_key for entry in first if isinstance(entry, IndexedFile)} == {"", "MainThread"}, "one by one"
    threads = [entry.study_key for entry in second[8:] if isinstance(entry, IndexedFile)]
    assert len(threads) == 8
    assert all(name.startswith("overlapping_") for name in threads)


def addresses_mb() -> float:
    pages = Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * resource.getpagesize() / 2**20


def addresses_taken_by_threads(_: int) -> float:
    before = addresses_mb()
    each_overlapping(late_allocation, [1] * 64, 16)
    return addresses_mb() - before


def late_allocation(number: int) -> int:
    time.sleep(0.004)
    return len(bytearray(number << 18))


def test_threads_leave_a_worker_the_addresses_that_its_files_may_take(workers: WorkerPool) -> None:
    (outcome,) = workers.run_ahead(addresses_taken_by_threads, [0], timeout_s=30)
    assert outcome.value() < 200, "each thread for itself would have taken 64 MB"
