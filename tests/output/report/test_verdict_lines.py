"""The report begins with what was found, how sure, and how often that is wrong; cautions follow at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cxrbatch.errors import Flag
from cxrbatch.output.report.content import report_content
from cxrbatch.output.report.report import render_report
from cxrbatch.pages import wording
from cxrbatch.records import Header, Label, RefusedImage, StudyResult
from tests.factories.output import STUDY_KEY, make_header, make_study_result

if TYPE_CHECKING:
    from tests.output.conftest import Page

METRICS = {"sensitivity": 0.948, "specificity": 0.921}
VALIDATION = {"measured_on": "val"}


def said(labels: list[Label], *rows: tuple[float, ...], training: dict[str, Any] = VALIDATION) -> list[tuple[str, str]]:
    result = make_study_result(rows, labels=labels)
    content = report_content(replace(result, engine=replace(result.engine, training=training)))
    return [(line.said, line.trust) for line in content.verdict]


def label(name: str = "Pneumothorax", point: float = 0.466, **facts: Any) -> Label:
    known: dict[str, Any] = {"metrics": METRICS, "images_with": 40, "images_without": 300}
    return Label(name, point, **(known | facts))


def test_a_finding_is_said_with_its_threshold_and_how_often_that_is_wrong() -> None:
    words = "misses 5 of 100, 8 false alarms per 100 without it in validation"
    assert said([label()], (0.97,)) == [("Pneumothorax likely: 0.97, threshold 0.466", words)]
    assert said([label(point=0.2)], (0.3,)) == [("Pneumothorax possible: 0.30, threshold 0.20", words)]


@pytest.mark.parametrize(
    ("facts", "training", "trust"),
    [
        ({"images_with": 9}, VALIDATION, "8 false alarms per 100 without it in validation"),
        ({"images_without": 9}, VALIDATION, "misses 5 of 100 in validation"),
        ({"images_with": None, "images_without": None}, VALIDATION, ""),
        ({"metrics": {}}, VALIDATION, ""),
        ({}, {}, "misses 5 of 100, 8 false alarms per 100 without it"),
        ({}, {"measured_on": "test"}, "misses 5 of 100, 8 false alarms per 100 without it on its test images"),
        ({}, {"measured_on": ["no", "part"]}, "misses 5 of 100, 8 false alarms per 100 without it"),
        (
            {"metrics": {"sensitivity": 1.0, "specificity": 1.0}},
            VALIDATION,
            "misses none of 40, no false alarm on 300 without it in validation",
        ),
        (
            {"metrics": {"sensitivity": 0.998, "specificity": 0.99}},
            VALIDATION,
            "misses fewer than 1 of 100, 1 false alarm per 100 without it in validation",
        ),
    ],
)
def test_how_often_is_said_only_as_far_as_it_is_known(facts: dict[str, Any], training: Any, trust: str) -> None:
    assert said([label(**facts)], (0.97,), training=training) == [("Pneumothorax likely: 0.97, threshold 0.466", trust)]


def test_urgent_findings_come_first_and_of_many_the_last_line_names_the_rest() -> None:
    labels = [Label(f"F{n}", 0.5) for n in range(7)] + [Label("Pneumothorax", 0.5, urgent=True)]
    lines = said(labels, (0.9, 0.8, 0.95, 0.7, 0.6, 0.99, 0.2, 0.51))
    assert [line for line, _ in lines] == [
        "Pneumothorax likely: 0.51, threshold 0.50",
        "F5 likely: 0.99, threshold 0.50",
        "F2 likely: 0.95, threshold 0.50",
        "F0 likely: 0.90, threshold 0.50",
        "3 other findings: F1 0.80, F3 0.70, F4 0.60",
    ]


def test_where_nothing_is_found_it_is_said_what_is_missed() -> None:
    result = make_study_result(((0.1, 0.2),), labels=[label("Nodule"), label(urgent=True)])
    content = report_content(replace(result, engine=replace(result.engine, training=VALIDATION)))
    assert content.verdict == ()
    assert content.summary == (
        "No finding reaches its threshold. The highest is Pneumothorax 0.20. "
        "How often it misses in validation: Pneumothorax 5 of 100, Nodule 5 of 100."
    )


def test_cautions_stand_between_verdict_and_pictures_and_only_once(read_page: Callable[[str], Page]) -> None:
    flags = (Flag.LOSSY, Flag.PAEDIATRIC, Flag.OUT_OF_DISTRIBUTION)
    refused = (RefusedImage("b.dcm", "rejected", "not_frontal", ""), RefusedImage("c.dcm", "duplicate", "", ""))
    result = make_study_result(((0.9, 0.2, 0.1),), flags=flags, refused=refused)
    text = read_page(render_report(result)).text
    order = [
        "Effusion likely: 0.90, threshold 0.50",
        "This image is unlike those that the engine learned from",
        wording.FLAG_SENTENCES[Flag.PAEDIATRIC],
        "1 of 2 images of this study has no score; the reasons stand below.",
        "Radiograph",
        "Findings",
        "Image quality",
        wording.FLAG_SENTENCES[Flag.LOSSY],
        "only frontal views are scored. b.dcm",
    ]
    assert all(text.count(sentence) == 1 for sentence in order if sentence not in {"Radiograph", "Findings"})
    places = [text.index(sentence) for sentence in order]
    assert places == sorted(places)


def headed(header: Header, *paths: str, deidentified: bool = False) -> str:
    result: StudyResult = make_study_result([(0.9, 0.2, 0.1)] * len(paths), header=header)
    images = tuple(replace(image, path=path) for image, path in zip(result.images, paths, strict=True))
    return report_content(replace(result, images=images, deidentified=deidentified)).heading


def test_a_study_is_called_by_name_or_path_but_never_by_path_where_nobody_may_be_named() -> None:
    raster, nameless = Header(rows=64, columns=64), make_header(patient_name="")
    assert headed(make_header(), "night/1.dcm") == "Doe, Dr Jane"
    assert headed(nameless, "night/1.dcm") == f"Study {STUDY_KEY}"
    assert headed(raster, "ward/Doe.png") == "ward/Doe.png"
    assert headed(raster, "ward/17/a.png", "ward/17/b.png") == "ward/17"
    assert headed(raster, "a.png", "b.png") == "a.png"
    assert headed(raster, "ward/Doe.png", deidentified=True) == f"Study {STUDY_KEY}"
    assert headed(raster, "a\u202e/" * 900 + "end.png").endswith("a/a/end.png")
