"""The sheet of a run: what it says is what the run did, it names nobody, and it costs no run anything."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from stat import S_IMODE

import pytest

from cxrbatch.config import Settings
from cxrbatch.locales import locales
from cxrbatch.output.drift import DriftLine, DriftReport, ScannerDrift
from cxrbatch.output.run_json import RunReport
from cxrbatch.output.sheets import sheet as sheet_module
from cxrbatch.output.sheets.facts import RunSheet, ScoredSince, UrgentStudy, gather_sheet, is_news
from cxrbatch.output.sheets.page import render_sheet
from cxrbatch.output.sheets.pdf import print_sheet
from cxrbatch.output.sheets.sheet import read_sheet, remove_old_sheets, sheet_names
from cxrbatch.pages.language import speaking
from cxrbatch.records import Label
from tests.factories.output import LABELS, make_engine
from tests.factories.studies import run_quietly, write_image
from tests.factories.varied import run_varied


def make_report(**fields: object) -> RunReport:
    known: dict[str, object] = {
        "cxrbatch_version": "0.1.0",
        "started_at": "2026-11-22T01:00:00+00:00",
        "finished_at": "2026-11-22T05:04:00+00:00",
        "finished": True,
        "settings": Settings(),
        "engine": make_engine(),
        "files": {"scored": 10},
        "files_deferred": 0,
        "folders_unlistable": 0,
        "studies": {"reported": 10},
        "reasons": {},
        "failures": {},
        "studies_this_run": 10,
        "images_scored_this_run": 10,
        "wall_s": 20.0,
        "stage_s": {"read": 0.5, "infer": 1.5},
        "libraries": {},
    }
    return RunReport(**(known | fields))  # type: ignore[arg-type]


def page_of(report: RunReport, scored: ScoredSince | None = None, *earlier: RunSheet) -> str:
    before = earlier[-1] if earlier else None
    scored = scored or ScoredSince()
    sheet = gather_sheet(report, scored, before, name="2026-11-22-1", kind="run")
    return render_sheet(sheet, report, scored.most_urgent, earlier)


def needs(page: str) -> list[str]:
    section = re.search(r'<section class="needs.*?</section>', page, re.DOTALL)
    assert section
    return re.findall(r"<li>(.*?)</li>", section[0])


@dataclass
class Clock:
    """Says what day it is to who names sheets, so that it is the same one until a test says otherwise."""

    moment: datetime = datetime(2026, 11, 22, 12)  # noqa: DTZ001  # noon, wherever that is

    def now(self) -> datetime:
        return self.moment


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sheet_module, "datetime", clock)
    return clock


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_varied(tmp_path_factory.mktemp("varied"))[0]


# --------------------------------------------------------------------------- what a run leaves


def test_a_run_leaves_a_sheet_with_its_figures(varied: Path) -> None:
    (name,) = sheet_names(varied / "runs")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-1", name)
    said = read_sheet(varied / "runs", name)
    run = json.loads((varied / "run.json").read_text())
    assert said is not None
    assert (said.files, said.reasons, said.studies) == (run["files"], run["reasons"], run["studies"])
    assert (said.new_files, said.new_reasons, said.came, said.refused) == (run["files"], run["reasons"], 8, 2)
    assert said.priorities == {"urgent": 1, "abnormal": 1, "incomplete": 1}
    assert said.new_studies == run["studies"]
    assert said.positives == {"TopLeft": 1, "Top,=Right": 2}
    assert sum(said.ms_per_study.values()) > 0
    modes = {S_IMODE(path.stat().st_mode) for path in (varied / "runs").iterdir()}
    assert modes == {0o640}
    assert S_IMODE((varied / "runs").stat().st_mode) == 0o750


@pytest.mark.parametrize(
    ("before", "not_scored"), [({}, 9), ({"reported": 1, "unscored": 6}, 3), ({"unscored": 9, "failed": 4}, 0)]
)
def test_studies_that_came_to_no_score_are_counted_as_the_worklist_does(
    before: dict[str, int], not_scored: int
) -> None:
    sheets = [RunSheet("2026-11-21-1", studies=before)] if before else []
    scored = ScoredSince(priorities={"abnormal": 3})
    report = make_report(studies={"reported": 3, "unscored": 7, "failed": 2, "pending": 5})
    page = page_of(report, scored, *sheets)
    assert f'href="../index.html#unscored"><b>{not_scored}</b> Not scored' in page
    sheet = gather_sheet(report, scored, sheets[0] if sheets else None, name="2026-11-22-1", kind="run")
    assert sheet.scored_studies == 3, "shares are of those that were scored"


def test_the_page_names_studies_by_their_keys_and_nobody(varied: Path) -> None:
    page = next((varied / "runs").glob("*.html")).read_text()
    for identity in ("Jane", "1.2.3.4", "-1</", "=cmd", "failed.png", "night/"):
        assert identity not in page
    links = re.findall(r'href="\.\./(reports/[^"]+)"', page)
    assert len(links) == 2
    assert all((varied / link).is_file() for link in links)
    assert "not_an_image" in page
    assert "default-src &#39;none&#39;" in page
    assert "<script" not in page
    first, *rest = needs(page)
    assert first == "1 urgent study to be read first."
    assert any("the engine gave no number" in each for each in rest)


def test_a_second_run_says_what_is_new_alone(tmp_path: Path) -> None:
    out, report = run_varied(tmp_path)
    images, engine = tmp_path / "images", str(tmp_path / "engines" / "tiny")
    write_image(images / "late.png", 230, 20, 60, 40)
    (images / "more.txt").write_text("no image")
    sheet_second(out)
    run_quietly(images, out, engine=engine)
    first, second = sheet_names(out / "runs")
    said = read_sheet(out / "runs", second)
    assert said is not None
    assert (said.new_files, said.new_reasons) == ({"scored": 1, "rejected": 1}, {"not_an_image": 1})
    assert said.priorities == {"urgent": 1}
    assert said.files["scored"] == report.files["scored"] + 1
    page = (out / "runs" / f"{second}.html").read_text()
    assert "The last 2 runs" in page
    assert first in page  # as a bar of the trend


def sheet_second(out: Path) -> None:
    """Let the sheet that is there be a second older, for times are told to the second."""
    (path,) = (out / "runs").glob("*.json")
    said = json.loads(path.read_text())
    said["scored_until"] = "2026-01-01T00:00:00+00:00" if said["scored_until"] == "" else said["scored_until"]
    path.write_text(json.dumps(said))
    _wait_for_the_next_second()


def _wait_for_the_next_second() -> None:
    import time

    time.sleep(1.01 - time.time() % 1)


def test_a_run_without_news_leaves_the_first_sheet_of_a_day_alone(tmp_path: Path, clock: Clock) -> None:
    write_image(tmp_path / "images" / "a.png", 20, 60, 120, 240)
    engine = str(tmp_path / "engines" / "tiny")
    from tests.factories.engine import write_tiny_bundle

    write_tiny_bundle(tmp_path / "engines")
    out = tmp_path / "out"
    for _ in range(3):
        run_quietly(tmp_path / "images", out, engine=engine)
    assert len(sheet_names(out / "runs")) == 1
    clock.moment += timedelta(days=1)
    run_quietly(tmp_path / "images", out, engine=engine)
    assert sheet_names(out / "runs") == ["2026-11-22-1", "2026-11-23-1"]
    page = (out / "runs" / f"{sheet_names(out / 'runs')[-1]}.html").read_text()
    assert needs(page) == ["Nothing came. If there should have been studies, look at what sends them."]


def test_a_sheet_that_cannot_be_made_fails_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise ValueError("a page that nobody can make")

    monkeypatch.setattr(sheet_module, "render_sheet", broken)
    out, report = run_varied(tmp_path)
    assert report.finished
    assert not list((out / "runs").glob("*")) if (out / "runs").exists() else True
    assert "sheet not written" in (out / "cxrbatch.log").read_text()


def test_a_sheet_is_printed_where_that_is_asked_for(tmp_path: Path) -> None:
    out, _ = run_varied(tmp_path, sheet_pdf=True)
    (path,) = (out / "runs").glob("*.pdf")
    text = subprocess.run(["pdftotext", "-layout", path, "-"], check=True, capture_output=True, text=True).stdout
    assert "What needs a person" in text
    assert "1 urgent study to be read first." in text
    facts = subprocess.run(["pdfinfo", path], check=True, capture_output=True, text=True).stdout
    assert re.search(r"Tagged: +yes", facts)
    assert re.search(r"Title: +Run of ", facts)
    assert S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("locale", locales())
def test_a_usual_night_is_one_side_of_paper_and_another_with_drift_and_thirty_runs(
    locale: str, read_pdf: Callable[[bytes], bytes]
) -> None:
    labels = tuple(Label(name, 0.5) for name in ("Pneumothorax", "Effusion", "Cardiomegaly", "Nodule", "Consolidation"))
    reasons = ("not_radiograph", "not_frontal", "blank", "not_an_image", "not_chest", "truncated_pixels")
    stages = ("index", "read", "preprocess", "infer", "pictures", "html", "pdf", "write", "tables")
    lines = [DriftLine("score", label.name, "recent", 0.1, 0.2, 60, 900) for label in labels]
    alarm = replace(lines[0], psi=0.4, alarm=True)
    scanner = ScannerDrift("Maker / one", 60, 900, (alarm,))
    drift = DriftReport("", 60, 900, 0.25, (alarm, *lines[1:]), (), (scanner,), 2)
    report = make_report(
        engine=make_engine(labels), drift=drift, reasons=dict.fromkeys(reasons, 3), stage_s=dict.fromkeys(stages, 1.5)
    )
    found = tuple((label, 0.91) for label in labels[:3])
    urgent = [UrgentStudy(f"{n}" * 16, "urgent", found, "reports/x/report.html", "2026") for n in range(10)]
    scored = ScoredSince({"urgent": 10, "normal": 90}, {"Nodule": 1}, "", tuple(urgent))
    earlier = [RunSheet(f"2026-11-{day:02}-1", priorities={"normal": day}) for day in range(1, 22)]
    with speaking(locale):
        pages = page_of(replace(report, drift=None), scored), page_of(report, scored, *earlier)
    assert [read_pdf(print_sheet(page)).count(b"/Type /Page/") for page in pages] == [1, 2]


def test_only_so_many_sheets_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet_module, "MOST_SHEETS", 3)
    (tmp_path / "out" / "runs").mkdir(parents=True)
    for day in range(1, 6):
        for suffix in ("html", "json"):
            (tmp_path / "out" / "runs" / f"2026-01-0{day}-{day}.{suffix}").write_text("{}")
    (tmp_path / "out" / "runs" / "notes.txt").write_text("mine")
    run_varied(tmp_path)
    names = sheet_names(tmp_path / "out" / "runs")
    assert names[:2] == ["2026-01-04-4", "2026-01-05-5"]
    assert len(names) == 3
    assert (tmp_path / "out" / "runs" / "notes.txt").exists()


def test_sheets_are_sorted_by_day_and_number(tmp_path: Path) -> None:
    for name in ("2026-01-02-2", "2026-01-02-10", "2026-01-01-3"):
        (tmp_path / f"{name}.json").write_text("{}")
    assert sheet_names(tmp_path) == ["2026-01-01-3", "2026-01-02-2", "2026-01-02-10"]
    assert read_sheet(tmp_path, "2026-01-01-3") is None
    assert sheet_names(tmp_path / "missing") == []


def test_old_sheets_go_with_the_reports_that_they_link_to(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for name in ("2020-01-01-1", "2999-01-01-1"):
        for suffix in ("html", "json", "pdf"):
            (tmp_path / "runs" / f"{name}.{suffix}").write_text("")
    assert remove_old_sheets(tmp_path, timedelta(days=90)) == 1
    assert sheet_names(tmp_path / "runs") == ["2999-01-01-1"]


def test_taking_names_out_takes_the_sheets_of_former_keys_along(tmp_path: Path) -> None:
    out, _ = run_varied(tmp_path)
    keys = {path.name for path in (out / "reports").iterdir()}
    images, engine = tmp_path / "images", str(tmp_path / "engines" / "tiny")
    run_quietly(images, out, engine=engine, deidentify_existing=True)
    written = "".join(path.read_text() for path in (out / "runs").iterdir())
    assert written
    assert not any(key in written for key in keys)


# --------------------------------------------------------------------------- what the page says


def test_a_quiet_night_needs_nobody() -> None:
    assert needs(page_of(make_report())) == []
    assert "<p>Nothing.</p>" in page_of(make_report())


def test_whatever_needs_a_person_is_said() -> None:
    alarm = DriftLine("score", "Nodule", "recent", 0.4, 0.1, 60, 900, alarm=True)
    drift = DriftReport("", 60, 900, 0.25, (alarm,), (), (ScannerDrift("Maker / Model", 60, 900, (alarm,)),), 2)
    report = make_report(
        finished=False,
        drift=drift,
        files={"scored": 2, "rejected": 3},
        reasons={"blank": 3},
        studies={"failed": 12},
        failures={f"{n:016x}": "no number" for n in range(12)},
        files_deferred=4,
        folders_unlistable=1,
        folders_hidden=2,
    )
    said = "\n".join(needs(page_of(report, ScoredSince({"urgent": 2}))))
    for sentence in (
        "The run was stopped before its end",
        "2 urgent studies to be read first",
        "12 studies failed",
        "study 0000000000000009: no number",
        "... and 2 more in run.json",
        "1 folder of the input cannot be listed",
        "4 files cannot be read now",
        "Drift: scores of Nodule against the last 30 days, 0.40",
        "Drift on Maker / Model: scores of Nodule",
        "More than half of what came was refused (3 of 5 files)",
    ):
        assert sentence in said
    assert "study 000000000000000a" not in said


def test_what_strangers_wrote_is_shown_and_does_nothing() -> None:
    hostile = "<script>x</script>\u202e" + "y" * 10_000
    labels = (Label(hostile, 0.5, urgent=True),)
    drift = DriftReport("", 60, 900, 0.25, (), (hostile,), (ScannerDrift(hostile, 60, 900),))
    urgent = UrgentStudy("0" * 16, "urgent", ((labels[0], 0.9),), 'reports/"><script>', "2026")
    report = make_report(
        engine=make_engine(labels),
        drift=drift,
        failures={"0" * 16: hostile},
        studies={"failed": 1},
        reasons={hostile: 1},
    )
    page = page_of(report, ScoredSince({"urgent": 1}, {hostile: 1}, "", (urgent,)))
    assert "<script" not in page
    assert "\u202e" not in page


def test_a_trend_has_a_bar_for_each_run_as_high_as_its_figure() -> None:
    earlier = [RunSheet(f"2026-11-{day:02}-1", priorities={"normal": 10 * day}) for day in (1, 2)]
    page = page_of(make_report(), ScoredSince({"normal": 40}), *earlier)
    chart = next(part for part in page.split("<figure>") if "Studies scored" in part)
    bars = re.findall(r'height="([\d.]+)"><title>(.*?)</title>', chart)
    assert [title for _, title in bars] == ["2026-11-01-1: 10", "2026-11-02-1: 20", "2026-11-22-1: 40"]
    assert [float(height) for height, _ in bars] == [10.5, 21.0, 42.0]
    assert 'aria-label="Studies scored, over 3 runs: 10 to 40; the latest 40"' in chart


def test_stages_are_told_per_study() -> None:
    sheet = gather_sheet(make_report(), ScoredSince(), None, name="x-1", kind="run")
    assert sheet.ms_per_study == {"read": 50.0, "infer": 150.0}
    page = page_of(make_report())
    assert "0.5 studies a second; 200 ms per study" in page


def test_a_drift_that_is_an_alarm_is_marked_in_its_place() -> None:
    lines = (
        DriftLine("score", "Nodule", "training", 0.41, 0.1, 60, 900, alarm=True),
        DriftLine("positive", "Nodule", "recent", 0.02, 0.1, 60, 900),
        DriftLine("grey", "", "training", 0.33, 0.1, 60, 900, alarm=True),
    )
    page = page_of(make_report(drift=DriftReport("", 60, 900, 0.25, lines)), ScoredSince({}, {"Nodule": 7}))
    rows = {row[0]: row[1] for row in re.findall(r'<tr><th scope="row">([^<]+)</th>(.*?)</tr>', page)}
    cells = re.findall(r"<td([^>]*)>(.*?)</td>", rows["Nodule"])
    assert [re.sub("<[^>]+>", "", text) for _, text in cells] == [
        "7",
        "Alarm: 0.41",
        "\N{EN DASH}",
        "\N{EN DASH}",
        "0.02",
    ]
    assert ["alarm" in attributes for attributes, _ in cells] == [False, True, False, False, False]
    assert "Alarm: </span>0.33" in rows["Grey levels"]
    assert {label.name for label in LABELS} < set(rows)


def test_news_is_whatever_the_sheet_before_does_not_say() -> None:
    before = gather_sheet(make_report(), ScoredSince(), None, name="x-1", kind="run")
    same = replace(before, studies_done=0)
    assert not is_news(same, before)
    for other in (
        replace(same, files={"scored": 11}),
        replace(same, studies={"reported": 9, "failed": 1}),
        replace(same, engine_sha256="other"),
        replace(same, finished=False),
        replace(same, studies_done=1),
        replace(same, deferred=1),
    ):
        assert is_news(other, before)
    assert is_news(same, None)


def test_a_daemon_writes_its_sheet_in_place_and_not_all_the_time_and_a_new_one_the_next_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    from cxrbatch.output.folder.opening import open_output
    from cxrbatch.output.sheets.sheet import Sheets

    with open_output(tmp_path / "out") as ledger:
        sheets = Sheets("watch")
        assert sheets.write(ledger, make_report()) is not None
        assert sheets.write(ledger, make_report(files={"scored": 11})) is None
        monkeypatch.setattr(sheet_module, "DAEMON_EVERY_S", 0.0)
        said = sheets.write(ledger, make_report(files={"scored": 12}))
        assert said is not None
        assert said.new_files == {"scored": 12}  # since the day's sheet began
        monkeypatch.setattr(sheet_module, "DAEMON_EVERY_S", 600.0)
        assert sheets.write(ledger, make_report(finished=False)) is not None
        (name,) = sheet_names(tmp_path / "out" / "runs")
        assert "Watch of " in (tmp_path / "out" / "runs" / f"{name}.html").read_text()
        monkeypatch.setattr(sheet_module, "DAEMON_EVERY_S", 0.0)
        clock.moment += timedelta(hours=13)
        said = sheets.write(ledger, make_report(files={"scored": 15}))
        assert said is not None
        assert said.new_files == {"scored": 5}  # since the day before, of which the last sheet said 10
    assert sheet_names(tmp_path / "out" / "runs") == [name, "2026-11-23-1"]
