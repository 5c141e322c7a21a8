"""Whether headers of one study can be of one patient: each as a `PatientIdentity`, normalised or sealed with a key.

What an element leaves empty, or fills with a word for "unknown", contradicts nothing. Only what people and machines
write in more than one way is made equal: case, spacing, punctuation and accents of names, Muller and Mueller for
Müller, a comma for the caret, the forms of a date. Everything else that differs is another patient. And how old a
patient was: `age_years`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date
from itertools import combinations

from cxrbatch.records import Header, PatientIdentity

# A name of nothing but these words, or an ID, is none.
_UNKNOWN_WORDS = {
    *("unknown", "unbekannt", "inconnu", "desconocido", "sconosciuto", "noname", "none", "null", "deidentified"),
    *("anonymous", "anonymized", "anonymised", "anonym", "anonyme", "anon"),
}
_ZEROS_OF_NO_ID = re.compile("0{3,}")
_EARLIEST_BIRTH = "18500101"
_DAYS = {"D": 1.0, "W": 7.0, "M": 30.4, "Y": 365.25}
_DATE = re.compile(r"(\d{4})([-./]?)(\d\d)\2(\d\d)", re.ASCII)
# Letters that no accent is taken off of, and the two letters that stand for one where there is no other way.
_PLAIN_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "a", "œ": "o", "\u0131": "i"})
_TWO_FOR_ONE = re.compile("(?:([ao])e|(u)e|(a)a)")
_ACCENTS = re.compile("[\u0300-\u036f]")
# Signs that stand where a character could not be read.
_LOST = ("\ufffd", "?")


def identify(header: Header) -> PatientIdentity:
    """Return who a header names: sealed where it was de-identified, else normalised."""
    if header.identity is not None:
        return header.identity
    name, spellings = _read_name(header.patient_name, is_certain=header.is_name_certain)
    patient_id = _known(header.patient_id)
    return PatientIdentity(
        patient_id=patient_id,
        issuer=_joined(header.patient_id_issuer) if patient_id else "",
        universal_issuer=_joined(header.patient_id_universal_issuer) if patient_id else "",
        name=name,
        spellings=spellings,
        birth_date=_read_birth_date(header.patient_birth_date),
        sex=_read_sex(header.patient_sex),
    )


def seal(identity: PatientIdentity, hashed: Callable[[str, str], str]) -> PatientIdentity:
    """Return the identity with each of its texts replaced by `hashed(field, text)`; what is empty stays empty.

    Parts of a name share a field, since one may stand where another stands elsewhere.
    """

    def sealed(field: str, text: str) -> str:
        return hashed(field, text) if text else ""

    return PatientIdentity(
        patient_id=sealed("patient id", identity.patient_id),
        issuer=sealed("issuer", identity.issuer),
        universal_issuer=sealed("universal issuer", identity.universal_issuer),
        name=tuple(sealed("name", part) for part in identity.name),
        spellings=tuple(sealed("name", spelling) for spelling in identity.spellings),
        birth_date=sealed("birth date", identity.birth_date),
        sex=sealed("sex", identity.sex),
    )


def are_different_patients(identities: Iterable[PatientIdentity]) -> bool:
    """Tell whether any two of them cannot be one patient, also where a third that says less lies between."""
    return any(not _agree(one, other) for one, other in combinations(dict.fromkeys(identities), 2))


def are_same_patient(one: PatientIdentity, other: PatientIdentity) -> bool:
    """Tell whether two identities are known to be one patient, as where one is to stand in the other's report.

    They have the same ID and nothing in which they differ. An ID is unique where it was issued: if only one says
    by whom, names and birth dates have to say the same as well.
    """
    if not one.patient_id or one.patient_id != other.patient_id or not _agree(one, other):
        return False
    if (one.issuer, one.universal_issuer) == (other.issuer, other.universal_issuer):
        return True
    if one.universal_issuer and one.universal_issuer == other.universal_issuer:
        return True
    return bool(one.name and other.name and one.birth_date and one.birth_date == other.birth_date)


def same_identity(one: Header, other: Header) -> bool:
    """Tell whether two headers name the same instance of the same patient, to the letter."""
    return one == other or _named(one) == _named(other)


def age_years(header: Header) -> float | None:
    """Return the patient's age in years, from Patient's Age (AS: 034Y, 006M) or else from the two dates.

    An age without its unit may be years or months and is not used.
    """
    stated = re.fullmatch(r"(\d{1,3})([DWMY])", header.patient_age.upper())
    if stated:
        return int(stated[1]) * _DAYS[stated[2]] / _DAYS["Y"]
    born, made = header.patient_birth_date, header.study_date
    if re.fullmatch(r"\d{8}", born) and re.fullmatch(r"\d{8}", made) and born <= made:
        return (int(made) - int(born)) / 10_000
    return None


def _agree(one: PatientIdentity, other: PatientIdentity) -> bool:
    return (
        _ids_agree(one, other)
        and _names_agree(one, other)
        and _same_or_unsaid(one.birth_date, other.birth_date)
        and _same_or_unsaid(one.sex, other.sex)
    )


def _same_or_unsaid(one: str, other: str) -> bool:
    return not one or not other or one == other


def _named(header: Header) -> Header:
    return replace(
        Header(),
        study_instance_uid=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
        sop_instance_uid=header.sop_instance_uid,
        patient_id=header.patient_id,
        accession_number=header.accession_number,
        study_date=header.study_date,
        identity=identify(header),
    )


def _ids_agree(one: PatientIdentity, other: PatientIdentity) -> bool:
    """Compare ID and issuer: without an ID the issuer says nothing, and a universal one overrules a local name."""
    if not one.patient_id or not other.patient_id:
        return True
    if one.patient_id != other.patient_id:
        return False
    if one.universal_issuer and other.universal_issuer:
        return one.universal_issuer == other.universal_issuer
    return _same_or_unsaid(one.issuer, other.issuer)


def _names_agree(one: PatientIdentity, other: PatientIdentity) -> bool:
    if not one.name or not other.name:
        return True
    if len(one.name) == 1 or len(other.name) == 1:
        return not one.spellings or not other.spellings or bool({*one.spellings} & {*other.spellings})
    family, given, *tail, first_names = one.name
    other_family, other_given, *other_tail, other_first_names = other.name
    if not _same_or_unsaid(family, other_family):
        return False
    if _same_or_unsaid(given, other_given):
        return _tails_agree(tail, other_tail)
    # Anne Marie and Annemarie.
    return first_names == other_first_names and _tails_agree(tail[1:], other_tail[1:])


def _tails_agree(one: list[str], other: list[str]) -> bool:
    """Compare middle name, prefix and suffix, which equipment also fills in another order."""
    ones, others = {*one} - {""}, {*other} - {""}
    return all(map(_same_or_unsaid, one, other)) or ones <= others or others <= ones


def _read_name(text: str, *, is_certain: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Take the alphabetic group of a person's name apart (PS3.5 section 6.2.1).

    Returns:
        Family, given, middle name, prefix, suffix, and given and middle name together; or one text, where several
        words stand there without a caret or a comma. And the ways in which such a text can spell the name. What may
        have been read wrong is left out.
    """
    group = text.split("\\", maxsplit=1)[0].split("=", maxsplit=1)[0]
    if "^" not in group and "," in group:
        group = "^".join(group.split(",", 1))
    texts = group.split("^")[:5]
    lost = [any(sign in part for sign in _LOST) or not (is_certain or part.isascii()) for part in texts]
    parts = [[] if is_lost else _words(part) for part, is_lost in zip(texts, lost, strict=True)]
    everything = [word for part in parts for word in part]
    if all(word in _UNKNOWN_WORDS for word in everything):
        return (), ()
    if "^" not in group and len(everything) > 1:
        spelling = _spelled(everything)
        return (spelling,), (spelling,)
    family, given, middle, prefix, suffix = [*parts, [], [], [], [], []][:5]
    middle = given[1:] + middle
    given = given[:1]
    structured = [family, given, middle, prefix, suffix, given + middle]
    ways = (family + given, family + given + middle, family + given + middle + suffix, everything)
    spellings = () if any(lost) else tuple(dict.fromkeys(map(_spelled, ways)))
    return tuple(map("".join, structured)), spellings


def _spelled(words: Iterable[str]) -> str:
    return "".join(sorted(words))


def _words(text: str) -> list[str]:
    """Split text into words without case, accents and punctuation."""
    folded = unicodedata.normalize("NFKD", text.casefold()).casefold()
    plain = unicodedata.normalize("NFC", _ACCENTS.sub("", folded)).translate(_PLAIN_LETTERS)
    spaced = "".join(" " if unicodedata.category(sign)[0] in "PSZC" else sign for sign in plain)
    return [_TWO_FOR_ONE.sub(lambda two: "".join(filter(None, two.groups())), word) for word in spaced.split()]


def _joined(text: str) -> str:
    return "".join(_words(text))


def _known(patient_id: str) -> str:
    """Return the ID; empty where it only fills the element."""
    stripped = patient_id.strip()
    is_filler = _ZEROS_OF_NO_ID.fullmatch(stripped) or all(word in _UNKNOWN_WORDS for word in _words(stripped))
    return "" if is_filler else stripped


def _read_birth_date(text: str) -> str:
    """Return a date as YYYYMMDD; empty for what is none, or stands for an unknown one."""
    stated = _DATE.fullmatch(text.strip())
    if stated is None:
        return ""
    try:
        born = date(int(stated[1]), int(stated[3]), int(stated[4])).strftime("%Y%m%d")
    except ValueError:
        return ""
    return born if born >= _EARLIEST_BIRTH else ""


def _read_sex(text: str) -> str:
    """Return M or F. O (other) also stands where nobody asked, and contradicts neither."""
    return {"M": "M", "F": "F", "MALE": "M", "FEMALE": "F"}.get(text.strip().upper(), "")
