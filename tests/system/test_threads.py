"""numpy starts no threads where nothing is computed with it, and as many as ever where a network is trained."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# The command's own function is not needed: the group that it belongs to decides, before anything is loaded.
CODE = """
import os, sys
from cxrbatch.cli import run_command_line
run_command_line([sys.argv[1], "--help"])
import numpy
print(os.environ.get("OPENBLAS_NUM_THREADS"), len(os.listdir("/proc/self/task")))
"""


def threads_after(command: str, **environment: str) -> list[str]:
    """Return what the variable says after a command, and how many threads the process has once numpy is loaded."""
    inherited = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    child = [sys.executable, "-c", CODE, command]
    done = subprocess.run(child, check=True, capture_output=True, text=True, env=inherited | environment)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_a_run_starts_no_threads_of_numpy() -> None:
    assert threads_after("run") == ["1", "1"]


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_training_and_what_somebody_set_are_left_alone() -> None:
    assert threads_after("train")[0] == "None"
    assert threads_after("watch", OPENBLAS_NUM_THREADS="2")[0] == "2"
