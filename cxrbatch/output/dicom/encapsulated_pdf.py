"""report.pdf as a document of the study: an Encapsulated PDF (PS3.3 A.45.1)."""

from __future__ import annotations

import hashlib

from cxrbatch.output.dicom.codes import REPORT_TITLE
from cxrbatch.output.dicom.identity import (
    RESEARCH,
    begin_object,
    coded,
    finished_bytes,
    instance_reference,
    object_uid,
)
from cxrbatch.output.dicom.object_files import referable_images
from cxrbatch.records import StudyResult

ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
DOCUMENT_SERIES_NUMBER = 9903


def render_document(result: StudyResult, pdf: bytes) -> bytes:
    """Return a report's PDF as a DICOM file that names the images it is about.

    Its UID is of the PDF's content, too: a report that is printed again, for it names other earlier studies or shows
    other heatmaps, is another object, and an archive may have the former one.
    """
    uid = object_uid(result, f"pdf {hashlib.sha256(pdf).hexdigest()}")
    made = begin_object(result, ENCAPSULATED_PDF, "pdf", uid)
    made.Modality, made.SeriesNumber, made.InstanceNumber = "DOC", DOCUMENT_SERIES_NUMBER, 1
    made.SeriesDescription = f"{RESEARCH}: report"
    made.ConversionType = "WSD"
    # The page says who the patient is.
    made.BurnedInAnnotation = "YES"
    made.AcquisitionDateTime = ""
    made.DocumentTitle = f"cxrbatch report ({RESEARCH})"
    made.ConceptNameCodeSequence = [coded(REPORT_TITLE)]
    made.VerificationFlag = "UNVERIFIED"
    made.SourceInstanceSequence = [instance_reference(image.header) for _, image in referable_images(result)]
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    made.EncapsulatedDocumentLength = len(pdf)
    made.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return finished_bytes(made, result)
