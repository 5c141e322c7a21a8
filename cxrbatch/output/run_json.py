"""run.json, which says what the last run on an output folder did: the record, how it is written and how it is read.

`RunReport` is all of it, as this version writes it; whoever reads what another version may have written takes
`read_last_run` or `wanted_reports`, which make do with what is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cxrbatch.config import Settings
from cxrbatch.errors import ExitCode
from cxrbatch.output.drift import DriftReport
from cxrbatch.records import EngineDescription
from cxrbatch.system.durable import replace_text
from cxrbatch.system.record_json import from_json, to_json

RUN_FILE = "run.json"

_View = TypeVar("_View")


@dataclass(frozen=True, slots=True)
class RunReport:
    """What run.json says of the last run on this output folder.

    `images_out_of_distribution` counts those in the ledger that this engine scored and that are unlike its training
    images; None where it does not tell. `drift` is None where it was not looked at.
    """

    cxrbatch_version: str
    started_at: str
    finished_at: str
    finished: bool
    settings: Settings
    engine: EngineDescription
    files: dict[str, int]
    files_deferred: int
    folders_unlistable: int
    studies: dict[str, int]
    reasons: dict[str, int]
    failures: dict[str, str]
    studies_this_run: int
    images_scored_this_run: int
    wall_s: float
    stage_s: dict[str, float]
    libraries: dict[str, str]
    folders_hidden: int = 0
    images_out_of_distribution: int | None = None
    drift: DriftReport | None = None

    @property
    def exit_code(self) -> ExitCode:
        """3 where something is left that the next run tries again, 0 else."""
        return ExitCode.SOME_STUDIES_FAILED if self.is_something_left else ExitCode.DONE

    @property
    def is_something_left(self) -> bool:
        """Tell whether the next run has to try something again."""
        failed = self.studies.get("failed", 0) + self.files.get("failed", 0)
        return failed + self.files_deferred + self.folders_unlistable > 0


@dataclass(frozen=True, slots=True)
class LastEngine:
    """The engine of the last run."""

    name: str = ""
    sha256: str = ""
    backend: str = ""
    precision: str = ""


@dataclass(frozen=True, slots=True)
class LastRun:
    """What run.json says of the last run, or of a daemon since it began; it may be another version's."""

    started_at: str = ""
    finished_at: str = ""
    finished: bool = False
    engine: LastEngine = field(default_factory=LastEngine)
    studies_this_run: int = 0
    images_scored_this_run: int = 0
    wall_s: float = 0.0
    files_deferred: int = 0
    folders_unlistable: int = 0
    folders_hidden: int = 0
    drift: DriftReport | None = None

    @property
    def studies_per_s(self) -> float:
        """How fast it was, from its start to its end."""
        return self.studies_this_run / self.wall_s if self.wall_s else 0.0


@dataclass(frozen=True, slots=True)
class _Printing:
    html: bool = True
    pdf: bool = True


@dataclass(frozen=True, slots=True)
class _LastSettings:
    settings: _Printing = _Printing()


def write_run_json(out: Path, report: RunReport) -> None:
    """Replace run.json in `out` atomically."""
    replace_text(out / RUN_FILE, to_json(report, indent=2) + "\n")


def read_last_run(out: Path) -> LastRun | None:
    """Return what run.json says; None where there is none that can be read."""
    return _read(out, LastRun)


def wanted_reports(out: Path) -> bool:
    """Tell whether the last run printed reports at all; it did, if nobody knows."""
    last = _read(out, _LastSettings) or _LastSettings()
    return last.settings.html or last.settings.pdf


def _read(out: Path, view: type[_View]) -> _View | None:
    try:
        return from_json((out / RUN_FILE).read_text(encoding="utf-8"), view)
    except (OSError, ValueError):
        return None
