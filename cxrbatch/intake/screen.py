"""What becomes of a file: its header accepted, flagged or refused; its image put together, or refused as blank."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.patient import age_years
from cxrbatch.intake.vocabulary import Named, SpeciesFacts, is_animal, name_body_part, name_view, name_view_code, words
from cxrbatch.records import Gray8, Header, Radiograph, Rejection

OWN_MANUFACTURER = "cxrbatch"
PAEDIATRIC_BELOW_YEARS = 16
# Between the half and the 99.5th percentile: image has hundreds of levels, an empty one has noise.
BLANK_BELOW_LEVELS = 16

# Computed and Digital X-Ray Image Storage, for presentation and for processing (PS3.4 B.5).
_RADIOGRAPHY_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1.1",
}
_UNTOLD = {"", "UNKNOWN", "UNSPECIFIED", "OTHER", "NONE", "N A", "DEFAULT"}
# Conversion Type (PS3.3 C.8.6.1): a scanned paper and a drawing. WSD, a workstation, is on many exported images.
_PAPERS = {"SD", "DRW"}
_SCREENSHOTS = {"SCREEN SAVE", "SCREENSAVE", "SCREENSHOT", "DOSE_REPORT", "REPORT"}
_LOSSY_SYNTAXES = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"}
# May hold either; lossy unless the file says that it is not.
_MAYBE_LOSSY_SYNTAXES = {"1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"}
# Where the rows run to: to a side of a patient seen from the front, to the front or back of one seen from a side.
_ORIENTED = {"L": Named.WANTED, "R": Named.WANTED, "A": Named.OTHER, "P": Named.OTHER}
_BY_ORIENTATION = "lateral by Patient Orientation"
_BY_DESCRIPTION = "lateral or oblique by its description"
# A file that does not say is taken for one without: most images are.
_NOT_BURNED_IN = {"", "NO", "N"}


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the header of a readable file tells; `rejection` is there when it gets no score."""

    header: Header
    flags: tuple[Flag, ...] = ()
    rejection: Rejection | None = None


@dataclass(frozen=True, slots=True)
class ScreenFacts:
    """What the screen asks beyond `Header`, as text of the file; empty where it does not say.

    `view_meanings`, `view_codes` and `region_meanings` are of View Code and Anatomic Region Sequence.
    `orientation` is Patient Orientation: where the rows and the columns run to (PS3.3 C.7.6.1.1.1).
    `descriptions` are those of series, protocol and procedure step: the nearest to the image first.
    `burned_in` is Burned In Annotation: whether the pixels show who the patient is (PS3.3 C.7.6.1.1).
    """

    manufacturer: str = ""
    intent: str = ""
    image_type: tuple[str, ...] = ()
    conversion: str = ""
    view_meanings: tuple[str, ...] = ()
    view_codes: tuple[str, ...] = ()
    region_meanings: tuple[str, ...] = ()
    orientation: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    lossy: str = ""
    burned_in: str = ""
    species: SpeciesFacts = field(default_factory=SpeciesFacts)


def screen_header(header: Header, facts: ScreenFacts, settings: Settings) -> tuple[Flag, ...]:
    """Return the flags that an acceptable header earns.

    Raises:
        ImageRejected: this is no frontal chest radiograph for presentation, and the header says so.
    """
    if facts.manufacturer.casefold() == OWN_MANUFACTURER:
        raise ImageRejected(Reason.OWN_OUTPUT, "cxrbatch wrote this object itself")
    _refuse_other_modality(header, facts, settings)
    flags = [*_screen_body_part(header, facts, settings), *_screen_view(header, facts, settings)]
    if facts.intent.upper() == "FOR PROCESSING":
        raise ImageRejected(Reason.NOT_FOR_PRESENTATION, "the pixels are raw detector data (FOR PROCESSING)")
    flags += _screen_burned_in(facts, settings)
    if _is_lossy(header.transfer_syntax, facts.lossy):
        flags.append(Flag.LOSSY)
    age = age_years(header)
    if age is not None and age < PAEDIATRIC_BELOW_YEARS:
        flags.append(Flag.PAEDIATRIC)
    if is_animal(facts.species, (*facts.descriptions, header.study_description, header.body_part)):
        flags.append(Flag.VETERINARY)
    return tuple(flags)


def missing_tags(flags: tuple[Flag, ...], settings: Settings) -> tuple[Flag, ...]:
    """Return the flags of a file that says neither body part nor view, such as a PNG.

    Raises:
        ImageRejected: the settings refuse files that do not say.
    """
    if settings.missing_tags == "refuse" and Flag.NO_BODY_PART in flags:
        raise ImageRejected(Reason.NOT_CHEST, "nothing says which part of the body this is (missing_tags)")
    if settings.missing_tags == "refuse" and Flag.NO_VIEW in flags:
        raise ImageRejected(Reason.NOT_FRONTAL, "nothing says which view this is (missing_tags)")
    return flags


def screen_pixels(display: Gray8) -> None:
    """Refuse an image that shows nothing.

    Args:
        display: uint8 [H,W], 0..255.

    Raises:
        ImageRejected: constant or nearly so (blank).
    """
    cumulated = np.cumsum(cv2.calcHist([display], [0], None, [256], [0, 256]))
    low, high = np.searchsorted(cumulated, np.array([0.005, 0.995]) * display.size)
    if high - low < BLANK_BELOW_LEVELS:
        raise ImageRejected(Reason.BLANK, f"nothing to see: 99 % of the pixels lie within {high - low} grey levels")


def check_image_size(rows: int, columns: int, settings: Settings) -> None:
    """Refuse an image beyond the limits of the settings, before anything is allocated for it."""
    size = f"{rows} rows x {columns} columns"
    if rows * columns > settings.max_stored_px:
        raise ImageRejected(Reason.TOO_LARGE, f"{size}; the limit is {settings.max_stored_px} pixels (max_stored_px)")
    if min(rows, columns) < settings.min_stored_px:
        raise ImageRejected(Reason.TOO_SMALL, f"{size}; sides under {settings.min_stored_px} pixels are thumbnails")


def assemble_radiograph(header: Header, display: Gray8, flags: tuple[Flag, ...], stored_sha256: str) -> Radiograph:
    """Put a radiograph together from what is seen of it, uint8 [H,W], 0..255: what scores and checks go by.

    Raises:
        ImageRejected: there is nothing to see on it (blank).
    """
    screen_pixels(display)
    return Radiograph(
        header=header,
        display=display,
        rows=header.rows,
        columns=header.columns,
        flags=tuple(dict.fromkeys(flags)),
        stored_sha256=stored_sha256,
        display_sha256=hashlib.sha256(str(display.shape).encode() + display.tobytes()).hexdigest(),
    )


def _refuse_other_modality(header: Header, facts: ScreenFacts, settings: Settings) -> None:
    modality = header.modality.upper()
    if (modality or header.sop_class_uid not in _RADIOGRAPHY_CLASSES) and modality not in settings.accepted_modalities:
        accepted = ", ".join(settings.accepted_modalities)
        raise ImageRejected(
            Reason.NOT_RADIOGRAPH, f"modality is {modality or 'not given'}; {accepted} are scored (accept_modality)"
        )
    image_type = {value.upper() for value in facts.image_type}
    if "LOCALIZER" in image_type:
        raise ImageRejected(Reason.NOT_RADIOGRAPH, "image type says LOCALIZER")
    if image_type & _SCREENSHOTS or facts.conversion.upper() in _PAPERS:
        raise ImageRejected(Reason.NOT_RADIOGRAPH, "a picture of a screen or a paper, not of a patient")


def _screen_body_part(header: Header, facts: ScreenFacts, settings: Settings) -> tuple[Flag, ...]:
    """Take the first that speaks: Body Part Examined, Anatomic Region Sequence, the descriptions.

    The tag must name a chest, whatever else it says. Of the descriptions, one that names several parts, or
    none that is known here, decides nothing.
    """
    further = settings.further_body_parts
    for stated in (header.body_part, " ".join(facts.region_meanings)):
        if " ".join(words(stated)) not in _UNTOLD:
            if name_body_part(stated, further) in (Named.WANTED, Named.BOTH):
                return ()
            raise ImageRejected(
                Reason.NOT_CHEST, f"body part is {stated.strip()[:40]}; CHEST is scored (accept_body_part adds others)"
            )
    for description in (*facts.descriptions, header.study_description):
        named = name_body_part(description, further)
        if named is Named.WANTED:
            return ()
        if named is Named.OTHER:
            raise ImageRejected(
                Reason.NOT_CHEST, "no body part is given, and a description names another than the chest"
            )
    return missing_tags((Flag.NO_BODY_PART,), settings)


def _screen_burned_in(facts: ScreenFacts, settings: Settings) -> tuple[Flag, ...]:
    """Flag pixels that may show a name, or refuse them where nothing may: whatever is said but NO is no NO."""
    if facts.burned_in.strip().upper() in _NOT_BURNED_IN:
        return ()
    if settings.deidentify:
        raise ImageRejected(
            Reason.BURNED_IN_ANNOTATION, "the pixels show who the patient is, which de-identifying does not remove"
        )
    return (Flag.BURNED_IN_ANNOTATION,)


def _screen_view(header: Header, facts: ScreenFacts, settings: Settings) -> tuple[Flag, ...]:
    """Take the first that speaks: View Position, View Code Sequence, Patient Orientation, the descriptions."""
    named, source = _name_view(header, facts)
    if named is Named.WANTED:
        return ()
    if named is Named.NOTHING:
        return missing_tags((Flag.NO_VIEW,), settings)
    if settings.accept_view == "any":
        return (Flag.OTHER_VIEW,)
    raise ImageRejected(Reason.NOT_FRONTAL, f"view is {source[:40]}; PA and AP are scored (accept_view)")


def _name_view(header: Header, facts: ScreenFacts) -> tuple[Named, str]:
    """Return what the view is, WANTED being frontal, and what says so."""
    candidates = [
        (name_view(header.view), header.view),
        *_coded_views(facts),
        (_ORIENTED.get(facts.orientation[0][:1].upper() if facts.orientation else "", Named.NOTHING), _BY_ORIENTATION),
        *((named, _BY_DESCRIPTION) for text in facts.descriptions if (named := name_view(text)) is not Named.BOTH),
    ]
    return next((found for found in candidates if found[0] is not Named.NOTHING), (Named.NOTHING, ""))


def _coded_views(facts: ScreenFacts) -> Iterator[tuple[Named, str]]:
    for code, meaning in zip(facts.view_codes, facts.view_meanings, strict=True):
        yield name_view_code(code), meaning or f"code {code}"
        yield name_view(meaning), meaning


def _is_lossy(transfer_syntax: str, stated: str) -> bool:
    if stated == "01" or transfer_syntax in _LOSSY_SYNTAXES:
        return True
    return transfer_syntax in _MAYBE_LOSSY_SYNTAXES and stated != "00"
