"""The seam of processing: a run takes any processor, and LocalProcessor works without any ledger."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cxrbatch.config import Settings
from cxrbatch.errors import EngineError, ExitCode, OutputNotWritable, Reason
from cxrbatch.intake.discover import describe_file, index_file
from cxrbatch.output.folder.place import HeldOutput
from cxrbatch.output.ledger.queue import StudyTask
from cxrbatch.output.run_json import RunReport
from cxrbatch.records import PrintedStudy, RefusedImage
from cxrbatch.run import engine_slot
from cxrbatch.run.batch import Means, run_batch
from cxrbatch.run.engine_slot import EngineSlot
from cxrbatch.run.processes import open_workers
from cxrbatch.run.processor import LocalProcessor, MakeProcessor, StudyProcessor, Workplace
from cxrbatch.run.source import Order, Source
from cxrbatch.run.stages import FinishedStudy, StageClock
from cxrbatch.system.progress import RunProgress
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import read_rows, run_quietly, write_image

GREYS = {"a.png": (20, 60, 120, 240), "b.png": (200, 10, 10, 10), "c.png": (90, 90, 160, 90)}
# With the demo engine a study takes 2.6 to 3.9 kB.
LARGEST_BYTES = 8_000


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return str(write_tiny_bundle(tmp_path / "engines", poison_value=77))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name, greys in GREYS.items():
        write_image(folder / name, *greys)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


# --------------------------------------------------------------------------- LocalProcessor alone


@pytest.fixture
def at(images: Path, out: Path, engine: str) -> Iterator[Workplace]:
    settings = Settings(engine=engine, workers=1, pdf=False, pixel_check=False)
    out.mkdir()
    with ExitStack() as stack:
        home = stack.enter_context(HeldOutput(out))
        home.add(out)
        slot = stack.enter_context(EngineSlot(settings))
        workers = stack.enter_context(open_workers(settings))
        yield Workplace(Order(Source(images), out, settings), home.place, slot, workers, StageClock())


def task_of(at: Workplace, name: str, **more: Any) -> StudyTask:
    """Return what a ledger would say of a study of this one file."""
    (file,) = describe_file(at.order.source.folder / name)
    indexed = index_file(at.order.source.folder, file, at.order.settings)
    return StudyTask(indexed.study_key, 1, (indexed,), (), (indexed.header,), **more)


def result_of(finished: FinishedStudy) -> Any:
    assert finished.printed is not None
    return finished.printed.result


def test_studies_are_scored_and_printed_without_any_ledger(at: Workplace, out: Path) -> None:
    scored: list[str] = []
    at = replace(at, on_scored=lambda: scored.append("one"))
    tasks = [task_of(at, name) for name in GREYS]
    finished = list(LocalProcessor(at).process(tasks))
    assert [study.study_key for study in finished] == [task.study_key for task in tasks]
    assert [result_of(study).images[0].path for study in finished] == list(GREYS)
    assert result_of(finished[1]).probabilities[0] == pytest.approx(0.9075, abs=1e-3)
    assert all((out / study.printed.report_html).is_file() for study in finished if study.printed)
    assert len(scored) == 3
    assert at.clock.seconds.keys() >= {"read", "preprocess", "infer", "pictures", "html"}
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == ["reports"]


def test_what_comes_out_is_small_and_the_same_on_another_machine(at: Workplace) -> None:
    (out_of_order,) = list(LocalProcessor(at).process([task_of(at, "a.png")]))
    written = pickle.dumps(out_of_order)
    assert pickle.loads(written) == out_of_order
    assert len(written) < LARGEST_BYTES
    assert b"numpy" not in written


def test_an_image_that_is_refused_or_gone_comes_out_with_its_reason(at: Workplace, images: Path) -> None:
    tasks = [task_of(at, name) for name in GREYS]
    (images / "a.png").write_bytes((images / "a.png").read_bytes()[:-40])
    (images / "b.png").unlink()
    size, mtime_ns = (images / "a.png").stat().st_size, (images / "a.png").stat().st_mtime_ns
    (cut,) = tasks[0].files
    tasks[0] = replace(tasks[0], files=(replace(cut, file=replace(cut.file, size_bytes=size, mtime_ns=mtime_ns)),))
    refused = {study.refused[0].path: study for study in LocalProcessor(at).process(tasks) if study.printed is None}
    assert refused.keys() == {"a.png", "b.png"}
    assert (refused["a.png"].refused[0].reason, refused["a.png"].unread) == ("truncated_pixels", "")
    assert "cannot be read now" in refused["b.png"].unread


@pytest.mark.parametrize("grows", [True, False])
def test_a_study_that_may_still_grow_does_not_come_out(at: Workplace, images: Path, grows: bool) -> None:
    asked: list[list[str]] = []

    def may_grow(cut_short: list[str]) -> bool:
        asked.append(cut_short)
        return grows

    whole = task_of(at, "b.png")
    (images / "a.png").write_bytes((images / "a.png").read_bytes()[:-40])
    (file,) = describe_file(images / "a.png")
    short = StudyTask("0" * 16, 1, (replace(whole.files[0], file=file, study_key="0" * 16),), ())
    keys = [study.study_key for study in LocalProcessor(replace(at, may_grow=may_grow)).process([short, whole])]
    assert asked == [["a.png"]]
    assert sorted(keys) == sorted([whole.study_key] if grows else [short.study_key, whole.study_key])


@pytest.mark.parametrize(("failed_before", "status"), [(0, "failed"), (2, "rejected")])
def test_how_often_an_image_failed_travels_in_the_task(
    at: Workplace, images: Path, failed_before: int, status: str
) -> None:
    write_image(images / "poison.png", 77, 10, 10, 10)
    (finished,) = LocalProcessor(at).process([task_of(at, "poison.png", attempts={"poison.png": failed_before})])
    assert [image.status for image in finished.refused] == [status]


def test_no_report_is_printed_where_the_output_folder_was_replaced(at: Workplace, out: Path) -> None:
    out.rename(out.with_name("moved"))
    out.mkdir()
    with pytest.raises(OutputNotWritable, match="replaced by another"):
        list(LocalProcessor(at).process([task_of(at, "a.png")]))
    assert not list(out.iterdir())


def test_tasks_are_drawn_as_they_can_be_begun(at: Workplace) -> None:
    drawn: list[int] = []
    task = task_of(at, "a.png")

    def endless() -> Iterator[StudyTask]:
        while True:
            drawn.append(len(drawn))
            yield replace(task, study_key=f"{len(drawn):016x}")

    at = replace(at, order=replace(at.order, settings=replace(at.order.settings, batch_size=2)))
    assert next(LocalProcessor(at).process(endless())).study_key == f"{1:016x}"
    assert len(drawn) < 20


# --------------------------------------------------------------------------- any processor


def run_with(make_processor: MakeProcessor, images: Path, out: Path, engine: str) -> RunReport:
    settings = Settings(engine=engine, workers=1, pdf=False, pixel_check=False)
    with RunProgress(Console(quiet=True)) as progress:
        return run_batch(images, out, settings, progress, means=Means(make_processor=make_processor))


class Refusing:
    """A processor that has never seen an image: it says of each study what it is told to."""

    def __init__(self, say: Callable[[StudyTask], FinishedStudy]) -> None:
        self._say = say

    def __call__(self, _: Workplace) -> StudyProcessor:
        return self

    def process(self, tasks: Iterable[StudyTask]) -> Iterator[FinishedStudy]:
        return map(self._say, tasks)


def rejected(task: StudyTask) -> FinishedStudy:
    path = task.files[0].file.path
    return FinishedStudy(task.study_key, (RefusedImage(path, "rejected", Reason.NOT_CHEST.value, "says the fake"),))


def failed(task: StudyTask) -> FinishedStudy:
    return FinishedStudy(task.study_key, (RefusedImage(task.files[0].file.path, "failed", "", "node 7 went away"),))


class FromElsewhere:
    """What LocalProcessor finds, as if each study came from another machine, and the last one first."""

    def __init__(self, at: Workplace) -> None:
        self._local = LocalProcessor(at)

    def process(self, tasks: Iterable[StudyTask]) -> Iterator[FinishedStudy]:
        travelled = [pickle.loads(pickle.dumps(task)) for task in tasks]
        found = [pickle.dumps(study) for study in self._local.process(travelled)]
        return map(pickle.loads, reversed(found))


def test_a_run_believes_its_processor(images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the engine was opened")

    monkeypatch.setattr(engine_slot, "open_engine", refuse)
    report = run_with(Refusing(rejected), images, out, engine)
    assert (report.files, report.studies, report.exit_code) == ({"rejected": 3}, {"unscored": 3}, ExitCode.DONE)
    rows = read_rows(out / "images.csv")
    assert [(row["reason"], row["message"]) for row in rows] == [("not_chest", "says the fake")] * 3


def test_what_a_processor_could_not_do_is_done_by_the_next_run(images: Path, out: Path, engine: str) -> None:
    report = run_with(Refusing(failed), images, out, engine)
    assert (report.studies, report.exit_code) == ({"failed": 3}, ExitCode.SOME_STUDIES_FAILED)
    assert set(report.failures.values()) == {"node 7 went away"}
    assert run_quietly(images, out, engine=engine).files == {"scored": 3}


def test_scores_without_a_report_are_kept_and_the_report_is_tried_again(images: Path, out: Path, engine: str) -> None:
    class Unprinting(FromElsewhere):
        def process(self, tasks: Iterable[StudyTask]) -> Iterator[FinishedStudy]:
            for study in super().process(tasks):
                assert study.printed is not None
                undrawn = tuple(replace(image, image_file="", heatmaps=()) for image in study.printed.result.images)
                yield replace(
                    study, printed=PrintedStudy(replace(study.printed.result, images=undrawn), failure="no ink")
                )

    report = run_with(Unprinting, images, out, engine)
    assert report.files == {"scored": 3}
    report = run_quietly(images, out, engine=engine)
    assert (report.files, report.studies) == ({"scored": 3}, {"reported": 3})


def test_studies_from_elsewhere_in_any_order_give_the_same_tables(
    images: Path, out: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrbatch.run.score.now_text", lambda: "2026-01-01T00:00:00+00:00")
    (images / "broken.png").write_bytes((images / "a.png").read_bytes()[:-40])
    run_with(FromElsewhere, images, out, engine)
    run_quietly(images, tmp_path / "here", engine=engine)
    for table in ("images.csv", "studies.csv"):
        here, elsewhere = (read_rows(folder / table) for folder in (tmp_path / "here", out))
        assert [row | {"reported_at": ""} for row in elsewhere] == [row | {"reported_at": ""} for row in here]
    assert {row["status"] for row in read_rows(out / "images.csv")} == {"scored", "rejected"}


def test_what_came_before_a_processor_gave_up_is_recorded(images: Path, out: Path, engine: str) -> None:
    def one_then_none(task: StudyTask) -> FinishedStudy:
        if done:
            raise EngineError("no node is left")
        done.append(task)
        return rejected(task)

    done: list[StudyTask] = []
    with pytest.raises(EngineError, match="no node"):
        run_with(Refusing(one_then_none), images, out, engine)
    statuses = sorted(row["status"] for row in read_rows(out / "images.csv"))
    assert statuses == ["pending", "pending", "rejected"]
