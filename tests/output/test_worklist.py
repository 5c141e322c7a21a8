from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cxrbatch.errors import Flag
from cxrbatch.output import worklist
from cxrbatch.output.worklist import write_worklist
from cxrbatch.pages import wording
from cxrbatch.records import Label, StudyRow
from tests.factories.output import make_engine, make_header, make_study_result, make_study_row

if TYPE_CHECKING:
    from tests.output.conftest import Page

ReadPage = Callable[[str], "Page"]


def study(key: str, probabilities: tuple[float, ...], **header: str) -> StudyRow:
    result = make_study_result((probabilities,), study_key=key * 16)
    return make_study_row(result, header=make_header(**header))


def written(out: Path, *studies: StudyRow, notice: str = "") -> str:
    write_worklist(out, studies, engine=make_engine(notice=notice), generated_at="2024-02-01T06:00:00+00:00")
    return (out / "index.html").read_text(encoding="utf-8")


NIGHT = (
    study("1", (0.1, 0.2, 0.1)),
    study("2", (0.6, 0.2, 0.1)),
    study("3", (0.9, 0.2, 0.4)),
    study("4", (0.8, 0.2, 0.1)),
    study("5", (0.1, 0.2, 0.9)),
    make_study_row(None, study_key="6" * 16, status="unscored", reasons=("not_frontal", "not_frontal", "blank")),
    make_study_row(None, study_key="7" * 16, status="failed"),
)


def test_the_most_urgent_come_first(tmp_path: Path) -> None:
    keys = re.findall(r'class="key mono">(.)', written(tmp_path, *NIGHT))
    assert keys == ["5", "3", "4", "2", "7", "6", "1"]


def test_every_study_says_what_was_found_or_why_not(tmp_path: Path, read_page: ReadPage) -> None:
    page = read_page(written(tmp_path, *NIGHT, notice="Knows phantoms only."))
    for text in (
        "7 studies, scored by demo deadbeefdead on onnxruntime, fp32",
        "last changed 2024-02-01 06:00 UTC",
        "Knows phantoms only.",
        "2 Urgent 2 Abnormal 0 Incomplete 2 Not scored 1 Normal",
        "Pneumothorax 0.40 Effusion 0.90",
        "highest: Nodule 0.20",
        "Not scored No image to score",
        "only frontal views are scored. The image is blank.",
        "Not scored Failed It could not be finished; the next run tries it again.",
        wording.NOT_FOR_DIAGNOSIS,
    ):
        assert text in page.text
    assert page.text.count("only frontal views are scored") == 1


def test_links_and_thumbnails_are_relative(tmp_path: Path, read_page: ReadPage) -> None:
    page = read_page(written(tmp_path, study("a", (0.9, 0.1, 0.1))))
    folder = f"reports/{'a' * 16}"
    assert page.attributes("img", "src") == [f"{folder}/thumb-1.jpg"]
    assert page.attributes("img", "loading") == ["lazy"]
    links = page.attributes("a", "href")
    assert [link for link in links if not link.startswith("#")] == [f"{folder}/report.html", f"{folder}/report.pdf"]


def test_counts_link_to_the_first_study_of_their_priority(tmp_path: Path, read_page: ReadPage) -> None:
    page = read_page(written(tmp_path, *NIGHT))
    assert page.attributes("tr", "id") == ["urgent", "abnormal", "unscored", "normal"]


def test_filters_offer_every_finding_and_status_with_counts(tmp_path: Path, read_page: ReadPage) -> None:
    page = read_page(written(tmp_path, *NIGHT))
    assert "All Effusion (3) Nodule (0) Pneumothorax (2)" in page.text
    assert "Reported (5) Failed (1) No image to score (1) Waiting (0)" in page.text
    row = next(attributes for tag, attributes in page.elements if tag == "tr" and attributes.get("id") == "urgent")
    assert (row["data-key"], row["data-status"]) == ("5" * 16, "reported")


def test_who_the_patient_is_does_not_stand_here(tmp_path: Path) -> None:
    canary = {field: f"CANARY{field}" for field in ("patient_name", "patient_id", "patient_birth_date")}
    failed = make_study_row(None, status="failed", header=make_header(**canary), message="CANARY")
    written(tmp_path, study("a", (0.9, 0.9, 0.9), **canary), failed)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and b"CANARY" in path.read_bytes()] == []


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '"><img src=file:///etc/passwd>', "a\x00\u202eb"])
def test_foreign_text_is_inert(tmp_path: Path, read_page: ReadPage, evil: str) -> None:
    header = {"accession_number": evil, "study_date": evil}
    page = read_page(written(tmp_path, study("a", (0.9, 0.1, 0.1), **header)))
    assert len(page.attributes("img", "src")) == 1
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert not {"\x00", "\u202e"} & set(page.text)


def test_the_policy_allows_the_script_of_the_page_and_no_other(tmp_path: Path, read_page: ReadPage) -> None:
    html = written(tmp_path, *NIGHT)
    script = html[html.index("<script>") + len("<script>") : html.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = read_page(html).attributes("meta", "content")[0]
    assert f"script-src 'sha256-{digest}' 'strict-dynamic'" in policy
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")


def test_a_long_list_is_cut_after_the_most_urgent_and_says_so(
    tmp_path: Path, read_page: ReadPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worklist, "FIRST_ROWS", 3)
    page = read_page(written(tmp_path, *NIGHT))
    assert "The first 3 of 7 studies" in page.text
    assert "Without JavaScript this page lists the first 3 studies only. All 7 are in studies.csv." in page.text
    assert "1 Normal" in page.text, "counted, though not listed"
    assert page.attributes("tr", "data-priority") == ["urgent", "urgent", "abnormal"]


def test_an_engine_without_operating_points_calls_nothing_normal(tmp_path: Path, read_page: ReadPage) -> None:
    result = make_study_result(((0.9,),), labels=(Label("Nodule", None),))
    page = read_page(written(tmp_path, make_study_row(result)))
    assert "No verdict highest: Nodule 0.90" in page.text


def test_an_empty_run_has_a_page_too(tmp_path: Path, read_page: ReadPage) -> None:
    page = read_page(written(tmp_path))
    assert "0 studies" in page.text
    assert "There is no study yet." in page.text
    assert (tmp_path / "index.html").stat().st_mode & 0o777 == 0o640


REFERENCE = tuple(at / 100 for at in range(101))


def test_what_was_not_judged_comes_before_what_is_normal(tmp_path: Path, read_page: ReadPage) -> None:
    labels = (Label("Effusion", 0.5), Label("Hernia", None, reference=REFERENCE), Label("Mass", None, urgent=True))
    incomplete = make_study_row(make_study_result(((0.1, 0.9, 0.4),), labels=labels, study_key="8" * 16))
    write_worklist(tmp_path, (*NIGHT, incomplete), engine=make_engine(labels), generated_at="2024-02-01T06:00:00+00:00")
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = read_page(html)
    assert re.findall(r'class="key mono">(.)', html) == ["5", "3", "4", "2", "8", "7", "6", "1"]
    assert page.attributes("tr", "id") == ["urgent", "abnormal", "incomplete", "unscored", "normal"]
    for text in (
        "2 Urgent 2 Abnormal 1 Incomplete 2 Not scored 1 Normal",
        "Incomplete 1 of 3 findings judged highest: Hernia 0.90, not judged (higher than 90 % of validation images)",
        "This engine judges 1 of its 3 findings, so it calls no study normal: Hernia, Mass have no threshold.",
    ):
        assert text in page.text
    row = next(attributes for tag, attributes in page.elements if tag == "tr" and attributes.get("id") == "incomplete")
    assert row["data-priority"] == "incomplete"


def test_an_engine_that_judges_everything_needs_no_word_of_it(tmp_path: Path, read_page: ReadPage) -> None:
    text = read_page(written(tmp_path, *NIGHT)).text
    assert "judged" not in text
    assert "This engine" not in text


def test_classes_that_exclude_each_other_are_found_once(tmp_path: Path, read_page: ReadPage) -> None:
    labels = (Label("covid", 0.3, urgent=True), Label("normal", 0.3, normal=True), Label("viral", 0.3))
    result = make_study_result(((0.35, 0.4, 0.25),), labels=labels)
    result = replace(result, engine=replace(result.engine, task="multiclass"))
    page = read_page(written(tmp_path, make_study_row(result)))
    assert "0 Urgent 0 Abnormal 0 Incomplete 0 Not scored 1 Normal" in page.text
    assert "Normal highest: covid 0.35" in page.text
    assert page.with_class("chip") == []


def test_of_equals_that_which_came_first_is_first(tmp_path: Path) -> None:
    early = replace(study("b", (0.9, 0.2, 0.1)), arrived_at="2024-02-01T05:00:00+00:00")
    late = replace(study("a", (0.9, 0.2, 0.1)), arrived_at="2024-02-01T05:59:00+00:00")
    unknown = study("0", (0.9, 0.2, 0.1))
    assert re.findall(r'class="key mono">(.)', written(tmp_path, late, unknown, early)) == ["b", "a", "0"]


def test_a_study_says_why_to_be_careful_and_that_there_is_an_earlier_one(tmp_path: Path, read_page: ReadPage) -> None:
    inverted = make_study_row(make_study_result(flags=(Flag.POLARITY_SUSPECT, Flag.LOSSY), study_key="a" * 16))
    write_worklist(tmp_path, [inverted], engine=make_engine(), generated_at="", with_prior={"a" * 16})
    text = read_page((tmp_path / "index.html").read_text()).text
    assert "Urgent Prior study" not in text
    assert "Abnormal Prior study" in text
    assert wording.FLAG_SENTENCES[Flag.POLARITY_SUSPECT] in text
    assert wording.FLAG_SENTENCES[Flag.LOSSY] not in text, "it says nothing against the scores"
    assert "Caution 1 " in text
    assert "Prior study 1 " in text
