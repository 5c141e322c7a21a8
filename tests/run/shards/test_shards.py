"""Shards: dealt out, worked on one by one, merged, OUT is as one run leaves it, however often anything was killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from cxrbatch.cli import run_command_line
from cxrbatch.cli.spreading import _as_array
from cxrbatch.config import Settings
from cxrbatch.errors import ExitCode, OutputLocked, OutputNotWritable, UsageError
from cxrbatch.output.folder.lock import locked
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.folder.sharded import SHARDS, plan_file, shard_folder
from cxrbatch.run.shards import work as working
from cxrbatch.run.shards.divide import shard_input
from cxrbatch.run.shards.journal import FINISHED_FILE, Journal, count_done, read_journal
from cxrbatch.run.shards.merge import Merged, merge_shards
from cxrbatch.run.shards.plan import ENGINE_FILE, TASKS_FILE, ShardPlan, read_plan
from cxrbatch.run.shards.work import held_shard, work_on_shard
from cxrbatch.run.witness import not_seen
from cxrbatch.system.progress import RunProgress
from tests.factories.engine import write_tiny_bundle
from tests.factories.faulted import FaultedRuns
from tests.factories.intake import blobs, write_dicom
from tests.factories.judged import disagreements
from tests.factories.outputs import snapshot
from tests.factories.studies import run_quietly, write_image
from tests.factories.varied import LABELS, POISON, write_varied_input

USUAL: dict[str, Any] = {"workers": 1, "pdf": False, "pixel_check": False}
QUIET = RunProgress(Console(quiet=True))


@dataclass(frozen=True, slots=True)
class Archive:
    """An input folder with some of everything, an engine, and what one run over it leaves."""

    images: Path
    engine: str
    expected: dict[str, tuple[int, object]]

    def shard(self, out: Path, of: int = 3, **settings: Any) -> ShardPlan:
        plan = shard_input(self.images, out, Settings(**(USUAL | settings)), of, QUIET)
        assert plan is not None
        return plan

    def work(self, out: Path, *numbers: int) -> None:
        for number in numbers:
            work_on_shard(out, number, Settings(engine=self.engine, workers=1), QUIET)

    def expect_as_one_run(self, out: Path) -> None:
        assert disagreements(out) == []
        assert merged_snapshot(out) == self.expected


def merge(out: Path, **how: Any) -> Merged:
    merged = merge_shards(out, Settings(workers=1), QUIET, **how)
    assert merged is not None
    return merged


def merged_snapshot(out: Path) -> dict[str, tuple[int, object]]:
    """Return what a merge left but for the logs of the shards."""
    return {path: seen for path, seen in snapshot(out).items() if not path.startswith(SHARDS)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("archive")
    images = write_varied_input(folder / "images")
    # Studies of one patient, whose reports name each other, in different shards.
    for date in ("20240101", "20240105", "20240109"):
        known = {"PatientID": "P1", "PatientName": "Doe^Jane", "StudyInstanceUID": f"1.2.{date}", "StudyDate": date}
        write_dicom(images / f"{date}.dcm", pixels=blobs(seed=int(date[-2:])), **known)
    engine = str(write_tiny_bundle(folder / "engines", labels=LABELS, poison_value=POISON, ensemble=True))
    report = run_quietly(images, folder / "out", engine=engine)
    assert report.exit_code == ExitCode.SOME_STUDIES_FAILED, "one has an image that the engine gives no number for"
    return Archive(images, engine, snapshot(folder / "out"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="module")
def runs(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultedRuns]:
    with FaultedRuns() as runs:
        # Its first order is to be a run that ends well, after which all is loaded.
        first = tmp_path_factory.mktemp("first")
        write_image(first / "images" / "a.png", 20, 220, 60, 40)
        assert runs.run(first / "images", first / "out", archive.engine).exit_code == ExitCode.DONE
        yield runs


def work(runs: FaultedRuns, archive: Archive, out: Path, *numbers: int) -> None:
    """Work on shards in one process each, without the second that workers take to start."""
    for number in numbers:
        ended = runs.command("work", str(out), "-e", archive.engine, "--threads", "1", "--shard", str(number))
        assert ended.exit_code in {ExitCode.DONE, ExitCode.SOME_STUDIES_FAILED}, ended.said


def test_merged_shards_are_as_one_run(archive: Archive, out: Path) -> None:
    plan = archive.shard(out)
    assert max(plan.counts) - min(plan.counts) <= 1
    # Whatever order, and whoever merges before all is done.
    archive.work(out, 2)
    first = merge(out)
    assert (first.exit_code, first.left) == (3, {0: plan.counts[0], 1: plan.counts[1]})
    assert not first.report.finished
    assert disagreements(out) == []
    archive.work(out, 0, 2, 1)
    last = merge(out)
    assert (last.left, last.report.finished) == ({}, True)
    archive.expect_as_one_run(out)
    assert last.exit_code == ExitCode.SOME_STUDIES_FAILED, "as one run"
    assert not plan_file(out).exists()
    assert {path.name for path in out.glob("shards/*/*")} == {"cxrbatch.log"}
    assert merge_shards(out, Settings(), QUIET) is None, "and again"
    with open_output(out) as ledger:
        assert ledger.queue.waiting() == (0, "")


def test_merged_shards_have_the_language_and_the_templates_of_one_run(archive: Archive, tmp_path: Path) -> None:
    images, own = tmp_path / "images", tmp_path / "own"
    for number in range(3):
        write_image(images / f"{number}.png", 20 + 60 * number, 60, 120 + number, 240)
    own.mkdir()
    page = '{% extends "package/report.html.j2" %}{% block quality %}<p>Of this house</p>{% endblock %}'
    (own / "report.html.j2").write_text(page)
    asked = {"locale": "de", "templates": str(own)}
    one = run_quietly(images, tmp_path / "one", engine=archive.engine, **asked)
    assert one.exit_code == ExitCode.DONE
    out = tmp_path / "out"
    assert shard_input(images, out, Settings(**(USUAL | asked)), 2, QUIET) is not None
    archive.work(out, 0, 1)
    assert merge(out).exit_code == ExitCode.DONE
    assert merged_snapshot(out) == snapshot(tmp_path / "one")
    reports = [path.read_text() for path in out.glob("reports/*/report.html")]
    assert len(reports) == 3
    assert all("Of this house" in report and 'lang="de"' in report for report in reports)
    assert "Arbeitsliste" in (out / "index.html").read_text()


# In a worker: before its report, in the midst of it, before and after it is whole. Points that `work` comes to.
OF_WORK = (
    "report-write=kill",
    "intent-written:2=kill",
    "files-renamed:4=kill",
    "report-written:2=kill",
    "intent-remove=kill",
)
OF_MERGE = ("tidy=kill", "tidied:3=kill", "ledger-commit:4=kill", "ledger-committed:6=kill", "table-written:2=kill")


def test_killed_anywhere_the_same_commands_again_end_as_one_run(archive: Archive, out: Path, runs: FaultedRuns) -> None:
    archive.shard(out, of=2)
    command = ("work", str(out), "-e", archive.engine, "--threads", "1")
    for fault in OF_WORK:
        killed = runs.command(*command, "--shard", "1", fault=fault)
        assert killed.exit_code == -signal.SIGKILL, (fault, killed.said)
    work(runs, archive, out, 0, 1)
    for fault in OF_MERGE:
        killed = runs.command("merge", str(out), "--workers", "1", fault=fault)
        assert killed.exit_code == -signal.SIGKILL, (fault, killed.said)
    assert runs.command("merge", str(out), "--workers", "1").exit_code == ExitCode.SOME_STUDIES_FAILED
    archive.expect_as_one_run(out)


def test_a_line_that_was_cut_off_is_no_study(archive: Archive, out: Path, runs: FaultedRuns) -> None:
    archive.shard(out, of=1)
    work(runs, archive, out, 0)
    folder = shard_folder(out, 0)
    whole = (folder / FINISHED_FILE).read_bytes()
    lines = whole.splitlines(keepends=True)
    (folder / FINISHED_FILE).write_bytes(b"".join(lines[:-1]) + lines[-1][:-40])
    assert len(list(read_journal(folder))) == count_done(folder) == len(lines) - 1
    assert merge(out).left == {0: 1}
    work(runs, archive, out, 0)
    assert count_done(folder) == len(lines)
    merge(out)
    archive.expect_as_one_run(out)


def test_who_works_for_a_shard_that_somebody_else_took_over_writes_nothing(
    archive: Archive, out: Path, runs: FaultedRuns
) -> None:
    archive.shard(out, of=1)
    folder, settings = shard_folder(out, 0), Settings()
    with held_shard(out, 0, settings) as home:
        place = home.place
        with pytest.raises(OutputLocked), held_shard(out, 0, settings):
            pass
    work(runs, archive, out, 0)
    before = snapshot(out), (folder / FINISHED_FILE).read_bytes()
    journal = Journal(folder, place)
    study = next(read_journal(folder)).study
    with pytest.raises(OutputNotWritable, match="another run holds it by now"):
        journal.append(study)
    with pytest.raises(OutputNotWritable), place.writing():
        pass
    assert (snapshot(out), (folder / FINISHED_FILE).read_bytes()) == before


def test_shards_of_different_engines_are_not_merged(
    archive: Archive, out: Path, runs: FaultedRuns, tmp_path: Path
) -> None:
    archive.shard(out, of=2)
    work(runs, archive, out, 0)
    other = str(write_tiny_bundle(tmp_path / "engines", name="other", labels=LABELS, size_px=64))
    with pytest.raises(UsageError, match=r"shard 0 is scored otherwise .* engine other"):
        work_on_shard(out, 1, Settings(engine=other, workers=1), QUIET)
    work(runs, archive, out, 1)
    path = shard_folder(out, 1) / ENGINE_FILE
    told = json.loads(path.read_text())
    for key, value, words in (("precision", "int8", "int8 here, fp32 there"), ("sha256", "f" * 64, "ffffffffffff")):
        path.write_text(json.dumps(told | {"engine": told["engine"] | {key: value}}))
        with pytest.raises(UsageError, match=words):
            merge(out)
    path.write_text(json.dumps(told | {"version": "0.0.1"}))
    with pytest.raises(UsageError, match=r"cxrbatch 0\.0\.1 here"):
        merge(out)
    path.unlink()
    (shard_folder(out, 1) / FINISHED_FILE).unlink()
    work(runs, archive, out, 1)
    merge(out)
    archive.expect_as_one_run(out)
    # Another engine scores all anew, which shards of what is new would not.
    (archive.images / "new.png").write_bytes((archive.images / "nothing.png").read_bytes())
    try:
        archive.shard(out, of=1)
        with pytest.raises(UsageError, match="was scored by another engine"):
            work_on_shard(out, 0, Settings(engine=other, workers=1), QUIET)
    finally:
        (archive.images / "new.png").unlink()


def test_nobody_else_works_in_an_output_folder_that_is_dealt_out(archive: Archive, out: Path) -> None:
    archive.shard(out)
    with pytest.raises(UsageError, match="dealt out in shards"):
        run_quietly(archive.images, out, engine=archive.engine)
    with pytest.raises(UsageError, match="dealt out in shards"):
        archive.shard(out)
    with pytest.raises(UsageError, match="nobody has worked on any of its 3 shards"):
        merge(out)
    with pytest.raises(UsageError, match=r"there are 3, 0 to 2 \(Slurm: --array=0-2\)"):
        archive.work(out, 3)
    told = json.loads(plan_file(out).read_text())
    plan_file(out).write_text(json.dumps(told | {"version": "0.0.1"}))
    with pytest.raises(UsageError, match=r"cxrbatch 0\.0\.1 dealt out these shards"):
        archive.work(out, 0)


def test_shards_that_are_given_up_are_done_by_a_run(archive: Archive, out: Path, runs: FaultedRuns) -> None:
    archive.shard(out)
    work(runs, archive, out, 0)
    command = ("work", str(out), "-e", archive.engine, "--workers", "1", "--shard", "1")
    assert runs.command(*command, fault="report-written=kill").exit_code == -signal.SIGKILL
    assert runs.command(*command, fault="files-renamed:4=kill").exit_code == -signal.SIGKILL
    with locked(shard_folder(out, 2)), pytest.raises(OutputLocked, match="shard 2: somebody works on it still"):
        merge(out, give_up=True)
    merged = merge(out, give_up=True)
    assert merged.report.studies["pending"] >= 1
    assert disagreements(out) == []
    run_quietly(archive.images, out, engine=archive.engine)
    assert disagreements(out) == []
    ours, theirs = merged_snapshot(out), archive.expected
    # That image failed in the shard and in the run that follows.
    differ = {path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)}
    assert differ <= {"images.csv", "studies.csv", "index.html", "worklist/now.js"}


def test_where_input_is_not_mounted_nothing_fails_and_the_shard_can_be_worked_on_elsewhere(
    archive: Archive, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, own = tmp_path / "images", tmp_path / "own"
    write_image(images / "a" / "one.png", 20, 60, 120, 240)
    own.mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(archive.engine)
    # Named from here, and meant from everywhere.
    plan = shard_input(Path("images"), Path("out"), Settings(**USUAL, engine="tiny", templates="own"), 1, QUIET)
    assert plan is not None
    assert (plan.settings.engine, plan.settings.templates) == (str(Path(archive.engine)), str(own))
    assert plan.seen == ("a",)
    monkeypatch.chdir(archive.images)
    images.rename(tmp_path / "away")
    for is_there, words in ((False, "cannot be seen"), (True, "is the share mounted")):
        if is_there:
            images.mkdir()
        with pytest.raises(UsageError, match=words):
            work_on_shard(out, 0, Settings(workers=1), QUIET)
        assert count_done(shard_folder(out, 0)) == 0
    # It was there as the worker began.
    looks = iter([""])
    monkeypatch.setattr(working, "not_seen", lambda *asked: next(looks, not_seen(*asked)))
    with pytest.raises(UsageError, match="is the share mounted"):
        work_on_shard(out, 0, Settings(workers=1), QUIET)
    assert count_done(shard_folder(out, 0)) == 0
    images.rmdir()
    (tmp_path / "away").rename(images)
    done = work_on_shard(out, 0, Settings(workers=1), QUIET)
    assert done is not None
    assert (done.this_time, done.failed) == (1, 0)
    assert merge(out).exit_code == ExitCode.DONE


def test_a_task_that_is_started_again_once_all_is_merged_has_nothing_to_do(
    archive: Archive, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a Slurm array is that was requeued or submitted twice, and each night's when nothing is new."""
    archive.shard(out, of=2)
    archive.work(out, 0)
    assert run_command_line(["merge", str(out)]) == ExitCode.SOME_STUDIES_FAILED
    assert "sbatch --array=1\n" in capsys.readouterr().out
    archive.work(out, 1)
    merge(out)
    before = snapshot(out)
    for number in ("0", "1", "7"):
        with monkeypatch.context() as scheduler:
            scheduler.setenv("SLURM_ARRAY_TASK_ID", number)
            assert run_command_line(["work", str(out), "-e", archive.engine]) == ExitCode.DONE
        assert "all is merged" in capsys.readouterr().out
    assert snapshot(out) == before
    # Merged by somebody else at the very moment it is held.
    other = out.with_name("other")
    archive.shard(other, of=1)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("cxrbatch.run.shards.work.read_plan", Mock(side_effect=[read_plan(other), None]))
        assert work_on_shard(other, 0, Settings(engine=archive.engine, workers=1), QUIET) is None
    assert not (shard_folder(other, 0) / FINISHED_FILE).exists()
    # What is no output folder holds no shards that could be done.
    assert run_command_line(["work", str(archive.images), "--shard", "0"]) == ExitCode.USAGE


def test_numbers_of_shards_are_written_as_sbatch_takes_them() -> None:
    assert [_as_array(each) for each in ([3], [0, 1, 2, 5], [1, 3, 4])] == ["3", "0-2,5", "1,3-4"]


def test_the_commands_take_their_number_from_the_scheduler(
    archive: Archive, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")
    dealt = ["shard", str(archive.images), "-o", str(out), "--of", "2", "--no-pdf", "--workers", "1", "--deidentify"]
    assert run_command_line(dealt) == ExitCode.DONE
    assert "shards. Now `cxrbatch work" in capsys.readouterr().out
    assert not any(b"Doe" in path.read_bytes() for path in out.glob(f"shards/*/{TASKS_FILE}"))
    for variable, number in (("SLURM_ARRAY_TASK_ID", "0"), ("JOB_COMPLETION_INDEX", "1")):
        with monkeypatch.context() as scheduler:
            scheduler.setenv(variable, number)
            assert run_command_line(["work", str(out), "-e", archive.engine, "--workers", "1"]) in {0, 3}
        assert f"Shard {number}: " in capsys.readouterr().out
    # An array that counts from 1 to as many as there are; a part of one that counts from 0, and what is no array.
    for ends, number, shard in (
        (("1", "2"), "2", 1),
        (("1", "2"), "1", 0),
        (("2", "2"), "2", 1),
        (("0", "1"), "1", 1),
        (("1", "1"), "1", 1),
    ):
        with monkeypatch.context() as scheduler:
            told = ("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_ID")
            for variable, value in zip(told, (*ends, number), strict=True):
                scheduler.setenv(variable, value)
            assert run_command_line(["work", str(out), "-e", archive.engine]) == ExitCode.DONE
            assert f"Shard {shard}: " in capsys.readouterr().out, (ends, number)
            assert run_command_line(["work", str(out), "--shard", "2"]) == ExitCode.USAGE
    capsys.readouterr()
    assert run_command_line(["work", str(out)]) == ExitCode.USAGE
    assert "SLURM_ARRAY_TASK_ID and JOB_COMPLETION_INDEX" in capsys.readouterr().err
    assert run_command_line(["merge", str(out)]) == ExitCode.SOME_STUDIES_FAILED
    assert run_command_line(["merge", str(out)]) == ExitCode.DONE
    assert "all is merged" in capsys.readouterr().out
    assert disagreements(out) == []
    assert not any(b"Doe" in path.read_bytes() for path in out.rglob("*") if path.is_file())
