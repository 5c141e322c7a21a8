"""The report's table of earlier studies: dates, scores, change, and a link that leads there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from cxrbatch.output.report.paper import render_paper
from cxrbatch.output.report.report import render_report
from cxrbatch.records import PriorStudy
from tests.factories.output import make_study_result

if TYPE_CHECKING:
    from tests.output.conftest import Page

RESULT = make_study_result(((0.9, 0.2, 0.1),))
PRIOR = PriorStudy(
    study_key="fedcba9876543210",
    study_date="20230405",
    priority="urgent",
    engine="demo",
    engine_sha256=RESULT.engine.sha256,
    probabilities=(0.4, 0.1, 0.62),
    findings=("Pneumothorax",),
    report="report.html",
)
MINUS = "\N{MINUS SIGN}"


def texts(read_page: Callable[[str], Page], *priors: PriorStudy) -> tuple[Page, str]:
    paper = read_page(render_paper(RESULT, priors=priors)).text
    return read_page(render_report(RESULT, priors=priors)), paper


def test_what_either_study_calls_is_compared(read_page: Callable[[str], Page]) -> None:
    page, paper = texts(read_page, PRIOR)
    for text in (page.text, paper):
        assert (
            "Earlier studies of this patient Study Called Pneumothorax Effusion This study Abnormal 0.10 0.90" in text
        )
        assert f"2023-04-05 {PRIOR.study_key} Urgent 0.62 change {MINUS}0.52 0.40 change +0.50" in text
        assert "Change: the probability of this study less that of the other one" in text
    assert f"../{PRIOR.study_key}/report.html" in page.attributes("a", "href")


def test_nothing_is_said_of_change_where_the_order_or_the_engine_is_not_the_same(
    read_page: Callable[[str], Page],
) -> None:
    same_day = replace(PRIOR, study_date="20240131", report="report.pdf")
    other = replace(PRIOR, study_key="1" * 16, engine_sha256="ab", engine="<b>older", probabilities=(0.5,), report="")
    page, paper = texts(read_page, same_day, other)
    for text in (page.text, paper):
        assert f"2024-01-31, the same day {same_day.study_key} Urgent 0.62 0.40" in text
        assert "scored by another engine (<b>older): it called Pneumothorax" in text
        assert "change" not in text.lower()
    assert [href for href in page.attributes("a", "href") if "report" in href] == [
        f"../{same_day.study_key}/report.pdf"
    ]


def test_deidentified_studies_have_no_dates_and_no_order(read_page: Callable[[str], Page]) -> None:
    page, _ = texts(read_page, replace(PRIOR, study_date=""))
    assert "Other studies of this patient" in page.text
    assert f"date left out {PRIOR.study_key} Urgent 0.62 0.40" in page.text
    assert "Their dates are left out" in page.text


def test_without_priors_nothing_is_said_of_them(read_page: Callable[[str], Page]) -> None:
    page, paper = texts(read_page)
    assert "of this patient" not in page.text + paper
