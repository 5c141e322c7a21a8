"""Telling somebody of urgent studies, drift and failures, as `notify` asks: `Notifier`.

Studies are named by their keys, patients and paths not at all. The first urgent study is told of at once, the next ones
together a little later. Who does not answer is left alone for a while; what nobody took is tried again, in the next run
if need be, and nothing that was taken is told twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cxrbatch import __version__
from cxrbatch.config import Settings
from cxrbatch.errors import RunError
from cxrbatch.output.drift import DriftLine, DriftReport
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.outbox import ANNOUNCES, ATTEMPTS, Announcement, Outbox, as_told
from cxrbatch.output.run_json import RunReport
from cxrbatch.records import StudyRow, now_text
from cxrbatch.system.logbook import log_event
from cxrbatch.system.messenger import NotDelivered, Receiver, deliver, read_receiver
from cxrbatch.system.record_json import to_json

TOGETHER_S = 10.0
"""Urgent studies that come within this time are told of together."""

PAUSE_S = 120.0
"""For so long nobody is told anything who did not take it."""

MOST_AT_ONCE = 100

_DRIFTED, _FAILED = "told of drift", "told of failures"


@dataclass(slots=True)
class Notifier:
    """Who is told what happens in one run; without `receiver` nobody is."""

    ledger: Ledger
    receiver: Receiver | None = None
    told_at: float = field(default=float("-inf"))
    failed_at: float = field(default=float("-inf"))

    def begin(self) -> None:
        """Let the ledger note urgent studies from here on, and tell of those that an earlier run did not come to."""
        if self.receiver or self.ledger.fact(ANNOUNCES):
            self.ledger.remember(ANNOUNCES, "yes" if self.receiver else "")
        self.urgent()

    def urgent(self) -> None:
        """Tell of urgent studies that nobody was told of, unless more of them may come within a moment."""
        with _harmless():
            self._tell_of_studies(last=False)

    def settle(self, report: RunReport) -> None:
        """Tell of what is left at the end of a run: urgent studies, drift and failures that were not told of before."""
        with _harmless():
            self._tell_of_studies(last=True)
            if report.drift is not None and report.drift.studies:
                self._tell_news(_DRIFTED, "drift", _drifts(report.drift))
            failed = {key: {"study_key": key} for key in report.failures}
            self._tell_news(_FAILED, "failed", failed, studies_failed=len(failed))

    def _tell_of_studies(self, *, last: bool) -> None:
        now = time.monotonic()
        if self.receiver is None or (not last and now - self.told_at < TOGETHER_S) or now - self.failed_at < PAUSE_S:
            return
        outbox = Outbox(self.ledger.store)
        while waiting := outbox.pending(MOST_AT_ONCE):
            self.told_at = time.monotonic()
            outbox.note((key, replace(each, state="trying")) for key, each in waiting)
            studies = [study for key, _ in waiting for study in self._studies(key)]
            is_taken = not studies or self._tell("urgent", {"studies": studies})
            outbox.note((key, _after(each, is_taken=is_taken)) for key, each in waiting)
            if not is_taken or not last:
                return

    def _tell_news(self, told: str, event: str, now: dict[str, dict[str, Any]], **more: Any) -> None:
        """Tell of what is there now and was not told of last time."""
        if self.receiver is None or time.monotonic() - self.failed_at < PAUSE_S:
            return
        before = set(as_told(self.ledger.fact(told)))
        news = [said for name, said in now.items() if name not in before]
        if not news or self._tell(event, {"news": news[:MOST_AT_ONCE], **more}):
            self.ledger.remember(told, to_json(sorted(now)))

    def _tell(self, event: str, said: dict[str, Any]) -> bool:
        """Send one message; tell whether it was taken."""
        assert self.receiver is not None, "or there is nobody to tell"
        try:
            deliver(self.receiver, message(event, self.ledger.home.out.name) | said)
        except NotDelivered as error:
            self.failed_at = time.monotonic()
            log_event("not notified", level=logging.ERROR, what=event, error=str(error))
            return False
        log_event("notified", what=event)
        return True

    def _studies(self, study_key: str) -> Iterator[dict[str, Any]]:
        for row in self.ledger.results.study_rows(study_key):
            yield from _study(row)


def _after(announcement: Announcement, *, is_taken: bool) -> Announcement:
    """Return how far it is with a study after one more attempt to tell of it."""
    attempts = announcement.attempts + 1
    if is_taken:
        return replace(announcement, state="sent", attempts=attempts)
    return replace(announcement, state="given up" if attempts >= ATTEMPTS else "pending", attempts=attempts)


@contextmanager
def _harmless() -> Iterator[None]:
    """Let no telling end the run; a ledger that cannot be written does."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:  # noqa: BLE001  # the studies matter more than who hears of them
        log_event("not notified", level=logging.ERROR, error=type(error).__name__)


def check_receiver(settings: Settings) -> None:
    """Check whom to tell before anything is done.

    Raises:
        ConfigurationError: `notify` is neither an address nor a command.
    """
    if settings.notify:
        read_receiver(settings.notify)


def open_notifier(settings: Settings, ledger: Ledger) -> Notifier:
    """Return who is told in a run that was checked."""
    return Notifier(ledger, read_receiver(settings.notify) if settings.notify else None)


@contextmanager
def telling_of_failure(settings: Settings, out: Path) -> Iterator[None]:
    """Tell whoever is to be told of a run that ends with an error; who stops it knows that."""
    try:
        yield
    except Exception as error:
        _tell_of_failed_run(settings, out.name, error)
        raise


def _tell_of_failed_run(settings: Settings, out_name: str, error: BaseException) -> None:
    """Tell that a run ended with an error, by its kind: the sentence may name a path."""
    if not settings.notify:
        return
    code = int(error.exit_code) if isinstance(error, RunError) else 1
    said = {"error": type(error).__name__, "exit_code": code}
    try:
        deliver(read_receiver(settings.notify), message("failed", out_name) | said)
    except Exception as failure:  # noqa: BLE001  # what ended the run matters more
        log_event("not notified", level=logging.ERROR, what="failed", error=type(failure).__name__)


def message(event: str, out_name: str) -> dict[str, Any]:
    """Return what every message says."""
    return {"event": event, "at": now_text(), "output": out_name, "cxrbatch": __version__}


def shown_settings(settings: Settings) -> Settings:
    """Return the settings as run.json may show them: an address may hold a secret."""
    return replace(settings, notify=read_receiver(settings.notify).shown) if settings.notify else settings


def _study(row: StudyRow) -> Iterator[dict[str, Any]]:
    if row.result is None:
        return
    verdict = row.result.verdict
    probabilities = {label.name: each for label, each in zip(verdict.labels, row.result.probabilities, strict=True)}
    yield {
        "id": f"{row.study_key}-{row.result.revision}",
        "study_key": row.study_key,
        "revision": row.result.revision,
        "priority": verdict.priority,
        "findings": [
            {"label": label.name, "probability": round(probabilities[label.name], 4), "urgent": label.urgent}
            for label in verdict.findings
        ],
        "report": row.report_html or row.report_pdf,
        "scored_at": row.result.scored_at,
    }


def _drifts(drift: DriftReport) -> dict[str, dict[str, Any]]:
    """Return the alarms, by what tells one from another."""
    alarms: list[tuple[str, DriftLine]] = [("", line) for line in drift.alarms]
    alarms += [(each.scanner, line) for each in drift.scanners for line in each.alarms]
    return {
        to_json((scanner, line.what, line.label, line.against)): {
            "what": line.what,
            "label": line.label,
            "against": line.against,
            "psi": line.psi,
            "studies": line.studies,
            "scanner": scanner,
        }
        for scanner, line in alarms
    }
