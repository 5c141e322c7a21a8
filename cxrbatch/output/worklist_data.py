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
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from cxrbatch.output.ledger.changes import ShardCounts, WrittenShard
from cxrbatch.output.worklist_lines import WorklistLine, marks_of
from cxrbatch.output.worklist_rows import Rows, compact_json, decode_rows
from cxrbatch.pages.wording import moment
from cxrbatch.system.durable import encode, replace_bytes

DATA_FOLDER, NOW_JS = "worklist", "now.js"

SHARD_ROWS = 1000
"""Studies of one script: so many are written anew where one of them changed."""

_CALL = "cxrbatchWorklist."


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
    shard: Rows = field(default_factory=Rows)
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
            self.shard, self.counter = Rows(), _Counter()

    def finish(self, facts: Facts, *, page: str, changed_at: str) -> Stamp:
        """Return what counts from now on, with the time since when it does; the last shard is to be ended before."""
        names = tuple(shard.name for shard in self.shards)
        stamp = Stamp("", changed_at, moment(changed_at), page, names, facts)
        version = _digest(compact_json([stamp.page, stamp.shards, asdict(facts)]))
        known = _read_known(self.folder / NOW_JS)
        if known.get("version") == version and isinstance(known.get("changed_at"), str):
            changed_at = str(known["changed_at"])
        return replace(stamp, version=version, changed_at=changed_at, changed=moment(changed_at))

    def publish(self, stamp: Stamp) -> None:
        """Let the shards of this stamp count: whoever looks from now on reads these."""
        replace_where_new(self.folder / NOW_JS, encode(f"{_CALL}now({compact_json(asdict(stamp))});\n"))

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
    return decode_rows(path.read_text(encoding="utf-8").partition(",")[2].rstrip().removesuffix(");"))


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


def _read_known(path: Path) -> dict[str, object]:
    try:
        known = json.loads(path.read_text(encoding="utf-8").removeprefix(f"{_CALL}now(").rstrip().removesuffix(");"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
