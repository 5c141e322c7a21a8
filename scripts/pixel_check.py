"""`make pixel-check`: what the pixel check makes of radiographs, of phantoms and of foreign pictures, as a table.

Reads the folders of $CXRBATCH_SHARED_DATA, each radiograph as `run` would: all of them, then those that nothing was
learned from (picture_sets.py), also as another department might have made them (image_variations.py). With FOREIGN, a
folder that foreign_pictures.sh filled, also pictures that are no radiographs: as they are, and without their colour.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.errors import Flag, ImageRejected
from cxrbatch.intake.anatomy import check_anatomy
from cxrbatch.phantom import draw_lateral, draw_phantom, windowed
from cxrbatch.phantom.lesions import FINDINGS
from cxrbatch.records import Gray8, Header, Radiograph
from scripts.image_variations import VARIATIONS
from scripts.picture_sets import SETTINGS, UNSEEN, dice_for, judging, libraries, read_pictures, read_small

CHECKED = replace(SETTINGS, pixel_check=True)
FOLDERS = ("nih1024", "nih256", "fourclass384", "dicom/chest")
PA_PHANTOMS, LATERAL_PHANTOMS = 60, 20
HEAD = """| pictures | count | refused if untagged | in % | anatomy_suspect | in % | neither, in % | polarity_suspect |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def main() -> int:
    """Print the tables; 2 where there are no radiographs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("foreign", nargs="*", type=Path, help="a folder that foreign_pictures.sh filled")
    options = parser.parse_args()
    shared = Path(os.environ.get("CXRBATCH_SHARED_DATA", ""))
    if not (shared / FOLDERS[0]).is_dir():
        print("Set CXRBATCH_SHARED_DATA to the folder of public radiographs.", file=sys.stderr)
        return 2
    print(HEAD)
    for name in FOLDERS:
        files = sorted(path for path in (shared / name).rglob("*") if path.is_file() and path.suffix != ".csv")
        print_row(f"{name}, all", untagged(read_small(files)))
    images: list[Gray8] = []
    for name, paths in judging(shared).items():
        unseen = read_small(paths)
        print_row(f"{name}, judging", untagged(unseen))
        images += unseen
    print_varied(images)
    print_phantoms()
    for folder in options.foreign:
        print_foreign(folder)
    return 0


def print_varied(images: list[Gray8]) -> None:
    """Print the judging radiographs, as they are, negative, and varied; then such that are none any more."""
    print_row("all judging", untagged(images))
    print_row("judging, black and white swapped", untagged(np.asarray(255 - image, np.uint8) for image in images))
    for variation in VARIATIONS:
        varied = (variation(image, dice_for(number)) for number, image in enumerate(images))
        print_row(f"judging, {variation.__name__.replace('_', ' ')}", untagged(varied))
    print_row("judging, turned by a quarter", untagged(np.ascontiguousarray(np.rot90(image)) for image in images))
    print_row("judging, upside down", untagged(np.ascontiguousarray(image[::-1]) for image in images))


def print_phantoms() -> None:
    """Print phantoms, with and without a finding."""
    for findings in ((), *((finding,) for finding in FINDINGS)):
        drawn = (windowed(draw_phantom(seed, rows=256, findings=findings)) for seed in range(PA_PHANTOMS))
        print_row(" ".join(("phantoms, PA", *findings)), untagged(drawn))
    lateral = (windowed(draw_lateral(seed, rows=256)) for seed in range(LATERAL_PHANTOMS))
    print_row("phantoms, lateral", untagged(lateral))


def print_foreign(folder: Path) -> None:
    """Print each library of foreign pictures: those that judge are marked."""
    for name, paths in libraries(folder).items():
        pictures = list(read_pictures(paths))
        said = f"{name}, {'judging' if name in UNSEEN else 'learned from'}"
        print_row(said, pictures)
        grey = [replace(picture, coloured_share=0.0) for picture in pictures]
        print_row(f"{said}, colour taken away", grey)
        negative = (replace(picture, display=np.asarray(255 - picture.display, np.uint8)) for picture in grey)
        print_row(f"{said}, colour taken away, negative", negative)


def untagged(displays: Iterable[Gray8]) -> Iterator[Radiograph]:
    """Yield display images as radiographs that nothing says anything of."""
    for display in displays:
        rows, columns = display.shape
        yield Radiograph(Header(), display, rows, columns, (Flag.NO_BODY_PART,), stored_sha256="", display_sha256="")


def print_row(name: str, pictures: Iterable[Radiograph]) -> None:
    """Print what becomes of pictures."""
    count = refused = flagged = swapped = 0
    for picture in pictures:
        count += 1
        try:
            flags = check_anatomy(picture, CHECKED).flags
        except ImageRejected:
            refused += 1
            continue
        flagged += Flag.ANATOMY_SUSPECT in flags
        swapped += Flag.POLARITY_SUSPECT in flags
    percent = [100 * part / max(count, 1) for part in (refused, flagged, count - refused - flagged)]
    cells = (name, count, refused, f"{percent[0]:.1f}", flagged, f"{percent[1]:.1f}", f"{percent[2]:.1f}", swapped)
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
