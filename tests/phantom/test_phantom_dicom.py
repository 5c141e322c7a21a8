"""The DICOM files: bit-equal in every transfer syntax, and a header that a reader can rely on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless

from cxrbatch.phantom import TRANSFER_SYNTAXES, Phantom, PhantomIdentity, draw_phantom, write_phantom_dicom
from cxrbatch.phantom.dicom import Photometric

# pydicom has no decoder of its own for these.
DECODERS: dict[str, Any] = {
    str(JPEGLosslessSV1): imagecodecs.ljpeg_decode,
    str(JPEGLSLossless): imagecodecs.jpegls_decode,
    str(JPEG2000Lossless): imagecodecs.jpeg2k_decode,
}


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return draw_phantom(21, rows=150, columns=131, findings=("Effusion",))


@pytest.fixture
def identity() -> PhantomIdentity:
    return PhantomIdentity(
        patient_name="Phantom^Ada",
        patient_id="PHANTOM-1",
        patient_birth_date="19600102",
        accession_number="A0000001",
        study_date="20240506",
        study_time="070809",
        study_instance_uid="2.25.1",
        series_instance_uid="2.25.2",
        sop_instance_uid="2.25.3",
    )


def decoded(dataset: pydicom.Dataset) -> NDArray[Any]:
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if syntax not in DECODERS:
        return dataset.pixel_array
    (frame,) = generate_frames(io.BytesIO(dataset.PixelData), number_of_frames=1)
    return np.asarray(DECODERS[syntax](frame))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("transfer_syntax", TRANSFER_SYNTAXES)
def test_pixels_are_bit_equal(
    tmp_path: Path, phantom: Phantom, identity: PhantomIdentity, transfer_syntax: str, photometric: Photometric
) -> None:
    path = tmp_path / "image"
    write_phantom_dicom(path, phantom, identity, photometric=photometric, transfer_syntax=transfer_syntax)
    dataset = pydicom.dcmread(path)
    assert dataset.file_meta.TransferSyntaxUID == transfer_syntax
    expected = 4095 - phantom.stored if photometric == "MONOCHROME1" else phantom.stored
    np.testing.assert_array_equal(decoded(dataset), expected)


@pytest.mark.parametrize(
    ("photometric", "shape", "sign"), [("MONOCHROME1", "INVERSE", 1), ("MONOCHROME2", "IDENTITY", -1)]
)
def test_polarity_is_told_consistently(
    tmp_path: Path, phantom: Phantom, identity: PhantomIdentity, photometric: Photometric, shape: str, sign: int
) -> None:
    path = tmp_path / "image"
    write_phantom_dicom(path, phantom, identity, photometric=photometric)
    dataset = pydicom.dcmread(path)
    assert dataset.PhotometricInterpretation == photometric
    assert dataset.PresentationLUTShape == shape
    assert dataset.PixelIntensityRelationshipSign == sign
    # Both polarities show the same picture: the window's darker end falls on the same pixels.
    low = float(dataset.WindowCenter) - float(dataset.WindowWidth) / 2
    level = (dataset.pixel_array - low) / float(dataset.WindowWidth)
    if photometric == "MONOCHROME1":
        level = 1 - level
    expected = (phantom.stored - (phantom.window_center - phantom.window_width / 2)) / phantom.window_width
    np.testing.assert_allclose(level, expected, atol=1e-3)


def test_the_header_is_that_of_a_chest_dx_for_presentation(
    tmp_path: Path, phantom: Phantom, identity: PhantomIdentity
) -> None:
    path = tmp_path / "image"
    write_phantom_dicom(path, phantom, identity)
    dataset = pydicom.dcmread(path)
    assert dataset.SOPClassUID.name == "Digital X-Ray Image Storage - For Presentation"
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID == "2.25.3"
    assert (dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition) == ("DX", "CHEST", "PA")
    assert (dataset.PresentationIntentType, dataset.ImageLaterality) == ("FOR PRESENTATION", "U")
    assert list(dataset.PatientOrientation) == ["L", "F"]
    assert (dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit) == (16, 12, 11)
    assert (dataset.Rows, dataset.Columns) == phantom.stored.shape
    assert (dataset.RescaleSlope, dataset.RescaleIntercept) == (1, 0)
    assert float(dataset.ImagerPixelSpacing[0]) == pytest.approx(phantom.spacing_mm, abs=1e-3)
    assert str(dataset.PatientName) == "Phantom^Ada"
    assert dataset.PatientAge == f"{phantom.age:03d}Y"
    assert dataset.ViewCodeSequence[0].CodeValue == "272479007"


def test_jpeg_lossless_uses_the_predictor_its_transfer_syntax_names(
    tmp_path: Path, phantom: Phantom, identity: PhantomIdentity
) -> None:
    path = tmp_path / "image"
    write_phantom_dicom(path, phantom, identity, transfer_syntax=str(JPEGLosslessSV1))
    (frame,) = generate_frames(io.BytesIO(pydicom.dcmread(path).PixelData), number_of_frames=1)
    start_of_scan = frame.index(b"\xff\xda")
    # SOS: marker, length, one component, its selector and table, and then the predictor (ITU-T T.81, B.2.3).
    assert frame[start_of_scan + 7] == 1


def test_a_lossy_transfer_syntax_is_refused(tmp_path: Path, phantom: Phantom, identity: PhantomIdentity) -> None:
    with pytest.raises(ValueError, match="no encoder for transfer syntax"):
        write_phantom_dicom(tmp_path / "image", phantom, identity, transfer_syntax="1.2.840.10008.1.2.4.50")
