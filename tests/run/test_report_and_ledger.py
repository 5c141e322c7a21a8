"""Killed between report and ledger, and everything else changed before the next command: nothing false, nothing lost.

With CXRBATCH_EVERY_FAULT=1 every kill meets every change and every command; without it each kill meets some.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from cxrbatch.errors import ExitCode
from cxrbatch.records import StudyResult
from cxrbatch.system.record_json import from_json, to_json
from tests.factories.engine import write_tiny_bundle
from tests.factories.faulted import Ended, FaultedRuns
from tests.factories.judged import disagreements, finished_reports
from tests.factories.ledgers import stored_result
from tests.factories.output import as_earlier_version, plain
from tests.factories.outputs import leftovers
from tests.factories.studies import read_rows, write_image

pytestmark = pytest.mark.hostile("9.1 report and ledger")

EVERY = bool(os.environ.get("CXRBATCH_EVERY_FAULT"))
FIRST, SECOND, THIRD, OTHER = (20, 60, 120, 240), (240, 20, 60, 10), (10, 200, 40, 90), (200, 10, 10, 10)
# From before the first byte of the report of a second revision to the end of its tables.
KILLS = (
    *("report-write", "intent-write", "intent-written", "copy-link", "copy-linked"),
    *(f"files-written:{n}" for n in (2, 4)),
    *(f"files-renamed:{n}" for n in range(2, 8)),
    *("report-written", "ledger-commit:3", "ledger-committed:3", "ledger-commit:4", "ledger-committed:4"),
    *("tidy", "stale-remove", "stale-removed:2", "intent-remove", "intent-removed", "tidied", "table-patch"),
)


@dataclass(frozen=True)
class Stage:
    """A helper process, two engines, and an OUT with one revision of one study, and its images."""

    runs: FaultedRuns
    engine: str
    other_engine: str
    folder: Path

    def fresh(self, place: Path) -> tuple[Path, Path]:
        """Return images and OUT of one case; the images always lie in the same place, for OUT belongs to it."""
        images, out = self.folder / "images", place / "out"
        shutil.rmtree(images, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.folder / "images-before", images)
        shutil.copytree(self.folder / "out", out)
        return images, out

    def run(self, images: Path, out: Path, *more: str, engine: str = "", fault: str = "") -> Ended:
        """Run on a folder of folders of images, each a study; what is in `more` counts more than what is usual."""
        usual = ("-e", engine or self.engine, "--workers", "1", "--threads", "1", "--group-by", "folder", "--pdf")
        return self.runs.command("run", str(images), "-o", str(out), *usual, *more, fault=fault)

    def killed(self, place: Path, point: str) -> tuple[Path, Path]:
        """Return images and OUT after a kill in the middle of the second revision."""
        images, out = self.fresh(place)
        write_image(images / "s" / "a.png", *SECOND)
        ended = self.run(images, out, fault=f"{point}=kill")
        assert ended.exit_code == -signal.SIGKILL, (point, ended.said)
        return images, out


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    engine = str(write_tiny_bundle(folder / "engines"))
    labels = ("TopLeft", "TopRight", "BottomLeft", "Other")
    other = str(write_tiny_bundle(folder / "engines", name="other", labels=labels))
    with FaultedRuns(pdf=True) as runs:
        stage = Stage(runs, engine, other, folder)
        write_image(folder / "images" / "s" / "a.png", *FIRST)
        write_image(folder / "images" / "t" / "b.png", *OTHER)
        assert stage.run(folder / "images", folder / "out").exit_code == ExitCode.DONE
        shutil.copytree(folder / "images", folder / "images-before")
        yield stage


# --------------------------------------------------------------------------- what happens between kill and resume


def nothing(images: Path) -> tuple[str, ...]:
    return ()


def emptied(images: Path) -> tuple[str, ...]:
    shutil.rmtree(images)
    images.mkdir()
    return ("--input-emptied",)


def one_image_gone(images: Path) -> tuple[str, ...]:
    (images / "s" / "a.png").unlink()
    return ()


def replaced(images: Path) -> tuple[str, ...]:
    write_image(images / "s" / "a.png", *THIRD)
    return ()


def put_back(images: Path) -> tuple[str, ...]:
    write_image(images / "s" / "a.png", *FIRST)
    return ()


def one_more(images: Path) -> tuple[str, ...]:
    write_image(images / "s" / "c.png", *THIRD)
    return ()


def one_more_and_the_first_gone(images: Path) -> tuple[str, ...]:
    write_image(images / "s" / "c.png", *THIRD)
    (images / "s" / "a.png").unlink()
    return ()


def no_image_any_more(images: Path) -> tuple[str, ...]:
    (images / "s" / "a.png").write_text("no image")
    return ()


def grouped_otherwise(images: Path) -> tuple[str, ...]:
    return ("--group-by", "file")


def deidentified(images: Path) -> tuple[str, ...]:
    (images / "s" / "a.png").unlink()
    return ("--deidentify-existing",)


def without_pdf(images: Path) -> tuple[str, ...]:
    return ("--no-pdf",)


def unprinted(images: Path) -> tuple[str, ...]:
    return ("--no-pdf", "--no-html")


CHANGES: tuple[Callable[[Path], tuple[str, ...]], ...] = (
    *(nothing, emptied, one_image_gone, replaced, put_back, one_more, one_more_and_the_first_gone, no_image_any_more),
    *(grouped_otherwise, deidentified, without_pdf, unprinted),
)


def test_the_kills_are_where_they_are_meant_to_be(stage: Stage, tmp_path: Path) -> None:
    """Some hit before the new result is on the disk, some between that and the commit, some after it."""
    seen = set()
    for point in KILLS if EVERY else KILLS[::4]:
        _, out = stage.killed(tmp_path, point)
        with closing(sqlite3.connect(out / "ledger.sqlite")) as ledger:
            query = "SELECT revision FROM studies WHERE study_key = (SELECT study_key FROM files WHERE path = ?)"
            ((recorded,),) = ledger.execute(query, (b"s/a.png",)).fetchall()
        seen.add((max(revision for revision, _ in finished_reports(out).values()), recorded))
    assert seen == {(1, 1), (2, 1), (2, 2)}


@pytest.mark.parametrize(
    ("number", "point", "change"),
    [
        pytest.param(number, point, change, id=f"{point}-{change.__name__}")
        for number, point in enumerate(KILLS)
        for position, change in enumerate(CHANGES)
        if EVERY or (number + position) % 8 == 0
    ],
)
def test_a_killed_report_and_whatever_comes_next(
    stage: Stage, number: int, point: str, change: Callable[[Path], tuple[str, ...]], tmp_path: Path
) -> None:
    images, out = stage.killed(tmp_path, point)
    before, more = finished_reports(out), change(images)
    engine = stage.other_engine if (number // 2) % 2 else stage.engine
    ended = stage.run(images, out, *more, engine=engine)
    assert ended.exit_code == ExitCode.DONE, ended.said
    assert disagreements(out) == []
    after, refused = finished_reports(out), change in (no_image_any_more, grouped_otherwise)
    if change is deidentified:  # study keys are others there
        revisions = [sorted(revision for revision, _ in reports.values()) for reports in (before, after)]
        assert all(earlier <= later for earlier, later in zip(*revisions, strict=True))
        return
    for key, (revision, _) in before.items():
        assert refused or after[key][0] >= revision, "a finished report is never lost, nor exchanged for an earlier one"
    assert stage.run(images, out, *more, engine=engine).exit_code == ExitCode.DONE
    assert finished_reports(out) == after, "the next run has nothing to do"
    assert disagreements(out) == []


@pytest.mark.parametrize(
    ("point", "command"),
    [
        (point, command)
        for number, point in enumerate(KILLS)
        for position, command in enumerate(("report", "prune", "repair"))
        if EVERY or (number + position) % 3 == 0
    ],
)
def test_a_killed_report_and_another_command_than_run(stage: Stage, point: str, command: str, tmp_path: Path) -> None:
    images, out = stage.killed(tmp_path, point)
    (images / "s" / "a.png").unlink()
    before = finished_reports(out)
    if command == "repair":
        (out / "ledger.sqlite").write_bytes(b"all that is left of it" * 400)
    arguments = {"report": ("--workers", "1"), "prune": ("--older-than", "90d", "--yes"), "repair": ()}[command]
    ended = stage.runs.command(command, str(out), *arguments)
    assert ended.exit_code == ExitCode.DONE, ended.said
    after = finished_reports(out)
    assert all(after[key][0] >= revision for key, (revision, _) in before.items())
    assert stage.run(images, out).exit_code == ExitCode.DONE
    assert disagreements(out) == []
    assert {row["status"] for row in read_rows(out / "studies.csv")} == {"reported"}
    assert all(row["report_html"] and row["report_pdf"] for row in read_rows(out / "studies.csv"))


def test_the_report_of_a_first_revision_is_there_although_its_image_is_gone(stage: Stage, tmp_path: Path) -> None:
    images, out = stage.folder / "images", tmp_path / "new"
    stage.fresh(tmp_path)
    assert stage.run(images, out, fault="report-written:2=kill").exit_code == -signal.SIGKILL
    shutil.rmtree(images)
    images.mkdir()
    assert stage.run(images, out, "--input-emptied").exit_code == ExitCode.DONE
    rows = read_rows(out / "images.csv")
    assert {(row["path"], row["status"]) for row in rows} == {("s/a.png", "scored"), ("t/b.png", "scored")}
    assert all((out / row["report_pdf"]).is_file() for row in read_rows(out / "studies.csv"))
    assert disagreements(out) == []


def test_what_a_killed_run_printed_of_a_patient_is_not_taken_over_by_a_deidentified_one(
    stage: Stage, tmp_path: Path
) -> None:
    from tests.factories.intake import blobs, write_dicom

    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    write_dicom(images / "a.dcm", pixels=blobs(), PatientID="PID-CANARY", PatientName="Canary^Maria")
    assert stage.run(images, out, fault="report-written=kill").exit_code == -signal.SIGKILL
    (images / "a.dcm").unlink()
    assert stage.run(images, out, "--deidentify-existing", "--input-emptied").exit_code == ExitCode.DONE
    assert disagreements(out) == []
    ((key, _),) = finished_reports(out).items()
    for path in (out / "reports" / key).iterdir():
        content = path.read_bytes()
        assert b"CANARY" not in content
        assert b"Canary" not in content
    assert not [path for path in (out / "images.csv", out / "studies.csv") if "CANARY" in path.read_text()]


# --------------------------------------------------------------------------- reports that the ledger never heard of


def test_the_ledger_of_yesterday_takes_over_what_was_finished_since(stage: Stage, tmp_path: Path) -> None:
    """A ledger from a backup, without the sign of a killed run, and the images are gone."""
    images, out = stage.fresh(tmp_path)
    shutil.copy(out / "ledger.sqlite", tmp_path / "yesterday.sqlite")
    write_image(images / "s" / "a.png", *SECOND)
    write_image(images / "u" / "d.png", *THIRD)
    assert stage.run(images, out).exit_code == ExitCode.DONE
    before = finished_reports(out)
    shutil.copy(tmp_path / "yesterday.sqlite", out / "ledger.sqlite")
    emptied(images)
    assert stage.run(images, out, "--input-emptied").exit_code == ExitCode.DONE
    assert finished_reports(out) == before
    assert len(before) == 3
    assert disagreements(out) == []


def test_a_ledger_that_is_gone_costs_no_finished_report(stage: Stage, tmp_path: Path) -> None:
    images, out = stage.fresh(tmp_path)
    before = finished_reports(out)
    (out / "ledger.sqlite").unlink()
    (images / "s" / "a.png").unlink()
    assert stage.run(images, out).exit_code == ExitCode.DONE
    assert finished_reports(out) == before
    assert disagreements(out) == []
    assert {row["status"] for row in read_rows(out / "images.csv")} == {"scored"}


def test_a_report_folder_that_somebody_removed_is_a_failure_and_not_silence(stage: Stage, tmp_path: Path) -> None:
    images, out = stage.fresh(tmp_path)
    key = next(row["study_key"] for row in read_rows(out / "images.csv") if row["path"] == "s/a.png")
    shutil.rmtree(out / "reports" / key)
    assert stage.run(images, out).exit_code == ExitCode.SOME_STUDIES_FAILED
    assert stage.run(images, out).exit_code == ExitCode.DONE
    assert disagreements(out) == []
    assert set(finished_reports(out)) >= {key}


def test_the_report_of_a_study_that_was_refused_after_all_goes(stage: Stage, tmp_path: Path) -> None:
    images, out = stage.fresh(tmp_path)
    no_image_any_more(images)
    for fault in ("orphan-remove=kill", "orphan-removed=kill", ""):
        ended = stage.run(images, out, fault=fault)
    assert ended.exit_code == ExitCode.DONE
    assert len(finished_reports(out)) == 1
    assert disagreements(out) == []
    assert leftovers(out) == []


# --------------------------------------------------------------------------- output folders of earlier versions


def as_left_by_an_earlier_version(out: Path, *, unfinished: str = "") -> None:
    """Turn an output folder into what earlier versions left: plain names, reports that do not say what they are of."""
    with closing(sqlite3.connect(out / "ledger.sqlite")) as ledger, ledger:
        for (text,) in ledger.execute("SELECT result FROM studies WHERE result IS NOT NULL").fetchall():
            result = as_earlier_version(stored_result(ledger, text))
            ledger.execute("UPDATE studies SET result = ? WHERE study_key = ?", (to_json(result), result.study_key))
        ledger.execute("DELETE FROM meta WHERE key = 'session'")
        ledger.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('unfinished', ?)", (unfinished,))
    for record in out.glob("reports/*/result.json"):
        written = record.stat()
        old = as_earlier_version(from_json(record.read_text(), StudyResult))
        for picture in record.parent.glob("*.jpg"):
            picture.rename(picture.with_name(plain(picture.name)))
        record.write_text(to_json(old, indent=2))
        os.utime(record, ns=(written.st_atime_ns, written.st_mtime_ns))
        for name, mark in (
            ("report.html", rb'<meta name="cxrbatch-result"[^>]*>\n'),
            ("report.pdf", rb"/ID \[[^\]]*\]"),
        ):
            page = re.sub(mark, b"", (record.parent / name).read_bytes())
            (record.parent / name).write_bytes(re.sub(rb"-[0-9a-f]{12}\.jpg", b".jpg", page))
    known = json.loads((out / ".cxrbatch.json").read_text())
    (out / ".cxrbatch.json").write_text(json.dumps({k: v for k, v in known.items() if k not in ("session", "claimed")}))
    shutil.rmtree(out / ".cxrbatch-printing", ignore_errors=True)


@pytest.mark.parametrize("unfinished", ["", "yes"], ids=["ended", "killed"])
def test_an_output_of_an_earlier_version_is_not_scored_again_and_can_be_printed(
    stage: Stage, tmp_path: Path, unfinished: str
) -> None:
    images, out = stage.fresh(tmp_path)
    as_left_by_an_earlier_version(out, unfinished=unfinished)
    before = {path: path.read_bytes() for path in out.glob("reports/*/*")}
    ended = stage.run(images, out)
    assert (ended.exit_code, ended.reached["report-write"]) == (ExitCode.DONE, 0)
    assert {path: path.read_bytes() for path in out.glob("reports/*/*")} == before
    assert stage.runs.command("report", str(out), "--workers", "1").exit_code == ExitCode.DONE
    assert disagreements(out) == []
    write_image(images / "s" / "a.png", *SECOND)
    assert stage.run(images, out).exit_code == ExitCode.DONE
    assert disagreements(out) == []


@pytest.mark.parametrize("reached_result", [True, False])
def test_a_kill_of_an_earlier_version_between_pictures_and_ledger_prints_nothing_false(
    stage: Stage, tmp_path: Path, reached_result: bool
) -> None:
    """It put the pictures of revision 2 under the names of revision 1."""
    images, out = stage.fresh(tmp_path)
    key = next(row["study_key"] for row in read_rows(out / "images.csv") if row["path"] == "s/a.png")
    as_left_by_an_earlier_version(out, unfinished="yes")
    shutil.copytree(out, tmp_path / "second")
    write_image(images / "s" / "a.png", *SECOND)
    assert stage.run(images, tmp_path / "second").exit_code == ExitCode.DONE
    as_left_by_an_earlier_version(tmp_path / "second")
    for path in (tmp_path / "second" / "reports" / key).iterdir():
        if reached_result or path.suffix == ".jpg":
            shutil.copy2(path, out / "reports" / key / path.name)
    (images / "s" / "a.png").unlink()
    assert stage.run(images, out).exit_code == ExitCode.DONE
    row = next(row for row in read_rows(out / "studies.csv") if row["study_key"] == key)
    if reached_result:
        assert (row["revision"], bool(row["report_html"])) == ("2", True)
    else:
        assert (row["revision"], row["report_html"]) == ("1", ""), "the page would show another image than was scored"
        assert not (out / "reports" / key / "report.html").exists()
        assert row["report_pdf"], "the PDF has its pictures in it"


def test_a_picture_that_somebody_exchanged_is_not_printed_and_drawn_again_by_the_next_run(
    stage: Stage, tmp_path: Path
) -> None:
    images, out = stage.fresh(tmp_path)
    one, other = sorted(out.glob("reports/*/image-1-*.jpg"))
    one.write_bytes(other.read_bytes())
    ended = stage.runs.command("report", str(out), "--workers", "1")
    assert ended.exit_code == ExitCode.SOME_STUDIES_FAILED
    assert f"{one.name} is not the picture that was drawn" in ended.said
    assert stage.run(images, out).exit_code == ExitCode.DONE
    assert disagreements(out) == []
    assert {row["status"] for row in read_rows(out / "studies.csv")} == {"reported"}
