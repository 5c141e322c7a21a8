"""`make pixel-check`: what the pixel check makes of public films and of phantoms, printed as a table.

Reads the folders of $CXRBATCH_SHARED_DATA, each film as `run` would, with the check itself switched off.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from cxrbatch.config import Settings
from cxrbatch.errors import ImageRejected
from cxrbatch.intake.anatomy import Anatomy, measure_anatomy
from cxrbatch.intake.read import read_radiograph
from cxrbatch.phantom import draw_lateral, draw_phantom, windowed
from cxrbatch.records import Gray8

SETTINGS = Settings(pixel_check=False, max_display_px=256)
FOLDERS = ("nih1024", "nih256", "fourclass384", "dicom/chest")
PA_PHANTOMS, LATERAL_PHANTOMS = 60, 20


def main() -> int:
    """Print the table; 2 where there are no films."""
    shared = Path(os.environ.get("CXRBATCH_SHARED_DATA", ""))
    if not (shared / FOLDERS[0]).is_dir():
        print("Set CXRBATCH_SHARED_DATA to the folder of public films.", file=sys.stderr)
        return 2
    print("| films | count | refused if untagged | flagged polarity_suspect |\n| --- | --- | --- | --- |")
    swapped: list[Anatomy] = []
    for name in FOLDERS:
        displays = list(read_displays(shared / name))
        print(row(name, map(measure_anatomy, displays)))
        swapped += [measure_anatomy(255 - display) for display in displays]
    print(row("all of these films with black and white swapped", swapped))
    frontal = (windowed(draw_phantom(seed, rows=256)) for seed in range(PA_PHANTOMS))
    print(row("phantoms, PA", map(measure_anatomy, frontal)))
    lateral = (windowed(draw_lateral(seed, rows=256)) for seed in range(LATERAL_PHANTOMS))
    print(row("phantoms, lateral", map(measure_anatomy, lateral)))
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


def row(name: str, films: Iterable[Anatomy]) -> str:
    """Return a row of the table."""
    measured = list(films)
    refused, swapped = sum(not film.is_chest for film in measured), sum(film.is_swapped for film in measured)
    return f"| {name} | {len(measured)} | {refused} | {swapped} |"


if __name__ == "__main__":
    sys.exit(main())
