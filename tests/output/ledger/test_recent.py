"""Drift from the ledger to run.json, the log, metrics and `status`; each study counts once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cxrbatch.config import Settings
from cxrbatch.output.ledger import recent
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.recent import read_recent, run_since
from cxrbatch.output.metrics_prom import describe_run
from cxrbatch.output.run_json import read_last_run, write_run_json
from cxrbatch.records import EngineDescription, Header, Label, TrainingReference
from cxrbatch.run.record import RunAccount
from cxrbatch.system.record_json import to_json
from cxrbatch.upkeep.status import _describe_drift
from tests.factories.output import make_engine

NOW = datetime.now(timezone.utc)
EVEN = tuple(np.linspace(0, 1, 101).tolist())
ENGINE = make_engine((Label("Mass", 0.5, reference=EVEN),))
REFERENCE = TrainingReference(images=400, grey=tuple(np.linspace(80, 160, 101).tolist()), views={"PA": 400})


def moment(**ago: float) -> str:
    return (NOW - timedelta(**ago)).isoformat(timespec="seconds")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as ledger:
        yield ledger


def put(ledger: Ledger, count: int, scored_at: str, *, brighter: float = 0.0, engine: str = ENGINE.sha256) -> None:
    """Put studies of two scored images each; the second of each is white, and is not to count."""
    chance = np.random.default_rng(count)
    header = to_json(Header(view="PA", patient_age="050Y"))
    with ledger.store.transaction():
        for study in range(count):
            key = hashlib.sha256(f"{scored_at} {engine} {study}".encode()).hexdigest()[:16]
            for image, grey in enumerate((float(chance.uniform(80, 160)) + brighter, 255.0)):
                ledger.store.execute(
                    "INSERT INTO files (path, study_key, header, engine_sha256, probabilities, grey, scored_at, "
                    "status, flags, size_bytes, mtime_ns, refused_by_header) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, 'scored', '[]', 1, 1, 0)",
                    (f"{key}-{image}".encode(), key, header, engine, f"[{chance.random()}]", grey, scored_at),
                )


def test_studies_of_this_engine_count_once_by_their_first_image(ledger: Ledger) -> None:
    put(ledger, 3, moment(hours=1))
    put(ledger, 4, moment(days=10))
    put(ledger, 5, moment(days=40))
    put(ledger, 6, moment(hours=1), engine="another")
    now, before = read_recent(ledger.store, ENGINE.sha256, moment(hours=2))
    assert (len(now), len(before)) == (3, 4)
    assert all(study.view == "PA" and study.age == 50 and study.grey is not None for study in now)
    assert max(study.grey or 0 for study in (*now, *before)) < 255


def test_of_very_many_images_a_share_of_the_studies_is_looked_at(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(ledger, 100, moment(hours=1))
    put(ledger, 300, moment(days=10))
    monkeypatch.setattr(recent, "MOST_IMAGES", 400)
    found = [len(side) for side in read_recent(ledger.store, ENGINE.sha256, moment(hours=2))]
    assert found == [pytest.approx(50, abs=20), pytest.approx(150, abs=35)]


def test_of_a_daemon_the_last_day_counts() -> None:
    assert run_since(moment(days=90)) >= moment(days=1)
    assert run_since(moment(hours=3)) == moment(hours=3)


def compared(
    ledger: Ledger, *, limit: float = 0.25, engine: EngineDescription = ENGINE, studies_done: int = 80
) -> RunAccount:
    slot: Any = SimpleNamespace(
        description=engine, bundle=SimpleNamespace(manifest=SimpleNamespace(reference=REFERENCE))
    )
    account = RunAccount(started_at=moment(hours=2), studies_done=studies_done)
    account.compare(ledger, slot, limit)
    return account


def test_brighter_images_raise_an_alarm_everywhere(
    ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(ledger, 80, moment(hours=1), brighter=50)
    put(ledger, 200, moment(days=10))
    with caplog.at_level(logging.WARNING):
        account = compared(ledger)
    assert account.drift is not None
    assert {(line.what, line.against) for line in account.drift.alarms} == {("grey", "training"), ("grey", "recent")}
    assert [record.message for record in caplog.records] == ["drift", "drift"]
    report = account.report(ledger, Settings(), ENGINE, finished=True)
    write_run_json(tmp_path, report)
    told = json.loads((tmp_path / "run.json").read_text())["drift"]
    assert (told["studies"], told["recent_studies"], told["limit"]) == (80, 200, 0.25)
    last = read_last_run(tmp_path)
    assert last is not None
    assert last.drift == account.drift
    assert _describe_drift(account.drift).startswith("ALARM: grey levels against the ")
    metrics = describe_run(report)
    assert "\ncxrbatch_drift_alarms 2.0\n" in metrics
    assert 'cxrbatch_drift_psi{against="training",label="",what="grey"}' in metrics


def test_an_alarm_is_logged_once_while_it_lasts(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    put(ledger, 80, moment(hours=1), brighter=50)
    account = compared(ledger)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        slot: Any = SimpleNamespace(
            description=ENGINE, bundle=SimpleNamespace(manifest=SimpleNamespace(reference=REFERENCE))
        )
        account.compare(ledger, slot, 0.25)
    assert account.drift is not None
    assert len(account.drift.alarms) == 1
    assert not caplog.records


def test_where_nothing_was_scored_nothing_is_compared(ledger: Ledger) -> None:
    put(ledger, 200, moment(days=10))
    assert compared(ledger, studies_done=0).drift is None


def test_the_limit_can_be_raised_and_drift_left_alone(ledger: Ledger) -> None:
    put(ledger, 80, moment(hours=1), brighter=50)
    high = compared(ledger, limit=50).drift
    assert high is not None
    assert not high.alarms
    compared_lines = len(high.lines)
    wanted = f"none: {compared_lines} distributions of 80 studies compared, none beyond 50 and chance"
    assert _describe_drift(high) == wanted
    assert compared(ledger, limit=0).drift is None


def test_few_studies_are_said_to_be_few(ledger: Ledger) -> None:
    put(ledger, 10, moment(hours=1))
    drift = compared(ledger).drift
    assert drift is not None
    assert _describe_drift(drift) == "not told: 10 studies are too few to tell: 50 are needed"
    without = replace(drift, studies=0, left_out=())
    assert _describe_drift(without) == "no studies to compare"
