"""A report shows the heatmaps that were found to point at their finding; the others on request, and says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cxrbatch.config import HeatmapChoice
from cxrbatch.output.report.manner import Manner
from cxrbatch.output.report.report import print_study, render_report, reprint_study
from cxrbatch.records import Label, MapCheck, StudyResult
from cxrbatch.system.record_json import from_json, to_json
from tests.factories.output import LABELS, STUDY_KEY, make_pixels, make_study_result
from tests.factories.validated import VALIDATED

if TYPE_CHECKING:
    from tests.output.conftest import Page

ReadPage = Callable[[str], "Page"]
CHOICES: tuple[HeatmapChoice, ...] = ("validated", "all")

WEAK = MapCheck(57, 40, 0.12, 0.1, reason="their peaks lie in what is marked on 12% of the images, no more than chance")
MIXED = (replace(LABELS[0], maps=VALIDATED), replace(LABELS[1], maps=WEAK), replace(LABELS[2], maps=None))
UNCHECKED = tuple(replace(label, maps=None) for label in LABELS)


def drawn(labels: Sequence[Label], out: Path, *rows: Sequence[float]) -> StudyResult:
    result = make_study_result(rows or ((0.9, 0.9, 0.9),), labels=labels)
    return print_study(result, [make_pixels() for _ in result.images], out, html=False, pdf=False).result


def heatmaps_on(page: Page) -> list[str]:
    return [source.split("-")[2] for source in page.attributes("img", "src") if source.startswith("heatmap-")]


def test_only_validated_labels_have_heatmaps_and_the_others_are_named(tmp_path: Path, read_page: ReadPage) -> None:
    page = read_page(render_report(drawn(MIXED, tmp_path)))
    assert heatmaps_on(page) == ["Effusion"]
    assert "Heatmaps of Nodule are not validated and left out: their peaks lie in what is marked on 12%" in page.text
    assert "Heatmaps of Pneumothorax are not validated and left out: nobody has checked, on images" in page.text
    assert "Printing the report again with “--heatmaps all” shows them." in page.text
    assert "A heatmap shows where a score came from" in page.text


def test_on_request_all_are_shown_and_those_not_validated_say_so(tmp_path: Path, read_page: ReadPage) -> None:
    page = read_page(render_report(drawn(MIXED, tmp_path), heatmaps="all"))
    assert heatmaps_on(page) == ["Pneumothorax", "Effusion", "Nodule"]
    assert "Pneumothorax 0.90 not validated" in page.text
    assert "Nodule 0.90 not validated" in page.text
    assert "Effusion 0.90 not validated" not in page.text
    assert "Heatmaps of Nodule are not validated: their peaks" in page.text
    assert "left out" not in page.text
    assert "--heatmaps" not in page.text


def test_a_report_without_any_heatmap_has_no_legend_and_no_room_for_one(tmp_path: Path, read_page: ReadPage) -> None:
    page = read_page(render_report(drawn(UNCHECKED, tmp_path, (0.9, 0.2, 0.9))))
    assert heatmaps_on(page) == []
    assert len(page.with_class("alone")) == 1
    assert not page.with_class("legend")
    assert not page.with_class("side-by-side")
    assert "Heatmaps of Effusion and Pneumothorax are not validated and left out" in page.text
    assert page.attributes("section", "aria-label") == ["Radiographs"]


def test_several_radiographs_without_heatmaps_lie_side_by_side(tmp_path: Path, read_page: ReadPage) -> None:
    page = read_page(render_report(drawn(UNCHECKED, tmp_path, (0.9, 0.2, 0.1), (0.1, 0.2, 0.9))))
    assert (len(page.with_class("side-by-side")), len(page.with_class("alone"))) == (1, 2)


def test_where_all_are_validated_nothing_is_said(tmp_path: Path, read_page: ReadPage) -> None:
    result = drawn(LABELS, tmp_path)
    pages = [read_page(render_report(result, heatmaps=choice)) for choice in CHOICES]
    assert pages[0] == pages[1]
    assert "validated" not in pages[0].text
    assert not pages[0].with_class("map-note")


def test_a_study_is_printed_again_with_another_choice_and_without_any_engine(
    tmp_path: Path, read_page: ReadPage
) -> None:
    printed = print_study(make_study_result(labels=UNCHECKED), [make_pixels()], tmp_path, html=True, pdf=True)
    report, pdf = tmp_path / printed.report_html, tmp_path / printed.report_pdf
    record = (tmp_path / "reports" / STUDY_KEY / "result.json").read_bytes()
    assert heatmaps_on(read_page(report.read_text())) == []
    small = len(pdf.read_bytes())
    reprint_study(printed.result, tmp_path, html=True, pdf=True, manner=Manner("all"))
    assert heatmaps_on(read_page(report.read_text())) == ["Effusion"]
    assert len(pdf.read_bytes()) > small + 5000, "the picture is in it"
    reprint_study(printed.result, tmp_path, html=True, pdf=True)
    assert heatmaps_on(read_page(report.read_text())) == []
    assert (tmp_path / "reports" / STUDY_KEY / "result.json").read_bytes() == record


def test_many_left_out_are_counted(tmp_path: Path, read_page: ReadPage) -> None:
    labels = [Label(f"Finding_{number}") for number in range(9)]
    result = make_study_result(((0.9,) * 9,), labels=labels)
    printed = print_study(result, [make_pixels(9)], tmp_path, html=False, pdf=False).result
    text = read_page(render_report(printed)).text
    assert "Heatmaps of Finding 0, Finding 1, Finding 2 and 6 other findings are not validated" in text


@pytest.mark.parametrize("reason", ["<script>alert(1)</script>", "x" * 10_000])
def test_a_foreign_reason_is_inert_and_short(reason: str, tmp_path: Path, read_page: ReadPage) -> None:
    labels = (replace(LABELS[0], maps=replace(WEAK, reason=reason)), *LABELS[1:])
    html = render_report(drawn(labels, tmp_path))
    assert html.count("<script>") == 1  # the page's own
    assert len(read_page(html).with_class("map-note")) == 1
    assert "x" * 400 not in html


def test_results_of_earlier_versions_are_of_labels_that_nobody_checked(tmp_path: Path) -> None:
    result = drawn(UNCHECKED, tmp_path)
    text = to_json(result).replace(',"maps":null', "")
    assert '"maps"' not in text
    assert from_json(text, StudyResult) == result
