"""index.html: all studies of a run, the most urgent first; `worklist_data` writes what its script reads.

Who the patient is stands in the reports, never here: this page may be open on a screen that everybody passes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path

from cxrbatch.output.ledger.changes import ShardCounts, WrittenShard
from cxrbatch.output.report.content import SHORT_HASH
from cxrbatch.output.report.findings import engine_coverage, own_name
from cxrbatch.output.report.report_files import REPORTS
from cxrbatch.output.worklist_data import DATA_FOLDER, Facts, ShardWriter, replace_where_new, sum_counts
from cxrbatch.output.worklist_lines import (
    MARKS,
    READING_ORDER,
    STATUS_ORDER,
    WorklistLine,
    reading_order,
    worklist_line,
)
from cxrbatch.pages import wording
from cxrbatch.pages.labels import KNOWN, shown_label
from cxrbatch.pages.language import gettext as _, msgid, ngettext, spoken, whole
from cxrbatch.pages.page import asset, render_page
from cxrbatch.pages.retelling import retold
from cxrbatch.records import EngineDescription, Label, Priority, StudyRow
from cxrbatch.system.durable import encode, make_folder

INDEX_HTML = "index.html"

FIRST_ROWS = 100
"""Studies that stand in the page itself: what is read at once, and all there is where no script runs."""

MARK_NAMES = {
    "unread": msgid("Unread"),
    "recent": msgid("Since yesterday"),
    "caution": msgid("Caution"),
    "refused": msgid("Refused images"),
    "unlike": msgid("Unlike training images"),
    "prior": msgid("Prior study"),
}
"""What one may ask for beside priority, finding and status; what is unread or recent only the page can tell."""

SORT_NAMES = {
    "priority": msgid("Priority"),
    "arrived": msgid("Time of arrival, newest first"),
    "date": msgid("Study date, newest first"),
}

TEXTS = {
    "shown": msgid("{first}-{last} of {fit} studies"),
    "shown_of": msgid("{first}-{last} of {fit} studies that fit; {total} in all"),
    "nothing": msgid("No study fits. {total} in all"),
    "loading": msgid("Loading: {loaded} of {total} studies"),
    "new": msgid("{count} changed or new"),
    "no_data": msgid(
        "The other studies cannot be loaded: the folder {folder} is missing beside this page, or was just rewritten. "
        "Tried again in {seconds} seconds."
    ),
    "newer_page": msgid("This page itself was updated: reload it."),
    "no_date": msgid("No date"),
    "open": msgid("Open"),
    "pdf": msgid("PDF"),
    "read": msgid("Mark read"),
    "unread": msgid("Read"),
    "read_again": msgid("Changed since read"),
    "note": msgid("Note"),
    "images": msgid("{scored} of {images}"),
    "highest": msgid("highest: {name} {probability}"),
    "more": msgid("and {count} more"),
    "not_judged": msgid(", not judged ({rank})"),
    "arrived": msgid("came {time}"),
    "scored": msgid("{images} scored"),
    "caution": msgid("Caution"),
    "prior": msgid("Prior study"),
    "changed": msgid("last changed {time}"),
    "not_kept": msgid("This browser does not keep read marks: its store is full, or is not allowed."),
    "export": "study_key,accession_number,study_date,priority,revision,read_at",
}
"""What the page's script says; {...} are filled in by it, and `export` is the head of a table, which is English."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One filter of the page: what it selects, what it is called, how many studies it leaves."""

    value: str
    name: str
    count: int


def write_worklist(
    out: Path,
    studies: Iterable[StudyRow],
    *,
    engine: EngineDescription,
    generated_at: str,
    with_prior: Container[str] = frozenset(),
) -> list[WrittenShard]:
    """Write index.html and the data that its script reads; what would be as it is already is not touched.

    Args:
        out: the output folder; links on the page are relative to it.
        studies: all studies of the ledger, those that came first first, so that new ones change little.
        engine: the engine of this run; its notice is shown.
        generated_at: when, as ISO 8601 text; the page tells it as the time of its last change.
        with_prior: the keys of studies of whose patient there is an earlier one.

    Returns:
        What was written, shard by shard.
    """
    data = open_data(out)
    lines = (data.add(worklist_line(row, with_prior), row.arrived_at) for row in studies)
    first = nsmallest(FIRST_ROWS, lines, key=reading_order)
    publish(out, data, first, engine, generated_at)
    return data.shards


def open_data(out: Path) -> ShardWriter:
    """Return what writes the rows of the worklist of `out`."""
    make_folder(out / DATA_FOLDER, within=out)
    return ShardWriter(out / DATA_FOLDER)


def publish(
    out: Path, data: ShardWriter, lines: Sequence[WorklistLine], engine: EngineDescription, generated_at: str
) -> None:
    """Write the page over these rows, which begins with `lines`; from here on it is this one that is read."""
    data.end_shard()
    taken = sum_counts(data.shards)
    facts = _facts(taken, engine)
    stamp = data.finish(facts, page=_page_version(), changed_at=generated_at)
    status_names = wording.names_of(wording.STATUS_NAMES)
    page = render_page(
        "worklist.html.j2",
        styles=("look.css", "worklist.css"),
        script="worklist.js",
        loads_data=True,
        lines=lines,
        total=taken.total,
        priorities=_choices(taken.priorities, READING_ORDER, wording.names_of(wording.PRIORITY_NAMES)),
        statuses=_choices(taken.statuses, wording.STATUS_NAMES, status_names),
        findings=_finding_choices(taken.findings, engine.labels),
        marks=_mark_choices(taken, facts),
        sorts=wording.names_of(SORT_NAMES),
        first_of=_first_of(lines),
        status_names=status_names,
        facts=facts,
        said=json.dumps(_said()),
        changed_at=wording.moment(stamp.changed_at),
        not_for_diagnosis=_(wording.NOT_FOR_DIAGNOSIS),
    )
    data.publish(stamp)
    replace_where_new(out / INDEX_HTML, encode(page))
    data.tidy(stamp)


def _said() -> dict[str, object]:
    """Return what the page's script is told: names of things, its texts, and how the language writes."""
    names = {name: shown for name in sorted(KNOWN) if (shown := shown_label(name)) != name}
    return {
        "texts": {
            **wording.names_of(TEXTS),
            "export": TEXTS["export"],
            "statuses": wording.names_of(wording.STATUS_NAMES),
        },
        "locale": spoken().tag,
        "decimal": spoken().decimal,
        "names": names,
        "priorities": READING_ORDER,
        "statuses": STATUS_ORDER,
        "marks": MARKS,
        "data": DATA_FOLDER,
        "reports": REPORTS,
    }


def _page_version() -> str:
    """Return what stands for the page's script and language, which a page that stays open does not get anew."""
    return hashlib.sha256(f"{spoken().tag} {asset('worklist.js')}".encode()).hexdigest()[:16]


def _facts(taken: ShardCounts, engine: EngineDescription) -> Facts:
    known = [own_name(label) for label in engine.labels if not label.normal]
    about = ngettext(
        "{count} study, scored by {engine} {hash} on {backend}, {precision}",
        "{count} studies, scored by {engine} {hash} on {backend}, {precision}",
        taken.total,
    )
    return Facts(
        about=about.format(
            count=whole(taken.total),
            engine=wording.visible(engine.name),
            hash=engine.sha256[:SHORT_HASH],
            backend=engine.backend,
            precision=engine.precision,
        ),
        coverage=engine_coverage(engine.labels),
        notice=retold(wording.plain(engine.notice, longest=600)),
        findings=tuple(dict.fromkeys([*known, *sorted(taken.findings)])),
        tells_unlike="distance" in engine.extra_outputs or taken.unlike > 0,
        total=taken.total,
    )


def _choices(counts: Mapping[str, int], order: Iterable[str], names: Mapping[str, str]) -> list[Choice]:
    return [Choice(value, names[value], counts.get(value, 0)) for value in order]


def _finding_choices(counts: Mapping[str, int], labels: Sequence[Label]) -> list[Choice]:
    names = dict.fromkeys([*(own_name(label) for label in labels if not label.normal), *sorted(counts)])
    return [Choice(name, shown_label(name), counts.get(name, 0)) for name in names]


def _mark_choices(taken: ShardCounts, facts: Facts) -> list[Choice]:
    """Return what one may ask for beside priority, finding and status; the page counts what only it knows."""
    counts = {**taken.marks, "unlike": taken.unlike}
    return [
        Choice(value, _(name), counts.get(value, 0))
        for value, name in MARK_NAMES.items()
        if value != "unlike" or facts.tells_unlike
    ]


def _first_of(lines: Sequence[WorklistLine]) -> dict[str, Priority]:
    """Return, by study key, the priority that begins with this study: where a link without script jumps to."""
    first: dict[Priority, str] = {}
    for line in lines:
        first.setdefault(line.priority, line.study_key)
    return {key: priority for priority, key in first.items()}
