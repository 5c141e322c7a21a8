"""The DICOM elements that intake asks for, read raw, so that no invalid value can fail."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import nan

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset

MAX_TEXT = 1024
# Of what DICOM counts nothing is more: UL, IS.
_LARGEST_INTEGER = 2**32

# fmt: off
_KEYWORDS = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "AccessionNumber",
    "Modality", "PresentationIntentType", "Manufacturer", "StudyDescription", "AnatomicRegionSequence",
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "BodyPartExamined", "ViewPosition",
    "StudyInstanceUID", "SeriesInstanceUID", "PatientOrientation", "SamplesPerPixel", "PhotometricInterpretation",
    "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "WindowCenter", "WindowWidth", "RescaleIntercept",
    "RescaleSlope", "VOILUTFunction", "LossyImageCompression", "ModalityLUTSequence", "VOILUTSequence",
    "ViewCodeSequence", "PresentationLUTShape", "CodeValue", "CodeMeaning", "LUTDescriptor", "LUTData",
    "ConversionType", "SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription",
    "PerformedProcedureStepDescription", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence",
    "UniversalEntityID", "BurnedInAnnotation",
    "PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientSexNeutered", "PatientBreedDescription",
    "PatientBreedCodeSequence", "ResponsiblePersonRole", "ManufacturerModelName", "StationName",
    "StudyTime", "StudyID", "ReferringPhysicianName", "Laterality", "TimezoneOffsetFromUTC",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence", "CodingSchemeDesignator",
)
# fmt: on
_TAGS: dict[str, int] = {keyword: tag_for_keyword(keyword) or 0 for keyword in _KEYWORDS}
WANTED_TAGS = frozenset(_TAGS.values())
_SEQUENCE_VR = (None, "SQ", "UN")
_BINARY_VR = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "FL": "f4", "FD": "f8", "OW": "u2", "OB": "u1"}


@dataclass(frozen=True)
class Elements:
    """Elements of one data set (or of one sequence item), as the file holds them, read by keyword.

    An element that is absent, empty or makes no sense reads as "", NaN or nothing; it never raises.
    """

    raw: dict[int, RawDataElement | DataElement]
    little_endian: bool = True
    inherited_charset: tuple[str, ...] = ()

    def text(self, keyword: str) -> str:
        """Return the value as printable text without padding, at most `MAX_TEXT` characters."""
        text = self._decoded(keyword)[:MAX_TEXT].strip("\0 ")
        return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text).strip()

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return the values of a multi-valued text."""
        text = self.text(keyword)
        return tuple(part.strip() for part in text.split("\\")) if text else ()

    def number(self, keyword: str) -> float:
        """Return the first number of the value, NaN without one."""
        numbers = self.numbers(keyword)
        return numbers[0] if numbers else nan

    def integer(self, keyword: str, absent: int) -> int:
        """Return the first number as an integer, `absent` without one or where it is larger than any count is."""
        number = self.number(keyword)
        return int(number) if abs(number) < _LARGEST_INTEGER else absent

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Return all numbers of the value, by the VR that the file declares, or else by that of the dictionary."""
        binary = self._binary_type(keyword)
        if binary:
            return tuple(float(number) for number in self._array(keyword, binary))
        return tuple(_parse_number(part) for part in self.texts(keyword))

    def words(self, keyword: str) -> NDArray[np.uint16]:
        """Return the value as unsigned 16-bit words (OW, US), in the machine's byte order."""
        return self._array(keyword, "u2").astype(np.uint16)

    def bytes(self, keyword: str) -> bytes:
        """Return the value as it is in the file."""
        element = self.raw.get(_TAGS[keyword])
        value = element.value if isinstance(element, RawDataElement) else None
        return value if isinstance(value, bytes) else b""

    def items(self, keyword: str) -> tuple[Elements, ...]:
        """Return the items of a sequence; what says that it is something else has none."""
        element = self.raw.get(_TAGS[keyword])
        if isinstance(element, RawDataElement) and element.VR not in _SEQUENCE_VR:
            return ()
        if isinstance(element, RawDataElement):
            element = convert_raw_data_element(element, encoding=list(self._encodings))
        items = element.value if element is not None and element.VR == "SQ" else ()
        return tuple(self._item(item) for item in items)

    @property
    def charset_replaced(self) -> bool:
        """Whether names may read wrong: the character set is unknown, or its bytes are not of that set."""
        texts = [self._decoded(keyword) for keyword in ("PatientName", "PatientID", "StudyDescription")]
        undeclared = not self._charset and any(not text.isascii() for text in texts)
        unknown = any(term not in python_encoding for term in self._charset)
        return undeclared or unknown or any("\ufffd" in text for text in texts)

    @property
    def is_name_certain(self) -> bool:
        """Whether the patient's name is read in the character set that it is written in, as far as can be told."""
        value = self.bytes("PatientName")
        if value.isascii() and b"\x1b" not in value:
            return True
        if self._charset:
            return all(term in python_encoding for term in self._charset)
        try:
            value.decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True

    @cached_property
    def _charset(self) -> tuple[str, ...]:
        """The declared Specific Character Set (PS3.3 C.12.1.1.2); code extension terms may follow an empty one."""
        declared = self.bytes("SpecificCharacterSet").decode("ascii", "replace").strip("\0 ")
        return tuple(part.strip() for part in declared.split("\\")) if declared else self.inherited_charset

    @cached_property
    def _encodings(self) -> tuple[str, ...]:
        return tuple(convert_encodings(list(self._charset)))

    def _decoded(self, keyword: str) -> str:
        value = self.bytes(keyword)
        if value.isascii() and b"\x1b" not in value:
            return value.decode("ascii")
        if self._charset:
            return decode_bytes(value, self._encodings, {0x5C, 0x5E, 0x3D})
        # Undeclared means ASCII; what is not is UTF-8 in practice, or Latin-1, in which any byte is a letter.
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")

    def _binary_type(self, keyword: str) -> str | None:
        element = self.raw.get(_TAGS[keyword])
        declared = element.VR if element is not None else None
        vr = declared if declared not in (None, "UN") else dictionary_VR(_TAGS[keyword])
        return _BINARY_VR.get(str(vr)[:2])

    def _array(self, keyword: str, kind: str) -> NDArray[np.generic]:
        dtype = np.dtype(kind).newbyteorder("<" if self.little_endian else ">")
        value = self.bytes(keyword)
        return np.frombuffer(value, dtype, count=len(value) // dtype.itemsize)

    def _item(self, item: Dataset) -> Elements:
        wanted = [tag for tag in WANTED_TAGS if tag in item]
        return Elements({tag: item.get_item(tag) for tag in wanted}, self.little_endian, self._charset)


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return nan
