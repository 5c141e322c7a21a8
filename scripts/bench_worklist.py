"""Measure the worklist in Chromium: made-up studies, opened from the disk, searched, filtered, turned to another page.

Prints a table of medians in ms, as the page itself sees them (performance.now), after one write of the list and one
rerun without news. `make bench-worklist`; the number of studies is the one argument.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.support.ui import WebDriverWait

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.output.worklist import write_worklist
from tests.factories.output import make_engine
from tests.factories.worklist import made_up_studies

ROUNDS = 5
SEARCHES = ("acc-0042", "pneumothorax", "2024-03", "effusion nodule", "nothing like this")
_TIMED = """
const [id, value] = arguments, field = document.getElementById(id);
const begin = performance.now();
field.value = value;
field.dispatchEvent(new Event(id === 'search' ? 'input' : 'change', { bubbles: true }));
return performance.now() - begin;
"""
_LOADED = "return /^1-/.test(document.getElementById('shown').textContent) ? performance.now() : 0"


def open_browser() -> Chrome:
    """Return a headless Chromium."""
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    return Chrome(options=options, service=ChromeService("/usr/bin/chromedriver"))


def measure(browser: Chrome, page: str) -> dict[str, float]:
    """Return how long things take in a page of which nothing is in memory yet, in ms."""
    browser.get(page)
    found = {"open, until everything is found": float(WebDriverWait(browser, 60, 0.02).until(_loaded_at))}
    for words in SEARCHES:
        found[f"search: {words}"] = float(browser.execute_script(_TIMED, "search", words))
    browser.execute_script(_TIMED, "search", "")
    for order in ("arrived", "date", "priority"):
        found[f"sort: {order}"] = float(browser.execute_script(_TIMED, "sort", order))
    return found


def _loaded_at(browser: Chrome) -> float:
    return float(browser.execute_script(_LOADED))


def main() -> int:
    """Write the list, measure it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("studies", type=int, nargs="?", default=50_000)
    count = parser.parse_args().studies
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for what in ("written", "rewritten without news"):
            begin = time.process_time()
            write_worklist(out, made_up_studies(count), engine=make_engine(), generated_at="2024-06-01T06:00:00+00:00")
            print(f"| {count} studies {what}, CPU s | {time.process_time() - begin:.1f} |")
        size = sum(path.stat().st_size for path in (out / "worklist").iterdir())
        print(f"| data, MB | {size / 1e6:.1f} |")
        browser = open_browser()
        try:
            rounds = [measure(browser, (out / "index.html").as_uri()) for _ in range(ROUNDS)]
        finally:
            browser.quit()
    for what in rounds[0]:
        times = [each[what] for each in rounds]
        print(f"| {what}, ms | {statistics.median(times):.0f} ({min(times):.0f} to {max(times):.0f}) |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
