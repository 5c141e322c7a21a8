"""metrics.prom, which Prometheus reads: what a run tells of itself.

Counts, times, reason codes and the engine's name only: never a patient, a path or a study key. Everything is a gauge.
A run begins at zero, so what it counted must not be taken for a counter that grows from run to run.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry, Gauge, Info, generate_latest

from cxrbatch import __version__
from cxrbatch.config import METRICS_FILE
from cxrbatch.errors import Reason, RunError
from cxrbatch.output.drift import DriftReport
from cxrbatch.output.run_json import RunReport
from cxrbatch.output.sent_facts import PeerFacts, Status, read_sent
from cxrbatch.pages.wording import visible
from cxrbatch.records import EngineDescription, FileStatus, StudyStatus
from cxrbatch.system import durable

LAST_SUCCESS = "cxrbatch_last_success_timestamp_seconds"


def write_metrics(out: Path, run: RunReport, *, oldest_queued_at: str = "", state: Path | None = None) -> str:
    """Replace metrics.prom in `out` atomically, and return what it says.

    Args:
        out: the output folder; a success that an earlier run noted there stands until there is a newer one.
        run: what the run did.
        oldest_queued_at: since when the study that waits longest does (ISO 8601); empty where none waits.
        state: the folder that the ledger lies in; by default `out`.
    """
    target = out / METRICS_FILE
    sent = _read_sent(state or out)
    text = describe_run(run, oldest_queued_at=oldest_queued_at, former_success=_noted_success(target), sent=sent)
    durable.replace_text(target, text)
    return text


def describe_run(
    run: RunReport, *, oldest_queued_at: str = "", former_success: float = 0.0, sent: Sequence[PeerFacts] = ()
) -> str:
    """Return the metrics of a run in Prometheus' text format (version 0.0.4).

    Args:
        run: what the run did.
        oldest_queued_at: as for `write_metrics`.
        former_success: unix time of the last run that came to its end; 0 where none is known.
        sent: how it stands with every archive that objects were sent to.
    """
    registry = CollectorRegistry()
    _add_results(registry, run)
    _add_queue(registry, run, oldest_queued_at)
    if run.drift is not None:
        _add_drift(registry, run.drift)
    _add_sent(registry, sent)
    _add_run(registry, run, former_success)
    _add_versions(registry, run.engine)
    return generate_latest(registry).decode()


def _add_results(registry: CollectorRegistry, run: RunReport) -> None:
    """Add what the ledger holds; a status or reason that no file has is there with 0, so that alerts can use it."""
    studies = dict.fromkeys(get_args(StudyStatus), 0) | dict(run.studies)
    files = dict.fromkeys(get_args(FileStatus), 0) | dict(run.files)
    refused = dict.fromkeys((reason.value for reason in Reason), 0) | dict(run.reasons)
    _add(registry, "studies", "Studies in the ledger, by status.", studies, label="status")
    _add(registry, "files", "Files in the ledger, by status.", files, label="status")
    _add(registry, "files_refused", "Files in the ledger that got no score, by reason.", refused, label="reason")
    _add(registry, "files_deferred", "Files that could not be read in the last look at the input.", run.files_deferred)
    unlistable = run.folders_unlistable
    _add(registry, "folders_unlistable", "Folders that could not be listed in the last look at the input.", unlistable)
    if run.images_out_of_distribution is not None:
        what = "Images in the ledger that are unlike those that the engine learned from."
        _add(registry, "images_out_of_distribution", what, run.images_out_of_distribution)


def _add_drift(registry: CollectorRegistry, drift: DriftReport) -> None:
    """Add the index of every distribution that could be compared, and how many are alarms; no series where none."""
    what = "Population stability index of the run's studies, by what is compared and with what."
    index = Gauge("cxrbatch_drift_psi", what, ["what", "label", "against"], registry=registry)
    for line in drift.lines:
        index.labels(line.what, _label_value(line.label), line.against).set(line.psi)
    _add(registry, "drift_studies", "Studies that were compared, of this run or of the last day.", drift.studies)
    _add(registry, "drift_alarms", "Distributions that drifted beyond the limit, and beyond chance.", len(drift.alarms))


def _add_queue(registry: CollectorRegistry, run: RunReport, oldest_queued_at: str) -> None:
    waited_s = max(0.0, time.time() - _unix_time(oldest_queued_at)) if oldest_queued_at else 0.0
    _add(registry, "queue_studies", "Studies that wait.", run.studies.get("pending", 0))
    _add(registry, "queue_oldest_age_seconds", "How long the oldest waiting study has waited; 0 without one.", waited_s)


def _add_sent(registry: CollectorRegistry, sent: Sequence[PeerFacts]) -> None:
    """Add what archives have and lack; no series where nothing was ever sent."""
    if not sent:
        return
    what = "DICOM objects by archive, and what became of them."
    objects = Gauge("cxrbatch_sent_objects", what, ["peer", "status"], registry=registry)
    names = ("sent_studies_left", "sent_trouble", "sent_reached_timestamp_seconds")
    whats = (
        "Studies with objects that an archive has not got yet.",
        "1: the last attempt to send to this archive failed.",
        "When this archive last answered, as unix time; 0: never.",
    )
    gauges = [
        Gauge(f"cxrbatch_{name}", what, ["peer"], registry=registry) for name, what in zip(names, whats, strict=True)
    ]
    for facts in sent:
        peer = _label_value(facts.peer)
        for status in get_args(Status):
            objects.labels(peer, status).set(facts.objects.get(status, 0))
        values = (facts.studies_left, float(bool(facts.trouble)), _unix_time(facts.reached_at))
        for gauge, value in zip(gauges, values, strict=True):
            gauge.labels(peer).set(value)


def _read_sent(folder: Path) -> list[PeerFacts]:
    """Return what was sent; figures that cannot be read now end no run."""
    with suppress(RunError, OSError):
        return read_sent(folder)
    return []


def _add_run(registry: CollectorRegistry, run: RunReport, former_success: float) -> None:
    ended = _unix_time(run.finished_at)
    _add(registry, "figures_timestamp_seconds", "When these figures were written, as unix time.", ended)
    _add(
        registry,
        "run_finished",
        "1: it came to its end, or the daemon is at work; 0: stopped.",
        float(run.finished),
    )
    _add(registry, "run_duration_seconds", "How long the run took, or the daemon has been at work.", run.wall_s)
    _add(registry, "run_studies", "Studies processed since the run, or the daemon, began.", run.studies_this_run)
    _add(
        registry,
        "run_images_scored",
        "Images scored since the run, or the daemon, began.",
        run.images_scored_this_run,
    )
    what = "Seconds per stage of the run, summed over processes."
    _add(registry, "run_stage_seconds", what, run.stage_s, label="stage")
    success = ended if run.finished else former_success
    what = "When a run or a pass last came to its end, as unix time, whatever became of single studies; 0: never."
    _add(registry, LAST_SUCCESS.removeprefix("cxrbatch_"), what, success)


def _add_versions(registry: CollectorRegistry, engine: EngineDescription) -> None:
    facts = {"name": engine.name, "sha256": engine.sha256, "backend": engine.backend, "precision": engine.precision}
    shown = {what: _label_value(text) for what, text in facts.items()}
    Info("cxrbatch_engine", "The engine that scores.", registry=registry).info(shown)
    build = {"version": __version__, "python": platform.python_version()}
    Info("cxrbatch_build", "What is installed.", registry=registry).info(build)


def _label_value(text: str) -> str:
    """Return text that a scraper gets back: not UTF-8 all of it, and of what ends a line only LF is escaped for it."""
    return "\n".join(map(visible, durable.encode(text).decode().split("\n")))


def _add(
    registry: CollectorRegistry, name: str, what: str, value: float | Mapping[str, float], *, label: str = ""
) -> None:
    """Add one gauge; with `label`, one series for each key of `value`."""
    if isinstance(value, Mapping):
        gauge = Gauge(f"cxrbatch_{name}", what, [label], registry=registry)
        for key, number in value.items():
            gauge.labels(key).set(number)
    else:
        Gauge(f"cxrbatch_{name}", what, registry=registry).set(value)


def _noted_success(target: Path) -> float:
    """Return when a run last came to its end, as an earlier metrics.prom says; 0 where none says so."""
    try:
        noted = re.search(rf"^{LAST_SUCCESS} (\S+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        return float(noted[1]) if noted else 0.0
    except (OSError, ValueError):
        return 0.0


def _unix_time(text: str) -> float:
    """Return an ISO 8601 time, with its zone, as unix time; 0 for what is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
