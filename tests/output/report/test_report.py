from __future__ import annotations

import base64
import hashlib
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cxrbatch.errors import Flag, StudyFailed
from cxrbatch.output.report import report as report_module
from cxrbatch.output.report.paper import render_paper
from cxrbatch.output.report.pdf import PictureFetcher, render_pdf
from cxrbatch.output.report.report import print_study, render_report, reprint_study
from cxrbatch.output.report.report_files import tidy_report
from cxrbatch.pages import wording
from cxrbatch.records import Label, RefusedImage, StudyResult
from cxrbatch.system.record_json import from_json
from tests.factories.output import LABELS, STUDY_KEY, make_header, make_pixels, make_study_result, plain
from tests.factories.validated import VALIDATED

if TYPE_CHECKING:
    from tests.output.conftest import Page

ReadPage = Callable[[str], "Page"]
ReadPdf = Callable[[bytes], bytes]

INJECTIONS = [
    "<script>alert(1)</script>",
    "<img src=file:///etc/passwd>",
    '"><img src="http://127.0.0.1:9/x.png">',
    "</style><link rel=stylesheet href=file:///etc/passwd>",
    "{{ 7 * 7 }}{% raw %}",
    "a\x00b\u202ec",
    "x" * 10_000,
    "../../x",
    os.fsdecode(b"\xff\xfe"),
]


def drawn(result: StudyResult, out: Path) -> StudyResult:
    n_labels = len(result.engine.labels)
    return print_study(result, [make_pixels(n_labels) for _ in result.images], out, html=False, pdf=False).result


def test_a_printed_study_is_complete(tmp_path: Path) -> None:
    printed = print_study(make_study_result(), [make_pixels()], tmp_path, html=True, pdf=True)
    folder = tmp_path / "reports" / STUDY_KEY
    assert printed.report_html == f"reports/{STUDY_KEY}/report.html"
    assert printed.report_pdf == f"reports/{STUDY_KEY}/report.pdf"
    assert {plain(path.name) for path in folder.iterdir()} == {
        *("image-1.jpg", "thumb-1.jpg", "heatmap-1-Effusion.jpg"),
        *("result.json", "report.html", "report.pdf"),
    }
    assert set(printed.stage_ms) == {"pictures", "html", "pdf", "write"}
    assert from_json((folder / "result.json").read_text(), StudyResult) == printed.result


def test_the_report_says_what_was_found(tmp_path: Path, read_page: ReadPage) -> None:
    result = drawn(make_study_result(((0.9, 0.2, 0.1),), notice="Knows phantoms only."), tmp_path)
    page = read_page(render_report(result))
    assert page.attributes("html", "lang") == ["en"]
    assert page.attributes("img", "src") == [result.images[0].image_file, result.images[0].heatmaps[0].file]
    assert all(page.attributes("img", "alt"))
    for text in (
        "Doe, Dr Jane",
        "PID-1",
        "1962-02-28",
        "female",
        "58 years",
        "2024-01-31",
        "ACC-77",
        "Chest PA",
        "Abnormal",
        "Effusion likely: 0.90, threshold 0.50",
        "Knows phantoms only.",
        "Effusion 0.90 0.50 Positive 0.93",
        "Nodule 0.20 0.40 Negative 0.87",
        "Pneumothorax 0.10 0.35 Negative 0.96",
        "demo (deadbeefdead)",
        "resnet50, multilabel",
        "onnxruntime, fp32",
        "224 × 224 px",  # noqa: RUF001 - what the page shows
        STUDY_KEY,
        "2024-02-01 03:04 UTC",
        "cxrbatch 0.1.0",
        wording.NOT_FOR_DIAGNOSIS,
        wording.EVIDENCE,
    ):
        assert text in page.text
    assert len(page.with_class("positive")) == 1
    assert [bar["style"] for bar in page.with_class("bar") if "style" in bar] == []
    assert page.attributes("u", "style") == ["left:50.0%", "left:40.0%", "left:35.0%"]
    assert page.attributes("i", "style") == ["width:90.0%", "width:20.0%", "width:10.0%"]


def test_flags_and_refused_images_are_told_in_sentences(tmp_path: Path, read_page: ReadPage) -> None:
    refused = (RefusedImage("a/lateral.dcm", "rejected", "not_frontal", ""), RefusedImage("b.dcm", "duplicate", "", ""))
    result = make_study_result(((0.1, 0.2, 0.1), (0.1, 0.1, 0.7)), flags=(Flag.LOSSY,), refused=refused)
    page = read_page(render_report(drawn(result, tmp_path)))
    assert f"Images 1, 2: {wording.FLAG_SENTENCES[Flag.LOSSY]}" in page.text
    assert "only frontal views are scored. a/lateral.dcm" in page.text
    assert "it was scored once. b.dcm" in page.text
    assert "Pneumothorax 0.70 image 2 0.35 Positive, urgent" in page.text


def test_without_an_operating_point_there_is_no_verdict(tmp_path: Path, read_page: ReadPage) -> None:
    result = drawn(make_study_result(((0.99,),), labels=(Label("Nodule", None),)), tmp_path)
    page = read_page(render_report(result))
    assert "This engine gives probabilities without a verdict." in page.text
    assert "Nodule 0.99 Not judged" in page.text
    assert "Threshold" not in page.text
    assert page.attributes("u", "style") == []
    assert page.with_class("positive") == []


def test_a_normal_class_is_no_finding(tmp_path: Path, read_page: ReadPage) -> None:
    labels = (Label("Normal", 0.5, normal=True), Label("Pneumonia", 0.5))
    page = read_page(render_report(drawn(make_study_result(((0.9, 0.1),), labels=labels), tmp_path)))
    assert "No finding reaches its threshold. The highest is Pneumonia 0.10." in page.text
    assert page.with_class("positive") == []


def test_a_deidentified_report_has_no_trace_of_the_patient(tmp_path: Path, read_page: ReadPage) -> None:
    result = drawn(make_study_result(header=make_header().deidentified()), tmp_path)
    text = read_page(render_report(result)).text
    assert f"Study {STUDY_KEY}" in text
    for identity in ("Doe", "PID-1", "1962", "ACC-77", "2024-01-31", "Patient ID", "Accession"):
        assert identity not in text


@pytest.mark.parametrize("evil", INJECTIONS)
def test_foreign_text_is_inert_and_fetches_nothing(tmp_path: Path, read_page: ReadPage, evil: str) -> None:
    text_fields = ("patient_id", "patient_name", "patient_birth_date", "patient_sex", "patient_age")
    more = ("accession_number", "study_date", "study_description", "view")
    header = make_header(**dict.fromkeys((*text_fields, *more), evil))
    refused = (RefusedImage(evil, "rejected", evil, evil),)
    labels = (Label(evil, maps=VALIDATED), Label("Nodule", maps=VALIDATED))
    result = make_study_result(((0.9, 0.9),), labels=labels, header=header, refused=refused, notice=evil)
    result = replace(result, images=tuple(replace(image, path=evil) for image in result.images))
    printed = print_study(result, [make_pixels(2)], tmp_path, html=True, pdf=True)

    page = read_page((tmp_path / printed.report_html).read_text(encoding="utf-8"))
    image = printed.result.images[0]
    own = {image.image_file, *(heatmap.file for heatmap in image.heatmaps)}
    assert set(page.attributes("img", "src")) == own
    elements = [element for element, _ in page.elements]
    assert not {"link", "iframe", "object"} & set(elements)
    assert elements.count("script") == 1  # the page's own: its policy allows no other
    assert "\x00" not in page.text
    assert "\u202e" not in page.text

    pictures = {path.name: path.read_bytes() for path in (tmp_path / "reports" / STUDY_KEY).glob("*.jpg")}
    fetcher = PictureFetcher(pictures)
    render_pdf(render_paper(printed.result), fetcher, styles=report_module.PRINT_STYLES)
    assert fetcher.refused == []
    assert set(fetcher.served) == own


def test_the_page_forbids_everything_but_its_pictures(tmp_path: Path, read_page: ReadPage) -> None:
    html = render_report(drawn(make_study_result(), tmp_path))
    policy = read_page(html).attributes("meta", "content")[0]
    assert policy.startswith("default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.endswith(f"; script-src 'sha256-{digest}'")
    assert set(re.findall(r"url\((.)", html)) == {"#"}  # of this very page
    assert "@import" not in html


def test_one_image_and_one_finding_fit_on_one_page(tmp_path: Path, read_pdf: ReadPdf) -> None:
    metrics = {"auroc": 0.9, "sensitivity": 0.9, "sensitivity_low": 0.8, "sensitivity_high": 0.95} | {
        "specificity": 0.9,
        "specificity_low": 0.8,
        "specificity_high": 0.95,
    }
    labels = [
        Label(f"Finding_number_{n}", 0.5, metrics=metrics, images_with=100 * n, images_without=10_000)
        for n in range(14)
    ]
    probabilities = ((0.9, *[0.1] * 13),)
    result = make_study_result(
        probabilities, labels=labels, notice="Knows phantoms only. " * 5, flags=(Flag.LOSSY, Flag.NO_VIEW)
    )
    print_study(result, [make_pixels(14)], tmp_path, html=False, pdf=True)
    pdf = read_pdf((tmp_path / "reports" / STUDY_KEY / "report.pdf").read_bytes())
    assert pdf.count(b"/Type /Page/") == 1


def test_the_pdf_tells_its_title_and_not_the_patient(tmp_path: Path, read_pdf: ReadPdf) -> None:
    print_study(make_study_result(), [make_pixels()], tmp_path, html=False, pdf=True)
    pdf = read_pdf((tmp_path / "reports" / STUDY_KEY / "report.pdf").read_bytes())
    assert f"/Title (Chest radiograph report {STUDY_KEY})".encode() in pdf
    assert b"Doe" not in pdf
    assert b"/CreationDate" not in pdf


def test_the_same_result_prints_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for out in (first, second):
        print_study(make_study_result(), [make_pixels()], out, html=True, pdf=True)
    for path in (first / "reports" / STUDY_KEY).iterdir():
        assert path.read_bytes() == (second / "reports" / STUDY_KEY / path.name).read_bytes()


def test_a_new_revision_leaves_nothing_of_the_old_but_its_pdf(tmp_path: Path) -> None:
    print_study(make_study_result(((0.9, 0.9, 0.9),)), [make_pixels()], tmp_path, html=True, pdf=True)
    second = make_study_result(((0.1, 0.9, 0.1),), revision=2)
    tidy_report(tmp_path, print_study(second, [make_pixels()], tmp_path, html=True, pdf=False))
    names = {plain(path.name) for path in (tmp_path / "reports" / STUDY_KEY).iterdir()}
    assert names == {
        *("image-1.jpg", "thumb-1.jpg", "heatmap-1-Nodule.jpg"),
        *("result.json", "report.html", "report-r1.pdf"),
    }


def test_reprinting_needs_the_result_and_the_pictures_only(tmp_path: Path) -> None:
    printed = print_study(make_study_result(), [make_pixels()], tmp_path, html=True, pdf=True)
    before = {path: path.read_bytes() for path in (tmp_path / printed.report_html).parent.iterdir()}
    for name in (printed.report_html, printed.report_pdf):
        (tmp_path / name).unlink()
    again = reprint_study(printed.result, tmp_path, html=True, pdf=True)
    assert (again.report_html, again.report_pdf) == (printed.report_html, printed.report_pdf)
    assert {path: path.read_bytes() for path in before} == before
    (tmp_path / "reports" / STUDY_KEY / printed.result.images[0].image_file).unlink()
    with pytest.raises(StudyFailed, match=f"study {STUDY_KEY}.*cxrbatch run"):
        reprint_study(printed.result, tmp_path, html=True, pdf=True)


def test_results_and_functions_cross_to_a_worker(tmp_path: Path) -> None:
    call = pickle.loads(pickle.dumps((print_study, make_study_result(), [make_pixels()], tmp_path)))
    function, result, pixels, out = call
    printed = function(result, pixels, out, html=False, pdf=False)
    assert pickle.loads(pickle.dumps(printed)) == printed


def test_a_study_without_a_scored_image_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no scored image"):
        print_study(make_study_result(()), [], tmp_path, html=True, pdf=True)


def test_a_missing_field_of_the_template_is_an_error() -> None:
    from jinja2 import UndefinedError

    from cxrbatch.pages.page import render_page

    with pytest.raises(UndefinedError):
        render_page("report.html.j2")


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_reports_are_readable_by_owner_and_group_only(tmp_path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        print_study(make_study_result(labels=LABELS), [make_pixels()], tmp_path / "out", html=True, pdf=True)
    finally:
        os.umask(previous)
    for path in (tmp_path / "out").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640), path


def test_what_cannot_be_seen_is_told_which_picture_it_is(tmp_path: Path, read_page: ReadPage) -> None:
    one, two = make_study_result(header=make_header(view="PA")), make_study_result(((0.9, 0.2, 0.1), (0.1, 0.2, 0.1)))
    assert (
        read_page(render_report(drawn(one, tmp_path))).attributes("img", "alt")[0] == "Chest radiograph, PA, as scored"
    )
    alts = [alt for alt in read_page(render_report(drawn(two, tmp_path))).attributes("img", "alt") if "Heat" not in alt]
    assert alts == [f"Chest radiograph, image {n} of 2, as scored" for n in (1, 2)]


def test_every_picture_is_a_link_to_its_file_for_who_runs_no_script(tmp_path: Path, read_page: ReadPage) -> None:
    page = read_page(render_report(drawn(make_study_result(((0.9, 0.2, 0.1), (0.1, 0.1, 0.7))), tmp_path)))
    links = page.with_class("enlarge")
    assert [link["href"] for link in links] == page.attributes("img", "src")
    assert [(link["data-image"], "data-heatmap" in link) for link in links] == [
        *(("0", False), ("0", True)),
        *(("1", False), ("1", True)),
    ]
