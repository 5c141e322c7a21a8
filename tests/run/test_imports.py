"""A run loads what it computes with, where it does: a run with nothing to do loads, and starts, next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import run_quietly, write_image

# What decodes, draws, prints and scores; and what a table, or a trainer, takes along.
HEAVY = (
    *("pydicom", "imagecodecs", "simplejpeg", "PIL", "cv2"),
    *("onnxruntime", "onnx", "torch"),
    *("weasyprint", "fontTools", "pandas", "scipy", "matplotlib", "requests"),
)
CHILD = f"""
import sys
started = []
sys.addaudithook(lambda event, arguments: started.append(str(arguments[0])) if event == "subprocess.Popen" else None)
{{code}}
print(sorted(set({HEAVY!r}) & set(sys.modules)), started)
"""


def heavy_modules_after(code: str, *arguments: str | Path) -> str:
    """Run code in a process of its own; return which heavy modules it loaded, and which processes it started."""
    command = [sys.executable, "-c", CHILD.format(code=code), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]


def test_the_data_flow_itself_loads_nothing_heavy() -> None:
    assert heavy_modules_after("import cxrbatch.run.batch, cxrbatch.watch.daemon, cxrbatch.upkeep.reprint") == "[] []"


def test_a_run_with_nothing_to_do_loads_nothing_heavy_and_starts_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")  # as run_quietly has it: other rules, and all is read again
    images, out = tmp_path / "images", tmp_path / "out"
    write_image(images / "one.png", 20, 60, 120, 240)
    (images / "notes.txt").write_text("no image")
    engine = str(write_tiny_bundle(tmp_path / "engines"))
    assert run_quietly(images, out, engine=engine).files == {"scored": 1, "rejected": 1}
    again = 'from cxrbatch.cli import run_command_line; assert run_command_line(["run", *sys.argv[1:]]) == 0'
    options = (images, "-o", out, "-e", engine, "--no-pdf")
    assert heavy_modules_after(again, *options) == "[] []"


def test_a_worker_hides_the_web_client_from_nobody_but_pydicom() -> None:
    code = """
from cxrbatch.run.warm_up import warm_up
warm_up(pdf=False)
assert {"pydicom", "cv2", "imagecodecs", "cxrbatch.output.report.report"} <= set(sys.modules)
assert not {"requests", "tqdm", "weasyprint"} & set(sys.modules)
import requests
"""
    subprocess.run([sys.executable, "-c", f"import sys{code}"], check=True)
