"""An image unlike the training images: what a run, its tables, pages and figures, and the Python API say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cxrbatch
from cxrbatch.output.ledger.ledger import LEDGER_FILE
from cxrbatch.records import Label
from cxrbatch.upkeep.repair import repair_output
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import four_greys, read_rows, run_quietly, write_image

# Mean brightness 0.9, 0.1 and 0.7: distances 1.8, 0.2 and 1.4. The label looks at the top left quadrant.
BRIGHT, DARK, FOUND = (60, 255, 255, 255), (60, 10, 10, 10), (200, 170, 170, 170)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("novelty")
    for name, greys in (("bright.png", BRIGHT), ("dark.png", DARK), ("found.png", FOUND)):
        write_image(folder / "in" / name, *greys)
    engine = write_tiny_bundle(folder / "engines", labels=(Label("TopLeft", 0.5),), tells_distance=True)
    run_quietly(folder / "in", folder / "out", engine=str(engine), pixel_check=False)
    return folder


def studies(out: Path) -> dict[str, dict[str, str]]:
    keys = {row["study_key"]: Path(row["path"]).stem for row in read_rows(out / "images.csv")}
    return {keys[row["study_key"]]: row for row in read_rows(out / "studies.csv")}


def test_it_is_flagged_and_no_study_of_it_is_normal(run: Path) -> None:
    images = {Path(row["path"]).stem: row for row in read_rows(run / "out" / "images.csv")}
    assert {name: "out_of_distribution" in row["flags"].split("|") for name, row in images.items()} == {
        "bright": True,
        "dark": False,
        "found": True,
    }
    assert float(images["bright"]["distance"]) == pytest.approx(2 * sum(BRIGHT) / 4 / 255, abs=0.02)
    assert float(images["dark"]["distance"]) == pytest.approx(2 * sum(DARK) / 4 / 255, abs=0.02)
    found = studies(run / "out")
    assert {name: row["priority"] for name, row in found.items()} == {
        "bright": "incomplete",
        "dark": "normal",
        "found": "abnormal",
    }
    assert {name: row["distance"] for name, row in found.items()} == {name: images[name]["distance"] for name in found}


def test_report_worklist_and_figures_say_so(run: Path) -> None:
    out, found = run / "out", studies(run / "out")
    pages = {name: (out / row["report_html"]).read_text() for name, row in found.items()}
    said = "This image is unlike those that the engine learned from: its scores may mean little."
    assert f"{said} So this study is not called normal." in pages["bright"]
    assert said in pages["found"]
    assert "not called normal" not in pages["found"]
    assert "unlike" not in pages["dark"].partition("<body>")[2]
    index = (out / "index.html").read_text()
    assert index.count('data-unlike="1"') == 2
    assert "<span>Unlike training images <b>2</b></span>" in index
    assert json.loads((out / "run.json").read_text())["images_out_of_distribution"] == 2
    assert "\ncxrbatch_images_out_of_distribution 2.0\n" in (out / "metrics.prom").read_text()
    logged = [json.loads(line) for line in (out / "cxrbatch.log").read_text().splitlines()]
    keys = {each["study_key"] for each in logged if each["event"] == "unlike the training images"}
    assert keys == {found["bright"]["study_key"], found["found"]["study_key"]}


def test_a_ledger_made_anew_knows_it_still(run: Path) -> None:
    out = run / "out"
    before = tables(out)
    (out / LEDGER_FILE).unlink()
    repair_output(out)
    assert tables(out) == before


def tables(out: Path) -> list[list[dict[str, str]]]:
    """Return the rows without the time of the report: a ledger made anew takes that of the file, a moment earlier."""
    return [
        [{name: cell for name, cell in row.items() if name != "reported_at"} for row in read_rows(out / name)]
        for name in ("images.csv", "studies.csv")
    ]


def test_an_engine_that_cannot_tell_says_nothing(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "bright.png", *BRIGHT)
    engine = write_tiny_bundle(tmp_path / "engines", labels=(Label("TopLeft", 0.5),))
    out = tmp_path / "out"
    run_quietly(tmp_path / "in", out, engine=str(engine), pixel_check=False)
    (row,) = read_rows(out / "studies.csv")
    assert (row["priority"], row["distance"]) == ("normal", "")
    assert "unlike" not in (out / "index.html").read_text().partition("<tbody")[2].partition("<script")[0]
    assert "Training images" not in (out / "index.html").read_text()
    assert json.loads((out / "run.json").read_text())["images_out_of_distribution"] is None
    assert "out_of_distribution" not in (out / "metrics.prom").read_text()


def test_the_python_api_tells_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")
    with cxrbatch.open_engine(run / "engines" / "tiny") as engine:
        table = engine.score([four_greys(*BRIGHT), four_greys(*DARK), run / "in" / "found.png"])
    assert table["distance"].tolist() == pytest.approx([1.62, 0.18, 1.4], abs=0.05)
    assert table["flags"].str.contains("out_of_distribution").tolist() == [True, False, True]
    assert table["priority"].tolist() == ["incomplete", "normal", "abnormal"]
    results = cxrbatch.read_results(run / "out")
    assert results.studies["distance"].dtype == "float64"
