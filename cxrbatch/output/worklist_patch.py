"""The worklist brought up to date: only the shards that hold a study that changed are written anew.

A shard is a part of all studies by arrival. New studies come at the end; what changes in the middle changes its shard.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.output.ledger.changes import WrittenShard
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.listing import first_to_read, studies_between
from cxrbatch.output.ledger.priors import WithPrior
from cxrbatch.output.worklist import FIRST_ROWS, open_data, publish
from cxrbatch.output.worklist_lines import reading_order, worklist_line
from cxrbatch.records import EngineDescription


@dataclass(frozen=True, slots=True)
class WorklistPatch:
    """What the worklist was made of, and which studies changed, with the times at which those that are gone came."""

    shards: Sequence[WrittenShard]
    studies: Mapping[str, tuple[str, ...]]


def patch_worklist(
    out: Path, ledger: Ledger, patch: WorklistPatch, *, engine: EngineDescription, generated_at: str
) -> list[WrittenShard]:
    """Bring page and data up to date; return what the data are now, shard by shard."""
    with_prior = WithPrior(ledger.priors)
    data = open_data(out)
    changed = _changed_shards(ledger, patch)
    for number, shard in enumerate(patch.shards):
        if number not in changed:
            data.keep(shard)
            continue
        first = ("", "") if number == 0 else (shard.arrived_at, shard.study_key)
        is_last = number + 1 == len(patch.shards)
        before = None if is_last else (patch.shards[number + 1].arrived_at, patch.shards[number + 1].study_key)
        for row in studies_between(ledger, first, before):
            data.add(worklist_line(row, with_prior), row.arrived_at)
        data.end_shard()
    lines = (worklist_line(row, with_prior) for row in first_to_read(ledger, FIRST_ROWS))
    publish(out, data, sorted(lines, key=reading_order), engine, generated_at)
    return data.shards


def _changed_shards(ledger: Ledger, patch: WorklistPatch) -> set[int]:
    """Return the numbers of the shards that are to be written anew."""
    firsts = [(shard.arrived_at, shard.study_key) for shard in patch.shards]
    changed = set()
    for key in patch.studies:
        arrived_at = ledger.store.value("SELECT arrived_at FROM studies WHERE study_key = ?", (key,))
        now = () if arrived_at is None else (arrived_at,)
        for moment in (*patch.studies.get(key, ()), *now):
            changed.add(max(0, bisect_right(firsts, (moment, key)) - 1))
    return changed
