"""A ledger that is lost costs nothing: it is made anew from the results, and the next run has nothing to score."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode, LedgerDamaged, UsageError
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.ledger import store as ledger_store
from cxrbatch.output.ledger.ledger import LEDGER_FILE, Ledger
from cxrbatch.upkeep.repair import Repair, repair_output
from tests.factories.engine import write_tiny_bundle
from tests.factories.intake import blobs, write_dicom
from tests.factories.studies import read_rows, run_quietly, write_image

REPORTED_AT = "reported_at"


@dataclass(frozen=True)
class Finished:
    """A run that is done: its input, its output and its engine."""

    images: Path
    out: Path
    engine: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two PNG images, a text file, and a DICOM study of a frontal image, its double and a lateral one; scored."""
    base = tmp_path_factory.mktemp("finished")
    folder = base / "images"
    write_image(folder / "a.png", 20, 60, 120, 240)
    write_image(folder / "b.png", 200, 10, 10, 10)
    (folder / "notes.txt").write_text("no image")
    study = {"StudyInstanceUID": "1.2.3", "PatientID": "P1"}
    write_dicom(folder / "pa.dcm", pixels=blobs(), SOPInstanceUID="1.2.3.1", **study)
    (folder / "twin.dcm").write_bytes((folder / "pa.dcm").read_bytes())
    write_dicom(folder / "lat.dcm", pixels=blobs(seed=1), ViewPosition="LL", **study)
    engine = str(write_tiny_bundle(base / "engines"))
    run_quietly(folder, base / "out", engine=engine)
    return Finished(folder, base / "out", engine)


@pytest.fixture
def engine(finished: Finished) -> str:
    return finished.engine


@pytest.fixture
def out(finished: Finished, tmp_path: Path) -> Path:
    """What that run left, for this test alone."""
    return Path(shutil.copytree(finished.out, tmp_path / "out"))


@pytest.fixture
def images(finished: Finished, tmp_path: Path) -> Iterator[Path]:
    """The input of that run, put back as it was, times and all: an output folder belongs to one path."""
    shutil.copytree(finished.images, tmp_path / "kept")
    yield finished.images
    shutil.rmtree(finished.images)
    shutil.copytree(tmp_path / "kept", finished.images)


def tables(out: Path) -> list[list[dict[str, str]]]:
    """Return both tables, without when a report was printed: of that, only the time of its file is left."""
    return [
        [{name: cell for name, cell in row.items() if name != REPORTED_AT} for row in read_rows(out / name)]
        for name in ("images.csv", "studies.csv")
    ]


def ledger_of(out: Path) -> Path:
    """Return the ledger's file with everything in it: nothing is left in a write-ahead log."""
    database = sqlite3.connect(out / LEDGER_FILE)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return out / LEDGER_FILE


def overwrite(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x55" * (len(content) - 4096)
    path.write_bytes(content)


def replace_by_foreign(path: Path) -> None:
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE recipes (name)")
    database.commit()
    database.close()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "overwritten": overwrite,
    "truncated": lambda path: os.truncate(path, 5000),
    "emptied": lambda path: os.truncate(path, 0),
    "no database": lambda path: path.write_bytes(b"all that is left of it" * 400),
    "foreign": replace_by_foreign,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_ledger_is_refused_repaired_and_nothing_is_scored_again(
    images: Path, out: Path, engine: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(out)
    DAMAGES[damage](ledger_of(out))
    spoilt = (out / LEDGER_FILE).read_bytes()
    with pytest.raises(LedgerDamaged, match="cxrbatch repair OUT"):
        run_quietly(images, out, engine=engine)

    repair = repair_output(out)
    assert (repair.studies, repair.files, repair.retried, repair.unreadable, repair.forgotten) == (3, 5, 0, {}, ())
    assert repair.aside is not None
    assert repair.aside.name.startswith("ledger.sqlite.damaged-")
    assert repair.aside.read_bytes() == spoilt or damage == "overwritten"  # SQLite may write to what it can open

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the engine was opened")

    monkeypatch.setattr("cxrbatch.run.engine_slot.open_engine", refuse)
    report = run_quietly(images, out, engine=engine)
    assert report.studies_this_run == 0
    assert report.files == {"scored": 3, "duplicate": 1, "rejected": 2}
    assert tables(out) == before


def test_a_ledger_that_was_removed_is_made_anew_too(images: Path, out: Path, engine: str) -> None:
    before = tables(out)
    ledger_of(out).unlink()
    repair = repair_output(out)
    assert (repair.studies, repair.aside) == (3, None)
    assert run_quietly(images, out, engine=engine).studies_this_run == 0
    assert tables(out) == before


def test_a_sound_ledger_is_left_alone(images: Path, out: Path, engine: str) -> None:
    with open_output(out):
        pass  # the copied folder takes its own place
    before = ledger_of(out).read_bytes()
    assert repair_output(out) == Repair()
    assert ledger_of(out).read_bytes() == before


def test_a_folder_that_is_no_output_is_left_alone(images: Path) -> None:
    before = sorted(os.listdir(images))
    with pytest.raises(UsageError, match="no output folder"):
        repair_output(images)
    assert sorted(os.listdir(images)) == before


@pytest.mark.parametrize("step", range(6))
def test_killed_at_any_step_and_begun_again_the_ledger_comes_back(
    images: Path, out: Path, engine: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, before = tables(out)
    (images / "notes.txt").unlink()  # the one file that a worker would have to read
    overwrite(ledger_of(out))

    class Killed(BaseException):
        pass

    left = [step]
    replace, link = Path.replace, os.link

    def die_in_time() -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1

    def dying_replace(path: Path, target: Path) -> Path:
        die_in_time()
        return replace(path, target)

    def dying_link(*names: Path) -> None:
        die_in_time()
        link(*names)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dying_replace)
        patched.setattr(os, "link", dying_link)
        try:
            repair_output(out)
        except Killed:
            assert (out / LEDGER_FILE).exists(), "without it the next run would begin from nothing"
    repair_output(out)
    assert run_quietly(images, out, engine=engine).studies_this_run == 0
    assert tables(out)[1] == before


def test_a_result_that_cannot_be_read_is_told_and_the_others_are_restored(images: Path, out: Path, engine: str) -> None:
    (key,) = [row["study_key"] for row in read_rows(out / "images.csv") if row["path"] == "a.png"]
    (out / "reports" / key / "result.json").write_text('{"study_key": "')
    ledger_of(out).unlink()
    repair = repair_output(out)
    assert (repair.studies, list(repair.unreadable)) == (2, [key])
    report = run_quietly(images, out, engine=engine)
    assert (report.studies_this_run, report.files["scored"]) == (1, 3)


def test_results_of_an_earlier_version_are_scored_again_and_kept_where_their_files_are_gone(
    images: Path, out: Path, engine: str
) -> None:
    for record in out.glob("reports/*/result.json"):
        former = json.loads(record.read_text())
        del former["files"]
        written = record.stat()
        record.write_text(json.dumps(former))
        os.utime(record, ns=(written.st_atime_ns, written.st_mtime_ns))
    ledger_of(out).unlink()
    (images / "a.png").unlink()
    assert repair_output(out).without_files == 3
    report = run_quietly(images, out, engine=engine)
    assert (report.studies_this_run, report.studies) == (2, {"reported": 3})
    statuses = {row["path"]: row["status"] for row in read_rows(out / "images.csv")}
    assert (statuses["a.png"], statuses["b.png"]) == ("scored", "scored")


def test_a_report_that_a_killed_run_did_not_come_to_print_is_printed_by_the_next(
    images: Path, out: Path, engine: str
) -> None:
    record = next(out.glob("reports/*/result.json"))
    later = record.with_name("report.html").stat().st_mtime_ns + 10**9
    os.utime(record, ns=(later, later))
    ledger_of(out).unlink()
    assert repair_output(out).retried == 1
    assert run_quietly(images, out, engine=engine).studies_this_run == 1
    assert {row["revision"] for row in read_rows(out / "studies.csv")} == {"1"}


def test_a_run_that_prints_no_reports_is_restored_as_finished(images: Path, engine: str, tmp_path: Path) -> None:
    other = tmp_path / "unprinted"
    run_quietly(images, other, engine=engine, html=False)
    ledger_of(other).unlink()
    assert repair_output(other).retried == 0
    assert run_quietly(images, other, engine=engine, html=False).studies_this_run == 0


def test_a_file_in_two_results_goes_to_the_later_one_and_the_other_study_is_done_again(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = next(path for path in out.glob("reports/*/result.json") if '"pa.dcm"' in path.read_text())
    content, folder = former.read_text(), former.parent
    (images / "twin.dcm").unlink()
    write_dicom(images / "pa.dcm", pixels=blobs(seed=2), StudyInstanceUID="9.9")
    monkeypatch.setattr("cxrbatch.run.score.now_text", lambda: "2999-01-02T00:00:00+00:00")
    run_quietly(images, out, engine=engine)
    # As a kill leaves it: the earlier study still says what it said.
    folder.mkdir(exist_ok=True)
    former.write_text(content)
    (folder / "report.html").write_text("its report")
    ledger_of(out).unlink()
    assert repair_output(out).retried == 1
    report = run_quietly(images, out, engine=engine)
    rows = {row["path"]: row for row in read_rows(out / "images.csv")}
    assert rows["pa.dcm"]["study_uid"] == "9.9"
    assert report.files["scored"] == 3


def test_a_repaired_output_still_belongs_to_its_input(images: Path, out: Path, engine: str, tmp_path: Path) -> None:
    ledger_of(out).unlink()
    repair_output(out)
    write_image(tmp_path / "other" / "a.png", 20, 60, 120, 240)
    with pytest.raises(UsageError, match="results of another input folder"):
        run_quietly(tmp_path / "other", out, engine=engine)
    assert run_quietly(images, out, engine=engine).studies_this_run == 0


def test_repair_says_what_it_did_and_what_comes_next(
    images: Path, out: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overwrite(ledger_of(out))
    assert run_command_line(["repair", str(out)]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert "Restored 3 studies with 5 files" in printed
    assert "ledger.sqlite.damaged-" in printed
    assert "same `cxrbatch run`" in printed
    assert run_command_line(["repair", str(out)]) == ExitCode.DONE
    assert "The ledger is sound" in capsys.readouterr().out


# --------------------------------------------------------------------------- locked


@pytest.mark.parametrize("command", ["run", "repair"])
def test_a_ledger_that_another_program_has_locked_is_exit_7_with_the_way_out(
    images: Path,
    out: Path,
    engine: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = tables(out)
    monkeypatch.setattr(ledger_store, "LOCK_WAIT_S", 0.05)
    other = sqlite3.connect(out / LEDGER_FILE, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    arguments = {
        "run": ["run", str(images), "-o", str(out), "-e", engine, "--workers", "1", "--no-pdf"],
        "repair": ["repair", str(out)],
    }
    try:
        assert run_command_line(arguments[command]) == ExitCode.OUTPUT_LOCKED
    finally:
        other.close()
    assert "another process holds the ledger" in (told := capsys.readouterr().err)
    assert "Wait for it, or end it" in told
    assert run_quietly(images, out, engine=engine).studies_this_run == 0
    assert tables(out) == before


def test_a_killed_runs_ledger_is_looked_through_before_it_is_trusted(images: Path, out: Path, engine: str) -> None:
    with Ledger(out) as ledger:
        ledger.remember("unfinished", "yes")
    content = bytearray(ledger_of(out).read_bytes())
    # The root of an index that no query of a run with nothing to do looks at.
    database = sqlite3.connect(out / LEDGER_FILE)
    (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'studies_by_queue'").fetchone()
    (size,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    content[(page - 1) * size : page * size] = b"\x55" * size
    (out / LEDGER_FILE).write_bytes(content)
    with pytest.raises(LedgerDamaged):
        run_quietly(images, out, engine=engine)
