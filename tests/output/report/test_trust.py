"""What a report says of verdicts: which were made, by which rule, and how far to trust them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cxrbatch.output.report.report import print_study, render_report
from cxrbatch.records import Label, StudyResult, Task
from tests.factories.output import make_pixels, make_study_result
from tests.factories.validated import VALIDATED

if TYPE_CHECKING:
    from tests.output.conftest import Page

ReadPage = Callable[[str], "Page"]

# 0.000, 0.001 ... 0.100: a score of 0.0973 lies above 97 % of them.
REFERENCE = tuple(float(quantile) for quantile in np.linspace(0.0, 0.1, 101))
MEASURED = {"auroc": 0.934, "sensitivity": 0.9, "sensitivity_low": 0.781, "sensitivity_high": 0.962} | {
    "specificity": 0.85,
    "specificity_low": 0.8,
    "specificity_high": 0.89,
}
EFFUSION = Label("Effusion", 0.5, metrics=MEASURED, images_with=42, images_without=158, reference=REFERENCE)
HERNIA = Label("Hernia", None, metrics={"auroc": 0.93}, images_with=1, images_without=199, reference=REFERENCE)
PNEUMOTHORAX = Label("Pneumothorax", None, urgent=True)
CLASSES = (
    Label("covid", 0.3, urgent=True, metrics=MEASURED, images_with=20, images_without=80),
    Label("normal", 0.3, normal=True),
    Label("viral", 0.3),
)
TRAINING = {"measured_on": "val", "images": {"train": 800, "val": 200}, "data": "chest, csv layout: 1000 images"}


def page_of(
    read_page: ReadPage,
    out: Path,
    labels: Sequence[Label],
    probabilities: Sequence[Sequence[float]],
    task: Task = "multilabel",
) -> Page:
    labels = [replace(label, maps=VALIDATED) for label in labels]
    result = make_study_result(probabilities, labels=labels)
    result = replace(result, engine=replace(result.engine, task=task, training=TRAINING))
    pixels = [make_pixels(len(labels)) for _ in result.images]
    printed: StudyResult = print_study(result, pixels, out, html=False, pdf=False).result
    return read_page(render_report(printed))


def test_what_nobody_may_judge_has_its_rank_and_the_study_is_not_normal(tmp_path: Path, read_page: ReadPage) -> None:
    page = page_of(read_page, tmp_path, (EFFUSION, HERNIA, PNEUMOTHORAX), ((0.1, 0.0973, 0.98),))
    for text in (
        "Incomplete 1 of 3 findings judged",
        "No judged finding reaches its threshold; the highest is Effusion 0.10.",
        "Only 1 of 3 findings were judged: 2 have no threshold; of these, Hernia is higher than 97 % of",
        "So this study is not called normal.",
        "Hernia 0.10 \N{EN DASH} Not judged: higher than 97 % of validation images",
        "Pneumothorax 0.98 \N{EN DASH} Not judged \N{EN DASH}",
        "Pneumothorax 0.98 highest score, not judged",
    ):
        assert text in page.text
    assert "Normal" not in page.text
    assert page.with_class("positive") == []
    assert len(page.with_class("unjudged")) == 2


def test_a_finding_beside_what_nobody_may_judge_is_told_first(tmp_path: Path, read_page: ReadPage) -> None:
    page = page_of(read_page, tmp_path, (EFFUSION, HERNIA), ((0.9, 0.0),))
    assert "Abnormal 1 of 2 findings judged" in page.text
    assert (
        "Effusion likely: 0.90, threshold 0.50 misses 10 of 100, 15 false alarms per 100 without it in "
        "validation Only 1 of 2 findings were judged: one has no threshold; it is among the lowest 1 % of "
        "validation images."
    ) in page.text
    assert "not called normal" not in page.text


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (0.5, "higher than all validation images"),
        (0.1, "higher than 99 % of validation images"),
        (0.0999, "higher than 99 % of validation images"),
        (0.0, "among the lowest 1 % of validation images"),
    ],
)
def test_a_rank_is_never_said_to_be_higher_than_it_is(
    tmp_path: Path, read_page: ReadPage, probability: float, words: str
) -> None:
    assert words in page_of(read_page, tmp_path, (EFFUSION, HERNIA), ((0.1, probability),)).text


def test_one_image_is_one_class(tmp_path: Path, read_page: ReadPage) -> None:
    page = page_of(read_page, tmp_path, CLASSES, ((0.35, 0.4, 0.25),), "multiclass")
    for text in (
        "Normal",
        "The likeliest class is normal 0.40.",
        "normal 0.40 Nothing found",
        "covid 0.35 Negative 0.90 (0.78\N{EN DASH}0.96) 0.85 (0.80\N{EN DASH}0.89) 0.93 20 / 80",
        "covid 0.35 highest score of a finding, not the likeliest class",
        "the share that is named the likeliest class",
    ):
        assert text in page.text
    assert "hreshold" not in page.text.replace("chose the thresholds", "")
    assert page.attributes("u", "style") == []


def test_each_image_of_a_study_has_its_class(tmp_path: Path, read_page: ReadPage) -> None:
    page = page_of(read_page, tmp_path, CLASSES, ((0.7, 0.2, 0.1), (0.1, 0.3, 0.6)), "multiclass")
    assert "covid likely: 0.70, the likeliest class of at least one image misses 10 of 100," in page.text
    assert "viral likely: 0.60, the likeliest class of at least one image" in page.text
    assert "covid 0.70 image 1 Positive, urgent" in page.text
    assert "viral 0.60 image 2 Positive" in page.text
    page = page_of(read_page, tmp_path, CLASSES, ((0.1, 0.8, 0.1), (0.1, 0.7, 0.2)), "multiclass")
    assert "The likeliest class of every image: normal 0.80." in page.text


def test_a_class_that_nobody_may_judge_wins_nothing(tmp_path: Path, read_page: ReadPage) -> None:
    classes = (replace(CLASSES[0], operating_point=None), *CLASSES[1:])
    page = page_of(read_page, tmp_path, classes, ((0.7, 0.2, 0.1),), "multiclass")
    assert "Incomplete 1 of 2 findings judged" in page.text
    assert "No class that may be judged is the likeliest. The highest is covid 0.70." in page.text
    page = page_of(read_page, tmp_path, classes, ((0.1, 0.8, 0.1),), "multiclass")
    assert "Incomplete" in page.text
    assert "Nothing found" not in page.text


def test_an_engine_that_knows_only_normal_says_not_normal(tmp_path: Path, read_page: ReadPage) -> None:
    labels = (Label("No Finding", 0.5, normal=True),)
    page = page_of(read_page, tmp_path, labels, ((0.2,),), "binary")
    assert "Abnormal" in page.text
    assert "The one class of this engine does not reach its threshold: No Finding 0.20." in page.text


def test_how_far_to_trust_a_verdict_is_said_in_words(tmp_path: Path, read_page: ReadPage) -> None:
    page = page_of(read_page, tmp_path, (EFFUSION, HERNIA), ((0.1, 0.0),))
    for text in (
        "Effusion 0.10 0.50 Negative 0.90 (0.78\N{EN DASH}0.96) 0.85 (0.80\N{EN DASH}0.89) 0.93 42 / 158",
        "Threshold: the probability from which on a finding is called positive.",
        "of the images with the finding, the share that is called positive",
        "too few 1 / 199",
        "fewer than 10 images with the finding or without it, too few to measure",
        "Measured on the 200 validation images of its own data (chest, csv layout: 1000 images).",
        "They also chose the thresholds, so expect somewhat less on images from elsewhere.",
    ):
        assert text in page.text
    assert page.text.count("0.93") == 1, "one image with the finding is no AUROC"


def test_an_engine_of_an_earlier_version_shows_what_it_has(tmp_path: Path, read_page: ReadPage) -> None:
    earlier = Label(
        "Effusion",
        0.5,
        metrics={"auroc": 0.934, "sensitivity": 1.0, "sensitivity_low": 1.0}
        | {
            "sensitivity_high": 1.0,
            "specificity": 0.85,
        },
    )
    page = page_of(read_page, tmp_path, (earlier,), ((0.1,),))
    assert "Effusion 0.10 0.50 Negative 1.00 0.85 0.93" in page.text, "an interval without width is none"
    assert "Images:" not in page.text
    # What was measured at operating points says nothing of the likeliest class.
    classes = (replace(CLASSES[0], images_with=None, images_without=None), *CLASSES[1:])
    page = page_of(read_page, tmp_path, classes, ((0.1, 0.8, 0.1),), "multiclass")
    assert "covid 0.10 Negative 0.93" in page.text
    assert "Sensitivity" not in page.text
    assert "How far to trust it" not in page_of(read_page, tmp_path, (PNEUMOTHORAX,), ((0.1,),)).text


def test_brackets_are_explained_only_where_there_are_some(tmp_path: Path, read_page: ReadPage) -> None:
    old = replace(EFFUSION, metrics={"sensitivity": 0.9, "specificity": 0.85})
    assert "in brackets" in page_of(read_page, tmp_path / "new", (EFFUSION,), ((0.1,),)).text
    assert "in brackets" not in page_of(read_page, tmp_path / "old", (old,), ((0.1,),)).text
