"""What builds and evaluates engines asks for no more than it computes with."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "cxrbatch.model.network.import_weights",
    "cxrbatch.model.build.build",
    "cxrbatch.model.build.measure",
    "cxrbatch.model.build.adjust",
    "cxrbatch.model.evaluate.evaluate",
    "cxrbatch.model.compare.compare",
    "cxrbatch.model.describe.describe",
)
# One process for all: each alone would load torch again.
SCRIPT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(name, *sorted({"lightning", "torchmetrics", "tensorboardX"} & set(sys.modules)))
"""


def test_only_training_imports_lightning() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *MODULES], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == list(MODULES)
