"""What changed in files and studies since tables and worklist were derived from them: noted by triggers of the schema.

So a night's studies cost the tables what these studies cost, not what all of an archive does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cxrbatch.output.ledger.schema_growth import DERIVED
from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.system.record_json import from_json, to_json

MOST_CHANGES = 20_000
"""Files or studies; where more changed, all is derived anew: what changed is kept in memory."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Files by path, in order, and studies by key, with the times at which those that are gone had arrived."""

    files: tuple[bytes, ...] = ()
    studies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.files or self.studies)


@dataclass(frozen=True, slots=True)
class ShardCounts:
    """How many studies a shard of the worklist has, in all and by what its filters ask for."""

    total: int = 0
    priorities: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    findings: dict[str, int] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)
    unlike: int = 0


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """A shard of the worklist's data: its name, its first study by arrival and key, and its counts."""

    name: str
    arrived_at: str
    study_key: str
    counts: ShardCounts


class Changes:
    """What changed since the tables were derived, and of what the worklist was made then."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store

    def since_derived(self) -> Changed | None:
        """Return what changed; None where that is too much to be looked at one by one."""
        files, studies = (
            list(self._store.rows(f"SELECT * FROM {table} LIMIT ?", (MOST_CHANGES + 1,)))
            for table in ("changed_files", "changed_studies")
        )
        if max(len(files), len(studies)) > MOST_CHANGES:
            return None
        arrivals: dict[str, tuple[str, ...]] = {}
        for key, arrived_at in studies:
            if key:
                arrivals[key] = (*arrivals.get(key, ()), *((arrived_at,) if arrived_at else ()))
        return Changed(tuple(sorted(path for (path,) in files)), arrivals)

    def shards(self) -> list[WrittenShard]:
        """Return the shards of the worklist as they were written last."""
        rows = self._store.rows("SELECT name, arrived_at, study_key, counts FROM shards ORDER BY number")
        return [WrittenShard(name, at, key, from_json(counts, ShardCounts)) for name, at, key, counts in rows]

    def settled(self, derived: str, shards: Sequence[WrittenShard]) -> None:
        """Note, in one transaction, that tables and worklist say what the ledger does, and as which files."""
        with self._store.transaction():
            self._forget()
            self._write_shards(shards)
            self._store.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (DERIVED, derived))

    def unsettled(self) -> None:
        """Note that tables and worklist are being written anew, all of them: until then no change is noted."""
        with self._store.transaction():
            self._forget()
            self._store.execute("DELETE FROM meta WHERE key = ?", (DERIVED,))

    def _forget(self) -> None:
        for table in ("changed_files", "changed_studies"):
            self._store.execute(f"DELETE FROM {table}")

    def _write_shards(self, shards: Iterable[WrittenShard]) -> None:
        self._store.execute("DELETE FROM shards")
        for number, shard in enumerate(shards):
            self._store.execute(
                "INSERT INTO shards VALUES (?, ?, ?, ?, ?)",
                (number, shard.name, shard.arrived_at, shard.study_key, to_json(shard.counts)),
            )
