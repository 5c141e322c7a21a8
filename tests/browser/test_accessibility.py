"""Every page in both colour schemes: axe-core finds nothing against WCAG 2.2 AA, and targets are large enough."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.browser.pages import HIGH, LOW, write_list, write_report, write_workshop

PAGES = ("report", "worklist", "evaluation", "training", "comparison", "description")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
# Success criterion 2.5.8: 24 px each way, but for links within a line of text. axe-core 4.4 does not look at it.
SMALL_TARGETS = """
return [...document.querySelectorAll("a[href], button, select, summary, input:not([type=range])")]
  .filter((each) => each.checkVisibility() && !each.closest("[inert], p, li, td, th"))
  .map((each) => [each.outerHTML.slice(0, 90), each.closest("label") ?? each])
  .map(([html, each]) => [html, each.getBoundingClientRect()])
  .filter(([, box]) => box.width < 24 || box.height < 24)
  .map(([html, box]) => `${html} is ${box.width} x ${box.height}`)
"""
CUT_OFF = """
return [document.documentElement, ...document.querySelectorAll(".scroll, .wide, table")]
  .filter((each) => each.checkVisibility() && each.getBoundingClientRect().right > innerWidth + 1
    || getComputedStyle(each).overflowX === "auto" && each.scrollWidth > each.clientWidth + 1)
  .map((each) => each.outerHTML.slice(0, 90))
"""
HEADINGS = (
    "return [...document.querySelectorAll('h1, h2, h3')].filter((h) => h.checkVisibility()).map((h) => +h.tagName[1])"
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    report = write_report(folder / "out", (HIGH, LOW))
    return {"report": report, "worklist": write_list(folder / "out"), **write_workshop(folder)}


@pytest.fixture
def coloured(browser: Chrome) -> Iterator[Chrome]:
    yield browser
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def show(browser: Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def violations(browser: Chrome, rules: dict[str, Any]) -> list[str]:
    """Return what axe-core finds, an element a line."""
    if not browser.execute_script("return typeof axe === 'object'"):
        spec = importlib.util.find_spec("axe_core_python")
        assert spec is not None
        assert spec.submodule_search_locations
        browser.execute_script((Path(spec.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8"))
    found = browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run(document, { runOnly: arguments[0] }).then((told) => done(told.violations))",
        rules,
    )
    return [f"{each['id']}: {node['html'][:120]}: {node['failureSummary']}" for each in found for node in each["nodes"]]


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_in_light_and_dark(coloured: Chrome, pages: dict[str, Path], name: str) -> None:
    show(coloured, "light")
    coloured.get(pages[name].as_uri())
    assert coloured.find_element(By.TAG_NAME, "html").get_attribute("lang")
    assert violations(coloured, {"type": "tag", "values": RULES}) == []
    assert coloured.execute_script(SMALL_TARGETS) == []
    headings = coloured.execute_script(HEADINGS)
    assert headings[0] == 1
    assert all(later - former <= 1 for former, later in pairwise(headings))
    light = coloured.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
    show(coloured, "dark")
    assert coloured.find_element(By.TAG_NAME, "body").value_of_css_property("background-color") != light
    assert violations(coloured, {"type": "rule", "values": ["color-contrast"]}) == []


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_off_on_paper(coloured: Chrome, pages: dict[str, Path], name: str) -> None:
    """A4 between its margins: nobody scrolls there, and white letters need a ground that printers leave out."""
    try:
        coloured.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        size = {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        coloured.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        coloured.get(pages[name].as_uri())
        assert coloured.execute_script(CUT_OFF) == []
        for badge in coloured.find_elements(By.CSS_SELECTOR, ".badge.urgent"):
            prints_grounds = badge.value_of_css_property("print-color-adjust") == "exact"
            assert prints_grounds or badge.value_of_css_property("color") != "rgba(255, 255, 255, 1)"
    finally:
        coloured.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        coloured.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_enlarged_picture_and_the_list_of_keys_are_as_accessible(coloured: Chrome, pages: dict[str, Path]) -> None:
    show(coloured, "light")
    coloured.get(pages["report"].as_uri())
    coloured.find_elements(By.CSS_SELECTOR, "a.enlarge")[1].click()
    for element, opener in (("viewer", ".viewer [data-act=keys]"), ("keys", ".keys [data-act=close]")):
        assert coloured.find_element(By.ID, element).is_displayed()
        assert violations(coloured, {"type": "tag", "values": RULES}) == []
        assert coloured.execute_script(SMALL_TARGETS) == []
        coloured.find_element(By.CSS_SELECTOR, opener).click()
