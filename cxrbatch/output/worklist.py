"""index.html: all studies of a run, the most urgent first.

Who the patient is stands in the reports, never here: this page may be open on a screen that everybody passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from pathlib import Path
from urllib.parse import quote

from cxrbatch.output.report.content import SHORT_HASH
from cxrbatch.output.report.findings import coverage, engine_coverage, label_name, priority_name, rank_in_words
from cxrbatch.pages import wording
from cxrbatch.pages.page import render_page
from cxrbatch.records import EngineDescription, Label, Priority, StudyResult, StudyRow, StudyStatus, Verdict
from cxrbatch.system.durable import replace_text

INDEX_HTML = "index.html"

MOST_ROWS = 10_000
"""Studies on the page. A browser still filters that many at once; the rest is in studies.csv, and the page says so."""

READING_ORDER: tuple[Priority, ...] = ("urgent", "abnormal", "incomplete", "unscored", "normal")
"""What to read first. A study without a score comes before the normal ones: nothing is known of it, and of an
incomplete one not enough."""


@dataclass(frozen=True, slots=True)
class Chip:
    """One finding of a study as the worklist shows it."""

    name: str
    probability: str
    urgent: bool


@dataclass(frozen=True, slots=True)
class WorklistLine:
    """One study of the worklist.

    `highest` is its strongest finding where none is positive, `rank` where that lies among the validation images if
    nobody may judge it; `coverage` says how many findings were judged where not all were; `strength` is the probability
    of what is shown first.
    """

    study_key: str
    date: str
    accession: str
    priority: Priority
    badge: str
    status: StudyStatus
    images: str
    findings: tuple[Chip, ...]
    highest: Chip | None
    rank: str
    coverage: str
    unlike: str
    remarks: tuple[str, ...]
    thumbnail: str
    report_html: str
    report_pdf: str
    strength: float

    @property
    def search_text(self) -> str:
        """What the search box looks in, in lower case."""
        found = " ".join(chip.name for chip in self.findings)
        return f"{self.accession} {self.date} {self.date.replace('-', '')} {self.study_key} {found}".lower()


@dataclass(frozen=True, slots=True)
class Choice:
    """One filter of the page: what it selects, what it is called, how many studies it leaves."""

    value: str
    name: str
    count: int


@dataclass(slots=True)
class _Counts:
    """What is counted of all studies, of which only those on the page stay in memory."""

    total: int = 0
    priorities: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    unlike: int = 0

    def count(self, line: WorklistLine) -> WorklistLine:
        """Count this study, and return it."""
        self.total += 1
        self.priorities[line.priority] += 1
        self.statuses[line.status] += 1
        self.findings.update(chip.name for chip in line.findings)
        self.unlike += bool(line.unlike)
        return line


def write_worklist(out: Path, studies: Iterable[StudyRow], *, engine: EngineDescription, generated_at: str) -> None:
    """Write index.html.

    Args:
        out: the output folder; links on the page are relative to it.
        studies: all studies of the ledger, in any order.
        engine: the engine of this run; its notice is shown.
        generated_at: when, as ISO 8601 text.
    """
    counts = _Counts()
    lines = nsmallest(MOST_ROWS, map(counts.count, map(worklist_line, studies)), key=_reading_order)
    page = render_page(
        "worklist.html.j2",
        styles=("look.css", "worklist.css"),
        script="worklist.js",
        lines=lines,
        total=counts.total,
        priorities=_choices(counts.priorities, READING_ORDER, wording.PRIORITY_NAMES),
        statuses=_choices(counts.statuses, wording.STATUS_NAMES, wording.STATUS_NAMES),
        findings=_finding_choices(counts.findings, engine.labels),
        tells_unlike="distance" in engine.extra_outputs or counts.unlike > 0,
        unlike=counts.unlike,
        first_of=_first_of(lines),
        status_names=wording.STATUS_NAMES,
        engine=engine,
        engine_hash=engine.sha256[:SHORT_HASH],
        notice=wording.plain(engine.notice, longest=600),
        engine_coverage=engine_coverage(engine.labels),
        generated_at=wording.moment(generated_at),
        not_for_diagnosis=wording.NOT_FOR_DIAGNOSIS,
    )
    replace_text(out / INDEX_HTML, page)


def worklist_line(row: StudyRow) -> WorklistLine:
    """Reduce one study to what the worklist shows of it."""
    verdict = row.result.verdict if row.result else None
    scored = _ranked(row.result, verdict) if row.result and verdict else []
    first = scored[0] if scored and verdict and not verdict.findings else None
    return WorklistLine(
        study_key=row.study_key,
        date=wording.day(row.header.study_date),
        accession=wording.plain(row.header.accession_number, longest=40),
        priority=verdict.priority if verdict else row.priority,
        badge=priority_name(row.result, verdict) if row.result and verdict else wording.PRIORITY_NAMES[row.priority],
        status=row.status,
        images=f"{row.n_scored} of {row.n_images}",
        findings=tuple(_chip(each) for each in scored if each.called),
        highest=_chip(first) if first else None,
        rank=rank_in_words(first.label, first.probability) if first and first.call is None else "",
        coverage=coverage(verdict) if verdict else "",
        unlike=_unlike(row.result) if row.result else "",
        remarks=_remarks(row),
        thumbnail=quote(row.thumbnail),
        report_html=quote(row.report_html),
        report_pdf=quote(row.report_pdf),
        strength=scored[0].probability if scored else 0.0,
    )


def _reading_order(line: WorklistLine) -> tuple[int, bool, float, str]:
    """Sort by priority; what failed before what could not be scored; strong before weak; else by key."""
    return READING_ORDER.index(line.priority), line.status != "failed", -line.strength, line.study_key


@dataclass(frozen=True, slots=True)
class _Scored:
    """What a study has of one label."""

    label: Label
    probability: float
    call: bool | None

    @property
    def called(self) -> bool:
        return self.call is True and not self.label.normal


def _ranked(result: StudyResult, verdict: Verdict) -> list[_Scored]:
    """Return the study's findings, those that are called first, of these the urgent ones; each by probability."""
    scored = list(map(_Scored, verdict.labels, result.probabilities, verdict.calls))
    findings = [each for each in scored if not each.label.normal] or scored
    return sorted(
        findings, key=lambda each: (not (each.called and each.label.urgent), not each.called, -each.probability)
    )


def _chip(scored: _Scored) -> Chip:
    label = scored.label
    return Chip(label_name(label), wording.probability(scored.probability, label.operating_point), label.urgent)


def _unlike(result: StudyResult) -> str:
    unlike, images = len(result.unlike_training), len(result.images)
    if not unlike:
        return ""
    return "Unlike the training images" if images == 1 else f"{unlike} of {images} unlike the training images"


def _remarks(row: StudyRow) -> tuple[str, ...]:
    """Return, for a study without a score, one sentence per reason; a failed one is tried again."""
    if row.status == "failed":
        return ("It could not be finished; the next run tries it again.", *_reason_sentences(row.reasons))
    return _reason_sentences(row.reasons) if row.result is None else ()


def _reason_sentences(reasons: Sequence[str]) -> tuple[str, ...]:
    return tuple(filter(None, map(wording.reason_sentence, dict.fromkeys(reasons))))


def _choices(counts: Mapping[str, int], order: Iterable[str], names: Mapping[str, str]) -> list[Choice]:
    return [Choice(value, names[value], counts[value]) for value in order]


def _finding_choices(counts: Mapping[str, int], labels: Sequence[Label]) -> list[Choice]:
    names = dict.fromkeys([*(label_name(label) for label in labels if not label.normal), *counts])
    return [Choice(name, name, counts[name]) for name in names]


def _first_of(lines: Sequence[WorklistLine]) -> dict[str, Priority]:
    """Return, by study key, the priority that begins with this study: where a link without script jumps to."""
    first: dict[Priority, str] = {}
    for line in lines:
        first.setdefault(line.priority, line.study_key)
    return {key: priority for priority, key in first.items()}
