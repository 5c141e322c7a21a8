"""What every test begins with."""

from __future__ import annotations

import os
import random
import sys

import numpy as np
import pytest
from hypothesis import settings

from tests.factories import standing_workers

# Several processes with as many threads as cores wait for each other, spinning, many times longer than they compute.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the report of a hostile case say its subject: `make hostile` counts by it, whichever process ran the case."""
    for item in items:
        if marker := item.get_closest_marker("hostile"):
            item.user_properties.append(("hostile", marker.args[0]))
