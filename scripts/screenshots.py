"""`make screenshots`: docs/images/ from the demo's results, so that README and manual show what the code prints today.

Worklist, report and sheet of a run, light and dark, and as a telephone shows them; a picture enlarged, zoomed and
windowed; the PDF. Needs Chromium with its driver (Debian: chromium, chromium-driver) and pdftoppm (poppler-utils); run
`make demo` first, or name another output folder.
"""

from __future__ import annotations

import argparse
import base64
import csv
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "demo" / "results"
IMAGES = ROOT / "docs" / "images"
TOOLS = {"chromium": "chromium", "chromedriver": "chromium-driver", "pdftoppm": "poppler-utils"}
NARROW = 400
_LONGEST_WAIT_S = 20
_LOADED = (
    "return document.readyState === 'complete' && [...document.images].every((each) => each.complete || "
    "each.loading === 'lazy')"
)
# Twice as large as fits, the lungs darker, the heatmap fainter; as the sliders and the button do it.
_ENLARGED = """
document.querySelector("[data-act=in]").click();
document.querySelector("[data-act=in]").click();
for (const [name, value] of [["width", 208], ["level", 140], ["opacity", 60]]) {
  const slider = document.getElementById(`viewer-${name}`);
  slider.value = value;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
}
document.activeElement.blur();
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: of which page, how large in CSS pixels, in which colours; `enlarged`: with a heatmap opened."""

    name: str
    page: str
    width: int
    height: int
    scheme: str = "light"
    enlarged: bool = False


PICTURES = (
    Picture("worklist", "worklist", 1280, 900),
    Picture("worklist-dark", "worklist", 1280, 900, "dark"),
    Picture("worklist-narrow", "worklist", NARROW, 860),
    Picture("report", "report", 1180, 1150),
    Picture("report-dark", "report", 1180, 1150, "dark"),
    Picture("report-narrow", "report", NARROW, 1000),
    Picture("viewer", "report", 1280, 860, enlarged=True),
    Picture("viewer-narrow", "report", NARROW, 860, enlarged=True),
    Picture("sheet", "sheet", 1280, 1000),
    Picture("sheet-dark", "sheet", 1280, 1000, "dark"),
    Picture("sheet-narrow", "sheet", NARROW, 860),
)
PDF_PICTURE = "report-pdf"


def take_pictures(browser: Chrome, results: Path, images: Path, wanted: tuple[str, ...] = ()) -> list[Path]:
    """Write the pictures of an output folder into `images`, all or those that are wanted; return their paths."""
    images.mkdir(parents=True, exist_ok=True)
    study = most_urgent_study(results)
    sheets = sorted((results / "runs").glob("*.html"))
    pages = {"worklist": results / "index.html", "report": results / study["report_html"]}
    pages |= {"sheet": sheets[-1]} if sheets else {}
    made = []
    for picture in PICTURES:
        if picture.page in pages and (not wanted or picture.name in wanted):
            made.append(images / f"{picture.name}.png")
            made[-1].write_bytes(photograph(browser, pages[picture.page], picture))
    if study["report_pdf"] and (not wanted or PDF_PICTURE in wanted):
        made.append(images / f"{PDF_PICTURE}.png")
        print_page(results / study["report_pdf"], made[-1])
    return made


def photograph(browser: Chrome, page: Path, picture: Picture) -> bytes:
    """Show a page as a screen of that size would, and return what is seen as PNG."""
    size = {"width": picture.width, "height": picture.height, "deviceScaleFactor": 1}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size | {"mobile": picture.width == NARROW})
    features = [{"name": "prefers-color-scheme", "value": picture.scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    try:
        browser.get(page.resolve().as_uri())
        if picture.enlarged:
            enlarge(browser)
        WebDriverWait(browser, _LONGEST_WAIT_S).until(lambda shown: shown.execute_script(_LOADED))
        time.sleep(0.2)  # what is faded in is there
        taken: str = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        return base64.b64decode(taken)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": False})


def enlarge(browser: Chrome) -> None:
    """Open the first heatmap of a report, or its radiograph where it shows none, zoomed and windowed."""
    links = browser.find_elements(By.CSS_SELECTOR, "a[data-heatmap]") or browser.find_elements(
        By.CSS_SELECTOR, "a.enlarge"
    )
    browser.execute_script("arguments[0].click()", links[0])
    browser.execute_script(_ENLARGED)


def print_page(pdf: Path, picture: Path) -> None:
    """Write the first page of a PDF as PNG."""
    options = ["-png", "-r", "80", "-f", "1", "-l", "1", "-singlefile"]
    subprocess.run(["pdftoppm", *options, str(pdf), str(picture.with_suffix(""))], check=True)


def most_urgent_study(results: Path) -> dict[str, str]:
    """Return the row of the study that the worklist shows first among those with one image."""
    with (results / "studies.csv").open(newline="", encoding="utf-8") as table:
        rows = [row for row in csv.DictReader(table) if row["n_images"] == "1" and row["report_html"]]
    if not rows:
        sys.exit(f"{results}: no reported study of one image there")
    order = ("urgent", "abnormal", "incomplete", "normal", "unscored")
    return min(rows, key=lambda row: (order.index(row["priority"]), row["study_key"]))


@contextmanager
def open_browser() -> Iterator[Chrome]:
    """Start Chromium without a window; end it."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"):
        options.add_argument(argument)
    browser = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="output folder of a run; default: the demo's")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where the pictures go; default: docs/images")
    names = [picture.name for picture in PICTURES] + [PDF_PICTURE]
    parser.add_argument("--only", nargs="+", choices=names, default=[], metavar="NAME", help=", ".join(names))
    asked = parser.parse_args()
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        sys.exit(f"not installed: apt-get install {' '.join(missing)}")
    if not (asked.results / "studies.csv").exists():
        sys.exit(f"{asked.results}: no results there; run `make demo` first, or name others with --results")
    with open_browser() as browser:
        for path in take_pictures(browser, asked.results, asked.images, tuple(asked.only)):
            print(path)


if __name__ == "__main__":
    main()
