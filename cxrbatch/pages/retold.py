"""Sentences that were made long before a page is, in English, such as those of engine.json: told in another language.

What is stored stays English. The templates of these sentences stand here again, with gaps; one that fits a sentence as
a whole is looked up in the catalogues and filled with what the sentence has there. A sentence that none fits, such as a
notice that somebody wrote, stays as it is.
"""

from __future__ import annotations

import re
from functools import cache

from cxrbatch.locales import ENGLISH
from cxrbatch.pages.language import gettext, localised, msgid, spoken

TEMPLATES = (
    # Why heatmaps are not validated: model/evaluate/map_check.py, demo/map_check.py.
    msgid("there are too few marked images, {images} of {patients} patients; it takes {needed} of {needed_patients}"),
    msgid(
        "their peaks lie in what is marked on {hits} of the images, no more than chance may hit ({chance})",
    ),
    msgid(
        "their peaks lie in what is marked on {hits} of the images, no more than always pointing at the same place may "
        "({same_place})"
    ),
    msgid("a copy of the network with shuffled weights draws nothing that they could be compared with"),
    msgid(
        "a copy of the network with shuffled weights draws much the same (rank correlation {likeness}, where {limit} "
        "is the limit)"
    ),
    msgid(
        "their peaks lie in what is marked on {hits} of the images, no more than a copy of the network with shuffled "
        "weights may ({shuffled})"
    ),
    msgid("no phantom with such a lesion was among those that it was checked on"),
    # Notices of engines: demo/engine.py, model/network/import_weights.py.
    msgid(
        "This demo engine knows synthetic phantoms only. It has never seen a patient's radiograph, and what it says of "
        "one means nothing."
    ),
    msgid(
        "Imported weights ({format}), not measured by cxrbatch. Their probabilities are not calibrated: read them "
        "against the operating points, not as chances."
    ),
    # What the gate of an INT8 file measured: engine/int8_gate.py.
    msgid("not passed: {obstacle}"),
    msgid(
        "passed: mean AUROC {auroc} beside {reference} in FP32, {flips} of {verdicts} verdicts differ ({images} "
        "{source})"
    ),
    # What of drift could not be compared: output/drift.py.
    msgid("{studies} studies are too few to tell: {needed} are needed"),
)

_GAP = re.compile(r"\{(\w+)\}")
_FIGURE = re.compile(r"\d[\d.]*%?")


def retold(sentence: str) -> str:
    """Return a sentence of ours in the language that is spoken."""
    if not sentence or spoken().locale == ENGLISH:
        return sentence
    for pattern, template in _patterns():
        found = pattern.fullmatch(sentence)
        if found:
            return gettext(template).format(**{name: _figure(value) for name, value in found.groupdict().items()})
    return sentence


def _figure(value: str) -> str:
    """Return what fills a gap; a share that Python wrote, 57%, with the space that other languages have there."""
    return localised(value).replace("%", "\N{NO-BREAK SPACE}%") if _FIGURE.fullmatch(value) else gettext(value)


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return each template as what finds the sentences that were made of it."""
    return tuple((re.compile(_GAP.sub(r"(?P<\1>.+?)", _escaped(template))), template) for template in TEMPLATES)


def _escaped(template: str) -> str:
    return "".join(part if _GAP.fullmatch(part) else re.escape(part) for part in re.split(r"(\{\w+\})", template))
