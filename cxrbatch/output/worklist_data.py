"""The rows that the worklist's script reads: OUT/worklist, written a shard at a time. Start at `ShardWriter`.

A page that is read from a disk may fetch nothing, but it may load scripts. So each shard is a script that calls one
function of the page with its rows as JSON. A shard is named after its content: what is there already is not written
again, and a page that was opened before never mixes two states. `now.js` names the shards that count, and is all that
an open page has to look at to notice news.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cxrbatch.output.ledger.changes import ShardCounts, WrittenShard
from cxrbatch.output.report.report_files import REPORTS
from cxrbatch.output.worklist_lines import (
    MARKS,
    READING_ORDER,
    STATUS_ORDER,
    Chip,
    WorklistLine,
    marks_of,
)
from cxrbatch.pages.wording import moment
from cxrbatch.system.durable import encode, replace_bytes

DATA_FOLDER, NOW_JS = "worklist", "now.js"

SHARD_ROWS = 1000
"""Studies of one script: so many are written anew where one of them changed."""

_CALL = "cxrbatchWorklist."

Cell = str | int | float | list[int]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page says beside its rows, which may change while it is open."""

    about: str
    coverage: str
    notice: str
    findings: tuple[str, ...]
    tells_unlike: bool
    total: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which shards count, and since when; `version` stands for all of it but the time."""

    version: str
    changed_at: str
    changed: str
    page: str
    shards: tuple[str, ...]
    facts: Facts


@dataclass(slots=True)
class _Shard:
    """The rows of one script; a text that several rows hold is kept once, and told by its number."""

    numbers: dict[str, int] = field(default_factory=lambda: {"": 0})
    rows: list[list[Cell]] = field(default_factory=list)

    def add(self, line: WorklistLine) -> None:
        self.rows.append(
            [
                line.study_key,
                line.revision,
                line.arrived,
                self._number(line.date),
                line.accession,
                line.strength,
                READING_ORDER.index(line.priority),
                STATUS_ORDER.index(line.status),
                sum(1 << MARKS.index(mark) for mark in marks_of(line)),
                *map(self._number, (line.badge, line.images, line.coverage, line.unlike)),
                [number for chip in line.findings for number in self._chip(chip)],
                [*self._chip(line.highest), self._number(line.rank)] if line.highest else [],
                [self._number(sentence) for sentence in line.cautions],
                [self._number(sentence) for sentence in line.remarks],
                _within_report(line.thumbnail, line.study_key),
                *(self._number(_within_report(link, line.study_key)) for link in (line.report_html, line.report_pdf)),
            ]
        )

    def _chip(self, chip: Chip) -> tuple[int, int, int]:
        return self._number(chip.name), self._number(chip.probability), int(chip.urgent)

    def _number(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))

    def encoded(self) -> str:
        """Return it as ASCII JSON, which is an expression of every script, too."""
        return _json({"texts": list(self.numbers), "rows": self.rows})


@dataclass(slots=True)
class _Counter:
    """What is counted of the studies of a shard."""

    priorities: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    unlike: int = 0

    def count(self, line: WorklistLine) -> None:
        self.priorities[line.priority] += 1
        self.statuses[line.status] += 1
        self.findings.update(chip.name for chip in line.findings)
        self.marks.update(marks_of(line))
        self.unlike += bool(line.unlike)

    def counted(self) -> ShardCounts:
        by_priority, by_status = dict(self.priorities), dict(self.statuses)
        total = self.statuses.total()
        return ShardCounts(total, by_priority, by_status, dict(self.findings), dict(self.marks), self.unlike)


def sum_counts(shards: Iterable[WrittenShard]) -> ShardCounts:
    """Return what all shards together count."""
    total = _Counter()
    for shard in shards:
        total.priorities.update(shard.counts.priorities)
        total.statuses.update(shard.counts.statuses)
        total.findings.update(shard.counts.findings)
        total.marks.update(shard.counts.marks)
        total.unlike += shard.counts.unlike
    return total.counted()


@dataclass(slots=True)
class ShardWriter:
    """Writes rows into a folder, shard by shard as they come: what is in memory is one shard, and what tells of all."""

    folder: Path
    shards: list[WrittenShard] = field(default_factory=list)
    shard: _Shard = field(default_factory=_Shard)
    counter: _Counter = field(default_factory=_Counter)
    first: tuple[str, str] = ("", "")

    def add(self, line: WorklistLine, arrived_at: str) -> WorklistLine:
        """Take one more row of a study that came then; return it."""
        if not self.shard.rows:
            self.first = (arrived_at, line.study_key)
        self.shard.add(line)
        self.counter.count(line)
        if len(self.shard.rows) == SHARD_ROWS:
            self.end_shard()
        return line

    def keep(self, shard: WrittenShard) -> None:
        """Take a shard that is there already: its rows did not change."""
        self.end_shard()
        self.shards.append(shard)

    def end_shard(self) -> None:
        """Write the rows that came since the last shard, if any did, as one."""
        if self.shard.rows:
            rows = self.shard.encoded()
            name = _digest(rows)
            replace_where_new(self.folder / shard_file(name), encode(f'{_CALL}rows("{name}",{rows});\n'))
            self.shards.append(WrittenShard(name, *self.first, self.counter.counted()))
            self.shard, self.counter = _Shard(), _Counter()

    def finish(self, facts: Facts, *, page: str, changed_at: str) -> Stamp:
        """Return what counts from now on, with the time since when it does; the last shard is to be ended before."""
        names = tuple(shard.name for shard in self.shards)
        stamp = Stamp("", changed_at, moment(changed_at), page, names, facts)
        version = _digest(_json([stamp.page, stamp.shards, asdict(facts)]))
        known = _read_known(self.folder / NOW_JS)
        if known.get("version") == version and isinstance(known.get("changed_at"), str):
            changed_at = str(known["changed_at"])
        return replace(stamp, version=version, changed_at=changed_at, changed=moment(changed_at))

    def publish(self, stamp: Stamp) -> None:
        """Let the shards of this stamp count: whoever looks from now on reads these."""
        replace_where_new(self.folder / NOW_JS, encode(f"{_CALL}now({_json(asdict(stamp))});\n"))

    def tidy(self, stamp: Stamp) -> None:
        """Remove what counts no longer, or was left by a process that was killed."""
        kept = {NOW_JS, *map(shard_file, stamp.shards)}
        for path in self.folder.iterdir():
            if path.name not in kept and not path.is_dir():
                path.unlink()


@dataclass(frozen=True, slots=True)
class WorklistData:
    """What the page reads, read here: the stamp's version, when it last changed, and all studies as they came."""

    version: str
    changed_at: str
    lines: tuple[WorklistLine, ...]


def read_version(folder: Path) -> str:
    """Return which version of the data counts now; '' where there is none."""
    return str(_read_known(folder / NOW_JS).get("version", ""))


def read_worklist(folder: Path) -> WorklistData:
    """Read what `ShardWriter` wrote last.

    Raises:
        OSError: a shard is gone: the data were just written anew, so read them again.
        ValueError: it is not what this version writes.
    """
    known = _read_known(folder / NOW_JS)
    shards = known.get("shards", [])
    if not isinstance(shards, list):
        raise TypeError(f"{folder / NOW_JS}: not what this version of cxrbatch writes")
    lines = [line for name in shards for line in _read_shard(folder / shard_file(str(name)))]
    return WorklistData(str(known.get("version", "")), str(known.get("changed_at", "")), tuple(lines))


def _read_shard(path: Path) -> list[WorklistLine]:
    shard = json.loads(path.read_text(encoding="utf-8").partition(",")[2].rstrip().removesuffix(");"))
    return [_line(row, shard["texts"]) for row in shard["rows"]]


def _line(row: list[Any], texts: list[str]) -> WorklistLine:
    """Return the study of which `_Shard.add` made this row."""
    key, revision, arrived, date, accession, strength, priority, status, bits, *rest = row
    badge, images, coverage, unlike, found, highest, cautions, remarks, thumbnail, html, pdf = rest
    return WorklistLine(
        study_key=key,
        revision=revision,
        arrived=arrived,
        date=texts[date],
        accession=accession,
        priority=READING_ORDER[priority],
        badge=texts[badge],
        status=STATUS_ORDER[status],
        images=texts[images],
        findings=tuple(_chips(found, texts)),
        highest=next(_chips(highest[:3], texts), None),
        rank=texts[highest[3]] if highest else "",
        coverage=texts[coverage],
        unlike=texts[unlike],
        refused=bool(bits & 1 << MARKS.index("refused")),
        has_prior=bool(bits & 1 << MARKS.index("prior")),
        cautions=tuple(texts[number] for number in cautions),
        remarks=tuple(texts[number] for number in remarks),
        thumbnail=_from_out(thumbnail, key),
        report_html=_from_out(texts[html], key),
        report_pdf=_from_out(texts[pdf], key),
        strength=strength,
    )


def _chips(numbers: list[int], texts: list[str]) -> Iterator[Chip]:
    for at in range(0, len(numbers), 3):
        yield Chip(texts[numbers[at]], texts[numbers[at + 1]], bool(numbers[at + 2]))


def _from_out(path: str, study_key: str) -> str:
    if not path or path.startswith("../../"):
        return path.removeprefix("../../")
    return f"{REPORTS}/{study_key}/{path}"


def shard_file(name: str) -> str:
    """Return the file of a shard."""
    return f"rows-{name}.js"


def replace_where_new(target: Path, content: bytes) -> None:
    """Replace a file by `content` unless that is what it holds."""
    try:
        if target.stat().st_size == len(content) and target.read_bytes() == content:
            return
    except OSError:
        pass
    replace_bytes(target, content)


def _within_report(path: str, study_key: str) -> str:
    """Return a path relative to OUT as one relative to the study's report folder."""
    prefix = f"{REPORTS}/{study_key}/"
    return path.removeprefix(prefix) if not path or path.startswith(prefix) else f"../../{path}"


def _read_known(path: Path) -> dict[str, object]:
    try:
        known = json.loads(path.read_text(encoding="utf-8").removeprefix(f"{_CALL}now(").rstrip().removesuffix(");"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
