"""INT8 by default: what a new output folder is scored with, and what one goes on with that was scored in FP32."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from cxrbatch.config import Settings
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.ledger.ledger import ENGINE
from cxrbatch.run.forecast import foresee_run
from cxrbatch.system.progress import RunProgress
from tests.factories.engine import add_tiny_int8, write_tiny_bundle
from tests.factories.studies import read_rows, run_quietly, write_image


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "engines")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_image(tmp_path / "in" / "a.png", 250, 60, 120, 20)
    return tmp_path / "in"


def precisions(out: Path) -> dict[str, str]:
    return {row["path"]: row["precision"] for row in read_rows(out / "images.csv")}


def test_a_new_output_folder_is_scored_in_int8_and_its_report_says_why(
    engine: Path, images: Path, tmp_path: Path
) -> None:
    add_tiny_int8(engine)
    out = tmp_path / "out"
    report = run_quietly(images, out, engine=str(engine))
    assert report.engine.precision == "int8"
    assert precisions(out) == {"a.png": "int8"}
    (page,) = out.glob("reports/*/report.html")
    told = page.read_text()
    assert "onnxruntime, int8" in told
    assert "passed: mean AUROC 0.9460 beside 0.9470 in FP32, 7 of 960 verdicts differ (240 phantoms)" in told


def test_what_was_scored_in_fp32_is_not_scored_again_until_int8_is_asked_for(
    engine: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_quietly(images, out, engine=str(engine), html=False)
    add_tiny_int8(engine)
    write_image(images / "b.png", 20, 60, 120, 250)
    with RunProgress(Console(quiet=True)) as progress:
        settings = Settings(workers=1, pixel_check=False, engine=str(engine))
        forecast = foresee_run(images, out, settings, progress)
    assert (forecast.studies, forecast.engine.precision) == (1, "fp32")
    assert run_quietly(images, out, engine=str(engine), html=False).studies_this_run == 1
    assert precisions(out) == {"a.png": "fp32", "b.png": "fp32"}
    asked = run_quietly(images, out, engine=str(engine), html=False, precision="int8")
    assert asked.studies_this_run == 2
    # From then on it is what the folder was scored with, whether or not it is asked for again.
    assert run_quietly(images, out, engine=str(engine), html=False).studies_this_run == 0
    assert precisions(out) == {"a.png": "int8", "b.png": "int8"}


def test_the_ledger_knows_which_engine_scored(tmp_path: Path) -> None:
    with open_output(tmp_path / "out") as ledger:
        assert ledger.engine_sha256 == ""
        ledger.remember(ENGINE, '{"name": "x", "sha256": "abc"}')
        assert ledger.engine_sha256 == "abc"
        ledger.remember(ENGINE, "not JSON")
        assert ledger.engine_sha256 == ""
