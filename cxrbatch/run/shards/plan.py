"""What is dealt out: OUT/shards/plan.json, written last, and the tasks of each shard, one JSON text per line.

A shard is a folder: `tasks.jsonl`, which nobody changes, `engine.json`, which says what scores there, and
`finished.jsonl` (`journal`). No database: several machines read these over a share, and each file has one writer.
"""

from __future__ import annotations

import shutil
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cxrbatch import __version__
from cxrbatch.config import LOG_FILE, Settings
from cxrbatch.errors import UsageError
from cxrbatch.output.folder.sharded import SHARDS, plan_file, shard_folder
from cxrbatch.output.ledger.queue import StudyTask
from cxrbatch.records import EngineDescription, TrainingReference
from cxrbatch.run.index import IndexCount
from cxrbatch.run.source import Source
from cxrbatch.system import durable
from cxrbatch.system.record_json import from_json, to_json

TASKS_FILE, ENGINE_FILE = "tasks.jsonl", "engine.json"


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What every shard is told: which files, with which settings, and of how many studies it is.

    `scored_by` is the engine that scored OUT before, '' where none did. `counts`: studies per shard. `index`: what the
    walk met, for the account of the merge. `seen`: some of what is in INPUT, by which others know it.
    """

    folder: str
    only: str
    settings: Settings
    counts: tuple[int, ...]
    made_at: str
    scored_by: str = ""
    index: IndexCount = field(default_factory=IndexCount)
    seen: tuple[str, ...] = ()
    version: str = __version__

    @property
    def source(self) -> Source:
        """The files of INPUT."""
        return Source(Path(self.folder), self.only)

    def require_shard(self, number: int) -> None:
        """Refuse a number that is none of a shard's.

        Raises:
            UsageError: it is so.
        """
        if not 0 <= number < len(self.counts):
            raise UsageError(
                f"shard {number}: there are {len(self.counts)}, 0 to {len(self.counts) - 1} (Slurm: "
                f"--array=0-{len(self.counts) - 1})."
            )


def read_plan(out: Path) -> ShardPlan | None:
    """Return the plan of an output folder; None where nothing is dealt out.

    Raises:
        UsageError: another version of cxrbatch wrote it, or it is damaged.
    """
    path = plan_file(out)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        version = from_json(text, _Version).version
        if version != __version__:
            raise UsageError(
                f"{path}: cxrbatch {version} dealt out these shards, and this is {__version__}. Use the same version "
                "for all of them."
            )
        return from_json(text, ShardPlan)
    except ValueError as error:
        raise UsageError(f"{path}: damaged ({error}). Remove {path.parent}, then deal out again.") from error


@dataclass(frozen=True, slots=True)
class _Version:
    version: str = ""


def write_plan(out: Path, plan: ShardPlan) -> None:
    """Write what makes the shards below OUT shards, once their tasks are there."""
    durable.replace_text(plan_file(out), to_json(plan, indent=2) + "\n")


def write_tasks(out: Path, number: int, tasks: Iterable[StudyTask]) -> int:
    """Write the tasks of one shard; return how many they are."""
    folder, count = shard_folder(out, number), 0
    durable.make_folder(folder, within=out)
    with (
        durable.replacing(folder / TASKS_FILE) as temporary,
        temporary.open("w", encoding="ascii", newline="\n") as file,
    ):
        for task in tasks:
            file.write(to_json(task) + "\n")
            count += 1
    return count


def read_tasks(out: Path, number: int, *, without: Container[str] = ()) -> Iterator[StudyTask]:
    """Yield the tasks of one shard but for these study keys."""
    with (shard_folder(out, number) / TASKS_FILE).open(encoding="ascii") as file:
        for line in file:
            task = from_json(line, StudyTask)
            if task.study_key not in without:
                yield task


@dataclass(frozen=True, slots=True)
class ShardEngine:
    """What scores a shard: `reference` is what it was validated on, for drift."""

    engine: EngineDescription
    version: str = __version__
    reference: TrainingReference | None = None

    def differences(self, other: ShardEngine) -> list[str]:
        """Return in words what of another shard's is not the same."""
        mine, theirs = self.engine, other.engine
        found = [
            (f"cxrbatch {self.version}", f"cxrbatch {other.version}"),
            (f"engine {mine.name} ({mine.sha256[:12]})", f"engine {theirs.name} ({theirs.sha256[:12]})"),
            (mine.backend, theirs.backend),
            (mine.precision, theirs.precision),
        ]
        return [f"{one} here, {another} there" for one, another in found if one != another]


def read_engine(out: Path, number: int) -> ShardEngine | None:
    """Return what scores a shard; None where nobody has begun to.

    Raises:
        UsageError: the file is damaged.
    """
    path = shard_folder(out, number) / ENGINE_FILE
    try:
        return from_json(path.read_text(encoding="utf-8"), ShardEngine)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path}: damaged ({error}). {how_to_redo(path.parent)}") from error


def write_engine(out: Path, number: int, engine: ShardEngine) -> None:
    """Write what scores a shard."""
    durable.replace_text(shard_folder(out, number) / ENGINE_FILE, to_json(engine, indent=2) + "\n")


def how_to_redo(folder: Path) -> str:
    """Return the sentence that says how a shard is done anew."""
    return f"To have this shard done anew, remove engine.json and finished.jsonl in {folder} and work on it again."


def remove_shards(out: Path) -> None:
    """Remove what was dealt out, the plan first; what the shards logged stays."""
    plan_file(out).unlink(missing_ok=True)
    for folder in [each for each in (out / SHARDS).iterdir() if each.is_dir()]:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif not path.name.startswith(LOG_FILE):
                path.unlink()
