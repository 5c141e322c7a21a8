"""What printing a study costs: CPU milliseconds of its pictures, report.html and report.pdf, by made-up studies.

Each way prints the same study again and again, the ways by turns, so that what else runs here hits all of them.
Needs nothing but `print_study`, so it measures any version of the program that PYTHONPATH names.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.output.report.report import print_study
from cxrbatch.phantom import draw_phantom
from cxrbatch.records import ImagePixels, Label, StudyResult
from tests.factories.output import make_pixels, make_study_result
from tests.factories.validated import VALIDATED

FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
            "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax")  # fmt: skip
SHARE = {"_low": 0.8, "": 0.9, "_high": 0.95}
MEASURED = {"auroc": 0.9} | {f"{name}{end}": at for name in ("sensitivity", "specificity") for end, at in SHARE.items()}
WAYS = {"nothing": (False, False), "html": (True, False), "pdf": (False, True)}


def make_study(n_labels: int, *, measured: bool) -> tuple[StudyResult, list[ImagePixels]]:
    """Make a study of one image of 1024 x 840 px, two heatmaps, and a row per label."""
    metrics = MEASURED if measured else {}
    labels = [
        Label(name, 0.5, metrics=metrics, images_with=90 if measured else None, images_without=9000, maps=VALIDATED)
        for name in FINDINGS[:n_labels]
    ]
    probabilities = (0.9, 0.8, *(0.4 - n / 50 for n in range(n_labels - 2)))
    stored = draw_phantom(1, rows=1024).stored
    display = np.asarray(cv2.resize(stored >> 4, (840, 1024)), np.uint8)
    return make_study_result((probabilities,), labels=labels), [
        make_pixels(n_labels, display=display, rows=2464, columns=2022)
    ]


def measure(result: StudyResult, pixels: Sequence[ImagePixels], runs: int) -> dict[str, list[float]]:
    """Return the CPU milliseconds of each way to print, run by run."""
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as out:
        for run in range(runs + 2):
            for way, (html, pdf) in WAYS.items():
                started = time.process_time()
                print_study(result, pixels, Path(out), html=html, pdf=pdf)
                if run >= 2:
                    taken[way].append(1000 * (time.process_time() - started))
    return taken


def main() -> None:
    """Measure, and print a table: the least of all runs, and the middle one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print("| study | pictures and writing, ms | HTML | PDF |\n| --- | --- | --- | --- |")
    for name, n_labels, measured in (("14 findings", 14, False), ("14 findings, measured", 14, True), ("5", 5, True)):
        taken = measure(*make_study(n_labels, measured=measured), options.runs)
        base = taken["nothing"]
        cells = [f"{min(base):.0f}, {statistics.median(base):.0f}"]
        for way in ("html", "pdf"):
            more = (min(taken[way]) - min(base), statistics.median(taken[way]) - statistics.median(base))
            cells.append(f"{more[0]:.0f}, {more[1]:.0f}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
