"""The words that a reader of a report sees for codes and figures, in the language that is spoken (`language`).

Tables of sentences are in English; the functions beside them look them up.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime

from cxrbatch.errors import Flag, Reason
from cxrbatch.pages.language import gettext as _, localised, minute, msgid, ngettext
from cxrbatch.records import RefusedImage

LONGEST_TEXT = 160
"""Characters of one header value that a report shows; result.json keeps all of them."""


NO_VALUE = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
RANGE = "\N{EN DASH}"
# Between a number and its unit, which no line is to part.
FIXED_SPACE = "\N{NO-BREAK SPACE}"

UNSEEN = (
    "\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
"""For the inside of [...] in a regular expression: controls, line separators, and all that formats without being seen,
but for the joiners that shape Persian and Indic names."""

NOT_FOR_DIAGNOSIS = msgid(
    "Research software. Not for diagnostic use: a qualified person reads the radiograph itself before anything is "
    "decided about a patient."
)

EVIDENCE = msgid(
    "A heatmap shows where a score came from: colour is the share of that map's own peak, the line encloses what "
    "reaches half of it, the ring marks the peak. It is not a segmentation, its edges are as coarse as the network's "
    "last layer, and colours of two maps cannot be compared."
)

PLACES: dict[str, str] = {
    "right_upper": "right upper zone",
    "right_mid": "right mid zone",
    "right_lower": "right lower zone",
    "left_upper": "left upper zone",
    "left_mid": "left mid zone",
    "left_lower": "left lower zone",
    "between_lungs": "between the lungs",
    "outside_lungs": "outside of the lungs",
}
"""Where a heatmap can have its peak; sides are the patient's."""

FLAG_SENTENCES: dict[Flag, str] = {
    Flag.NO_VIEW: "The file does not say from which side the image was taken; it was taken for frontal.",
    Flag.NO_BODY_PART: "The file does not name the body part; it was taken for a chest.",
    Flag.OTHER_VIEW: "The image is no frontal view; it was scored because the settings accept other views.",
    Flag.ANATOMY_SUSPECT: "The image does not look much like a chest, or shows it askew or in part.",
    Flag.NO_TRANSFER_SYNTAX: "The file does not say how its pixels are encoded; Implicit VR Little Endian fits.",
    Flag.POLARITY_FROM_LUT: "Black and white follow the file's Presentation LUT Shape, not its photometric name.",
    Flag.POLARITY_SUSPECT: "The image may be inverted: its background is brighter than its bones.",
    Flag.WINDOW_IGNORED: "The file's display window is unusable; the window was taken from the pixel values.",
    Flag.LOSSY: "The image was compressed with loss before it came here.",
    Flag.EXECUTABLE_PREAMBLE: "The file begins like a program; only its image was read.",
    Flag.PAEDIATRIC: "The patient is a child; the engine may have learned from adults.",
    Flag.BURNED_IN_ANNOTATION: "The file says that text is part of the picture; it may name the patient.",
    Flag.VETERINARY: "The header says that the patient is an animal; the engine learned from people.",
    Flag.DAMAGE_SUSPECT: "A strip of one grey value crosses the image: a part of its pixels may have been lost.",
    Flag.CHARSET_REPLACED: "Some characters of the header could not be read and were replaced.",
    Flag.MISSING_GLYPHS: (
        "Some characters of the header or the path are in no font of the machine that printed report.pdf; there they "
        "stand as codes such as \\u6f22."
    ),
    Flag.RESCORED_FP32: "The engine gave no number for this image; its FP32 file scored it on the CPU instead.",
    Flag.OUT_OF_DISTRIBUTION: "The image is unlike those that the engine learned from: its scores may mean little.",
    Flag.DUPLICATE_UID: "Another file carries the same identifier with the same pixels.",
}

REASON_SENTENCES: dict[Reason, str] = {
    Reason.NOT_AN_IMAGE: "The file is neither DICOM nor PNG nor JPEG.",
    Reason.UNREADABLE_HEADER: "The file's header is damaged.",
    Reason.NO_PIXEL_DATA: "The file holds no image.",
    Reason.UNREADABLE_PIXELS: "The image data are damaged and cannot be decoded.",
    Reason.TRUNCATED_PIXELS: "The image data end too early; the file is incomplete.",
    Reason.UNSUPPORTED_TRANSFER_SYNTAX: "The image is compressed in a way that cannot be read here.",
    Reason.UNSUPPORTED_PHOTOMETRIC: "The colours of the image are encoded in a way that is not supported.",
    Reason.TOO_LARGE: "The image is larger than the limit that is set.",
    Reason.TOO_SMALL: "The image is too small to be a radiograph.",
    Reason.DECODE_TIMEOUT: "Decoding took longer than the limit that is set.",
    Reason.DECODER_CRASHED: "The decoder crashed on this file.",
    Reason.INCONSISTENT_HEADER: "What the header says about the image does not fit the image data.",
    Reason.NOT_RADIOGRAPH: "The modality is not a projection radiograph.",
    Reason.NOT_CHEST: "The image shows another part of the body than the chest.",
    Reason.NOT_FRONTAL: "The image is not a frontal view; only frontal views are scored.",
    Reason.NOT_FOR_PRESENTATION: "These are raw detector data (FOR PROCESSING), not an image for viewing.",
    Reason.MULTI_FRAME: "The file holds several frames; only single images are scored.",
    Reason.OWN_OUTPUT: "cxrbatch made this file itself.",
    Reason.BLANK: "The image is blank.",
    Reason.CONFLICTING_DUPLICATE: "Another file carries the same identifier with other pixels.",
    Reason.PATIENT_CONFLICT: "Files of this study name different patients.",
    Reason.BURNED_IN_ANNOTATION: "Text is part of the picture and may name the patient; nothing here may.",
    Reason.UNSAFE_PATH: "The path leads out of the input folder.",
    Reason.TOO_MANY_IMAGES: "The study holds more images than the limit that is set.",
    Reason.UNEXPECTED_ERROR: "Reading the file failed in several runs in a row, in a way that is not known.",
    Reason.VANISHED: "The file was gone from the input before it could be scored.",
}

PRIORITY_NAMES: dict[str, str] = {
    "urgent": "Urgent",
    "abnormal": "Abnormal",
    "incomplete": "Incomplete",
    "unscored": "Not scored",
    "normal": "Normal",
}

STATUS_NAMES: dict[str, str] = {
    "reported": "Reported",
    "failed": "Failed",
    "unscored": "No image to score",
    "pending": "Waiting",
}

TABLES = (PLACES, FLAG_SENTENCES, REASON_SENTENCES, PRIORITY_NAMES, STATUS_NAMES)
"""What of this is in the catalogues as it stands: `make catalogues` goes through them."""

_REFUSED_SENTENCES = {
    "rejected": msgid("The image was refused."),
    "duplicate": msgid("The same image is already in this study; it was scored once."),
    "failed": msgid("The image could not be processed; the next run tries it again."),
}
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSEEN = re.compile(f"[{UNSEEN}]")
# Zero-width (non-)joiners shape Persian and Indic names; every other format character only hides or reorders text.
_KEPT_FORMAT_CHARACTERS = "\u200c\u200d"


def plain(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return text that is safe to show: one line, no control, bidi or undecodable characters, not endless."""
    shown = text[: 4 * longest]
    if not (shown.isascii() and shown.isprintable()):
        shown = "".join(map(_plain_character, printable_path(shown)))
    shown = " ".join(shown.split())
    return shown if len(shown) <= longest else f"{shown[: longest - 1].rstrip()}…"


def printable_path(path: str) -> str:
    r"""Return the path with its undecodable bytes written as \xNN (`os.fsdecode` keeps them as lone surrogates)."""
    return _LONE_SURROGATE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", path)


def input_path(path: str, longest: int = LONGEST_TEXT) -> str:
    """Return an input-relative path that is safe to show; of a long one the end, which names the file."""
    shown = plain(path, longest=len(path) + 4 * longest)
    return shown if len(shown) <= longest else f"…{shown[1 - longest :].lstrip()}"


def visible(text: str) -> str:
    r"""Return text with control, bidi and undecodable characters written as \xNN or \uNNNN: one line, for a terminal.

    A file name may hold the sequences that move a terminal's cursor or change its title.
    """
    return text if text.isascii() and text.isprintable() else _UNSEEN.sub(_escaped, printable_path(text))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def moment(value: str) -> str:
    """Return an ISO 8601 time to the minute, e.g. 2024-02-01 03:04 UTC; whatever is no time as it is."""
    try:
        # Python 3.10 does not read the Z.
        when = datetime.fromisoformat(value.removesuffix("Z") + ("+00:00" if value.endswith("Z") else ""))
    except ValueError:
        return plain(value)
    return minute(when)


def duration(seconds: float) -> str:
    """Return a time as people say it: 41 s, 5 min 32 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def counts(numbers: Mapping[str, int]) -> str:
    """Return counts as a list in English, the greatest first: 12 scored, 3 rejected."""
    falling = sorted(numbers.items(), key=lambda item: -item[1])
    return ", ".join(f"{number} {what}" for what, number in falling) or "none"


def counted(count: int, what: str) -> str:
    """Return a number of things in English, for terminals and logs: 1 image, 2 images."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def probability(value: float, operating_point: float | None = None) -> str:
    """Return a probability with the decimal sign of the language; of its decimals `plain_probability` says more."""
    return localised(plain_probability(value, operating_point))


def plain_probability(value: float, operating_point: float | None = None) -> str:
    """Return a probability with two decimals, or as many as it takes to stand on its side of the operating point.

    Without that, 0.498 below an operating point of 0.50 would read "0.50, negative".
    """
    point = None if operating_point is None else round(operating_point, 3)
    for decimals in (2, 3, 4):
        shown = round(value, decimals)
        if point is None or (shown >= point) == (value >= point):
            break
    if shown in {0.0, 1.0}:
        return "<0.01" if shown == 0.0 else ">0.99"
    return f"{value:.{decimals}f}"


def operating_point(value: float | None) -> str:
    """Return an operating point with two decimals, three where it has them; a dash for none."""
    if value is None:
        return NO_VALUE
    return localised(f"{value:.2f}" if round(value, 2) == round(value, 3) else f"{value:.3f}")


def _plain_character(character: str) -> str:
    category = unicodedata.category(character)
    if category in {"Zs", "Zl", "Zp", "Cc"}:
        return " "
    return "" if category in {"Cf", "Cs"} and character not in _KEPT_FORMAT_CHARACTERS else character


def listed(names: Sequence[str]) -> str:
    """Return names as a list in words: A, B and C."""
    if len(names) == 1:
        return names[0]
    return _("{names} and {last}").format(names=", ".join(names[:-1]), last=names[-1])


def outside_sentence(names: Sequence[str]) -> str:
    """Return the caution that the heatmaps of these findings peak outside of the lungs."""
    said = ngettext(
        "The heatmap of {names} has its peak outside of the lungs: this score may come from something else.",
        "The heatmaps of {names} have their peak outside of the lungs: these scores may come from something else.",
        len(names),
    )
    return said.format(names=listed(names))


def refused_sentence(refused: RefusedImage) -> str:
    """Return why this image got no score, in one sentence."""
    return reason_sentence(refused.reason) or _(_REFUSED_SENTENCES[refused.status])


def reason_sentence(reason: str) -> str:
    """Return the sentence of a reason code; empty for a code that is not known."""
    return _(REASON_SENTENCES[Reason(reason)]) if reason in Reason._value2member_map_ else ""


def flag_sentence(flag: Flag) -> str:
    """Return the sentence of a flag."""
    return _(FLAG_SENTENCES[flag])


def place_name(place: str) -> str:
    """Return a place where a heatmap can have its peak, in words; empty where that is not known."""
    return _(PLACES[place]) if place in PLACES else ""


def names_of(table: Mapping[str, str]) -> dict[str, str]:
    """Return what the names of a table are in the language spoken, by the same keys."""
    return {key: _(name) for key, name in table.items()}
