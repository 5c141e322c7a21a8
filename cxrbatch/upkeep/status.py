"""How it stands with an output folder: what waits, what the last run did and what went wrong."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cxrbatch.config import MARKER_FILE
from cxrbatch.output.drift import DriftReport, drift_in_words
from cxrbatch.output.folder.lock import process_at_work
from cxrbatch.output.folder.state import find_state
from cxrbatch.output.ledger.arrivals import ArrivalMemory
from cxrbatch.output.ledger.ledger import LEDGER_FILE
from cxrbatch.output.ledger.view import LedgerFacts, WaitingFacts, WaitingStudy, view_ledger
from cxrbatch.output.run_json import LastRun, read_last_run
from cxrbatch.output.sent_facts import PeerFacts, sent_in_words, sent_or_trouble
from cxrbatch.pages.terminal_text import TITLE, literal, visible_lines
from cxrbatch.pages.wording import counts, duration, moment, plain, reason_sentence
from cxrbatch.run.schedule import read_retried
from cxrbatch.system.record_json import to_json
from cxrbatch.system.times import Moment, present_moment

FAILURES_SHOWN = 20
WAITING_SHOWN = 20
DRIFTS_SHOWN = 5
UNKNOWN = "unknown"
QUEUED = "queued"


@dataclass(frozen=True, slots=True)
class Retry:
    """The commands that try again what failed, and what was refused."""

    failed: str
    rejected: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """One study that waits: why, and until when (UTC, ISO 8601); without a time, until somebody works on it.

    Without a key: files that do not say yet to which study they belong. No path is named, since a PACS may call
    folders after patients: images.csv has the files of each study.
    """

    study_key: str
    why: str
    until: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """How it stands with one output folder.

    `process` is the id of the run or daemon that holds it, empty where none does, "unknown" where that cannot be
    told. `oldest_waiting_s` is how long the study that waits longest has waited; `waiting` says of each that waits or
    failed what for, and until when. `trouble` is what keeps the daemon from its work, or ended it. `sending` has what
    was sent to each archive.
    """

    out: str
    input: str
    process: str
    studies_waiting: int
    oldest_waiting_s: float
    studies: dict[str, int]
    files: dict[str, int]
    last_run: LastRun | None
    failures: dict[str, str]
    refused: dict[str, int]
    retry: Retry
    waiting: tuple[Waiting, ...] = ()
    trouble: str = ""
    sending: tuple[PeerFacts, ...] = ()


def read_status(out: Path, *, state: str = "") -> Status:
    """Read how it stands with `out`, also while a run works on it; nothing is made, changed or locked.

    Args:
        out: the output folder.
        state: where ledger and lock lie; by default where `out` says.

    Raises:
        UsageError: there is no ledger.
        RunError: it is damaged, a newer cxrbatch wrote it, or it cannot be read now.
    """
    folder = find_state(out, state)
    facts = view_ledger(folder / LEDGER_FILE)
    return Status(
        out=str(out.resolve()),
        input=facts.input,
        process=_process(folder),
        studies_waiting=facts.studies.get("pending", 0),
        oldest_waiting_s=_seconds_since(facts.oldest_queued_at),
        studies=facts.studies,
        files=facts.files,
        last_run=read_last_run(out),
        failures=facts.failures,
        refused=facts.reasons,
        retry=_retry(facts, out),
        waiting=explain_waiting(facts.waiting, facts.failures),
        trouble=facts.waiting.trouble,
        sending=tuple(sent_or_trouble(folder)),
    )


def print_status(console: Console, status: Status, *, as_json: bool = False) -> None:
    """Print a status for a person, or as one JSON object."""
    if as_json:
        _say(console, to_json(status, indent=2))
        return
    table = Table(title=literal(status.out, TITLE), show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for what, told in _overview(status).items():
        table.add_row(what, literal(told))
    console.print(table)
    _print_waiting(console, status)
    _print_failures(console, status)
    _print_refused(console, status)


def _overview(status: Status) -> dict[str, str]:
    at_work = {"": "no run is working on it", UNKNOWN: "cannot tell whether a run is working on it"}
    return {
        "now": at_work.get(status.process, f"process {status.process} is working on it"),
        **({"trouble": plain(status.trouble, longest=1000)} if status.trouble else {}),
        "queue": _queue(status),
        "studies": counts(status.studies),
        "files": counts(status.files),
        **_describe_run(status.last_run),
        **{f"sent to {plain(each.peer)}": plain(sent_in_words(each), longest=1000) for each in status.sending},
    }


def _queue(status: Status) -> str:
    if not status.studies_waiting:
        return "nothing is waiting"
    age = f", the oldest for {duration(status.oldest_waiting_s)}" if status.oldest_waiting_s else ""
    return f"studies waiting: {status.studies_waiting}{age}"


def _describe_run(run: LastRun | None) -> dict[str, str]:
    if run is None:
        return {"last run": "none on record"}
    ended = "finished" if run.finished else "stopped"
    done = f"{run.studies_this_run} studies, {run.images_scored_this_run} images in {duration(run.wall_s)}"
    engine = run.engine
    told = {
        "last run": f"begun {moment(run.started_at)}, {ended} {moment(run.finished_at)}",
        "it did": f"{done} ({run.studies_per_s:.1f} studies/s)",
        "engine": f"{plain(engine.name)} on {engine.backend}, {engine.precision}, {engine.sha256[:12]}",
    }
    if run.files_deferred or run.folders_unlistable:
        told["not readable"] = f"{run.files_deferred} files, {run.folders_unlistable} folders; looked at again"
    if run.folders_hidden:
        told["left out"] = f"{run.folders_hidden} folders of INPUT; their {MARKER_FILE} says that cxrbatch wrote them"
    if run.drift is not None:
        told["drift"] = _describe_drift(run.drift)
    return told


def _describe_drift(drift: DriftReport) -> str:
    """Say what changed beyond limit and chance; else how much was compared, or why nothing was."""
    if not drift.lines:
        return f"not told: {drift.left_out[0]}" if drift.left_out else "no studies to compare"
    compared = f"{len(drift.lines)} distributions of {drift.studies} studies compared"
    if not drift.alarms:
        return f"none: {compared}, none beyond {drift.limit:g} and chance"
    worst = sorted(drift.alarms, key=lambda line: -line.psi)
    named = "; ".join(drift_in_words(line) for line in worst[:DRIFTS_SHOWN])
    hidden = f"; and {more} more" if (more := len(worst) - DRIFTS_SHOWN) > 0 else ""
    return plain(f"ALARM: {named}{hidden} ({compared})", longest=1000)


def _print_waiting(console: Console, status: Status) -> None:
    """Say what studies wait for; those that failed are told with their messages."""
    waiting = [each for each in status.waiting if each.study_key not in status.failures]
    if not waiting:
        return
    console.print("\n[bold]what studies wait for[/bold]; images.csv names their files")
    for each in waiting[:WAITING_SHOWN]:
        until = f", until {_local(each.until)} at the latest" if each.until else ""
        _say(console, f"  {each.study_key or 'no study yet'}: {each.why}{until}")
    if (hidden := len(waiting) - WAITING_SHOWN) > 0:
        _say(console, f"  ... and {hidden} more: --json has them all")


def _print_failures(console: Console, status: Status) -> None:
    """Say which studies failed and why, and how to try them again."""
    if not status.failures:
        return
    until = next((each.until for each in status.waiting if each.study_key in status.failures), "")
    watch = f", watch not before {_local(until)}" if until else ""
    console.print(f"\n[bold]failed studies: {len(status.failures)}[/bold]; the next run tries them again{watch}")
    for key, message in list(status.failures.items())[:FAILURES_SHOWN]:
        _say(console, f"  {key}: {plain(message)}")
    if (hidden := len(status.failures) - FAILURES_SHOWN) > 0:
        _say(console, f"  ... and {hidden} more: --json has them all")
    _say(console, f"  {status.retry.failed}")


def _print_refused(console: Console, status: Status) -> None:
    """Say why files were refused, most often first, and how to have them looked at again."""
    if not status.refused:
        return
    console.print(f"\n[bold]files without a score: {sum(status.refused.values())}[/bold]; images.csv names each")
    for reason, number in sorted(status.refused.items(), key=lambda item: (-item[1], item[0])):
        _say(console, f"  {number:>6} {reason}: {reason_sentence(reason)}")
    _say(console, f"  Once the cause is gone: {status.retry.rejected}")


def _say(console: Console, text: str) -> None:
    """Print text as it is, so that what is in brackets, between colons or long can be copied."""
    console.print(visible_lines(text), markup=False, highlight=False, emoji=False, soft_wrap=True)


def _process(folder: Path) -> str:
    try:
        return process_at_work(folder) or ""
    except OSError:
        return UNKNOWN


def _retry(facts: LedgerFacts, out: Path) -> Retry:
    source = shlex.quote(plain(facts.input, longest=4096)) if facts.input else "INPUT"
    command = f"cxrbatch run {source} -o {shlex.quote(str(out))} --retry"
    return Retry(failed=f"{command} failed", rejected=f"{command} rejected")


def _seconds_since(text: str) -> float:
    """Return how long ago an ISO 8601 time was; 0 for none, and for one ahead (the clock was set back)."""
    try:
        since = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return max(0.0, round((datetime.now(timezone.utc) - since).total_seconds(), 1))


def _local(text: str) -> str:
    """Return an ISO 8601 time as the clock on the wall here shows it; the day only where it is not today."""
    at, now = datetime.fromisoformat(text).astimezone(), datetime.now().astimezone()
    return f"{at:%H:%M:%S}" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M}"


# --------------------------------------------------------------------------- why studies wait, and until when


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
