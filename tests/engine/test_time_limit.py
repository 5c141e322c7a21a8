"""An engine that hangs becomes an error, once and for all; everything else passes through."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cxrbatch.engine.time_limit import TimeLimitedEngine, an_engine_hangs
from cxrbatch.errors import EngineError, ExitCode
from cxrbatch.records import Gray8, Scores

PIXELS: Gray8 = np.zeros((1, 1, 8, 8), np.uint8)
SCORES = Scores(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32), np.zeros((1, 1, 2, 2), np.float32))


class FakeEngine:
    description: Any = SimpleNamespace(name="fake", backend="tensorrt")

    def __init__(self, act: Callable[[], Scores]) -> None:
        self._act = act
        self.closed = 0

    def infer(self, pixels: Gray8) -> Scores:
        return self._act()

    def close(self) -> None:
        self.closed += 1


def test_scores_and_errors_pass_through() -> None:
    engine = FakeEngine(lambda: SCORES)
    limited = TimeLimitedEngine(engine, 60)
    assert limited.infer(PIXELS) is SCORES
    assert limited.description is engine.description
    limited.close()
    assert engine.closed == 1

    def fail() -> Scores:
        raise EngineError("a sticky CUDA error")

    with pytest.raises(EngineError, match="sticky"):
        TimeLimitedEngine(FakeEngine(fail), 60).infer(PIXELS)


def test_a_hang_is_an_engine_error_and_the_engine_is_left_alone() -> None:
    release = threading.Event()

    def hang() -> Scores:
        release.wait(60)
        return SCORES

    assert not an_engine_hangs()
    engine = FakeEngine(hang)
    limited = TimeLimitedEngine(engine, 0.05)
    for _ in range(2):
        with pytest.raises(EngineError, match=r"fake .tensorrt.: no answer in 0\.05 s") as refusal:
            limited.infer(PIXELS)
        assert refusal.value.exit_code is ExitCode.ENGINE
    limited.close()
    assert engine.closed == 0
    assert an_engine_hangs()
    release.set()
