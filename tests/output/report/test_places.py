"""Where a heatmap peaks, in words: the patient's sides, only where it is known, and only of maps that are shown."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cxrbatch.config import HeatmapChoice
from cxrbatch.errors import Flag
from cxrbatch.intake.lungs import Lungs
from cxrbatch.output.report import place_finder
from cxrbatch.output.report.content import report_content
from cxrbatch.output.report.intent import result_mark
from cxrbatch.output.report.paper import render_paper
from cxrbatch.output.report.pictures import draw_study
from cxrbatch.output.report.place_finder import PlaceFinder
from cxrbatch.output.report.report import render_report
from cxrbatch.output.tables import write_tables
from cxrbatch.records import Heatmap, ImageResult, StudyResult
from cxrbatch.system.record_json import to_json
from tests.factories.output import LABELS, make_engine, make_file_row, make_header, make_pixels, make_study_result

if TYPE_CHECKING:
    from tests.output.conftest import Page

DISPLAY = np.zeros((100, 100), np.uint8)


@pytest.fixture(autouse=True)
def lungs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let lungs lie in the same place of every image."""
    monkeypatch.setattr(place_finder, "find_lungs", lambda _: Lungs(0.5, 0.4, 0.1, 0.7, 1.0))


def image(orientation: str = "", flags: tuple[Flag, ...] = ()) -> ImageResult:
    return ImageResult("a.dcm", make_header(patient_orientation=orientation), flags, (0.9,), "")


@pytest.mark.parametrize(
    ("orientation", "place"),
    [
        ("", "left_upper"),
        ("L\\F", "left_upper"),
        ("l\\f", "left_upper"),
        ("LF\\FR", "left_upper"),
        ("L", "left_upper"),
        ("R\\F", "right_upper"),
        ("L\\H", ""),
        ("A\\F", ""),
        ("F\\L", ""),
        ("left", ""),
        ("?", ""),
    ],
)
def test_sides_are_the_patients_as_the_file_says(orientation: str, place: str) -> None:
    assert PlaceFinder(image(orientation), DISPLAY).place(0.7, 0.2) == place


@pytest.mark.parametrize("flag", list(Flag))
def test_where_the_image_is_in_doubt_nothing_is_said(flag: Flag) -> None:
    in_doubt = flag in {Flag.OTHER_VIEW, Flag.ANATOMY_SUSPECT, Flag.POLARITY_SUSPECT}
    assert PlaceFinder(image(flags=(flag,)), DISPLAY).place(0.3, 0.6) == ("" if in_doubt else "right_lower")


def test_middle_and_outside_have_their_words_and_no_lungs_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = PlaceFinder(image(), DISPLAY)
    assert (finder.place(0.5, 0.5), finder.place(0.3, 0.99)) == ("between_lungs", "outside_lungs")
    monkeypatch.setattr(place_finder, "find_lungs", lambda _: None)
    assert PlaceFinder(image(), DISPLAY).place(0.5, 0.5) == ""


def test_a_drawn_peak_has_its_place() -> None:
    result = draw_study(make_study_result(((0.9, 0.2, 0.1),)), [make_pixels()]).result
    (heatmap,) = result.images[0].heatmaps
    assert heatmap.place == PlaceFinder(result.images[0], DISPLAY).place(heatmap.peak_x / 400, heatmap.peak_y / 512)
    assert heatmap.place


def placed(place: str, **facts: Any) -> StudyResult:
    result = make_study_result(((0.9, 0.2, 0.1),), labels=[replace(LABELS[0], **facts), *LABELS[1:]])
    heatmap = Heatmap("Effusion", "heatmap-1-Effusion.jpg", 200, 100, place=place)
    return replace(result, images=(replace(result.images[0], heatmaps=(heatmap,)),))


def test_the_report_says_where_beside_verdict_and_heatmap(read_page: Callable[[str], Page]) -> None:
    content = report_content(placed("left_lower"))
    assert content.verdict[0].where == "peak: left lower zone"
    assert content.images[0].figures[1].detail == "peak: left lower zone"
    assert content.images[0].figures[1].alt.endswith("column 200, row 100 of the stored image, left lower zone")
    for page in (render_report(placed("left_lower")), render_paper(placed("left_lower"))):
        assert read_page(page).text.count("peak: left lower zone") == 2
    assert "peak" not in report_content(placed("")).images[0].figures[1].detail
    assert report_content(placed("elsewhere")).verdict[0].where == ""


def sentences(result: StudyResult, choice: HeatmapChoice = "validated") -> list[str]:
    return [caution.sentence for caution in report_content(result, choice).cautions]


def test_a_peak_outside_of_the_lungs_is_a_caution_of_what_is_called_and_shown() -> None:
    outside = placed("outside_lungs")
    (said,) = sentences(outside)
    assert said.startswith("The heatmap of Effusion has its peak outside of the lungs")
    assert sentences(placed("outside_lungs", operating_point=0.95)) == []
    hidden = placed("outside_lungs", maps=None)
    assert sentences(hidden) == []
    assert report_content(hidden).verdict[0].where == ""
    assert sentences(hidden, "all") == [said]
    faint = replace(outside.images[0], heatmaps=(replace(outside.images[0].heatmaps[0], faint=True),))
    assert sentences(replace(outside, images=(faint,))) == []


def test_tables_have_the_places_of_validated_maps(tmp_path: Path) -> None:
    engine = make_engine([LABELS[0], replace(LABELS[1], maps=None), LABELS[2]])
    row = make_file_row(places=(("Effusion", "left_lower"), ("Nodule", "outside_lungs"), ("Pneumothorax", "right_mid")))
    others = [replace(row, path="b.dcm", places=()), replace(row, path="c.dcm", engine_sha256="ab")]
    write_tables(tmp_path, [row, *others], [], engine)
    with (tmp_path / "images.csv").open() as stream:
        cells = [line["places"] for line in csv.DictReader(stream)]
    assert cells == ["Effusion=left_lower|Pneumothorax=right_mid", "", ""]


def test_reports_of_earlier_versions_keep_their_marks() -> None:
    """What the mark is made of must not change for a result without places, orientation and priors."""
    result = placed("")
    assert '"place"' in to_json(result)
    assert result_mark(result) == "fc13a0555f46a738dc5be3604de9c04f 2024-02-01T03:04:05+00:00"
    assert result_mark(placed("left_lower")) != result_mark(result)
