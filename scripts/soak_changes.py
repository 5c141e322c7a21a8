"""What a soak changes between a kill and the next run: INPUT and engine; and how what is left is judged then."""

from __future__ import annotations

import random
from pathlib import Path

from cxrbatch.phantom import draw_phantom
from tests.factories.intake import write_dicom
from tests.factories.judged import finished_reports

UID = "1.2.826.0.1.3680043.10.9"


def write_image(folder: Path, study: int, image: int, *, seed: int) -> None:
    """Write one image of a study; another seed gives other pixels."""
    phantom = draw_phantom(seed, rows=320)
    write_dicom(
        folder / f"{study:02}-{image}.dcm",
        pixels=phantom.stored + image,
        BitsStored=12,
        HighBit=11,
        WindowCenter=phantom.window_center,
        WindowWidth=phantom.window_width,
        StudyInstanceUID=f"{UID}.{study + 1}",
        SOPInstanceUID=f"{UID}.{study + 1}.{image}",
    )


def change_input(folder: Path, dice: random.Random) -> None:
    """Let images go, replace some by others of the same name, and let some studies get one more."""
    for path in sorted(folder.glob("*.dcm")):
        study, what = int(path.name[:2]), dice.random()
        if what < 0.15:
            path.unlink()
        elif what < 0.25:
            write_image(folder, study, int(path.stem[3:]), seed=dice.randrange(100, 10_000))
        elif what < 0.3:
            write_image(folder, study, 7, seed=dice.randrange(100, 10_000))


def lost_reports(before: dict[str, tuple[int, str]], out: Path) -> list[str]:
    """Return the finished reports that are gone, or are of an earlier revision than they were."""
    after = finished_reports(out)
    return [key for key, (revision, _) in before.items() if key not in after or after[key][0] < revision]
