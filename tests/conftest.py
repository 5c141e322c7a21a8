"""What every test begins with."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from tests.factories import standing_workers

# Several processes with as many threads as cores wait for each other, spinning, many times longer than they compute.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

# Servers that tests start are on this machine: its proxy, if it has one, cannot reach them.
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost")))

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


LONGEST_FIRST = (
    "demo/test_demo_engine.py",
    "run/test_soak.py",
    "model/train/test_train_model.py",
    "run/test_killed.py",
    "run/test_report_and_ledger.py",
    "system/test_pauses.py",
    "system/test_standard_streams.py",
    "test_every_file_runs.py",
    "watch/test_daemon.py",
    "model/network/test_cells.py",
    "model/network/test_architectures.py",
    "system/test_killed_workers.py",
    "system/test_workers.py",
    "model/network/test_import_weights.py",
    "model/build/test_build.py",
    "run/test_deidentified.py",
    "output/ledger/test_attempts.py",
    "model/build/test_adjust.py",
    "model/network/test_export.py",
    "run/test_moved.py",
    "phantom/test_draw.py",
    "run/test_batch.py",
    "watch/test_watch_once.py",
    "intake/test_anatomy.py",
    "model/build/test_imports.py",
    "model/build/test_tensorrt_build.py",
)


def _place(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).as_posix()


@pytest.fixture(autouse=True)
def draws_that_repeat() -> None:
    """A test that draws at random draws the same, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the generator that scikit-learn draws from
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def workers_that_stand() -> None:
    """Runs of this process take over the worker processes of earlier ones: most tests end before a new one is ready."""
    standing_workers.install()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from looking again and again through what lasts until the end: tests and modules.

    In the process of the whole suite it takes 0.65 s to go through them once, and it did so every few seconds.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter end as it would have: libraries complain of what nobody let go."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, and let the report of a hostile case say its subject.

    A file that takes minutes and comes last keeps one process busy while the others have nothing left to do. `make
    hostile` counts by subject, whichever process ran the case.
    """
    items.sort(key=lambda item: LONGEST_FIRST.index(place) if (place := _place(item)) in LONGEST_FIRST else len(items))
    for item in items:
        if marker := item.get_closest_marker("hostile"):
            item.user_properties.append(("hostile", marker.args[0]))
