"""Why studies wait, and until when, in words."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from cxrbatch.output.ledger.arrivals import ArrivalMemory
from cxrbatch.output.ledger.view import WaitingFacts, WaitingStudy
from cxrbatch.run.schedule import read_retried
from cxrbatch.system.moments import Moment, present_moment

QUEUED = "queued"


@dataclass(frozen=True, slots=True)
class Waiting:
    """One study that waits: why, and until when (UTC, ISO 8601); without a time, until somebody works on it.

    Without a key: files that do not say yet to which study they belong. No path is named, since a PACS may call
    folders after patients: images.csv has the files of each study.
    """

    study_key: str
    why: str
    until: str = ""


def explain_waiting(facts: WaitingFacts, failed: Iterable[str]) -> tuple[Waiting, ...]:
    """Say of each study that waits, and of each that failed, what it waits for; first whose time comes first."""
    now = present_moment()
    waiting = [_explain(study, facts.memory, now) for study in facts.studies]
    waiting += _explain_failed(facts.retried, failed, now)
    return tuple(sorted(waiting, key=lambda each: (not each.until, each.until, each.study_key)))


def _explain(study: WaitingStudy, memory: ArrivalMemory | None, now: Moment) -> Waiting:
    """Say what the daemon would do with a study, as `Arrivals.are_complete` judges it."""
    if memory is None or study.first_met is None or study.same_since is None:
        return Waiting(study.study_key, QUEUED)
    elapsed_s = memory.seen.seconds_until(now)
    known_s, same_s = (memory.seen.monotonic_s - since + elapsed_s for since in (study.first_met, study.same_since))
    gives_up_s, settles_s = memory.max_wait_s - known_s, memory.settle_s - same_s
    if gives_up_s <= 0:
        return Waiting(study.study_key, f"{QUEUED}: waited for as long as --max-wait says, and is taken as it is")
    if study.n_cut_short:
        files = f"{study.n_cut_short} of {study.n_files} files" if study.n_files > 1 else "its file"
        return Waiting(
            study.study_key, f"{files} cut short: waits for the rest, then is taken as it is", _at(gives_up_s)
        )
    if settles_s <= 0:
        return Waiting(study.study_key, f"{QUEUED}: all there")
    unchanged = f"unchanged for {max(0, int(same_s))} of {memory.settle_s:g} s"
    if not study.study_key:
        why = f"{study.n_files} files that do not look like images so far: {unchanged}"
        return Waiting("", why, _at(settles_s))
    return Waiting(study.study_key, f"still arriving: {unchanged}", _at(min(settles_s, gives_up_s)))


def _explain_failed(retried: str, failed: Iterable[str], now: Moment) -> Iterator[Waiting]:
    """Say when `watch` tries again what failed; `run` does so whenever it is called."""
    last = read_retried(retried)
    left_s = last.retry_s - last.at.seconds_until(now) if last is not None and last.at.is_comparable(now) else 0.0
    until = _at(left_s) if left_s > 0 else ""
    return (Waiting(key, "failed: tried again by the next run, and by watch", until) for key in failed)


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds, timezone.utc).isoformat(timespec="seconds")
