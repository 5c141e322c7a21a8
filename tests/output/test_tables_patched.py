"""Tables and worklist that are brought up to date say what they would had they been written anew, byte by byte."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cxrbatch.errors import Reason
from cxrbatch.output import tables
from cxrbatch.output.ledger import changes, queue as ledger_queue
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.tables import derive_tables, refresh_tables
from cxrbatch.output.worklist_data import read_worklist
from cxrbatch.records import Header, ImageFile, ImageResult, IndexedFile, PrintedStudy, RefusedImage, StudyResult
from tests.output.ledger.test_ledger import ENGINE, indexed, printed

# What spreadsheets would run, what CSV quotes, what is no text, and what sorts otherwise as text than as bytes.
NAMES = (
    "=1+1.png",
    "a,b.png",
    'say "no".png',
    "'=x.png",
    "b\udcff.png",
    "line\nbreak.png",
    "\U0001f600.png",
    "\uffee.png",
)


def entry(path: str, key: str, patient: str = "", day: str = "") -> IndexedFile:
    return IndexedFile(ImageFile(path, 1, 1), key, Header(patient_id=patient, study_date=day))


def key_of(number: int) -> str:
    return f"{number * 7919 % 65521:016x}"


def score_all(ledger: Ledger, probability: float = 0.5, *, reports: bool = True) -> None:
    for task in ledger.queue.take(ledger.queue.pending_keys()):
        images = tuple(
            ImageResult(file.file.path, file.header, (), (probability, (task.revision % 7) / 10), "ab")
            for file in task.files
        )
        result = StudyResult(
            task.study_key, task.revision, ENGINE, images, task.refused, "2026-01-01T00:00:00+00:00", "1"
        )
        ledger.results.record(PrintedStudy(result, f"reports/{task.study_key}/report.html" if reports else ""))


def _moment(number: int) -> str:
    return f"2026-01-01T00:{number // 60 % 60:02}:{number % 60:02}+00:00"


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder with 23 studies of 6 patients, in shards of 5, its tables just derived."""
    moments = iter(range(10**6))
    monkeypatch.setattr(ledger_queue, "now_text", lambda: _moment(next(moments)))
    monkeypatch.setattr("cxrbatch.output.worklist_data.SHARD_ROWS", 5)
    folder = tmp_path / "out"
    folder.mkdir()
    with Ledger(folder) as ledger:
        for number in range(23):
            key, day = key_of(number), f"202501{number % 28 + 1:02}"
            name = NAMES[number % len(NAMES)]
            ledger.index.record([entry(f"{number % 4}/{number}{name}", key, f"P{number % 6}", day)])
        ledger.index.record([indexed(f"notes{number}.txt", "", refused=Reason.NOT_AN_IMAGE) for number in range(3)])
        score_all(ledger)
        refresh_tables(folder, ledger, ENGINE)
    return folder


def said(out: Path) -> tuple[bytes, bytes, object, list[str]]:
    """Return what tables and worklist say; of the page what is not about shards."""
    lines = read_worklist(out / "worklist").lines
    page = [line for line in (out / "index.html").read_text().splitlines() if "last changed" not in line]
    return (out / "images.csv").read_bytes(), (out / "studies.csv").read_bytes(), lines, page


def anew(out: Path, ledger: Ledger) -> tuple[bytes, bytes, object, list[str]]:
    derive_tables(out, ledger, ENGINE)
    return said(out)


def add_studies(ledger: Ledger) -> None:
    ledger.index.record(entry(f"new/{name}", key_of(100 + number), "P1") for number, name in enumerate(NAMES))
    score_all(ledger, 0.9)


def add_earliest_of_patient(ledger: Ledger) -> None:
    ledger.index.record([entry("early.png", key_of(200), "P3", "20200101")])


def add_image_to_study(ledger: Ledger) -> None:
    ledger.index.record([entry("late.png", key_of(7), "P1", "20250108")])
    score_all(ledger, 0.7)


def move_file_to_other_study(ledger: Ledger) -> None:
    for path in ledger.index.paths_of(key_of(11))[:1]:
        ledger.index.record([replace(entry(path, key_of(3), "P3"), file=ImageFile(path, 2, 2))])


def forget_studies(ledger: Ledger) -> None:
    ledger.results.forget([key_of(number) for number in (0, 1, 2, 3, 4, 9, 22)])


def forget_and_meet_again(ledger: Ledger) -> None:
    ledger.results.forget([key_of(2)])
    ledger.index.record([entry("again.png", key_of(2), "P2", "20250103")])


def refuse_and_fail(ledger: Ledger) -> None:
    first, second = (ledger.index.paths_of(key_of(number))[0] for number in (5, 6))
    ledger.index.record([entry(path, key) for path, key in ((first, key_of(5)), (second, key_of(6)))])
    ledger.results.record_unscored(key_of(5), [RefusedImage(first, "rejected", "blank", "=black")])
    ledger.results.record_unscored(key_of(6), [], failure="no such file")


def take_first_and_last(ledger: Ledger) -> None:
    paths = sorted(os.fsencode(row.path) for row in ledger.results.file_rows())
    for path in (paths[0], paths[-1]):
        (row,) = ledger.results.file_rows(path)
        ledger.index.record([replace(entry(row.path, row.study_key), file=ImageFile(row.path, 3, 3))])


def lose_files(ledger: Ledger) -> None:
    ledger.index.record_gone(ledger.index.paths_of(key_of(8)))


CHANGES = (
    *(add_studies, add_earliest_of_patient, add_image_to_study, move_file_to_other_study, forget_studies),
    *(forget_and_meet_again, refuse_and_fail, take_first_and_last, lose_files),
)


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What wrote tables in this test."""
    written: list[str] = []
    for name in ("write_tables", "patch_worklist"):
        real = getattr(tables, name)

        def noting(
            *arguments: object, _name: str = name, _real: Callable[..., object] = real, **named: object
        ) -> object:
            written.append(_name)
            return _real(*arguments, **named)

        monkeypatch.setattr(tables, name, noting)
    yield written


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_patched_in(out: Path, change: Callable[[Ledger], None], patched: list[str]) -> None:
    with Ledger(out) as ledger:
        change(ledger)
        refresh_tables(out, ledger, ENGINE)
        assert patched == ["patch_worklist"]
        assert said(out) == anew(out, ledger)


def score_earliest_of_patient(ledger: Ledger) -> None:
    add_earliest_of_patient(ledger)
    score_all(ledger, reports=False)


def correct_a_day(ledger: Ledger) -> None:
    for path in ledger.index.paths_of(key_of(3)):
        ledger.index.record([replace(entry(path, key_of(3), "P3", "20991231"), file=ImageFile(path, 4, 4))])
    score_all(ledger, reports=False)


def become_another_patient(ledger: Ledger) -> None:
    for path in ledger.index.paths_of(key_of(3)):
        ledger.index.record([replace(entry(path, key_of(3), "P4", "20250101"), file=ImageFile(path, 4, 4))])
    score_all(ledger, reports=False)


@pytest.mark.parametrize("change", [score_earliest_of_patient, correct_a_day, become_another_patient, forget_studies])
def test_marks_of_studies_without_reports_follow_the_other_studies_of_their_patients(
    out: Path, change: Callable[[Ledger], None], patched: list[str]
) -> None:
    with Ledger(out) as ledger:
        ledger.store.execute("UPDATE studies SET report_html = ''")
        derive_tables(out, ledger, ENGINE)
        before = marked(out)
        assert before
        patched.clear()
        change(ledger)
        refresh_tables(out, ledger, ENGINE)
        assert patched == ["patch_worklist"]
        assert said(out) == anew(out, ledger)
        assert marked(out) != before


def marked(out: Path) -> set[str]:
    """Return the keys of the studies that the worklist marks for a prior one."""
    return {line.study_key for line in read_worklist(out / "worklist").lines if line.has_prior}


def test_changes_upon_changes_are_patched_in(out: Path, patched: list[str]) -> None:
    draw = random.Random(5)
    with Ledger(out) as ledger:
        for _ in range(12):
            for change in draw.sample(CHANGES, 2):
                change(ledger)
            refresh_tables(out, ledger, ENGINE)
        assert patched == ["patch_worklist"] * 12
        assert said(out) == anew(out, ledger)
        assert {shard.counts.total for shard in ledger.changes.shards()} <= set(range(1, 6))


def test_a_study_that_comes_rewrites_the_last_shard_alone(out: Path) -> None:
    before = {path.name for path in (out / "worklist").glob("rows-*")}
    with Ledger(out) as ledger:
        ledger.index.record([entry("one-more.png", key_of(300))])
        refresh_tables(out, ledger, ENGINE)
    after = {path.name for path in (out / "worklist").glob("rows-*")}
    assert len(before) == len(after) == 5
    assert len(before & after) == 4


def test_very_many_changes_write_all_anew(out: Path, patched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MOST_CHANGES", 3)
    with Ledger(out) as ledger:
        add_studies(ledger)
        refresh_tables(out, ledger, ENGINE)
        assert patched == ["write_tables"]
        assert not ledger.changes.since_derived()


def test_a_table_that_lacks_a_neighbour_is_written_anew(out: Path, patched: list[str]) -> None:
    table = out / "studies.csv"
    state = table.stat()
    lines = table.read_bytes().splitlines(keepends=True)
    # Of the same size and time: nothing tells that somebody changed it.
    table.write_bytes(b"".join([*lines[:1], *(b"x" * (len(line) - 1) + b"\n" for line in lines[1:])]))
    os.utime(table, ns=(state.st_atime_ns, state.st_mtime_ns))
    with Ledger(out) as ledger:
        ledger.index.record([entry("0.png", "0" * 16)])
        refresh_tables(out, ledger, ENGINE)
        assert patched == ["write_tables"]
        assert said(out) == anew(out, ledger)


def test_the_page_begins_with_what_is_to_be_read_first(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrbatch.output.worklist.FIRST_ROWS", 4)
    monkeypatch.setattr("cxrbatch.output.worklist_patch.FIRST_ROWS", 4)
    with Ledger(out) as ledger:
        add_studies(ledger)
        refuse_and_fail(ledger)
        refresh_tables(out, ledger, ENGINE)
        assert said(out) == anew(out, ledger)


def test_a_patched_study_with_files_of_other_engines_says_no_scores(out: Path) -> None:
    with Ledger(out) as ledger:
        ledger.index.record([entry("other.png", key_of(400))])
        (task,) = ledger.queue.take(ledger.queue.pending_keys())
        ledger.results.record(printed(task, engine=replace(ENGINE, sha256="e2" * 32)))
        refresh_tables(out, ledger, ENGINE)
        assert said(out) == anew(out, ledger)
