"""The canary's song, and who hears of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cxrbatch.errors import EngineError, ExitCode
from cxrbatch.records import InputSpec
from cxrbatch.watch.health import Canary, Vitals


class Engine:
    """Answers what it is told to."""

    description: Any = SimpleNamespace(name="fake", input=InputSpec(8))

    def __init__(self) -> None:
        self.answer = 0.5
        self.asked: list[bytes] = []

    def infer(self, pixels: Any) -> Any:
        self.asked.append(pixels.tobytes())
        return SimpleNamespace(probabilities=np.array([[self.answer, 0.1]], np.float32))

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("later", "passes"), [(0.5, True), (0.509, True), (0.52, False), (np.nan, False), (np.inf, False)]
)
def test_an_engine_has_to_go_on_saying_the_same(later: float, passes: bool) -> None:
    engine, canary = Engine(), Canary()
    canary.sing(engine)
    engine.answer = later
    if passes:
        canary.sing(engine)
    else:
        with pytest.raises(EngineError, match="otherwise than when it was opened") as refusal:
            canary.sing(engine)
        assert refusal.value.exit_code is ExitCode.ENGINE
    assert len(set(engine.asked)) == 1
    assert len(set(engine.asked[0])) > 32


def test_an_engine_that_gives_no_number_at_first_is_refused() -> None:
    engine = Engine()
    engine.answer = np.nan
    with pytest.raises(EngineError, match="test picture"):
        Canary().sing(engine)


class Told:
    """Stands for systemd, its watchdog and a scraper, and notes what they hear."""

    def __init__(self, *, is_due: bool) -> None:
        self.is_due = is_due
        self.heard: list[Any] = []

    def due(self) -> bool:
        return self.is_due

    def feed(self) -> None:
        self.heard.append("fed")

    def renew(self) -> None:
        self.heard.append("renewed")

    def update(self, text: str, *, healthy: bool, facts: Any) -> None:
        self.heard.append((text, healthy, facts))

    def tell_status(self, status: str) -> None:
        self.heard.append(status)


def test_the_watchdog_is_fed_only_after_a_proof() -> None:
    told: Any = Told(is_due=True)
    vitals = Vitals(told, told, told)
    vitals.pulse(lambda: told.heard.append("proof"))
    assert told.heard == ["proof", "fed", "renewed"]
    told.heard.clear()

    def fail() -> None:
        raise EngineError("broken")

    with pytest.raises(EngineError, match="broken"):
        vitals.pulse(fail)
    assert told.heard == []
    told.is_due = False
    vitals.pulse(fail)
    assert told.heard == ["renewed"]


def test_without_systemd_the_engine_proves_itself_all_the_same() -> None:
    told: Any = Told(is_due=False)
    now = [0.0]
    vitals = Vitals(told, told, None, clock=lambda: now[0])
    for second in range(0, 901, 10):
        now[0] = float(second)
        vitals.pulse(lambda: told.heard.append(now[0]))
    assert [heard for heard in told.heard if heard != "fed"] == [300.0, 600.0, 900.0]


def test_what_a_pass_came_to_is_told_to_both() -> None:
    told: Any = Told(is_due=False)
    Vitals(told, told, told).publish("metrics", healthy=True, waiting=3)
    assert told.heard == ["3 studies waiting", ("metrics", True, {"studies_waiting": 3})]
    Vitals(told, told, None).publish("metrics", healthy=False, waiting=3)
    assert told.heard[-1] == "the input cannot be looked at"
