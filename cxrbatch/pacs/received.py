"""What a file that came over a network says of itself: where its data set begins, and which object it is.

A stranger wrote it: a data set that was deflated to a megabyte may inflate to a gigabyte (PS3.5 A.5), so no more of it
is inflated than the few attributes need that are asked for.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset
from pydicom.filereader import read_dataset, read_file_meta_info, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

_SOP_CLASS, _SOP_INSTANCE, _STUDY = BaseTag(0x00080016), BaseTag(0x00080018), BaseTag(0x0020000D)
# What stands before Study Instance UID is names, dates and descriptions.
_MOST_HEAD_BYTES = 1 << 22
# PS3.10 7.1: preamble, prefix, and the group length that file meta information begins with.
_LEAD_BYTES, _PREAMBLE_BYTES = 144, 128
_LEAD = b"DICM\x02\0\0\0UL\x04\0"


@dataclass(frozen=True, slots=True)
class Named:
    """Which object a file is; no UID is empty."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str


def name_of(path: Path) -> Named:
    """Return which object a file is.

    Raises:
        OSError: it cannot be read, or is gone.
        Exception: it is no DICOM file, or does not name its study: whatever pydicom makes of that.
    """
    syntax = read_file_meta_info(path).TransferSyntaxUID
    with path.open("rb") as stream:
        if syntax == DeflatedExplicitVRLittleEndian:
            found: Dataset = _inflated_head(stream)
        else:
            found = read_partial(stream, _is_beyond, specific_tags=_wanted())
        named = Named(str(found.SOPClassUID), str(found.SOPInstanceUID), str(found.StudyInstanceUID))
    if not all((named.sop_class_uid, named.sop_instance_uid, named.study_uid)):
        raise ValueError("it does not name its study, or itself")
    return named


def seek_data_set(stream: BinaryIO) -> None:
    """Go to where the data set of a DICOM file begins; to the beginning of whatever is none.

    What stands before it is of whoever wrote the file, and may differ from one server or version to the next.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    lead = stream.read(_LEAD_BYTES)
    is_usual = len(lead) == _LEAD_BYTES and lead[_PREAMBLE_BYTES:].startswith(_LEAD)
    begin = _LEAD_BYTES + struct.unpack("<L", lead[-4:])[0] if is_usual else 0
    stream.seek(begin if begin < size else 0)  # some lengths are wrong


def _inflated_head(stream: BinaryIO) -> Dataset:
    seek_data_set(stream)
    head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(_MOST_HEAD_BYTES), _MOST_HEAD_BYTES)
    return read_dataset(
        BytesIO(head), is_implicit_VR=False, is_little_endian=True, stop_when=_is_beyond, specific_tags=_wanted()
    )


def _wanted() -> list[BaseTag | int]:
    return [_SOP_CLASS, _SOP_INSTANCE, _STUDY]


def _is_beyond(tag: BaseTag, _representation: str | None, _length: int) -> bool:
    return bool(tag > _STUDY)
