"""Killed, stopped or out of disk at every fault point: the next run ends where an uninterrupted one does.

With CXRBATCH_EVERY_FAULT=1 (`make soak`) every fault comes at every time that a run reaches every point; without it
each point is tried at the first time, and at one in the middle (SIGKILL) or the last one (a full disk).
"""

from __future__ import annotations

import ast
import math
import os
import re
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cxrbatch.errors import ExitCode
from tests.factories.engine import write_tiny_bundle
from tests.factories.faulted import Ended, FaultedRuns
from tests.factories.intake import blobs, write_dicom
from tests.factories.judged import disagreements
from tests.factories.outputs import leftovers, snapshot
from tests.factories.studies import read_rows, write_image

PACKAGE = Path(__file__).parents[2] / "cxrbatch"
EVERY = bool(os.environ.get("CXRBATCH_EVERY_FAULT"))


def fault_points() -> list[str]:
    """Return the names of all fault points in the sources, sorted, those that stand there twice twice."""
    calls = (
        node
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reach"
    )
    names = (call.args[0] for call in calls)
    return sorted(str(name.value) if isinstance(name, ast.Constant) else ast.unparse(name) for name in names)


# What is sent to an archive is no run's: see tests/pacs/test_send.py.
POINTS = [point for point in fault_points() if not point.startswith("sent-")]


@dataclass(frozen=True, slots=True)
class Scene:
    """What is in OUT before a command, what the command leaves uninterrupted, and how often it reaches each point.

    `arguments` are those of the command, with {out} for OUT; without any, it is a run on `images`.
    """

    images: Path
    before: Path
    arguments: tuple[str, ...] = ()
    expected: dict[str, tuple[int, object]] = field(default_factory=dict)
    reached: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Stage:
    """The helper process, the engine, and the scenes: `new` has an empty OUT, `later` one with everything to tidy."""

    runs: FaultedRuns
    engine: str
    scenes: dict[str, Scene]

    def run(self, scene: Scene, out: Path, *, fault: str = "") -> Ended:
        """Give the scene's command on `out`."""
        if scene.arguments:
            return self.runs.command(*(argument.format(out=out) for argument in scene.arguments), fault=fault)
        return self.runs.run(scene.images, out, self.engine, fault=fault)

    def interrupt(self, scene: Scene, out: Path, fault: str) -> Ended:
        """Give the command on `out` as it is before the scene, with a fault; `expect_nothing_lost` judges the rest."""
        shutil.rmtree(out, ignore_errors=True)
        if scene.before.exists():
            shutil.copytree(scene.before, out)
        return self.run(scene, out, fault=fault)

    def expect_nothing_lost(self, scene: Scene, out: Path) -> None:
        """Give it again: everything is there, once, and nothing else."""
        ended = self.run(scene, out)
        assert ended.exit_code == ExitCode.DONE, ended.said
        assert leftovers(out) == []
        if any(out.glob("ledger.sqlite")):
            assert disagreements(out) == []
        assert snapshot(out) == scene.expected

    def times(self, point: str, *, portions: tuple[float, ...] = ()) -> list[tuple[str, int]]:
        """Return scene and count of the times to try at a point: the first, and these portions of the last."""
        if EVERY:
            return [(name, n) for name, scene in self.scenes.items() for n in range(1, scene.reached[point] + 1)]
        name = next(name for name in SCENES if self.scenes[name].reached[point])
        count = self.scenes[name].reached[point]
        return [(name, n) for n in sorted({1, *(math.ceil(portion * count) for portion in portions)})]


SCENES = ("later", "new", "torn", "undone", "report", "prune", "repair", "priors")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    engine = str(write_tiny_bundle(folder / "engines"))
    with FaultedRuns(pdf=True) as runs:
        stage = Stage(runs, engine, {})
        stage.scenes["new"] = new_scene(stage, folder / "new")
        stage.scenes["later"] = later_scene(stage, folder / "later")
        stage.scenes["torn"] = torn_scene(stage, folder / "torn")
        stage.scenes["undone"] = undone_scene(stage, folder / "undone")
        stage.scenes["report"] = report_scene(stage, folder / "report")
        stage.scenes["prune"] = prune_scene(stage, folder / "prune")
        stage.scenes["repair"] = repair_scene(stage, folder / "repair")
        stage.scenes["priors"] = priors_scene(stage, folder / "priors")
        yield stage


def new_scene(stage: Stage, folder: Path) -> Scene:
    """Two images and no OUT."""
    write_image(folder / "images" / "a.png", 20, 60, 120, 240)
    write_image(folder / "images" / "d.png", 200, 10, 10, 10)
    return rehearsed(stage, folder)


def later_scene(stage: Stage, folder: Path) -> Scene:
    """A run was killed half way after one image was replaced, one came, and one turned out to be none."""
    images, before = folder / "images", folder / "before"
    write_image(images / "a.png", 20, 60, 120, 240)
    write_image(images / "z.png", 200, 10, 10, 10)
    assert stage.runs.run(images, before, stage.engine, pdf=True).exit_code == ExitCode.DONE
    write_image(images / "a.png", 240, 20, 60, 10)
    write_image(images / "d.png", 10, 200, 10, 10)
    (images / "z.png").write_text("no image any more")
    assert stage.runs.run(images, before, stage.engine, fault="files-written:3=kill").exit_code == -signal.SIGKILL
    assert len(leftovers(before)) == 2
    return rehearsed(stage, folder)


def torn_scene(stage: Stage, folder: Path) -> Scene:
    """A run was killed between report and ledger, in the second revision of an image that is gone from INPUT since."""
    images, before = folder / "images", folder / "before"
    write_image(images / "a.png", 20, 60, 120, 240)
    write_image(images / "b.png", 200, 10, 10, 10)
    assert stage.runs.run(images, before, stage.engine).exit_code == ExitCode.DONE
    write_image(images / "a.png", 240, 20, 60, 10)
    assert stage.runs.run(images, before, stage.engine, fault="report-written=kill").exit_code == -signal.SIGKILL
    (images / "a.png").unlink()
    return rehearsed(stage, folder)


def undone_scene(stage: Stage, folder: Path) -> Scene:
    """The same, of an OUT with PDFs, and a picture of the second revision did not reach the disk."""
    images, before = folder / "images", folder / "before"
    write_image(images / "a.png", 20, 60, 120, 240)
    write_image(images / "b.png", 200, 10, 10, 10)
    assert stage.runs.run(images, before, stage.engine, pdf=True).exit_code == ExitCode.DONE
    first = {path.name for path in before.glob("reports/*/*.jpg")}
    write_image(images / "a.png", 240, 20, 60, 10)
    killed = stage.runs.run(images, before, stage.engine, fault="report-written=kill", pdf=True)
    assert killed.exit_code == -signal.SIGKILL
    torn = next(path for path in before.glob("reports/*/thumb-*.jpg") if path.name not in first)
    torn.write_bytes(torn.read_bytes()[:100])
    (images / "a.png").unlink()
    return rehearsed(stage, folder)


def report_scene(stage: Stage, folder: Path) -> Scene:
    """Reports are printed again."""
    images, before = folder / "images", folder / "before"
    write_image(images / "a.png", 20, 60, 120, 240)
    assert stage.runs.run(images, before, stage.engine).exit_code == ExitCode.DONE
    return rehearsed(stage, folder, "report", "{out}", "--no-pdf")


def prune_scene(stage: Stage, folder: Path) -> Scene:
    """One of two studies is to go."""
    images, before = folder / "images", folder / "before"
    write_image(images / "a.png", 20, 60, 120, 240)
    write_image(images / "b.png", 200, 10, 10, 10)
    assert stage.runs.run(images, before, stage.engine).exit_code == ExitCode.DONE
    (images / "a.png").unlink()
    assert stage.runs.run(images, before, stage.engine).exit_code == ExitCode.DONE
    with closing(sqlite3.connect(before / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("UPDATE studies SET reported_at = '2020-01-01T00:00:00+00:00'")
    return rehearsed(stage, folder, "prune", "{out}", "--older-than", "90d", "--yes")


def repair_scene(stage: Stage, folder: Path) -> Scene:
    """The ledger is damaged, and the run that was killed then had a second revision in hand."""
    images, before = folder / "images", folder / "before"
    write_image(images / "a.png", 20, 60, 120, 240)
    write_image(images / "b.png", 200, 10, 10, 10)
    assert stage.runs.run(images, before, stage.engine).exit_code == ExitCode.DONE
    write_image(images / "a.png", 240, 20, 60, 10)
    assert stage.runs.run(images, before, stage.engine, fault="report-written=kill").exit_code == -signal.SIGKILL
    (before / "ledger.sqlite").write_bytes(b"all that is left of it" * 400)
    return rehearsed(stage, folder, "repair", "{out}")


def priors_scene(stage: Stage, folder: Path) -> Scene:
    """Three studies of one patient, of which one was reported before the earliest and the latest came."""
    images, before = folder / "images", folder / "before"
    images.mkdir(parents=True)

    def write(date: str) -> None:
        known = {"PatientID": "P1", "PatientName": "Doe^Jane", "StudyInstanceUID": f"1.2.{date}", "StudyDate": date}
        write_dicom(images / f"{date}.dcm", pixels=blobs(seed=int(date[-2:])), **known)

    write("20240105")
    assert stage.runs.run(images, before, stage.engine).exit_code == ExitCode.DONE
    write("20240101")
    write("20240109")
    return rehearsed(stage, folder)


def rehearsed(stage: Stage, folder: Path, *arguments: str) -> Scene:
    """Give the command without a fault."""
    scene = Scene(folder / "images", folder / "before", arguments)
    ended = stage.interrupt(scene, folder / "uninterrupted", "")
    assert ended.exit_code == ExitCode.DONE, ended.said
    return replace(scene, expected=snapshot(folder / "uninterrupted"), reached=ended.reached)


# --------------------------------------------------------------------------- the points themselves


def test_every_fault_point_is_a_literal_that_stands_in_the_sources_once() -> None:
    assert all(point.replace("-", "").isalpha() for point in POINTS), POINTS
    assert [point for point, count in Counter(POINTS).items() if count > 1] == []


def test_every_fault_point_is_reached(stage: Stage) -> None:
    reached = sum((scene.reached for scene in stage.scenes.values()), Counter[str]())
    assert set(reached) == set(POINTS)
    assert set(stage.scenes) == set(SCENES)


def test_the_scenes_show_what_they_are_for(stage: Stage) -> None:
    expected = stage.scenes["later"].expected
    rows = {row["path"]: row for row in expected["images.csv"][1]}  # type: ignore[attr-defined]
    assert {name: (row["status"], row["reason"]) for name, row in rows.items()} == {
        "a.png": ("scored", ""),
        "d.png": ("scored", ""),
        "z.png": ("rejected", "not_an_image"),
    }
    revisions = {row["study_key"]: row["revision"] for row in expected["studies.csv"][1]}  # type: ignore[attr-defined]
    assert (revisions[rows["a.png"]["study_key"]], revisions[rows["d.png"]["study_key"]]) == ("2", "1")
    assert len({Path(name).parts[1] for name in expected if name.startswith("reports/")}) == 2


# --------------------------------------------------------------------------- each fault at each of them


@pytest.mark.parametrize("point", POINTS)
def test_killed_here_the_next_run_ends_as_if_nothing_had_been(stage: Stage, point: str, tmp_path: Path) -> None:
    for name, n in stage.times(point, portions=(0.6,)):
        scene = stage.scenes[name]
        assert stage.interrupt(scene, tmp_path / "out", f"{point}:{n}=kill").exit_code == -signal.SIGKILL
        stage.expect_nothing_lost(scene, tmp_path / "out")


@pytest.mark.parametrize(("number", "point"), list(enumerate(POINTS)))
def test_out_of_disk_here_the_run_says_so_and_the_next_one_goes_on(
    stage: Stage, number: int, point: str, tmp_path: Path
) -> None:
    for name, n in stage.times(point, portions=(1.0,)):
        scene, full = stage.scenes[name], ("enospc", "edquot")[number % 2]
        ended = stage.interrupt(scene, tmp_path / "out", f"{point}:{n}={full}")
        assert ended.exit_code == ExitCode.OUTPUT_NOT_WRITABLE, ended.said
        assert "Check free space" in ended.said or "Make room" in ended.said
        stage.expect_nothing_lost(scene, tmp_path / "out")


# A stop takes the same way out wherever it comes, other than a kill: the other points are part of `make soak`.
@pytest.mark.parametrize("point", POINTS if EVERY else POINTS[::2])
def test_stopped_here_the_run_leaves_no_temporary_and_the_next_one_goes_on(
    stage: Stage, point: str, tmp_path: Path
) -> None:
    for name, n in stage.times(point):
        scene = stage.scenes[name]
        ended = stage.interrupt(scene, tmp_path / "out", f"{point}:{n}=term")
        assert ended.exit_code == 128 + signal.SIGTERM, ended.said
        assert "run the same command again" in ended.said
        before = {path.relative_to(scene.before) for path in leftovers(scene.before)}
        assert {path.relative_to(tmp_path / "out") for path in leftovers(tmp_path / "out")} <= before
        stage.expect_nothing_lost(scene, tmp_path / "out")


@pytest.mark.skipif(not EVERY, reason="part of `make soak`: a failing disk takes the ways of a full one")
@pytest.mark.parametrize("fault", ["eio", "erofs"])
@pytest.mark.parametrize("point", POINTS)
def test_a_failing_disk_here_costs_nothing_that_the_next_run_does_not_bring_back(
    stage: Stage, point: str, fault: str, tmp_path: Path
) -> None:
    for name, n in stage.times(point):
        scene = stage.scenes[name]
        ended = stage.interrupt(scene, tmp_path / "out", f"{point}:{n}={fault}")
        assert ended.exit_code in {ExitCode.OUTPUT_NOT_WRITABLE, ExitCode.SOME_STUDIES_FAILED}, ended.said
        stage.expect_nothing_lost(scene, tmp_path / "out")


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("point", ["report-write", "report-written", "tidied", "intent-removed", "files-renamed"])
def test_killed_here_every_report_names_the_earlier_studies_it_would(
    stage: Stage, point: str, n: int, tmp_path: Path
) -> None:
    scene = stage.scenes["priors"]
    if n > scene.reached[point]:
        pytest.skip("not reached so often")
    assert stage.interrupt(scene, tmp_path / "out", f"{point}:{n}=kill").exit_code == -signal.SIGKILL
    stage.expect_nothing_lost(scene, tmp_path / "out")
    named = [count_priors(path) for path in sorted((tmp_path / "out").glob("reports/*/report.html"))]
    assert sorted(named) == [0, 1, 2]


def count_priors(report: Path) -> int:
    """Return how many earlier studies a report links to."""
    return len(re.findall(r'href="\.\./[0-9a-f]{16}/', report.read_text()))


# --------------------------------------------------------------------------- what is behind it


def test_a_study_that_a_killed_run_had_taken_is_still_in_the_queue(stage: Stage, tmp_path: Path) -> None:
    """There is no lease to take back: a study is `pending` until the transaction of its result commits."""
    scene, out = stage.scenes["new"], tmp_path / "out"
    stage.interrupt(scene, out, "report-write:2=kill")
    with closing(sqlite3.connect(out / "ledger.sqlite")) as ledger:
        statuses = dict(ledger.execute("SELECT status, count(*) FROM studies GROUP BY status"))
    assert statuses == {"pending": 1, "reported": 1}
    resumed = stage.run(scene, out)
    assert resumed.reached["report-write"] == 1
    assert [row["revision"] for row in read_rows(out / "studies.csv")] == ["1", "1"]
    assert snapshot(out) == scene.expected


@pytest.mark.parametrize("point", ["temporary-created", "files-written", "temporary-synced", "files-rename"])
def test_the_first_file_of_an_output_folder_is_tidied_up_after_like_every_other(
    stage: Stage, point: str, tmp_path: Path
) -> None:
    scene, out = stage.scenes["new"], tmp_path / "out"
    stage.interrupt(scene, out, f"{point}=kill")
    assert [path.parent for path in leftovers(out)] == [out]
    stage.expect_nothing_lost(scene, out)


def test_a_run_killed_again_and_again_comes_to_its_end(stage: Stage, tmp_path: Path) -> None:
    scene, out = stage.scenes["later"], tmp_path / "out"
    stage.interrupt(scene, out, "leftover-removed=kill")
    for fault in ("report-written=kill", "files-renamed:3=kill", "table-patched:2=kill", "orphan-remove=kill"):
        assert stage.run(scene, out, fault=fault).exit_code == -signal.SIGKILL
    stage.expect_nothing_lost(scene, out)


def test_a_report_with_a_pdf_is_whole_after_a_kill_between_its_files(stage: Stage, tmp_path: Path) -> None:
    scene, out = stage.scenes["new"], tmp_path / "out"
    killed = stage.runs.run(scene.images, out, stage.engine, fault="files-renamed:5=kill", pdf=True)
    assert killed.exit_code == -signal.SIGKILL
    assert stage.runs.run(scene.images, out, stage.engine, pdf=True).exit_code == ExitCode.DONE
    reports = [out / row["report_pdf"] for row in read_rows(out / "studies.csv")]
    assert [report.read_bytes()[:5] for report in reports] == [b"%PDF-", b"%PDF-"]
    assert leftovers(out) == []
