"""What a file says of itself, and the radiograph that is decoded of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cxrbatch.errors import Flag, Reason

Gray8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One regular file that the walk met.

    `path` is relative to the input folder, `/`-separated, as `os.fsdecode` gives it (it may hold
    surrogates for bytes that are not UTF-8).
    """

    path: str
    size_bytes: int
    mtime_ns: int


# Beyond this, up or down, a time is folded; in nanoseconds since 1970, the years 2116 and 1823.
_PLAIN_NS = 2**62


def storable_ns(mtime_ns: int) -> int:
    """Return a file's modification time as a whole number that ledger, JSON and arrays of 64 bits can hold.

    A file system may say any year at all. What lies far off is folded into the ends of the range: it stays older or
    newer than every other time, and two different times hardly ever become one. -1 is kept free: it means "not known".
    """
    if mtime_ns >= _PLAIN_NS:
        return _PLAIN_NS + mtime_ns % _PLAIN_NS
    if mtime_ns < -_PLAIN_NS:
        return -2 * _PLAIN_NS + mtime_ns % _PLAIN_NS
    return -2 if mtime_ns == -1 else mtime_ns


# What file systems and protocols count time in: seconds (SFTP, ext3), milliseconds, microseconds, 100 ns (SMB).
_UNITS_NS = (10**9, 10**6, 10**3, 100)


def is_same_time(one_ns: int, other_ns: int) -> bool:
    """Tell whether two machines speak of the same time of a file, of which one may know only its beginning.

    A share cuts off what its protocol cannot say: what is ...7.123456789 s on the server's disk is ...7 over SFTP.
    """
    if one_ns == other_ns:
        return True
    return any(one_ns // unit == other_ns // unit and 0 in {one_ns % unit, other_ns % unit} for unit in _UNITS_NS)


@dataclass(frozen=True, slots=True)
class PatientIdentity:
    """Who a header says the patient is, in a form that can be compared (`patient`); empty where it does not say.

    `name` are family, given, middle name, prefix, suffix, and given and middle name together, or one text that is
    not taken apart; `spellings` are the ways in which such a text can spell it. Of a de-identified header each text
    is a keyed hash.
    """

    patient_id: str = ""
    issuer: str = ""
    universal_issuer: str = ""
    name: tuple[str, ...] = ()
    spellings: tuple[str, ...] = ()
    birth_date: str = ""
    sex: str = ""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What DICOM objects that join the study of an image copy of it beyond `Header`; empty where it does not say.

    `character_set` are the terms of Specific Character Set; `orientation` is Patient Orientation; `timezone` is
    Timezone Offset From UTC, such as +0900, which dates and times of the study are told in. `identity_removed`: by
    Patient Identity Removed; `removed_by` is De-identification Method, and `removed_by_codes` its codes, each as value,
    designator of the scheme and meaning.
    """

    character_set: tuple[str, ...] = ()
    study_time: str = ""
    study_id: str = ""
    referring_physician: str = ""
    orientation: tuple[str, ...] = ()
    laterality: str = ""
    timezone: str = ""
    identity_removed: bool = False
    removed_by: tuple[str, ...] = ()
    removed_by_codes: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Header:
    """Identity and facts of one image, as text; empty where the file does not say.

    `identity` is there where the header was de-identified, and only hashes of who the patient is are left.
    `is_name_certain`: the name was read in the character set that it was written in, as far as can be told.
    `patient_orientation`: which side of the patient rows and columns run to, with a backslash between (PS3.3
    C.7.6.1.1.1).
    `scanner`: manufacturer, model and station of what took the image, as far as the file says; empty in headers that
    earlier versions read.
    `source` is there for DICOM images that are accepted; results of earlier versions lack it.
    """

    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    sop_class_uid: str = ""
    patient_id: str = ""
    patient_id_issuer: str = ""
    patient_id_universal_issuer: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    patient_age: str = ""
    accession_number: str = ""
    study_date: str = ""
    study_description: str = ""
    modality: str = ""
    body_part: str = ""
    view: str = ""
    rows: int = 0
    columns: int = 0
    photometric: str = ""
    transfer_syntax: str = ""
    identity: PatientIdentity | None = None
    is_name_certain: bool = True
    patient_orientation: str = ""
    scanner: str = ""
    source: SourceFacts | None = None

    def deidentified(self) -> Header:
        """Return the same header without who the patient is, when and where the study was made, and free text."""
        return replace(
            self,
            patient_id="",
            patient_id_issuer="",
            patient_id_universal_issuer="",
            patient_name="",
            patient_birth_date="",
            patient_sex="",
            patient_age="",
            accession_number="",
            study_date="",
            study_description="",
            is_name_certain=True,
            scanner="",
            source=None,
        )


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one file gets no score."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """What the header alone tells: which study the file belongs to, and whether it is refused already.

    `study_key` is empty for a file that belongs to no study (it is no image).
    """

    file: ImageFile
    study_key: str
    header: Header
    flags: tuple[Flag, ...] = ()
    rejection: Rejection | None = None


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One decoded radiograph, ready to look at.

    `display` is uint8 [H,W], 0..255, air black and bone white, its long side at most the display limit. What an engine
    sees and the pixel check judges is made of `source`, the same at a size of its own, whatever is displayed; None:
    that is the display image itself.
    `rows` and `columns` are those of the stored pixels, before any reduction.
    `stored_sha256` identifies the stored pixel values, `display_sha256` what an engine may see of them.
    `coloured_share` is how much of it, 0..1, was in colour before it was made grey.
    """

    header: Header
    display: Gray8
    rows: int
    columns: int
    flags: tuple[Flag, ...]
    stored_sha256: str
    display_sha256: str
    coloured_share: float = 0.0
    source: Gray8 | None = None

    @property
    def judged(self) -> Gray8:
        """What scores and checks go by, uint8 [H,W], like `display`."""
        return self.display if self.source is None else self.source

    def shown_as(self, display: Gray8) -> Radiograph:
        """Return the radiograph with another display image; scores and checks go by what it was before."""
        return self if display is self.display else replace(self, display=display, source=self.judged)
