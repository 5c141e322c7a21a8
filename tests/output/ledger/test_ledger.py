"""The ledger is the queue and the truth: what waits, what is done, and what each table row says."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cxrbatch.errors import OutputNotWritable, Reason, RunError
from cxrbatch.output.ledger.index import KnownFile
from cxrbatch.output.ledger.ledger import LEDGER_FILE, Ledger
from cxrbatch.output.ledger.queue import StudyQueue, StudyTask
from cxrbatch.records import (
    EngineDescription,
    Header,
    ImageFile,
    ImageResult,
    IndexedFile,
    InputSpec,
    Label,
    PrintedStudy,
    RefusedImage,
    Rejection,
    StudyResult,
)

ENGINE = EngineDescription(
    name="demo",
    sha256="e1" * 32,
    backend="onnxruntime",
    precision="fp32",
    architecture="resnet50",
    task="multilabel",
    labels=(Label("Nodule"), Label("Pneumothorax", urgent=True)),
    input=InputSpec(size_px=64),
)


def indexed(path: str, study_key: str = "s1", *, refused: Reason | None = None, mtime_ns: int = 5) -> IndexedFile:
    rejection = Rejection(refused, "because") if refused else None
    return IndexedFile(ImageFile(path, 100, mtime_ns), study_key, Header(patient_id="P1"), rejection=rejection)


def printed(
    task: StudyTask, *, engine: EngineDescription = ENGINE, refused: tuple[RefusedImage, ...] = ()
) -> PrintedStudy:
    refused_paths = {image.path for image in refused}
    images = tuple(
        ImageResult(file.file.path, file.header, (), (0.25, 0.75), "ab", thumbnail_file="thumb-1.jpg")
        for file in task.files
        if file.file.path not in refused_paths
    )
    result = StudyResult(task.study_key, task.revision, engine, images, refused, "2026-01-01T00:00:00+00:00", "1")
    return PrintedStudy(result, f"reports/{task.study_key}/report.html", "")


def finish_all(ledger: Ledger, engine: EngineDescription = ENGINE) -> list[str]:
    tasks = list(ledger.queue.take(ledger.queue.pending_keys()))
    for task in tasks:
        ledger.results.record(printed(task, engine=engine))
    return [task.study_key for task in tasks]


def start_ledger(folder: Path) -> None:
    with Ledger(folder):
        pass


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as opened:
        yield opened


def test_a_study_waits_with_its_scorable_and_its_refused_files(ledger: Ledger) -> None:
    ledger.index.record([indexed("b.dcm"), indexed("a.dcm"), indexed("lat.dcm", refused=Reason.NOT_FRONTAL)])
    (task,) = ledger.queue.take(ledger.queue.pending_keys())
    assert [file.file.path for file in task.files] == ["a.dcm", "b.dcm"]
    assert task.refused == (RefusedImage("lat.dcm", "rejected", "not_frontal", "because"),)
    assert task.revision == 1


def test_what_is_recorded_is_done_and_shown(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm")])
    assert finish_all(ledger) == ["s1"]
    assert finish_all(ledger) == []
    (file,) = ledger.results.file_rows()
    assert (file.status, file.probabilities, file.engine_sha256) == ("scored", (0.25, 0.75), ENGINE.sha256)
    (study,) = ledger.results.study_rows()
    assert (study.status, study.n_images, study.n_scored, study.revision) == ("reported", 1, 1, 1)
    assert study.priority == "urgent"
    assert study.thumbnail == "reports/s1/thumb-1.jpg"


def test_a_late_image_queues_the_whole_study_as_the_next_revision(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm")])
    finish_all(ledger)
    ledger.index.record([indexed("b.dcm")])
    assert {row.status for row in ledger.results.file_rows()} == {"pending"}
    assert all(row.probabilities == () for row in ledger.results.file_rows())
    (task,) = ledger.queue.take(ledger.queue.pending_keys())
    assert (task.revision, len(task.files)) == (2, 2)


def test_a_replaced_file_that_moves_to_another_study_queues_both(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm", "s1"), indexed("b.dcm", "s1")])
    finish_all(ledger)
    ledger.index.record([indexed("a.dcm", "s2", mtime_ns=6)])
    assert sorted(finish_all(ledger)) == ["s1", "s2"]


def test_files_that_are_recorded_together_queue_each_study_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, queued = StudyQueue.put, list[str]()

    def noting(queue: StudyQueue, study_key: str) -> None:
        queued.append(study_key)
        put(queue, study_key)

    monkeypatch.setattr(StudyQueue, "put", noting)
    ledger.index.record(indexed(f"{number}.dcm", "ab"[number % 2]) for number in range(20))
    assert queued == ["a", "b"]
    assert ledger.queue.pending_keys() == ["a", "b"]


def test_a_study_of_refused_files_only_is_unscored_and_does_not_wait(ledger: Ledger) -> None:
    ledger.index.record([indexed("lat.dcm", refused=Reason.NOT_FRONTAL)])
    assert list(ledger.queue.take(ledger.queue.pending_keys())) == []
    (study,) = ledger.results.study_rows()
    assert (study.status, study.priority, study.reasons) == ("unscored", "unscored", ("not_frontal",))


def test_a_file_of_no_study_has_a_row_but_no_study(ledger: Ledger) -> None:
    ledger.index.record([indexed("notes.txt", "", refused=Reason.NOT_AN_IMAGE)])
    assert [row.reason for row in ledger.results.file_rows()] == ["not_an_image"]
    assert list(ledger.results.study_rows()) == []


def test_another_engine_queues_again_what_the_former_scored(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm"), indexed("lat.dcm", refused=Reason.NOT_FRONTAL)])
    finish_all(ledger)
    ledger.queue.requeue(engine_sha256=ENGINE.sha256)
    assert list(ledger.queue.take(ledger.queue.pending_keys())) == []
    ledger.queue.requeue(engine_sha256="e2" * 32)
    (task,) = ledger.queue.take(ledger.queue.pending_keys())
    assert task.revision == 2
    assert ledger.results.count_files() == {"pending": 1, "rejected": 1}


def test_a_failed_study_keeps_its_scores_and_its_revision_and_is_queued_again(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm")])
    (task,) = ledger.queue.take(ledger.queue.pending_keys())
    ledger.results.record(printed(task), failure="no space for the PDF")
    (study,) = ledger.results.study_rows()
    assert (study.status, study.message, study.n_scored) == ("failed", "no space for the PDF", 1)
    ledger.queue.requeue(engine_sha256=ENGINE.sha256)
    (task,) = ledger.queue.take(ledger.queue.pending_keys())
    assert task.revision == 1


def test_images_refused_while_processing_are_recorded_with_their_reason(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm"), indexed("b.dcm")])
    (task,) = ledger.queue.take(ledger.queue.pending_keys())
    blank = RefusedImage("b.dcm", "rejected", "blank", "nothing on it")
    ledger.results.record(printed(task, refused=(blank,)))
    assert {row.path: (row.status, row.reason) for row in ledger.results.file_rows()} == {
        "a.dcm": ("scored", ""),
        "b.dcm": ("rejected", "blank"),
    }


def test_an_unscored_study_forgets_the_result_of_an_earlier_revision(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm")])
    finish_all(ledger)
    ledger.index.record([indexed("a.dcm", mtime_ns=6)])
    ledger.results.record_unscored("s1", [RefusedImage("a.dcm", "rejected", "blank", "now black")])
    (study,) = ledger.results.study_rows()
    assert (study.status, study.result, study.report_html, study.n_scored) == ("unscored", None, "", 0)


def test_a_deferred_file_waits_and_is_looked_at_again(ledger: Ledger) -> None:
    ledger.index.record_deferred(ImageFile("locked.dcm", 100, 5), "Permission denied")
    assert ledger.index.known_files() == {"locked.dcm": KnownFile(100, -1, present=True)}
    assert [(row.status, row.message) for row in ledger.results.file_rows()] == [("pending", "Permission denied")]
    ledger.index.record([indexed("locked.dcm")])
    assert ledger.index.known_files() == {"locked.dcm": KnownFile(100, 5, present=True)}
    assert [row.message for row in ledger.results.file_rows()] == [""]


def test_what_is_gone_keeps_its_scores_and_is_not_scored_again_by_another_engine(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm", "s1"), indexed("b.dcm", "s2")])
    finish_all(ledger)
    ledger.index.record_gone(["a.dcm"])
    ledger.queue.requeue(engine_sha256="e2" * 32)
    assert [task.study_key for task in ledger.queue.take(ledger.queue.pending_keys())] == ["s2"]
    assert {row.path: row.status for row in ledger.results.file_rows()} == {"a.dcm": "scored", "b.dcm": "pending"}
    kept = next(ledger.results.study_rows("s1"))
    assert (kept.status, kept.result is not None) == ("reported", True)


def test_what_is_gone_before_it_was_scored_is_given_up_and_taken_up_again_when_it_returns(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm")])
    ledger.index.record_gone(["a.dcm"])
    assert [(row.status, row.reason) for row in ledger.results.file_rows()] == [("rejected", "vanished")]
    assert ledger.results.count_studies() == {"unscored": 1}
    assert ledger.index.known_files()["a.dcm"] == KnownFile(100, 5, present=False, refused=True)
    ledger.index.record_returned(["a.dcm"])
    assert finish_all(ledger) == ["s1"]


def test_a_walk_that_misses_nothing_gives_up_nothing(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm", "s1"), indexed("b.dcm", "s2")])
    (first, _) = ledger.queue.take(ledger.queue.pending_keys())
    ledger.results.record(printed(first), failure="the report could not be printed")
    ledger.index.record_gone([])
    ledger.index.record_returned([])
    assert ledger.results.count_studies() == {"failed": 1, "pending": 1}


def test_a_queued_study_keeps_what_it_said_until_it_says_something_new(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm")])
    finish_all(ledger)
    ledger.queue.requeue(engine_sha256="e2" * 32)
    (study,) = ledger.results.study_rows()
    assert (study.status, study.priority, study.report_html) == ("pending", "urgent", "reports/s1/report.html")


def test_a_failure_keeps_an_earlier_result_and_a_verdict_does_not(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm")])
    finish_all(ledger)
    ledger.queue.requeue(engine_sha256="e2" * 32)
    ledger.results.record_unscored("s1", [RefusedImage("a.dcm", "failed", "", "no such file")], failure="no such file")
    assert ledger.results.keys_with_report() == {"s1"}
    ledger.results.record_unscored("s1", [RefusedImage("a.dcm", "rejected", "blank", "black")])
    assert ledger.results.keys_with_report() == set()


def test_a_study_all_of_whose_files_are_replaced_by_refused_ones_has_no_verdict_any_more(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm")])
    finish_all(ledger)
    ledger.index.record([indexed("a.dcm", refused=Reason.NOT_CHEST, mtime_ns=6)])
    (study,) = ledger.results.study_rows()
    assert (study.status, study.priority, study.report_html) == ("unscored", "unscored", "")


def test_a_study_without_files_is_no_study(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.png", "by-file")])
    finish_all(ledger)
    ledger.index.record([indexed("a.png", "by-folder", mtime_ns=6)])
    assert [row.study_key for row in ledger.results.study_rows()] == ["by-folder"]


def test_printing_again_does_not_bury_an_image_that_failed(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm"), indexed("b.dcm")])
    (task,) = ledger.queue.take(ledger.queue.pending_keys())
    record = printed(task, refused=(RefusedImage("b.dcm", "failed", "", "no such file"),))
    ledger.results.record(record, failure="no such file")
    ledger.results.record_printed(record)
    assert ledger.results.count_studies() == {"failed": 1}
    ledger.queue.requeue(engine_sha256=ENGINE.sha256)
    assert [len(task.files) for task in ledger.queue.take(ledger.queue.pending_keys())] == [2]


def test_printing_again_finishes_a_study_that_failed_in_printing(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm")])
    (task,) = ledger.queue.take(ledger.queue.pending_keys())
    ledger.results.record(printed(task), failure="the report could not be printed")
    ledger.results.record_printed(printed(task))
    (study,) = ledger.results.study_rows()
    assert (study.status, study.message, study.revision) == ("reported", "", 1)


def test_the_patients_of_all_files_are_told_also_of_refused_ones(ledger: Ledger) -> None:
    lateral = replace(indexed("lat.dcm", refused=Reason.NOT_FRONTAL), header=Header(patient_id="P2 "))
    ledger.index.record([indexed("a.dcm"), lateral])
    (task,) = ledger.queue.take(ledger.queue.pending_keys())
    assert {header.patient_id.strip() for header in task.headers} == {"P1", "P2"}


def test_a_result_changed_by_another_hand_is_called_damage(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.index.record([indexed("a.dcm")])
        finish_all(ledger)
    database = sqlite3.connect(tmp_path / LEDGER_FILE)
    database.execute("UPDATE studies SET result = '{\"x\": 1}'")
    database.commit()
    database.close()
    with Ledger(tmp_path) as ledger, pytest.raises(RunError, match="Move it away"):
        list(ledger.results.study_rows())


def test_damage_in_the_middle_of_the_file_is_explained_too(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.index.record([indexed(f"{n}.dcm", f"s{n}") for n in range(200)])
    content = bytearray((tmp_path / LEDGER_FILE).read_bytes())
    # Not the schema, which is read as the ledger is opened.
    with closing(sqlite3.connect(tmp_path / LEDGER_FILE)) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'files'").fetchone()
    content[(page - 1) * 4096 : page * 4096] = b"\x55" * 4096
    (tmp_path / LEDGER_FILE).write_bytes(content)
    with Ledger(tmp_path) as ledger, pytest.raises(RunError, match="Move it away"):
        list(ledger.results.file_rows())


def test_a_file_refused_again_for_the_same_reason_is_no_news_for_its_study(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm"), indexed("lat.dcm", refused=Reason.NOT_FRONTAL)])
    finish_all(ledger)
    ledger.index.record([indexed("lat.dcm", refused=Reason.NOT_FRONTAL, mtime_ns=6)])
    assert ledger.results.count_studies() == {"reported": 1}
    assert ledger.index.known_files()["lat.dcm"] == KnownFile(100, 6, present=True, refused=True)
    assert finish_all(ledger) == []


@pytest.mark.parametrize("news", ["reason", "patient", "study", "accepted", "returned"])
def test_a_refused_file_that_says_anything_else_queues_its_study(ledger: Ledger, news: str) -> None:
    lateral = indexed("lat.dcm", refused=Reason.NOT_FRONTAL)
    ledger.index.record([indexed("a.dcm"), lateral])
    finish_all(ledger)
    if news == "returned":
        ledger.index.record_gone(["lat.dcm"])
    changed = {
        "reason": indexed("lat.dcm", refused=Reason.NOT_CHEST),
        "patient": replace(lateral, header=Header(patient_id="P2")),
        "study": indexed("lat.dcm", "s2", refused=Reason.NOT_FRONTAL),
        "accepted": indexed("lat.dcm"),
        "returned": lateral,
    }
    ledger.index.record([changed[news]])
    assert "s1" in finish_all(ledger)


def test_no_study_is_newer_than_any_time_that_people_can_write(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm")])
    far_future_ns = 32_472_144_000 * 10**9  # 2999-01-01, beyond what SQLite holds in an integer
    assert ledger.queue.pending_keys(since_ns=far_future_ns) == []
    assert ledger.queue.pending_keys(since_ns=1) == ["s1"]


def test_a_name_that_is_not_utf8_is_kept_exactly(ledger: Ledger) -> None:
    name = os.fsdecode(b"caf\xe9\n.dcm")
    ledger.index.record([indexed(name)])
    finish_all(ledger)
    assert list(ledger.index.known_files()) == [name]
    (study,) = ledger.results.study_rows()
    assert study.result is not None
    assert study.result.images[0].path == name


def test_a_result_comes_back_as_it_went_in(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm")])
    (task,) = ledger.queue.take(ledger.queue.pending_keys())
    record = printed(task)
    ledger.results.record(record)
    (study,) = ledger.results.study_rows("s1")
    assert study.result == record.result


def test_nothing_of_a_transaction_that_fails_is_kept(ledger: Ledger) -> None:
    with pytest.raises(AttributeError):
        ledger.index.record([indexed("a.dcm"), None])  # type: ignore[list-item]  # a bug in the caller
    assert list(ledger.results.file_rows()) == []


def test_the_limit_bounds_what_is_taken(ledger: Ledger) -> None:
    ledger.index.record([indexed(f"{n}.dcm", f"s{n}") for n in range(5)])
    assert [task.study_key for task in ledger.queue.take(ledger.queue.pending_keys()[:2])] == ["s0", "s1"]


def test_it_survives_closing(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.index.record([indexed("a.dcm")])
        ledger.remember("input", "/pacs")
    with Ledger(tmp_path) as ledger:
        assert len(list(ledger.queue.take(ledger.queue.pending_keys()))) == 1
        assert ledger.fact("input") == "/pacs"


def test_a_damaged_ledger_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / LEDGER_FILE).write_bytes(b"not a database, but long enough to look like one" * 40)
    with pytest.raises(RunError, match="Move it away"):
        Ledger(tmp_path)


def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    start_ledger(tmp_path)
    with sqlite3.connect(tmp_path / LEDGER_FILE) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(RunError, match="newer cxrbatch"):
        Ledger(tmp_path)


def test_a_folder_that_is_none_is_not_writable(tmp_path: Path) -> None:
    with pytest.raises(OutputNotWritable, match="cannot be written"):
        Ledger(tmp_path / "missing")


def test_engine_facts_are_blank_for_a_file_without_a_score(ledger: Ledger) -> None:
    ledger.index.record([indexed("a.dcm")])
    finish_all(ledger)
    ledger.queue.requeue(engine_sha256="e2" * 32)
    (file,) = ledger.results.file_rows()
    assert replace(file, header=Header()) == replace(
        file, header=Header(), engine="", engine_sha256="", backend="", precision="", probabilities=(), scored_at=""
    )
