"""Where the peak of a heatmap lies in the patient; '' where that is not known.

Sides are the patient's: in a frontal radiograph the patient's left lies on the right of the image (PS3.3 C.7.6.1.1.1:
rows that run to L), unless the file says that they run to R.
"""

from __future__ import annotations

import re

from cxrbatch.errors import Flag
from cxrbatch.intake.lungs import Lungs, find_lungs
from cxrbatch.records import OUTSIDE_LUNGS, Gray8, ImageResult

_SIDES = {"L": {"image_left": "right", "image_right": "left"}, "R": {"image_left": "left", "image_right": "right"}}
# Rows run to the patient's left or right, columns, where that is said, to the feet.
_ORIENTATION = re.compile(r"(?P<across>[LR])[APHF]{0,2}(\\F[APRL]{0,2})?")
_BETWEEN = "between_lungs"
# Their lungs are not where they are looked for, or nobody knows what is dark there.
_UNPLACED = (Flag.OTHER_VIEW, Flag.ANATOMY_SUSPECT, Flag.POLARITY_SUSPECT)


class PlaceFinder:
    """Puts peaks of one radiograph into words; its lungs are looked for once, and only where anything is asked."""

    def __init__(self, image: ImageResult, display: Gray8) -> None:
        self._sides = _sides_of(image)
        self._display = display
        self._lungs: Lungs | None = None
        self._looked = False

    def place(self, across: float, down: float) -> str:
        """Return the code of a place (see `wording.PLACES`), given as shares of the image's sides; '' where unknown."""
        if self._sides is None:
            return ""
        if not self._looked:
            self._lungs, self._looked = find_lungs(self._display), True
        if self._lungs is None:
            return ""
        found = self._lungs.place(across, down)
        if isinstance(found, str):
            return _BETWEEN if found == "between" else OUTSIDE_LUNGS
        half, zone = found
        return f"{self._sides[half]}_{zone}"


def _sides_of(image: ImageResult) -> dict[str, str] | None:
    """Return which half of the image is which side of the patient; None where it lies in another way, or is in doubt.

    A file that does not say is taken for hung as usual: the patient's right on the left.
    """
    if any(flag in image.flags for flag in _UNPLACED):
        return None
    orientation = image.header.patient_orientation
    if not orientation:
        return _SIDES["L"]
    stated = _ORIENTATION.fullmatch(orientation.upper())
    return _SIDES[stated["across"]] if stated else None
