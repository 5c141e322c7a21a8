"""Reading a file by its content, whatever its name. Start at `read_radiograph`.

An OSError is let out: the file is not there or not readable now, which says nothing about its content.
Messages of rejections name neither path nor patient: they stand beside the path in the table.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from cxrbatch.config import Settings
from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.dicom.dicom_file import DicomFile, parse_dicom
from cxrbatch.intake.dicom.read_dicom import inspect_dicom, read_dicom
from cxrbatch.intake.display import SOURCE_PX
from cxrbatch.intake.kind import Kind, recognise
from cxrbatch.intake.libraries import refusing_malformed
from cxrbatch.intake.raster.read_raster import inspect_raster, read_raster
from cxrbatch.intake.screen import Inspection
from cxrbatch.records import Radiograph

# Holds the header of nearly every radiograph; one read from a cold disk or a share costs a seek anyway.
HEAD_BYTES = 64 * 1024
# What a PNG file may have behind its pixels: EXIF, which says which way up they are.
TAIL_BYTES = 64 * 1024
# A header may hold an icon, a JPEG thumbnail in EXIF or private data; not more than that.
MAX_HEADER_BYTES = 64 * 1024 * 1024
# Two bytes a pixel, and as much again for whatever else is in the file.
MAX_BYTES_PER_PIXEL = 4


def inspect_file(path: Path, settings: Settings) -> tuple[Kind, Inspection]:
    """Recognise a file and read its header, which costs one small read of the disk.

    Raises:
        ImageRejected: it is no image, or its header cannot be read.
        OSError: it cannot be opened or read now.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        head = stream.read(HEAD_BYTES)
        kind = recognise(head)
        if kind is Kind.DICOM:
            dicom, missing = _parse_enough(stream, head, size, settings)
            return kind, inspect_dicom(dicom, settings, missing)
        tail = b""
        if kind is Kind.JPEG:
            head += stream.read(MAX_HEADER_BYTES)
        else:
            stream.seek(max(len(head), size - TAIL_BYTES))
            tail = stream.read(TAIL_BYTES)
    with refusing_malformed(Reason.UNREADABLE_HEADER, f"the {kind.value} header is damaged"):
        return kind, inspect_raster(head, kind, settings, tail)


def read_radiograph(path: Path, settings: Settings, *, source_px: int = SOURCE_PX) -> Radiograph:
    """Read one file to the end and decode it.

    Args:
        path: the file.
        settings: the limits, and how large it is displayed.
        source_px: the long side of what an engine's input is made of (`preprocess.source_side`).

    Raises:
        ImageRejected: it gets no score, with the reason; the checks of `inspect_file` are made again.
        OSError: it cannot be opened or read now.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        limit = settings.max_stored_px * MAX_BYTES_PER_PIXEL
        if size > limit:
            raise ImageRejected(Reason.TOO_LARGE, f"the file has {size} bytes; the limit is {limit} (max_stored_px)")
        content = stream.read()
    kind = recognise(content)
    # From here on nothing is read from a disk, so whatever goes wrong goes wrong again.
    with refusing_malformed(Reason.UNREADABLE_PIXELS, f"the {kind.value} file cannot be read"):
        if kind is Kind.DICOM:
            return read_dicom(_parse(content, settings), settings, source_px)
        return read_raster(content, kind, settings, source_px)


def _parse_enough(stream: BinaryIO, head: bytes, size: int, settings: Settings) -> tuple[DicomFile, int]:
    """Parse the head, or all of the file where the head does not reach its pixels; return the bytes left unread."""
    if len(head) < size:
        try:
            dicom = _parse(head, settings)
        except ImageRejected:
            dicom = None
        if dicom is not None and dicom.pixel_data is not None and not _is_deflated(dicom):
            return dicom, size - len(head)
        head += stream.read(MAX_HEADER_BYTES)
    return _parse(head, settings), max(0, size - len(head))


def _parse(content: bytes, settings: Settings) -> DicomFile:
    with refusing_malformed(Reason.UNREADABLE_HEADER, "the DICOM header is damaged"):
        return parse_dicom(content, settings.max_stored_px * MAX_BYTES_PER_PIXEL)


def _is_deflated(dicom: DicomFile) -> bool:
    return dicom.transfer_syntax.is_transfer_syntax and dicom.transfer_syntax.is_deflated
