"""The German worklist in a browser: searched and sorted by what stands in its data, shown as Germans write it."""

from __future__ import annotations

from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from cxrbatch.output.worklist import write_worklist
from cxrbatch.pages.language import speaking
from tests.browser.test_worklist import SEARCHED, complaints, loaded, shown
from tests.factories.output import make_engine
from tests.factories.worklist import made_up_studies

FIRST = "1\N{EN DASH}50"


def test_a_german_worklist_finds_and_sorts_and_writes_german(browser: Chrome, tmp_path: Path) -> None:
    with speaking("de"):
        studies = made_up_studies(3000, before=1900)
        write_worklist(tmp_path, studies, engine=make_engine(), generated_at="2026-01-02T03:04:05+00:00")
    browser.get((tmp_path / "index.html").as_uri())
    assert loaded(browser, FIRST) == f"{FIRST} von 1.100 Untersuchungen"
    assert browser.find_element(By.ID, "about").text.startswith("1.100 Untersuchungen, bewertet von demo ")
    assert browser.find_element(By.ID, "changed").text == "zuletzt geändert 02.01.2026 03:04 UTC"
    first = browser.find_element(By.CSS_SELECTOR, "#studies tr").text
    assert "Dringend" in first
    assert "Pneumothorax >0,99" in first
    assert "Pleuraerguss 0,60" in first
    assert "Öffnen" in first
    chosen = Select(browser.find_element(By.ID, "finding"))
    assert {"Alle (1.100)", "Pleuraerguss (220)", "Rundherd (110)"} <= {option.text for option in chosen.options}
    chosen.select_by_visible_text("Rundherd (110)")
    assert shown(browser) == f"{FIRST} von 110 passenden Untersuchungen; insgesamt 1.100"
    chosen.select_by_index(0)
    for searched in ("02.01.2024 pleuraerguss", "2024-01-02 effusion", "20240102 effusion"):
        browser.execute_script(SEARCHED, searched)
        assert shown(browser).startswith(f"{FIRST} von 196 passenden"), searched
    browser.execute_script(SEARCHED, "")
    Select(browser.find_element(By.ID, "sort")).select_by_value("date")
    dates = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "#studies .date")]
    assert (dates[0], dates[-1]) == ("03.01.2024", "03.01.2024")
    assert complaints(browser) == []
