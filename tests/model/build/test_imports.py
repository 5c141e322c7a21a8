"""What builds and evaluates engines asks for no more than it computes with."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*({"lightning", "torchmetrics", "tensorboardX"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "module",
    [
        "cxrbatch.model.build.build",
        "cxrbatch.model.evaluate.evaluate",
        "cxrbatch.model.compare.compare",
        "cxrbatch.model.describe.describe",
        "cxrbatch.model.network.import_weights",
    ],
)
def test_only_training_imports_lightning(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, module], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
