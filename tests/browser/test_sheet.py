"""The sheet of a run in a browser: readable in light and dark, wide and narrow, without a word on the console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import axe_core_python
import pytest
from selenium.webdriver import Chrome

from cxrbatch.output.drift import DriftLine, DriftReport, ScannerDrift
from cxrbatch.output.sheets.facts import RunSheet, ScoredSince, UrgentStudy, gather_sheet
from cxrbatch.output.sheets.page import render_sheet
from tests.factories.output import LABELS
from tests.output.sheets.test_sheet import make_report

AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@pytest.fixture
def sheet(tmp_path: Path) -> str:
    alarm = DriftLine("score", "Nodule", "recent", 0.4, 0.1, 60, 900, alarm=True)
    drift = DriftReport("", 60, 900, 0.25, (alarm,), (), (ScannerDrift("M" * 64 + " / one", 60, 900, (alarm,)),), 2)
    report = make_report(drift=drift, reasons={"blank": 3}, studies={"failed": 1}, failures={"0" * 16: "no number"})
    urgent = UrgentStudy("0" * 16, "urgent", ((LABELS[2], 0.97), (LABELS[0], 0.6)), "reports/x/report.html", "2026")
    scored = ScoredSince({"urgent": 1, "normal": 9}, {"Nodule": 1}, "", (urgent,))
    earlier = [RunSheet(f"2026-11-{day:02}-1", priorities={"normal": day}) for day in range(1, 22)]
    made = gather_sheet(report, scored, earlier[-1], name="2026-11-22-1", kind="run")
    (tmp_path / "sheet.html").write_text(render_sheet(made, report, (urgent,), earlier), encoding="utf-8")
    return (tmp_path / "sheet.html").as_uri()


@pytest.fixture
def shown(browser: Chrome) -> Iterator[Chrome]:
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_sheet_is_for_everybody_and_fits_every_screen(shown: Chrome, sheet: str) -> None:
    for scheme in ("light", "dark"):
        for width in (1280, 400):
            screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            shown.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            shown.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
            shown.get(sheet)
            assert shown.execute_script("return document.documentElement.scrollWidth") <= width
            shown.execute_script(AXE)
            found = shown.execute_async_script(
                "const done = arguments[1]; axe.run({runOnly: arguments[0]}).then(r => done(r.violations))", RULES
            )
            assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    assert shown.get_log("browser") == []  # type: ignore[no-untyped-call]  # selenium
