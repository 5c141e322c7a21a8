"""A real browser: Debian's Chromium, steered by its own driver. Tests that need one are skipped where it is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tests.factories.ports import free_port


@pytest.fixture(scope="session")
def _chromium() -> Iterator[Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Debian's chromium and chromium-driver (scripts/system-packages.sh)")
    options = ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"):
        options.add_argument(argument)
    # What a page writes to its console, a refused request among it, is for the test to read.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options=options, service=ChromeService(driver, port=free_port()))
    yield browser
    browser.quit()


@pytest.fixture
def browser(_chromium: Chrome) -> Chrome:
    """A browser of one test, with nothing stored, at 1280 px; one process serves all tests of a pytest worker."""
    _chromium.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "all"})
    _chromium.set_window_size(1280, 900)
    _chromium.get("about:blank")
    _chromium.get_log("browser")  # type: ignore[no-untyped-call]  # selenium leaves this one untyped
    return _chromium
