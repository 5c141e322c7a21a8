"""`make pixel-check`: what the pixel check makes of public films and of phantoms, printed as a table.

Reads the folders of $CXRBATCH_SHARED_DATA, each film as `run` would, with the check itself switched off. Then the
same films once more as another department might have made them (film_variations.py), and phantoms with lesions.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from film_variations import VARIATIONS

from cxrbatch.config import Settings
from cxrbatch.errors import ImageRejected
from cxrbatch.intake.anatomy import measure_anatomy
from cxrbatch.intake.read import read_radiograph
from cxrbatch.phantom import draw_lateral, draw_phantom, windowed
from cxrbatch.phantom.lesions import FINDINGS
from cxrbatch.records import Gray8

SETTINGS = Settings(pixel_check=False, max_display_px=256)
FOLDERS = ("nih1024", "nih256", "fourclass384", "dicom/chest")
PA_PHANTOMS, LATERAL_PHANTOMS = 60, 20
HEAD = """| films | count | refused if untagged | in % | flagged anatomy_suspect | flagged polarity_suspect |
| --- | --- | --- | --- | --- | --- |"""


def main() -> int:
    """Print the table; 2 where there are no films."""
    shared = Path(os.environ.get("CXRBATCH_SHARED_DATA", ""))
    if not (shared / FOLDERS[0]).is_dir():
        print("Set CXRBATCH_SHARED_DATA to the folder of public films.", file=sys.stderr)
        return 2
    print(HEAD)
    films: list[Gray8] = []
    for name in FOLDERS:
        displays = list(read_displays(shared / name))
        print(row(name, displays))
        films += displays
    print(row("all of these with black and white swapped", [np.asarray(255 - film, np.uint8) for film in films]))
    for variation in VARIATIONS:
        varied = (variation(film, np.random.default_rng(number)) for number, film in enumerate(films))
        print(row(f"all of these, {variation.__name__.replace('_', ' ')}", varied))
    print(row("phantoms, PA", (windowed(draw_phantom(seed, rows=256)) for seed in range(PA_PHANTOMS))))
    for finding in FINDINGS:
        sick = (windowed(draw_phantom(seed, rows=256, findings=(finding,))) for seed in range(PA_PHANTOMS))
        print(row(f"phantoms, PA, {finding}", sick))
    print(row("phantoms, lateral", (windowed(draw_lateral(seed, rows=256)) for seed in range(LATERAL_PHANTOMS))))
    return 0


def read_displays(folder: Path) -> Iterator[Gray8]:
    """Yield the display image of every file below a folder that intake accepts."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            try:
                yield read_radiograph(path, SETTINGS).display
            except ImageRejected as rejected:
                if path.suffix != ".csv":
                    print(f"not read: {path.name}: {rejected.reason.value}", file=sys.stderr)


def row(name: str, films: Iterable[Gray8]) -> str:
    """Return a row of the table."""
    measured = [measure_anatomy(film) for film in films]
    doubtful, swapped = sum(film.is_doubtful for film in measured), sum(film.is_swapped for film in measured)
    refused = sum(not film.is_chest for film in measured) - doubtful
    return f"| {name} | {len(measured)} | {refused} | {100 * refused / len(measured):.1f} | {doubtful} | {swapped} |"


if __name__ == "__main__":
    sys.exit(main())
