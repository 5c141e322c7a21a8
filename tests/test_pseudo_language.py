"""Pages in a language whose every text stands in brackets: outside of these there is nothing but data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cxrbatch.config import HeatmapChoice
from cxrbatch.errors import Flag, Reason
from cxrbatch.output.drift import DriftLine, DriftReport, ScannerDrift
from cxrbatch.output.report.paper import render_paper
from cxrbatch.output.report.report import render_report
from cxrbatch.output.sheets.facts import RunSheet, ScoredSince, UrgentStudy
from cxrbatch.output.worklist import INDEX_HTML, write_worklist
from cxrbatch.output.worklist_data import DATA_FOLDER, NOW_JS, read_worklist
from cxrbatch.pages.wording import PLACES
from cxrbatch.records import Heatmap, Label, MapCheck, PriorStudy, RefusedImage, StudyResult
from tests.factories.output import LABELS, make_engine, make_header, make_study_result, make_study_row
from tests.factories.pseudo_language import left_over, outside, with_pseudo_language, write_pseudo_catalogue
from tests.output.report.test_paper import CASES
from tests.output.sheets.test_sheet import make_report, page_of

# What is the same in every language: units, the program's name, a zone.
SAME = {"cxrbatch", "px", "ms", "min", "UTC", "Dr Jane", "Doe"}
REASONS = (
    "there are too few marked images, 3 of 2 patients; it takes 20 of 10",
    "their peaks lie in what is marked on 31% of the images, no more than chance may hit (29%)",
    "a copy of the network with shuffled weights draws nothing that they could be compared with",
)


@pytest.fixture(scope="module")
def catalogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogues")
    write_pseudo_catalogue(folder)
    return folder


@pytest.fixture
def pseudo(catalogues: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with with_pseudo_language(catalogues, monkeypatch):
        yield


def data_of(record: Any) -> set[str]:
    """Return every text that a record holds, and as pages show it."""
    if isinstance(record, dict):
        return set().union(*map(data_of, [*record, *record.values()]), set())
    if isinstance(record, list | tuple):
        return set().union(*map(data_of, record), set())
    return {record, record.replace("_", " "), record[:12]} if isinstance(record, str) and record else set()


def known(*records: object) -> set[str]:
    return SAME.union(*(data_of(msgspec.to_builtins(record)) for record in records))


def everything() -> StudyResult:
    """Return a study with every flag and every reason, and heatmaps in every place, most of them not validated."""
    checks = [MapCheck(3, 2, 0.31, 0.29, reason=reason) for reason in REASONS]
    labels = tuple(replace(label, maps=check) for label, check in zip(LABELS, checks, strict=True))
    refused = [RefusedImage(f"r/{n}", "rejected", reason, "") for n, reason in enumerate(Reason)]
    result = make_study_result(
        ((0.9, 0.8, 0.7), (0.1, 0.2, 0.96)), labels=labels, flags=tuple(Flag), refused=tuple(refused)
    )
    maps = [
        Heatmap(label.name, f"h{n}.jpg", 10.0, 20.0, place=place)
        for n, place in enumerate(PLACES)
        for label in labels[n % 3 : n % 3 + 1]
    ]
    images = (replace(result.images[0], heatmaps=tuple(maps)), result.images[1])
    gate = "passed: mean AUROC 0.9012 beside 0.9034 in FP32, 2 of 300 verdicts differ (100 validation images)"
    return replace(result, images=images, engine=replace(result.engine, gate=gate))


PRIORS = (
    PriorStudy("1" * 16, "20230131", "abnormal", "deadbeef" * 8, "demo", (0.8, 0.1, 0.1), ("Effusion",), "report.html"),
    PriorStudy("2" * 16, "", "normal", "feed" * 16, "other", (), ("Mass",), ""),
    PriorStudy("3" * 16, "20240131", "normal", "feed" * 16, "other", (), (), ""),
)


@pytest.mark.usefixtures("pseudo")
@pytest.mark.parametrize("choice", ["all", "validated"])
@pytest.mark.parametrize("name", [*CASES, "everything"])
def test_nothing_of_a_report_is_outside_of_the_catalogues(name: str, choice: HeatmapChoice) -> None:
    result = CASES[name] if name in CASES else everything()
    priors = () if result.deidentified else PRIORS
    data = known(result, priors)
    for page in (render_report(result, heatmaps=choice, priors=priors), render_paper(result, priors=priors)):
        assert '<html lang="fi">' in page
        assert outside(page, data - set(REASONS)) == set()


@pytest.mark.usefixtures("pseudo")
def test_nothing_of_the_worklist_is_outside_of_the_catalogues(tmp_path: Path) -> None:
    results = [*CASES.values(), everything()]
    rows = [make_study_row(replace(result, study_key=f"{n:016x}")) for n, result in enumerate(results)]
    header = make_header()
    rows += [
        make_study_row(None, study_key=f"{99:016x}", header=header, reasons=("not_frontal",), n_images=1, n_scored=0),
        make_study_row(None, study_key=f"{98:016x}", header=header, status="failed", n_images=1, n_scored=0),
        make_study_row(None, study_key=f"{97:016x}", header=header, status="pending", n_images=1, n_scored=0),
    ]
    engine = make_engine()
    write_worklist(tmp_path, rows, engine=engine, generated_at="2026-11-22T03:04:05+00:00", with_prior={f"{0:016x}"})
    page = (tmp_path / INDEX_HTML).read_text()
    data = known(engine, *(row.result for row in rows), header)
    assert outside(page, data) == set()
    assert ">31.1.2024<" in page
    said = json.loads(unescape(re.search(r'data-said="([^"]*)"', page)[1]))  # type: ignore[index]
    texts = said["texts"] | said["texts"]["statuses"]
    assert [key for key, text in texts.items() if isinstance(text, str) and left_over(text)] == ["export"]
    now = (tmp_path / DATA_FOLDER / NOW_JS).read_text()
    assert outside(json.loads(now.partition("(")[2].rpartition(")")[0])["facts"]["about"], data) == set()
    for line in read_worklist(tmp_path / DATA_FOLDER).lines:
        for text in (line.badge, line.coverage, line.unlike, line.rank, *line.cautions, *line.remarks):
            assert left_over(text) == ""


@pytest.mark.usefixtures("pseudo")
def test_nothing_of_a_sheet_is_outside_of_the_catalogues() -> None:
    alarms = [
        DriftLine("score", "Nodule", "recent", 0.4, 0.1, 60, 900, alarm=True),
        DriftLine("positive", "Effusion", "training", 0.4, 0.1, 60, 900, alarm=True),
        *(DriftLine(what, "", "recent", 0.4, 0.1, 60, 900, alarm=True) for what in ("grey", "view", "age")),
    ]
    quiet = ScannerDrift("Maker / Model", 3, 4)
    drift = DriftReport("", 60, 900, 0.25, tuple(alarms), (), (ScannerDrift("M / 2", 60, 9, (alarms[0],)), quiet), 2)
    left_out = (
        "7 studies are too few to tell: 50 are needed",
        "score Nodule against recent: 60 and 2 known, 50 needed",
        "positive Odd_label against training: not known of the validation images",
    )
    urgent = UrgentStudy("1" * 16, "urgent", tuple((label, 0.9) for label in LABELS * 2), "reports/1", "2026-11-22")
    fields: dict[str, Any] = {
        "finished": False,
        "files": {"scored": 2, "rejected": 30, "duplicate": 1, "failed": 1, "pending": 5},
        "reasons": {reason.value: 1 for reason in Reason},
        "studies": {"failed": 12},
        "failures": {f"{n:016x}": "xx" for n in range(12)},
        "files_deferred": 4,
        "folders_unlistable": 1,
        "folders_hidden": 2,
        "stage_s": dict.fromkeys(("index", "read", "preprocess", "infer", "pictures", "html", "pdf", "write"), 1.0),
    }
    busy = make_report(**fields, drift=drift)
    idle = make_report(drift=replace(drift, lines=(), scanners=(), left_out=left_out), studies_this_run=0)
    before = RunSheet("2026-11-21-1", studies_done=3, priorities={"urgent": 1})
    scored = ScoredSince({"urgent": 2}, {"Nodule": 2}, "", (urgent,))
    for page in (page_of(busy, scored, before), page_of(idle, None, before), page_of(make_report(drift=None))):
        data = known(busy.engine, busy.libraries, urgent, [*busy.reasons], LABELS)
        assert outside(page, data | {"Maker / Model", "M / 2", "xx", "Odd label"}) == set()


def test_a_label_that_nobody_knows_stays_as_the_engine_has_it() -> None:
    result = make_study_result(((0.9,),), labels=(Label("Kerley_B_lines", 0.5),))
    assert "Kerley B lines likely" in render_report(result)
