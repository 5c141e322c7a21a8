"""The codes that objects use: one table of findings, and the concepts of the templates of PS3.16.

`docs/dicom.md` says where each code of a finding was looked up. What no public scheme names exactly gets a code of our
own, 99CXRBATCH: better a code that nobody knows than one that means something else.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

OWN_SCHEME = "99CXRBATCH"
OWN_SCHEME_NAME = "cxrbatch local codes"

# A Code Value is an SH, a Code Meaning an LO (PS3.5, 6.2).
_LONGEST_VALUE, _LONGEST_MEANING = 16, 64
_DIGEST_DIGITS = 6


class Code(NamedTuple):
    """A coded concept (PS3.3 8.8): value, designator of the scheme, meaning."""

    value: str
    scheme: str
    meaning: str


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


def dcm(value: str, meaning: str) -> Code:
    """Return a concept of the DICOM Controlled Terminology (PS3.16 annex D)."""
    return Code(value, "DCM", meaning)


def own(value: str, meaning: str) -> Code:
    """Return a concept that only cxrbatch defines."""
    return Code(value, OWN_SCHEME, meaning)


# NIH ChestX-ray14 and CheXpert, by label in small letters with spaces.
FINDINGS: dict[str, Code] = {
    "atelectasis": _sct("46621007", "Atelectasis"),
    "cardiomegaly": _sct("8186001", "Cardiomegaly"),
    "consolidation": _sct("95436008", "Lung consolidation"),
    "edema": _sct("19242006", "Pulmonary edema"),
    "effusion": _sct("60046008", "Pleural effusion"),
    "pleural effusion": _sct("60046008", "Pleural effusion"),
    "emphysema": _sct("87433001", "Pulmonary emphysema"),
    "fibrosis": _sct("51615001", "Fibrosis of lung"),
    "fracture": _sct("125605004", "Fracture of bone"),
    "infiltration": dcm("112121", "Infiltrate"),
    "lung opacity": dcm("112001", "Opacity"),
    "mass": _sct("4147007", "Mass"),
    "nodule": _sct("786838002", "Nodule of lung"),
    "pneumonia": _sct("233604007", "Pneumonia"),
    "pneumothorax": _sct("36118008", "Pneumothorax"),
}

PRESENT, ABSENT = _sct("52101004", "Present"), _sct("272519000", "Absent")
NOT_JUDGED = dcm("121059", "Presence Undetermined")
CHEST = _sct("816094009", "Chest")
PLAIN_CHEST_RADIOGRAPH = _sct("399208008", "Plain chest X-ray")
PERCENT = Code("%", "UCUM", "Percent")
PIXELS = Code("{pixels}", "UCUM", "Pixels")
ENGLISH = Code("en", "RFC5646", "English")
REPORT_TITLE = Code("18748-4", "LN", "Diagnostic Imaging Report")
OPERATING_POINT = own("OPERATING_POINT", "Operating point")
HEATMAP_PEAK = own("HEATMAP_PEAK", "Place of the heatmap's peak")


def code_of_finding(label: str) -> Code:
    """Return the code of an engine's label; the same label gets the same code, two labels never one of our own."""
    name = " ".join(label.replace("_", " ").split())
    known = FINDINGS.get(name.casefold())
    if known is not None:
        return known
    return own(_own_value(name), clipped(name, _LONGEST_MEANING) or "Finding")


def clipped(text: str, longest: int) -> str:
    """Return text as one value of an element may hold it: no control character, no backslash, not longer than this.

    That is in bytes of UTF-8. The standard counts characters (PS3.5 6.2), many a reader bytes.
    """
    plain = "".join(character if character.isprintable() and character != "\\" else " " for character in text)
    return " ".join(plain.split()).encode()[:longest].decode(errors="ignore").strip()


def _own_value(name: str) -> str:
    plain = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")
    if len(plain) <= _LONGEST_VALUE and re.fullmatch(r"[A-Za-z0-9 ]+", name):
        return plain
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_DIGITS].upper()
    return f"{plain[: _LONGEST_VALUE - _DIGEST_DIGITS - 1]}_{digest}" if plain else digest
