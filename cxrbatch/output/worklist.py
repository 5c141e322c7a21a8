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

from cxrbatch.output.report.content import SHORT_HASH, label_name, priority_name
from cxrbatch.pages import wording
from cxrbatch.pages.page import render_page
from cxrbatch.records import EngineDescription, Label, Priority, StudyResult, StudyRow, StudyStatus
from cxrbatch.system.durable import replace_text

INDEX_HTML = "index.html"

MOST_ROWS = 10_000
"""Studies on the page. A browser still filters that many at once; the rest is in studies.csv, and the page says so."""

READING_ORDER: tuple[Priority, ...] = ("urgent", "abnormal", "unscored", "normal")
"""What to read first. A study without a score comes before the normal ones: nothing is known of it."""


@dataclass(frozen=True, slots=True)
class Chip:
    """One finding of a study as the worklist shows it."""

    name: str
    probability: str
    urgent: bool


@dataclass(frozen=True, slots=True)
class WorklistLine:
    """One study of the worklist.

    `highest` is its strongest finding where none is positive; `strength` the probability of what is shown first.
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

    def count(self, line: WorklistLine) -> WorklistLine:
        """Count this study, and return it."""
        self.total += 1
        self.priorities[line.priority] += 1
        self.statuses[line.status] += 1
        self.findings.update(chip.name for chip in line.findings)
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
        first_of=_first_of(lines),
        status_names=wording.STATUS_NAMES,
        engine=engine,
        engine_hash=engine.sha256[:SHORT_HASH],
        notice=wording.plain(engine.notice, longest=600),
        generated_at=wording.moment(generated_at),
        not_for_diagnosis=wording.NOT_FOR_DIAGNOSIS,
    )
    replace_text(out / INDEX_HTML, page)


def worklist_line(row: StudyRow) -> WorklistLine:
    """Reduce one study to what the worklist shows of it."""
    chips = _chips(row.result) if row.result else []
    positive = tuple(chip for _, chip, called in chips if called)
    return WorklistLine(
        study_key=row.study_key,
        date=wording.day(row.header.study_date),
        accession=wording.plain(row.header.accession_number, longest=40),
        priority=row.priority,
        badge=priority_name(row.result) if row.result else wording.PRIORITY_NAMES[row.priority],
        status=row.status,
        images=f"{row.n_scored} of {row.n_images}",
        findings=positive,
        highest=chips[0][1] if chips and not positive else None,
        remarks=_remarks(row),
        thumbnail=quote(row.thumbnail),
        report_html=quote(row.report_html),
        report_pdf=quote(row.report_pdf),
        strength=chips[0][0] if chips else 0.0,
    )


def _reading_order(line: WorklistLine) -> tuple[int, bool, float, str]:
    """Sort by priority; what failed before what could not be scored; strong before weak; else by key."""
    return READING_ORDER.index(line.priority), line.status != "failed", -line.strength, line.study_key


def _chips(result: StudyResult) -> list[tuple[float, Chip, bool]]:
    """Return (probability, chip, whether positive) of every finding: urgent positives first, then the strongest."""
    scored = list(zip(result.engine.labels, result.probabilities, strict=True))
    findings = [(label, value) for label, value in scored if not label.normal] or scored
    ranked = sorted(
        findings,
        key=lambda item: (not (item[0].urgent and item[0].is_positive(item[1])), -item[1]),
    )
    return [(value, _chip(label, value), label.is_positive(value) and not label.normal) for label, value in ranked]


def _chip(label: Label, value: float) -> Chip:
    return Chip(label_name(label), wording.probability(value, label.operating_point), label.urgent)


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
