"""What a run says on the way: bars for a person, plain lines for a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cxrbatch.system import progress
from cxrbatch.system.progress import RunProgress


def count_images(console: Console) -> None:
    with RunProgress(console) as counts:
        counts.begin("studies scored", 3)
        counts.begin("reports printed", 3)
        for _ in range(3):
            counts.advance("studies scored")
            counts.advance("reports printed")
        counts.finish("studies scored")
        counts.finish("reports printed")


def test_a_log_gets_one_plain_line_per_count() -> None:
    text = io.StringIO()
    count_images(Console(file=text, width=200))
    lines = text.getvalue().splitlines()
    assert [line.split(" (")[0] for line in lines] == ["studies scored: 3 of 3", "reports printed: 3 of 3"]


def test_a_long_run_says_where_it_is_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_EVERY_S", 0.0)
    text = io.StringIO()
    count_images(Console(file=text, width=200))
    first = text.getvalue().splitlines()[0]
    assert first.startswith("studies scored: 1 of 3")
    assert "reports printed: 0 of 3" in first


def test_a_terminal_gets_bars_and_no_lines() -> None:
    text = io.StringIO()
    count_images(Console(file=text, width=100, force_terminal=True))
    assert "studies scored" in text.getvalue()
    assert "━" in text.getvalue()
    assert "studies scored: 3 of 3" not in text.getvalue()
