"""The browser itself: a page of ours opens in it without a word on the console."""

from __future__ import annotations

from pathlib import Path

from selenium.webdriver import Chrome

from cxrbatch.output.worklist import write_worklist
from tests.factories.output import make_engine


def test_an_empty_worklist_opens_without_complaint(browser: Chrome, tmp_path: Path) -> None:
    write_worklist(tmp_path, [], engine=make_engine(), generated_at="2026-01-02T03:04:05+00:00")
    browser.get((tmp_path / "index.html").as_uri())
    assert browser.title == "Chest radiograph worklist"
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]  # selenium leaves this one untyped
