"""`make screenshots`: docs/images/ from the demo's results, so that README and manual show what the code prints today.

Needs Chromium (Debian: chromium) and pdftoppm (Debian: poppler-utils); run `make demo` first.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "demo" / "results"
IMAGES = ROOT / "docs" / "images"
CHROMIUM = [
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
]  # fmt: skip


def photograph(page: Path, picture: Path, *, width: int, height: int) -> None:
    """Show a page in Chromium and write what is seen as PNG."""
    with tempfile.TemporaryDirectory() as profile:
        options = [f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={picture}"]
        subprocess.run([*CHROMIUM, *options, page.resolve().as_uri()], check=True, capture_output=True)


def print_page(pdf: Path, picture: Path) -> None:
    """Write the first page of a PDF as PNG."""
    options = ["-png", "-r", "80", "-f", "1", "-l", "1", "-singlefile"]
    subprocess.run(["pdftoppm", *options, str(pdf), str(picture.with_suffix(""))], check=True)


def most_urgent_study() -> dict[str, str]:
    """Return the row of the study that the worklist shows first among those with one image."""
    with (RESULTS / "studies.csv").open(newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["n_images"] == "1" and row["status"] == "reported"]
    order = ("urgent", "abnormal", "incomplete", "normal", "unscored")
    return min(rows, key=lambda row: (order.index(row["priority"]), row["study_key"]))


def main() -> None:
    """Make the three pictures."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    missing = [tool for tool in ("chromium", "pdftoppm") if shutil.which(tool) is None]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)} (Debian: apt-get install chromium poppler-utils)")
    if not (RESULTS / "studies.csv").exists():
        sys.exit(f"{RESULTS}: no results there; run `make demo` first")
    IMAGES.mkdir(parents=True, exist_ok=True)
    study = most_urgent_study()
    photograph(RESULTS / "index.html", IMAGES / "worklist.png", width=1280, height=900)
    photograph(RESULTS / study["report_html"], IMAGES / "report.png", width=1180, height=1150)
    print_page(RESULTS / study["report_pdf"], IMAGES / "report-pdf.png")


if __name__ == "__main__":
    main()
