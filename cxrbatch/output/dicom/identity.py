"""What every object has in common: its study and patient as the source says, its UIDs, its equipment, its characters.

Attributes that the source lacks are empty where they must be there (type 2) and absent where they need not. A value
that does not fit its type, such as an age without a unit, is dropped, for no viewer could read it either.
"""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timedelta, timezone
from io import BytesIO

from pydicom.config import RAISE
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import validate_value

from cxrbatch.output.dicom.characters import character_set_of
from cxrbatch.output.dicom.codes import OWN_SCHEME, OWN_SCHEME_NAME, Code, clipped, dcm
from cxrbatch.output.dicom.object_files import mark_of
from cxrbatch.records import EngineDescription, Header, ImageResult, SourceFacts, StudyResult

MANUFACTURER = "cxrbatch"
RESEARCH = "AI, research use only"
# Never changes: every UID is made from it.
_NAMESPACE = uuid.UUID("1b0c5f2e-7a64-5d53-9f0e-52c2b1f0a9d7")
_PROCESSING_EQUIPMENT = dcm("109102", "Processing Equipment")
_LO, _SH = 64, 16
# On its pages stands where the radiographs lay, and folders are named after anything.
_NAMES_FILES = {"pdf"}
_LOST = "\N{REPLACEMENT CHARACTER}"
_DIRECTION = re.compile("[AHFPRL]{1,3}")
_OFFSET = re.compile(r"([+-])(\d\d)(\d\d)")


def made_uid(*parts: object) -> str:
    """Return the UID of these parts: the same for the same, of the form that PS3.5 B.2 has for UUIDs."""
    # A label may hold what no UTF-8 does: half of a surrogate pair.
    text = chr(31).join(map(str, parts)).encode("utf-8", "backslashreplace").decode("utf-8")
    return f"2.25.{uuid.uuid5(_NAMESPACE, text).int}"


def object_uid(result: StudyResult, kind: str, number: int = 0, sop_instance_uid: str = "") -> str:
    """Return the UID of an object: of its study, image number and instance, the engine, the revision and its kind."""
    parts = (result.header.study_instance_uid, number, sop_instance_uid, result.engine.sha256, result.revision)
    return made_uid("object", *parts, kind)


def series_uid(result: StudyResult, kind: str) -> str:
    """Return the UID of the series that objects of one kind are in."""
    study = result.header.study_instance_uid
    return made_uid("series", study, result.engine.sha256, result.revision, kind)


def device_uid(engine: EngineDescription) -> str:
    """Return the UID of an engine, as a device that observes."""
    return made_uid("device", engine.sha256)


def tracking_uid(image: ImageResult, engine: EngineDescription, label: str) -> str:
    """Return the UID by which one finding of one image is followed through the revisions of its study."""
    return made_uid("finding", image.header.sop_instance_uid, engine.sha256, label)


def version_of(engine: EngineDescription) -> str:
    """Return which version of its algorithm an engine is: the SHA-256 of its file."""
    return engine.sha256


def coded(code: Code) -> Dataset:
    """Return a code as a sequence item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def instance_reference(header: Header) -> Dataset:
    """Return an image as a sequence item that refers to it."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.sop_class_uid, header.sop_instance_uid
    return item


def begin_object(result: StudyResult, sop_class_uid: str, kind: str, sop_instance_uid: str) -> Dataset:
    """Return an object with everything that all kinds share: patient, study, series, equipment, times, references.

    Args:
        result: of which the object is made; its header is that of its first scored image.
        sop_class_uid: of the object.
        kind: tells its series from those of other kinds.
        sop_instance_uid: of the object.
    """
    made = Dataset()
    made.file_meta = _file_meta(result, sop_class_uid, sop_instance_uid)
    made.SOPClassUID, made.SOPInstanceUID = sop_class_uid, sop_instance_uid
    made.SeriesInstanceUID = series_uid(result, kind)
    _add_patient_and_study(made, result.header)
    if kind not in _NAMES_FILES:
        _add_how_identity_was_removed(made, result)
    _add_equipment(made, result)
    _add_times(made, result)
    return made


def finished_bytes(made: Dataset, result: StudyResult) -> bytes:
    """Return an object as a file, in the character set of its study's objects."""
    terms = character_set_of(made, result)
    if terms:
        made.SpecificCharacterSet = list(terms) if len(terms) > 1 else terms[0]
    stream = BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _file_meta(result: StudyResult, sop_class_uid: str, sop_instance_uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class_uid), UID(sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(made_uid("implementation"))
    meta.ImplementationVersionName = clipped(f"CXRBATCH_{result.cxrbatch_version}", _SH)
    meta.PrivateInformationCreatorUID = UID(made_uid("result mark"))
    mark = mark_of(result)
    meta.PrivateInformation = mark + b"\0" * (len(mark) % 2)
    return meta


# --------------------------------------------------------------------------- patient and study


def _add_patient_and_study(made: Dataset, header: Header) -> None:
    source = header.source or SourceFacts()
    made.StudyInstanceUID = header.study_instance_uid
    always = {
        "PatientName": header.patient_name,
        "PatientID": header.patient_id,
        "PatientBirthDate": header.patient_birth_date,
        "PatientSex": header.patient_sex if header.patient_sex in {"M", "F", "O"} else "",
        "StudyDate": header.study_date,
        "StudyTime": source.study_time,
        "StudyID": source.study_id,
        "AccessionNumber": header.accession_number,
        "ReferringPhysicianName": source.referring_physician,
    }
    where_known = {
        "IssuerOfPatientID": header.patient_id_issuer,
        "PatientAge": header.patient_age,
        "StudyDescription": header.study_description,
    }
    for keyword, text in always.items():
        setattr(made, keyword, _fitting(keyword, text))
    for keyword, text in where_known.items():
        if value := _fitting(keyword, text):
            setattr(made, keyword, value)


def _add_how_identity_was_removed(made: Dataset, result: StudyResult) -> None:
    """Say that the source is of nobody, and what made it so, where each image does (PS3.3 C.7.1.1).

    Where the source does not say what did it, in words or codes that fit, nothing is said: the standard asks for it.
    """
    sources = [image.header.source or SourceFacts() for image in result.images]
    methods = [_fitting("DeidentificationMethod", text) for text in sources[0].removed_by]
    codes = [Code(*parts) for parts in sources[0].removed_by_codes if _is_code(*parts)]
    if not all(source.identity_removed for source in sources) or not (any(methods) or codes):
        return
    made.PatientIdentityRemoved = "YES"
    if any(methods):
        made.DeidentificationMethod = [method for method in methods if method]
    if codes:
        made.DeidentificationMethodCodeSequence = [coded(code) for code in codes]


def _is_code(value: str, scheme: str, meaning: str) -> bool:
    return all(
        _fitting(f"Code {part}", text) for part, text in zip(Code._fields, (value, scheme, meaning), strict=True)
    )


_REPRESENTATIONS = {
    "PatientName": "PN",
    "ReferringPhysicianName": "PN",
    "PatientID": "LO",
    "IssuerOfPatientID": "LO",
    "StudyDescription": "LO",
    "StudyID": "SH",
    "AccessionNumber": "SH",
    "PatientBirthDate": "DA",
    "StudyDate": "DA",
    "StudyTime": "TM",
    "PatientSex": "CS",
    "PatientAge": "AS",
    "DeidentificationMethod": "LO",
    "Code value": "SH",
    "Code scheme": "SH",
    "Code meaning": "LO",
}


def _fitting(keyword: str, text: str) -> str:
    """Return a value that fits its value representation (PS3.5 6.2); empty where it does not, or was not legible."""
    # Half of a surrogate pair is not printable either.
    if _LOST in text or "\\" in text or not text.isprintable():
        return ""
    representation = _REPRESENTATIONS[keyword]
    try:
        validate_value(representation, text, RAISE)
        if representation == "DA":
            datetime.strptime(text, "%Y%m%d")  # noqa: DTZ007  # a day, not a moment
    except ValueError:
        return ""
    return text


def orientation_of(header: Header) -> list[str]:
    """Return Patient Orientation, two directions; empty where the source does not say."""
    stated = [part.upper() for part in header.source.orientation] if header.source else []
    return stated if len(stated) == 2 and all(map(_DIRECTION.fullmatch, stated)) else []


# --------------------------------------------------------------------------- equipment and times


def _add_equipment(made: Dataset, result: StudyResult) -> None:
    engine = result.engine
    made.Manufacturer = MANUFACTURER
    made.ManufacturerModelName = clipped(engine.name, _LO) or "engine"
    made.DeviceSerialNumber = engine.sha256
    made.SoftwareVersions = clipped(result.cxrbatch_version, _LO)
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [coded(_PROCESSING_EQUIPMENT)]
    item.Manufacturer, item.ManufacturerModelName = MANUFACTURER, made.ManufacturerModelName
    item.DeviceSerialNumber, item.DeviceUID = engine.sha256, device_uid(engine)
    item.SoftwareVersions = [made.SoftwareVersions, version_of(engine)]
    item.ContributionDateTime = _moment(result).strftime("%Y%m%d%H%M%S+0000")
    item.ContributionDescription = RESEARCH
    made.ContributingEquipmentSequence = [item]
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = OWN_SCHEME, OWN_SCHEME_NAME
    scheme.CodingSchemeUID, scheme.CodingSchemeResponsibleOrganization = made_uid("coding scheme"), MANUFACTURER
    made.CodingSchemeIdentificationSequence = [scheme]


def _add_times(made: Dataset, result: StudyResult) -> None:
    """Say when the study was scored: in the study's own timezone where the source names that, else in UTC.

    Without a name no offset is written either: it would count for the study's date and time, too.
    """
    offset = result.header.source.timezone if result.header.source else ""
    moment = _moment(result)
    if stated := _OFFSET.fullmatch(offset):
        minutes = (int(stated[2]) * 60 + int(stated[3])) * (-1 if stated[1] == "-" else 1)
        if abs(minutes) <= 14 * 60:
            made.TimezoneOffsetFromUTC = offset
            moment += timedelta(minutes=minutes)
    day, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    made.InstanceCreationDate, made.InstanceCreationTime = day, time
    made.SeriesDate, made.SeriesTime = day, time
    made.ContentDate, made.ContentTime = day, time


def _moment(result: StudyResult) -> datetime:
    return datetime.fromisoformat(result.scored_at).astimezone(timezone.utc)
