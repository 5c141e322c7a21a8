"""What a sheet says, as numbers: kept beside the page as JSON, so that later sheets can tell a trend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.run_json import RunReport
from cxrbatch.records import Label, Priority, StudyResult

SheetKind = Literal["run", "watch"]

MOST_URGENT = 10
_ORDER: tuple[Priority, ...] = ("urgent", "abnormal", "incomplete", "unscored", "normal")


@dataclass(frozen=True, slots=True)
class RunSheet:
    """What one run did, or a daemon in one day; no study, path or patient is named.

    `files`, `reasons` and `studies` count all of the ledger at its end; `new_files`, `new_reasons` and `new_studies`
    are how much more that is than on the sheet before. `priorities` and `positives`, by label, count the studies
    scored since the sheet before, `scored_until` is when the last of them was. `ms_per_study` are summed over
    processes, by stage. `alarms` counts what drifted, by scanner too.
    """

    name: str
    kind: SheetKind = "run"
    started_at: str = ""
    finished_at: str = ""
    finished: bool = True
    wall_s: float = 0.0
    engine: str = ""
    engine_sha256: str = ""
    files: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    studies: dict[str, int] = field(default_factory=dict)
    new_files: dict[str, int] = field(default_factory=dict)
    new_reasons: dict[str, int] = field(default_factory=dict)
    new_studies: dict[str, int] = field(default_factory=dict)
    studies_done: int = 0
    images_scored: int = 0
    priorities: dict[str, int] = field(default_factory=dict)
    positives: dict[str, int] = field(default_factory=dict)
    scored_until: str = ""
    ms_per_study: dict[str, float] = field(default_factory=dict)
    deferred: int = 0
    unlistable: int = 0
    alarms: int = 0

    @property
    def came(self) -> int:
        """How many files are in the ledger that were not on the sheet before."""
        return sum(self.new_files.values())

    @property
    def refused(self) -> int:
        """How many more files are refused than on the sheet before."""
        return sum(self.new_reasons.values())

    @property
    def not_scored(self) -> int:
        """How many more studies came to no score, or to none that says anything, than on the sheet before."""
        more = sum(max(0, self.new_studies.get(status, 0)) for status in ("unscored", "failed"))
        return more + self.priorities.get("unscored", 0)

    @property
    def scored_studies(self) -> int:
        """How many studies were scored since the sheet before."""
        return sum(self.priorities.values())


@dataclass(frozen=True, slots=True)
class UrgentStudy:
    """One study to read first: its findings, the urgent and the probable ones first, each with its probability."""

    study_key: str
    priority: Priority
    findings: tuple[tuple[Label, float], ...]
    report_html: str
    scored_at: str


@dataclass(frozen=True, slots=True)
class ScoredSince:
    """The studies that were scored since the sheet before: counts, and the most urgent of them, first things first."""

    priorities: dict[str, int] = field(default_factory=dict)
    positives: dict[str, int] = field(default_factory=dict)
    until: str = ""
    most_urgent: tuple[UrgentStudy, ...] = ()


def read_scored(ledger: Ledger, since: str) -> ScoredSince:
    """Go through the studies that were scored after `since` (UTC, as `now_text`); ten of them stay in memory."""
    priorities: Counter[str] = Counter()
    positives: Counter[str] = Counter()
    until, most_urgent = since, list[UrgentStudy]()
    for row in ledger.results.reported_since(since):
        result = row.result
        if result is None or result.scored_at <= since:
            continue  # printed anew since, but not scored
        verdict = result.verdict
        until = max(until, result.scored_at)
        priorities[verdict.priority] += 1
        positives.update(label.name for label in verdict.findings)
        if verdict.findings:
            study = UrgentStudy(row.study_key, verdict.priority, _findings(result), row.report_html, result.scored_at)
            most_urgent = sorted([*most_urgent, study], key=_urgency)[:MOST_URGENT]
    return ScoredSince(dict(priorities), dict(positives), until, tuple(most_urgent))


def _findings(result: StudyResult) -> tuple[tuple[Label, float], ...]:
    verdict = result.verdict
    called = {label.name for label in verdict.findings}
    pairs = zip(verdict.labels, result.probabilities, strict=True)
    return tuple(sorted((pair for pair in pairs if pair[0].name in called), key=lambda p: (not p[0].urgent, -p[1])))


def _urgency(study: UrgentStudy) -> tuple[int, float, str]:
    return _ORDER.index(study.priority), -study.findings[0][1], study.study_key


def gather_sheet(
    report: RunReport, scored: ScoredSince, before: RunSheet | None, *, name: str, kind: SheetKind
) -> RunSheet:
    """Put together what a sheet says, beside `before`, the one before it."""
    drift = report.drift
    alarms = [*drift.alarms, *(line for each in drift.scanners for line in each.alarms)] if drift else []
    studies = report.studies_this_run
    return RunSheet(
        name=name,
        kind=kind,
        started_at=report.started_at,
        finished_at=report.finished_at,
        finished=report.finished,
        wall_s=report.wall_s,
        engine=report.engine.name,
        engine_sha256=report.engine.sha256,
        files=report.files,
        reasons=report.reasons,
        studies=report.studies,
        new_files=_more(report.files, before.files if before else {}),
        new_reasons=_more(report.reasons, before.reasons if before else {}),
        new_studies=_more(report.studies, before.studies if before else {}),
        studies_done=studies,
        images_scored=report.images_scored_this_run,
        priorities=scored.priorities,
        positives=scored.positives,
        scored_until=scored.until,
        ms_per_study={stage: round(1e3 * s / studies, 1) for stage, s in report.stage_s.items()} if studies else {},
        deferred=report.files_deferred,
        unlistable=report.folders_unlistable,
        alarms=len(alarms),
    )


def is_news(sheet: RunSheet, before: RunSheet | None) -> bool:
    """Tell whether there is anything to say that the sheet before does not."""
    if before is None or not sheet.finished:
        return True
    said, told = ((each.files, each.reasons, each.studies, each.engine_sha256) for each in (sheet, before))
    return said != told or sheet.studies_done > 0 or (sheet.deferred, sheet.unlistable) != (0, 0)


def _more(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {name: more for name in {**before, **now} if (more := now.get(name, 0) - before.get(name, 0))}
