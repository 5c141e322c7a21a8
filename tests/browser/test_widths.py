"""Findings and earlier studies fit every screen, with all that is said of them, and each score says what it is of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from cxrbatch.locales import locales
from cxrbatch.output.report.report import render_report
from cxrbatch.pages.language import speaking
from cxrbatch.records import Label, PriorStudy
from tests.browser.pages import MEASURED
from tests.factories.output import make_study_result

NAMES = ("Enlarged_Cardiomediastinum", "Pleural_Thickening", "Pneumothorax", "Unbroken" + "x" * 80)
LABELS = [Label(name, 0.5, urgent=True, metrics=MEASURED, images_with=1040, images_without=11_000) for name in NAMES]
BEYOND = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
NAMED = (
    "return [...document.querySelectorAll('.priors [data-name]')]"
    ".map((cell) => getComputedStyle(cell, '::before').content)"
)
BARS = "return Math.min(...[...document.querySelectorAll('.bar')].map((bar) => bar.clientWidth))"


@pytest.mark.parametrize("locale", locales())
def test_earlier_studies_fit_every_screen(browser: Chrome, tmp_path: Path, locale: str) -> None:
    result = make_study_result(((0.9, 0.8, 0.7, 0.6),), labels=LABELS)
    prior = PriorStudy(
        "0" * 16, "20230405", "urgent", "demo", result.engine.sha256, (0.999, 0.1, 0.6, 0.3), NAMES, "report.html"
    )
    same_day = replace(prior, study_key="1" * 16, study_date=result.header.study_date)
    foreign = replace(prior, study_key="2" * 16, engine_sha256="other", engine="another" * 9)
    page = tmp_path / "report.html"
    with speaking(locale):
        page.write_text(render_report(result, priors=(prior, same_day, foreign)), encoding="utf-8")
    browser.get(page.as_uri())
    try:
        for width in (1280, 1150, 1130, 768, 400, 320):
            shape = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
            assert (width, browser.execute_script(BEYOND)) == (width, 0)
            assert browser.execute_script(BARS) > 40
            named = browser.execute_script(NAMED)
            assert len(named) == 3 * len(NAMES)
            assert all(("Pneumothorax" in name) == (width < 1140) for name in named[2::4])
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
