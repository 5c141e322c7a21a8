"""How many images a second an opened engine scores on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from cxrbatch.config import available_cores
from cxrbatch.engine.contract import Engine
from cxrbatch.engine.torch_engine import BACKEND as TORCH
from cxrbatch.records import Gray8

REPEATS = 5
REPEAT_S = 0.4


@dataclass(frozen=True, slots=True)
class Throughput:
    """Images a second, reading and preparing them left out, in batches of `batch_size` on `threads` cores."""

    images_per_s: float
    backend: str
    precision: str
    batch_size: int
    threads: int


def measure_throughput(engine: Engine, *, batch_size: int, threads: int = 0) -> Throughput:
    """Time the engine on noise; the work does not depend on what is on the images.

    The fastest of REPEATS stretches counts: whatever else the machine does can only make one slower. Each lasts
    at least REPEAT_S seconds and one batch.

    Args:
        engine: what to time; one that was opened with the same `threads`.
        batch_size: images at once.
        threads: cores; 0 takes all that this process has.
    """
    threads = threads or available_cores()
    size = engine.description.input.size_px
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, 1, size, size), dtype=np.uint8)
    with _torch_threads(threads if engine.description.backend == TORCH else 0):
        engine.infer(pixels)  # the first batch also allocates
        seconds = min(_seconds_per_batch(engine, pixels) for _ in range(REPEATS))
    return Throughput(
        images_per_s=batch_size / seconds,
        backend=engine.description.backend,
        precision=engine.description.precision,
        batch_size=batch_size,
        threads=threads,
    )


def busy_cores() -> float:
    """Return how many cores the machine kept busy over the last minute, or wanted to: its load average."""
    return os.getloadavg()[0]


def _seconds_per_batch(engine: Engine, pixels: Gray8) -> float:
    started, batches = time.perf_counter(), 0
    while batches == 0 or time.perf_counter() - started < REPEAT_S:
        engine.infer(pixels)
        batches += 1
    return (time.perf_counter() - started) / batches


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Let PyTorch, whose threads belong to the process and not to an engine, use so many; 0 leaves it as it is."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        yield
    finally:
        torch.set_num_threads(before)
