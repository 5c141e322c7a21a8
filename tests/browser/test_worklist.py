"""The worklist in a browser, from a `file://` path: everything is found, counted, kept, and noticed when it changes."""

from __future__ import annotations

import base64
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from cxrbatch.errors import Flag
from cxrbatch.output.worklist import write_worklist
from cxrbatch.records import Label, StudyRow, now_text
from tests.factories.output import make_engine, make_header, make_study_result, make_study_row
from tests.factories.worklist import made_up_studies

MANY = 50_000
PATIENCE = 5
"""A machine may be so many times slower than what is promised of one that has nothing else to do."""

SEARCHED = """
const begin = performance.now(), field = document.getElementById('search');
field.value = arguments[0];
field.dispatchEvent(new Event('input', { bubbles: true }));
return performance.now() - begin;
"""
# Rows have their heights once they were drawn, and what is below them has its place a few frames later.
SETTLED = """
const [element, done] = arguments;
element.scrollIntoView({ block: 'center' });
let before = NaN, still = 0;
const look = () => {
  const { top } = element.getBoundingClientRect();
  still = top === before ? still + 1 : 0;
  before = top;
  if (still < 3) requestAnimationFrame(look); else done();
};
look();
"""
EXPORTED = """
const done = arguments[0];
URL.createObjectURL = (blob) => { blob.text().then(done); return '#'; };
document.getElementById('export').click();
"""


def write(out: Path, studies: list[StudyRow], at: str = "2026-01-02T03:04:05+00:00") -> str:
    write_worklist(out, studies, engine=make_engine(), generated_at=at, with_prior={"a" * 16})
    return (out / "index.html").as_uri()


def shown(browser: Chrome) -> str:
    return browser.find_element(By.ID, "shown").text


def loaded(browser: Chrome, begin: str = "1-") -> str:
    return str(WebDriverWait(browser, 30, 0.02).until(lambda _: shown(browser).startswith(begin) and shown(browser)))


def click_once_settled(browser: Chrome, element: WebElement) -> None:
    """Click what is among or below the rows: a click is aimed at where it was a moment before."""
    browser.execute_async_script(SETTLED, element)
    element.click()


def keys(browser: Chrome) -> list[str]:
    return [row.get_attribute("data-key") or "" for row in browser.find_elements(By.CSS_SELECTOR, "#studies tr")]


def complaints(browser: Chrome) -> list[Any]:
    return list(browser.get_log("browser"))  # type: ignore[no-untyped-call]  # selenium leaves this one untyped


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("night")
    write_worklist(out, made_up_studies(MANY), engine=make_engine(), generated_at="2026-01-02T03:04:05+00:00")
    return (out / "index.html").as_uri()


def test_an_empty_worklist_opens_without_complaint(browser: Chrome, tmp_path: Path) -> None:
    browser.get(write(tmp_path, []))
    assert browser.title == "Chest radiograph worklist"
    assert complaints(browser) == []


def test_all_of_many_studies_are_found_at_once(browser: Chrome, night: str) -> None:
    browser.get(night)
    assert loaded(browser) == "1-50 of 50,000 studies"
    assert browser.execute_script("return performance.now()") < 2000 * PATIENCE
    tile = browser.find_element(By.CSS_SELECTOR, ".count.normal")
    assert tile.text == "30,000\nNormal"
    tile.click()
    assert shown(browser) == "1-50 of 30,000 studies that fit; 50,000 in all"
    tile.click()
    for words, fitting in (
        ("acc-0049999", "1-1 of 1"),
        ("2024-01-02 pneumothorax", "1-50 of 144"),
        ("zzz", "No study"),
    ):
        # The least of five: others may have the core meanwhile.
        assert min(browser.execute_script(SEARCHED, words) for _ in range(5)) < 100 * PATIENCE
        assert shown(browser).startswith(fitting)
    browser.execute_script(SEARCHED, "2024-01-02 ")
    assert browser.find_element(By.CSS_SELECTOR, ".count.urgent").text == "144\nUrgent"
    assert "Pneumothorax (144)" in browser.find_element(By.ID, "finding").text
    browser.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    loaded(browser, "1-50 of 50,000")
    click_once_settled(browser, browser.find_element(By.ID, "next"))
    assert shown(browser) == "51-100 of 50,000 studies"
    assert browser.find_element(By.ID, "place").text == "2 / 1,000"
    assert complaints(browser) == []


def test_of_many_findings_a_row_names_the_first_and_counts_the_others(browser: Chrome, tmp_path: Path) -> None:
    labels = [Label(f"A_finding_{n:02}_with_a_long_name", 0.1, urgent=n == 29) for n in range(30)]
    flags = (Flag.PAEDIATRIC,)
    result = make_study_result(((0.9,) * 30,), labels=labels, study_key="a" * 16, flags=flags)
    row = make_study_row(result)
    write_worklist(tmp_path, [row], engine=make_engine(labels), generated_at="2026-01-02T03:04:05+00:00")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert (page.count('class="chip'), page.count("and 22 more")) == (8, 1), "without a script as with one"
    browser.get((tmp_path / "index.html").as_uri())
    loaded(browser)

    def named() -> tuple[int, str]:
        chips = browser.find_elements(By.CSS_SELECTOR, ".chip")
        assert chips[0].text.startswith("A finding 29")
        return len(chips), browser.find_element(By.CLASS_NAME, "more").text

    assert named() == (8, "and 22 more")
    finding = Select(browser.find_element(By.ID, "finding"))
    assert len(finding.options) == 31, "each of them can be asked for"
    finding.select_by_value(labels[20].name.replace("_", " "))
    assert named() == (9, "and 21 more"), "the one that was asked for is named"
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    a4 = {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", a4)
    try:
        count, more = named()
        assert more == f"and {30 - count} more"
        clipped = "const cell = document.querySelector('td.found'); return cell.scrollHeight - cell.clientHeight"
        assert browser.execute_script(clipped) <= 1, "rows of paper are equally high: nothing is cut off there"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_sorted_by_priority_arrival_and_date_equals_by_time(browser: Chrome, tmp_path: Path) -> None:
    def study(letter: str, hour: int, date: str, probability: float) -> StudyRow:
        result = make_study_result(((0.1, 0.1, probability),), study_key=letter * 16)
        row = make_study_row(result, header=make_header(study_date=date), thumbnail="")
        return replace(row, arrived_at=f"2026-01-02T{hour:02}:00:00+00:00")

    studies = [study("e", 1, "20240105", 0.1), study("a", 2, "20240107", 0.9), study("c", 3, "not a date", 0.9)]
    browser.get(write(tmp_path, [*studies, study("b", 4, "20240107", 0.95)]))
    loaded(browser)
    orders = {}
    for order in ("priority", "arrived", "date"):
        Select(browser.find_element(By.ID, "sort")).select_by_value(order)
        orders[order] = "".join(key[0] for key in keys(browser))
    assert orders == {"priority": "bace", "arrived": "bcae", "date": "baec"}


def test_what_was_read_is_kept_exported_and_open_again_where_it_changed(browser: Chrome, tmp_path: Path) -> None:
    studies = list(made_up_studies(120))
    page = write(tmp_path, studies)
    browser.get(page)
    loaded(browser)
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, "r")
    (read,) = [row.get_attribute("data-key") for row in browser.find_elements(By.CSS_SELECTOR, "tr.read")]
    assert read == keys(browser)[1], "the second in the list was marked, and stays where it was"
    browser.find_element(By.CSS_SELECTOR, ".mark.unread").click()
    assert shown(browser).startswith("1-50 of 119 studies that fit")
    browser.refresh()
    loaded(browser, "1-50 of 119")
    _, line, _ = browser.execute_async_script(EXPORTED).split("\n")
    assert line.split(",")[0] == read
    assert line.split(",")[3:5] == ["urgent", "1"]
    again = [replace(row, revision=2) if row.study_key == read else row for row in studies]
    write(tmp_path, again)
    browser.refresh()
    loaded(browser, "1-50 of 120")
    assert "Changed since read" in browser.find_element(By.CSS_SELECTOR, f'tr[data-key="{read}"]').text


def test_a_click_leaves_the_order_for_the_report_and_the_place_to_come_back_to(browser: Chrome, tmp_path: Path) -> None:
    page = write(tmp_path, list(made_up_studies(120)))
    browser.get(page)
    loaded(browser)
    browser.find_element(By.CSS_SELECTOR, ".count.urgent").click()
    expected = keys(browser)
    browser.execute_script("document.addEventListener('click', (event) => event.preventDefault())")
    click_once_settled(browser, browser.find_elements(By.CSS_SELECTOR, ".links a")[4])
    kept = browser.execute_script(
        "return JSON.parse(localStorage.getItem('cxrbatch.order:' + new URL('./', location)))"
    )
    assert (kept, len(kept)) == (expected, 12)
    browser.refresh()
    loaded(browser, "1-12 of 12")
    focused = browser.execute_script("return document.activeElement.closest('tr').dataset.key")
    assert browser.find_elements(By.CSS_SELECTOR, "#studies tr")[2].get_attribute("data-key") == focused


def test_an_open_page_notices_news_and_keeps_what_one_looks_at(browser: Chrome, tmp_path: Path) -> None:
    browser.get(write(tmp_path, list(made_up_studies(30))))
    loaded(browser)
    browser.execute_script(SEARCHED, "pneumothorax")
    evil = '<img src=x onerror="document.title=1">'
    new = make_study_row(
        make_study_result(((0.1, 0.1, 0.99),), study_key="a" * 16, flags=(Flag.PAEDIATRIC,)),
        header=make_header(accession_number=evil),
        thumbnail="",
    )
    new = replace(new, arrived_at=now_text())
    write(tmp_path, [*made_up_studies(30), new], at="2026-01-02T04:00:00+00:00")
    browser.execute_script("window.dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    assert (
        loaded(browser, "1-4 of 4 studies that fit; 31 in all")
        == "1-4 of 4 studies that fit; 31 in all. 1 changed or new"
    )
    first = browser.find_element(By.CSS_SELECTOR, "#studies tr")
    assert evil in first.text
    assert {"Caution", "Prior study"} <= set(first.text.split("\n"))
    assert browser.title == "Chest radiograph worklist"
    assert "2026-01-02 04:00 UTC" in browser.find_element(By.ID, "changed").text
    browser.find_element(By.CSS_SELECTOR, ".mark.recent").click()
    assert (shown(browser), keys(browser)) == ("1-1 of 1 studies that fit; 31 in all", ["a" * 16])
    browser.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    browser.find_element(By.CSS_SELECTOR, ".mark.refused").click()
    assert loaded(browser, "1-3 of 3")
    assert browser.find_element(By.CSS_SELECTOR, ".count.unscored b").text == "3"
    shutil.rmtree(tmp_path / "worklist")
    browser.refresh()
    trouble = WebDriverWait(browser, 10).until(lambda _: browser.find_element(By.ID, "trouble").text)
    assert "cannot be loaded: the folder worklist is missing" in trouble
    assert len(keys(browser)) == 31, "what stands in the page itself is still there"


def test_it_is_accessible_and_prints_twenty_studies_a_page(browser: Chrome, tmp_path: Path) -> None:
    browser.get(write(tmp_path, list(made_up_studies(60))))
    loaded(browser)
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ARROW_DOWN, "r", "/")
    search = browser.switch_to.active_element
    search.send_keys("acc-0000007", Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("aria-label") == "Open ACC-0000007"
    browser.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    loaded(browser, "1-50 of 60")
    for scheme in ("dark", "light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        found = Axe().run(browser)["violations"]
        assert [(each["id"], [node["html"] for node in each["nodes"]][:2]) for each in found] == [], scheme
    if shutil.which("pdftotext") is None:
        pytest.skip("needs Debian's poppler-utils")
    for height in (11.69, 11.0):  # A4, Letter
        pdf = browser.execute_cdp_cmd("Page.printToPDF", {"paperHeight": height, "printBackground": True})["data"]
        (tmp_path / "list.pdf").write_bytes(base64.b64decode(pdf))
        text = subprocess.run(
            ["pdftotext", tmp_path / "list.pdf", "-"], check=True, capture_output=True, text=True
        ).stdout
        assert [sheet.count("ACC-") for sheet in text.split("\f")][:3] == [20, 20, 20]
