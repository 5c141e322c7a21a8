"""The page that report.pdf is printed of says what report.html says, each finding in one piece."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from cxrbatch.errors import Flag
from cxrbatch.output.report import pdf as pdf_module
from cxrbatch.output.report.paper import render_paper
from cxrbatch.output.report.pdf import PictureFetcher, render_pdf
from cxrbatch.output.report.pictures import draw_study
from cxrbatch.output.report.report import PRINT_STYLES, render_report
from cxrbatch.pages import wording
from cxrbatch.records import Label, RefusedImage, StudyResult
from tests.factories.output import LABELS, make_header, make_pixels, make_study_result
from tests.factories.validated import VALIDATED

if TYPE_CHECKING:
    from tests.output.conftest import Page

MEASURED = {"auroc": 0.9, "sensitivity": 0.91, "sensitivity_low": 0.8, "sensitivity_high": 0.95} | {
    "specificity": 0.87,
    "specificity_low": 0.78,
    "specificity_high": 0.92,
}
MANY = tuple(
    Label(f"Finding_number_{n}", 0.3, metrics=MEASURED, images_with=30 * n, images_without=9000, maps=VALIDATED)
    for n in range(40)
)
PARTLY = (
    Label("Effusion", 0.5, metrics=MEASURED, images_with=3, images_without=900),
    Label("Mass", None, reference=tuple(n / 100 for n in range(101)), metrics={"auroc": 0.8}),
    Label("Pneumothorax", 0.35, urgent=True, metrics=MEASURED, images_with=1303, images_without=90),
)
CLASSES = (Label("Normal", 0.5, normal=True), Label("Viral_pneumonia", 0.5), Label("COVID", 0.5, urgent=True))


def drawn(result: StudyResult) -> tuple[StudyResult, dict[str, bytes]]:
    study = draw_study(result, [make_pixels(len(result.engine.labels)) for _ in result.images])
    return study.result, dict(study.pictures)


def ensemble() -> StudyResult:
    result = make_study_result(((0.6, 0.2, 0.9), (0.5, 0.3, 0.1)), labels=PARTLY)
    return replace(result, images=tuple(replace(image, disagreement=(0.02, 0.1, 0.4)) for image in result.images))


def classes() -> StudyResult:
    result = make_study_result(((0.1, 0.2, 0.7),), labels=CLASSES)
    return replace(result, engine=replace(result.engine, task="multiclass"))


CASES = {
    "plain": make_study_result(((0.9, 0.2, 0.1),), notice="Knows phantoms only.", flags=(Flag.LOSSY,)),
    "unlike": make_study_result(((0.1, 0.2, 0.1),), flags=(Flag.OUT_OF_DISTRIBUTION,)),
    "refused": make_study_result(
        ((0.9, 0.2, 0.1), (0.1, 0.1, 0.7)),
        refused=(RefusedImage("a/lateral.dcm", "rejected", "not_frontal", ""), RefusedImage("b", "duplicate", "", "")),
    ),
    "ensemble": ensemble(),
    "classes": classes(),
    "many": make_study_result((tuple(n / 50 for n in range(40)),), labels=MANY),
    "no verdict": make_study_result(((0.99,),), labels=(Label("Nodule", None),)),
    "no heatmaps": make_study_result(((0.9,), (0.2,), (0.3,)), labels=(Label("Nodule", 0.5),)),
    "deidentified": make_study_result(header=make_header().deidentified()),
}


def words(text: str) -> set[str]:
    return set(re.findall(rf"[\w.%±<>/{wording.RANGE}]+", text))


@pytest.mark.parametrize("name", CASES)
def test_paper_says_what_the_page_says(name: str, read_page: Callable[[str], Page]) -> None:
    result, _ = drawn(CASES[name])
    paper = ET.fromstring(render_paper(result))
    page = read_page(render_report(result))
    # "Bar of the probability with a tick at the threshold" is for who cannot see the bars, "Worklist" a link.
    said = words(page.text) - words("Bar of the probability with a tick at the threshold Worklist")
    assert said - {word.removesuffix(":") for word in words(" ".join(paper.itertext()))} == set()
    pictures = [(img.get("src"), img.get("alt")) for img in paper.iter("img")]
    assert pictures == list(zip(page.attributes("img", "src"), page.attributes("img", "alt"), strict=True))


def rows(result: StudyResult) -> list[str]:
    body = ET.fromstring(render_paper(result)).iter("tr")
    return [" ".join(" ".join(row.itertext()).split()) for row in body if row.find("th") is not None]


def test_each_finding_is_one_row_in_reading_order() -> None:
    none, measured = wording.NO_VALUE, "0.91 (0.80~0.95) 0.87 (0.78~0.92)".replace("~", wording.RANGE)
    assert rows(ensemble()) == [
        "Finding Probability Threshold Verdict Sensitivity Specificity AUROC Images",
        f"Pneumothorax 0.90 ± 0.40 0.35 ▲ Positive, urgent image 1 {measured} 0.90 1303 / 90",
        f"Effusion 0.60 ± 0.02 0.50 ▲ Positive image 1 {measured} too few 3 / 900",
        f"Mass 0.30 ± 0.10 {none} Not judged: higher than 30 % of validation images image 2 0.80 {none}",
    ]


def test_what_does_not_fit_beside_a_probability_stands_below_it() -> None:
    (_, first, *_), (_, longer, *_) = (
        rows(make_study_result(((value, 0.2, 0.1), (0.1, 0.1, 0.1)))) for value in (0.9, 0.999)
    )
    assert first.startswith("Effusion 0.90 image 1 0.50 ▲ Positive")
    assert longer.startswith("Effusion >0.99 0.50 ▲ Positive image 1")


def bars(result: StudyResult) -> list[dict[str, str]]:
    paper = ET.fromstring(render_paper(result))
    namespace = "{http://www.w3.org/2000/svg}"
    drawings = [svg for svg in paper.iter(f"{namespace}svg") if svg.get("viewBox", "").startswith("0 0 182")]
    return [{path.get("fill", ""): path.get("d", "") for path in svg.iter(f"{namespace}path")} for svg in drawings]


def test_bars_are_as_long_as_probabilities_and_ticks_stand_at_operating_points() -> None:
    positive, negative = bars(make_study_result(((0.5, 0.2, 0.1),), labels=LABELS))

    def boxes(path: str) -> list[tuple[float, float]]:
        return [(float(left), float(width)) for left, width in re.findall(r"M([\d.]+) [\d.]+h([\d.]+)", path)]

    ((left, whole),) = boxes(positive["#e9edf1"])
    assert boxes(positive["#9a5b00"])[0] == pytest.approx((left, 0.5 * whole), abs=0.01)
    assert [width for _, width in boxes(negative["#a9b4c0"])] == pytest.approx([0.2 * whole, 0.1 * whole], abs=0.01)
    ticks = [at + width / 2 for at, width in boxes(negative["#161b22"])]
    assert ticks == pytest.approx([left + 0.4 * whole, left + 0.35 * whole], abs=0.01)


def test_a_long_name_has_a_drawing_of_its_own_and_no_more_than_a_dozen_rows_share_one() -> None:
    names = ["Effusion", "Mass", "A finding whose name goes on and on and never fits in its column", "Nodule"]
    result = make_study_result(((0.4, 0.3, 0.2, 0.1),), labels=[Label(name, 0.5) for name in names])
    assert [len(re.findall("M", bar["#e9edf1"])) for bar in bars(result)] == [2, 1, 1]
    many = make_study_result(((0.1,) * 40,), labels=MANY)
    assert [len(re.findall("M", bar["#e9edf1"])) for bar in bars(many)] == [12, 12, 12, 4]


@pytest.mark.parametrize(
    "name",
    [
        "Doe^" * 130,
        "W" * 500,
        "אברהם^יצחק",
        "Yamada^Tarou=山田^太郎",
        "😀🩻",
        "a\x00\x0b\x1b[31m\u202eb\ufffe\uffff",
        "]]>&<!--",
    ],
)
def test_any_name_prints(name: str, read_pdf: Callable[[bytes], bytes]) -> None:
    header = make_header(patient_name=name, patient_id=name, study_description=name)
    result, pictures = drawn(make_study_result(header=header))
    pdf = render_pdf(render_paper(result), PictureFetcher(pictures), styles=PRINT_STYLES)
    assert 1 <= read_pdf(pdf).count(b"/Type /Page/") <= 2


def test_a_long_table_goes_on_on_the_next_page_with_its_heading(read_pdf: Callable[[bytes], bytes]) -> None:
    result, pictures = drawn(make_study_result((tuple(n / 140 for n in range(40)),), labels=MANY))
    pdf = render_pdf(render_paper(result), PictureFetcher(pictures), styles=PRINT_STYLES)
    assert read_pdf(pdf).count(b"/Type /Page/") == 2


def test_paper_can_be_tagged(read_pdf: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """WeasyPrint's tags for readers who listen: headings, tables and pictures with their texts."""
    write = pdf_module.ParsedPage.write_pdf
    monkeypatch.setattr(pdf_module.ParsedPage, "write_pdf", lambda page, **how: write(page, pdf_tags=True, **how))
    result, pictures = drawn(make_study_result())
    pdf = read_pdf(render_pdf(render_paper(result), PictureFetcher(pictures), styles=PRINT_STYLES))
    for tag in (b"/S /H1", b"/S /H2", b"/S /Table", b"/S /TR", b"/S /TH", b"/S /TD", b"/S /Figure", b"/S /Caption"):
        assert tag in pdf
    assert b"Heatmap of Effusion over the radiograph" in pdf
    assert b"/Lang (en)" in pdf
