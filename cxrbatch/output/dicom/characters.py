"""Which character set the objects of a study are written in (PS3.3 C.12.1.1.2)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

from pydicom.charset import convert_encodings, decode_bytes, encode_string, python_encoding
from pydicom.dataset import Dataset

from cxrbatch.output.dicom.codes import clipped, code_of_finding
from cxrbatch.output.report.findings import label_name
from cxrbatch.pages import wording
from cxrbatch.records import SourceFacts, StudyResult

_UTF8 = "ISO_IR 192"
_LO = 64
# Each part of a name is written by itself (PS3.5 6.1.2.5.3).
_NAME_PARTS = re.compile("[=^]")


def character_set_of(made: Dataset, result: StudyResult) -> tuple[str, ...]:
    """Return the terms of the character set that an object is written in; none for plain ASCII of no declared set.

    The source's stays where nothing but its own texts needs one, and comes back from it as it went in. All objects of a
    result are in the same one, whichever of its texts they hold: a name that is written in two ways looks like two
    names to whoever compares bytes.
    """
    header = result.header
    source, texts = header.source or SourceFacts(), [*_texts(made), *_texts_of(result)]
    declared, foreign = tuple(source.character_set), {text for text in texts if not text.isascii()}
    is_known = _is_known(declared)
    if not foreign:
        return declared if is_known else ()
    from_source = {header.patient_name, source.referring_physician, header.patient_id, header.patient_id_issuer}
    from_source |= {header.study_description, source.study_id, header.accession_number, *source.removed_by}
    from_source |= {meaning for _, _, meaning in source.removed_by_codes}
    parts = {part for text in foreign for part in _NAME_PARTS.split(text)}
    if is_known and foreign <= from_source and all(_survives(text, declared) for text in foreign | parts):
        return declared
    return (_UTF8,)


def _texts_of(result: StudyResult) -> Iterator[str]:
    """Yield what a structured report says in words of engine and labels, which may be of any language."""
    engine = result.engine
    yield clipped(engine.name, _LO)
    yield wording.plain(engine.notice, longest=600)
    for label in engine.labels:
        yield label_name(label)
        yield code_of_finding(label.name).meaning


def _texts(made: Dataset) -> Iterator[str]:
    for element in made:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in {"PN", "LO", "SH", "ST", "LT", "UC", "UT"}:
            yield from element.value if element.VM > 1 else [str(element.value)]


def _is_known(terms: tuple[str, ...]) -> bool:
    """Tell whether these terms name a character set, of one term or with code extensions; of none there is no name."""
    if not terms or any(term not in python_encoding for term in terms):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return bool(convert_encodings(list(terms)))
        except (UserWarning, LookupError):  # terms that exclude each other
            return False


def _survives(text: str, terms: tuple[str, ...]) -> bool:
    """Tell whether a text is the same after it was written in a character set and read again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote names
        encodings = convert_encodings(list(terms))
        return decode_bytes(encode_string(text, encodings), encodings, set()) == text
