"""How far the members of an ensemble disagree: in tables, results and reports, and about which verdicts."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import cxrbatch
from cxrbatch.config import Settings
from cxrbatch.output.report.content import report_content
from cxrbatch.output.tables import write_tables
from cxrbatch.records import EngineDescription, Label, StudyResult, call_is_contested
from cxrbatch.run.api import read_results
from cxrbatch.system.progress import RunProgress
from cxrbatch.system.record_json import from_json, to_json
from cxrbatch.upkeep.reprint import reprint_reports
from tests.factories.engine import tiny_probabilities, write_tiny_bundle
from tests.factories.output import make_engine, make_file_row, make_study_result, make_study_row
from tests.factories.studies import four_greys, read_rows, run_quietly, write_image

LABELS = (Label("Effusion", 0.5), Label("Nodule", 0.5), Label("Hernia", None))
ROWS = ((0.9, 0.2, 0.3), (0.6, 0.4, 0.1))
SPREADS = ((0.05, 0.01, 0.3), (0.3, 0.15, 0.0))


def make_result(engine: EngineDescription | None = None) -> StudyResult:
    """Two images; the first decides Effusion and Hernia, the second Nodule, which its members contest."""
    result = make_study_result(ROWS, labels=LABELS)
    images = tuple(replace(image, disagreement=spread) for image, spread in zip(result.images, SPREADS, strict=True))
    return replace(result, images=images, engine=engine or make_ensemble())


def make_ensemble() -> EngineDescription:
    return replace(make_engine(LABELS), extra_outputs=("disagreement",))


def test_a_studys_disagreement_is_that_of_the_image_with_its_probability() -> None:
    result = make_result()
    assert result.disagreement == (0.05, 0.15, 0.3)
    # The first image's Effusion is far from 0.5; that the second's is not decides nothing. Nobody judges Hernia.
    assert result.contested == (False, True, False)


def test_what_was_stored_before_there_were_ensembles_has_none() -> None:
    stored = to_json(make_study_result(ROWS, labels=LABELS)).replace(',"disagreement":[]', "")
    assert "disagreement" not in stored
    result = from_json(stored, StudyResult)
    assert (result.disagreement, result.contested) == ((), (False, False, False))
    assert report_content(result).spread == ""


@pytest.mark.parametrize(
    ("probabilities", "spread", "contested"),
    [
        ((0.5, 0.3, 0.2), (0.12, 0.1, 0.0), (True, True, False)),
        ((0.5, 0.3, 0.2), (0.12, 0.05, 0.4), (False, False, False)),
        ((0.2, 0.3, 0.5), (0.9, 0.1, 0.11), (False, True, False)),
    ],
)
def test_of_exclusive_classes_the_two_likeliest_are_contested(
    probabilities: tuple[float, ...], spread: tuple[float, ...], contested: tuple[bool, ...]
) -> None:
    assert call_is_contested(LABELS, "argmax", probabilities, spread) == contested


def test_at_the_very_distance_nobody_disagrees() -> None:
    label = (Label("Mass", 0.5),)
    assert call_is_contested(label, "threshold", (0.75,), (0.25,)) == (False,)
    assert call_is_contested(label, "threshold", (0.25,), (0.2501,)) == (True,)
    assert call_is_contested(label, "threshold", (0.5,), ()) == (False,)


def test_only_an_ensembles_tables_have_the_columns_and_only_its_rows_fill_them(tmp_path: Path) -> None:
    result = make_result()
    other = make_result(replace(make_ensemble(), sha256="0" * 64))
    before = replace(make_study_result(ROWS, labels=LABELS), engine=make_ensemble())
    scored = replace(make_file_row(), engine_sha256=result.engine.sha256, probabilities=ROWS[0])
    files = [replace(scored, disagreement=SPREADS[0]), replace(scored, path="night/2.dcm")]
    write_tables(tmp_path, files, [make_study_row(each) for each in (result, other, before)], result.engine)
    columns = [f"disagreement_{label.name}" for label in LABELS]
    studies, images = read_rows(tmp_path / "studies.csv"), read_rows(tmp_path / "images.csv")
    assert [[row[column] for column in columns] for row in studies] == [
        ["0.050000", "0.150000", "0.300000"], ["", "", ""], ["", "", ""],
    ]  # fmt: skip
    assert [[row[column] for column in columns] for row in images] == [["0.050000", "0.010000", "0.300000"], [""] * 3]
    assert images[0]["scored_at"] == files[0].scored_at
    assert [row["report_html"] for row in studies] == [make_study_row(result).report_html] * 3
    write_tables(tmp_path, files, [make_study_row(result)], make_engine(LABELS))
    with (tmp_path / "studies.csv").open() as stream:
        assert not [name for name in next(csv.reader(stream)) if name.startswith("disagreement")]


def test_a_report_says_how_far_they_disagree_and_about_which_verdict() -> None:
    content = report_content(make_result())
    lines = {line.name: line for line in content.findings}
    assert (lines["Effusion"].spread, lines["Nodule"].spread) == ("± 0.05", "± 0.15")
    assert [line.name for line in content.findings if line.contested] == ["Nodule"]
    assert "The members of this engine disagree about Nodule." in [caution.sentence for caution in content.cautions]
    assert "standard deviation" in content.spread
    assert content.spread.endswith("what is known is known of its members.")
    plain = report_content(make_study_result(ROWS, labels=LABELS))
    assert {line.spread for line in plain.findings} == {""}
    assert plain.cautions == ()


def test_a_run_keeps_it_in_results_tables_reports_and_ledger(tmp_path: Path) -> None:
    engine = write_tiny_bundle(tmp_path, ensemble=True)
    write_image(tmp_path / "in" / "1.png", 140, 60, 100, 220)
    out = tmp_path / "out"
    run_quietly(tmp_path / "in", out, engine=str(engine))
    expected = tiny_probabilities(four_greys(140, 60, 100, 220, size_px=32)[None, None])[0] / 4
    for frame in (read_results(out).images, read_results(out).studies):
        assert frame["disagreement_TopLeft"].dtype == "float64"
        row = frame.iloc[0]
        found = [row[f"disagreement_{name}"] for name in ("TopLeft", "TopRight", "BottomLeft", "BottomRight")]
        assert found == pytest.approx(expected.tolist(), abs=1e-5)
    (stored,) = out.glob("reports/*/result.json")
    assert from_json(stored.read_text(), StudyResult).disagreement == pytest.approx(expected.tolist(), abs=1e-5)
    (page,) = out.glob("reports/*/report.html")
    assert f"± {expected[0]:.2f}" in page.read_text()
    assert "members disagree" in page.read_text()
    page.unlink()
    with RunProgress(Console(quiet=True)) as progress:
        reprint_reports(out, Settings(workers=1, pdf=False), progress)
    assert "members disagree" in page.read_text()
    with cxrbatch.open_engine(engine) as opened:
        scores = opened.score(four_greys(140, 60, 100, 220))
    assert scores["disagreement_TopLeft"].tolist() == pytest.approx([expected[0]], abs=1e-5)
