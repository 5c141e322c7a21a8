"""Old reports go with their rows, but only where the image is gone, and only when somebody says yes."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ConfigurationError, ExitCode, UsageError
from cxrbatch.output.ledger.ledger import LEDGER_FILE
from cxrbatch.output.marks import Marks
from cxrbatch.run.schedule import parse_age
from cxrbatch.upkeep import prune
from cxrbatch.upkeep.prune import prune_output
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import read_rows, run_quietly, write_image

AGE = timedelta(days=90)
LONG_AGO = "2020-01-01T00:00:00+00:00"
OLD, OLD_IN_INPUT, NEW = "old.png", "stays.png", "new.png"


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return str(write_tiny_bundle(tmp_path / "engines"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def out(tmp_path: Path, images: Path, engine: str) -> Path:
    """An output with a study reported long ago whose image is gone, one whose image is there, and a new one."""
    for number, name in enumerate((OLD, OLD_IN_INPUT, NEW)):
        write_image(images / name, 20, 60, 120, 240 - 20 * number)
    folder = tmp_path / "out"
    run_quietly(images, folder, engine=engine)
    database = sqlite3.connect(folder / LEDGER_FILE)
    for name in (OLD, OLD_IN_INPUT):
        query = "UPDATE studies SET reported_at = ? WHERE study_key = (SELECT study_key FROM files WHERE path = ?)"
        database.execute(query, (LONG_AGO, name.encode()))
    database.commit()
    database.close()
    (images / OLD).unlink()
    (images / NEW).unlink()
    run_quietly(images, folder, engine=engine)
    return folder


def keys(out: Path) -> dict[str, str]:
    return {row["path"]: row["study_key"] for row in read_rows(out / "images.csv")}


def contents(out: Path) -> set[str]:
    """Return every file of an output folder, but what any command that opens it leaves."""
    return {
        str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and not path.name.startswith("ledger")
    }


def test_without_yes_it_is_told_and_nothing_is_changed(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, known = contents(out), keys(out)
    assert run_command_line(["prune", str(out), "--older-than", "90d"]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert f"study {known[OLD]}: reported {LONG_AGO}; to remove" in printed
    assert f"study {known[OLD_IN_INPUT]}: reported {LONG_AGO}; kept" in printed
    assert known[NEW] not in printed
    assert "1 studies reported before" in printed
    assert "--yes removes them" in printed
    assert contents(out) == before
    assert prune_output(out, AGE).old[0].study_key == known[OLD]


def test_with_yes_reports_rows_and_table_lines_go_together(
    out: Path, images: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known, marks = keys(out), Marks(out)
    for key in (known[OLD], known[NEW]):
        marks.note(key, "seen")
    assert run_command_line(["prune", str(out), "--older-than", "90d", "--yes"]) == ExitCode.DONE
    assert f"study {known[OLD]}: reported {LONG_AGO}; removed" in capsys.readouterr().out
    assert sorted(keys(out)) == sorted([OLD_IN_INPUT, NEW])
    assert {row["study_key"] for row in read_rows(out / "studies.csv")} == {known[OLD_IN_INPUT], known[NEW]}
    assert {path.name for path in (out / "reports").iterdir()} == {known[OLD_IN_INPUT], known[NEW]}
    assert known[OLD] not in (out / "index.html").read_text()
    listed = "".join(path.read_text() for path in (out / "worklist").iterdir())
    assert (known[OLD] in listed, known[NEW] in listed) == (False, True)
    assert [note.study_key for note in marks.notes()] == [known[NEW]]
    report = run_quietly(images, out, engine=engine)
    assert (report.studies_this_run, report.files) == (0, {"scored": 2})
    assert prune_output(out, AGE).old == ()


def test_an_image_that_comes_back_is_a_new_study(out: Path, images: Path, engine: str) -> None:
    prune_output(out, AGE, remove=True)
    write_image(images / OLD, 20, 60, 120, 240)
    assert run_quietly(images, out, engine=engine).studies_this_run == 1
    assert {row["revision"] for row in read_rows(out / "studies.csv")} == {"1"}


def test_an_image_that_is_back_since_the_last_run_keeps_its_report(out: Path, images: Path) -> None:
    write_image(images / OLD, 20, 60, 120, 240)
    pruning = prune_output(out, AGE, remove=True)
    assert pruning.old == ()
    assert len(pruning.kept) == 2


@pytest.mark.parametrize("how", ["empty", "missing"])
def test_an_input_that_is_not_mounted_is_not_all_gone(out: Path, images: Path, engine: str, how: str) -> None:
    images.rename(images.with_name("unmounted"))
    images.mkdir()
    run_quietly(images, out, engine=engine, input_emptied=True)
    if how == "missing":
        images.rmdir()
    before = contents(out)
    with pytest.raises(UsageError, match="--input-emptied"):
        prune_output(out, AGE, remove=True)
    assert contents(out) == before
    assert len(prune_output(out, AGE, remove=True, input_emptied=True).old) == 2


@pytest.mark.parametrize("step", ["derive_tables", "remove_as_ordered"])
def test_killed_in_between_the_next_run_or_the_same_command_ends_it(
    out: Path, images: Path, engine: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    known = keys(out)
    for finish in ("prune", "run"):
        with monkeypatch.context() as patched:
            patched.setattr(prune, step, die)
            with pytest.raises(Killed):
                prune_output(out, AGE, remove=True)
        if finish == "prune":
            prune_output(out, AGE, remove=True)
        else:
            run_quietly(images, out, engine=engine)
        assert {path.name for path in (out / "reports").iterdir()} == {known[OLD_IN_INPUT], known[NEW]}
        assert sorted(keys(out)) == sorted([OLD_IN_INPUT, NEW])


def test_a_folder_without_a_ledger_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to prune"):
        prune_output(tmp_path, AGE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["90", "d", "-3d", "ninety days", "", "99999999999999d"])
def test_an_age_is_a_number_and_a_unit(text: str) -> None:
    assert parse_age("12w") == timedelta(weeks=12)
    with pytest.raises(ConfigurationError, match="no age such as 90d"):
        parse_age(text)
