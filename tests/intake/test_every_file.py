"""Every file at hand has exactly one outcome, the same from the index and from the reading, and no exception."""

import os
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from hypothesis import given, settings, strategies as st

from cxrbatch.config import Settings
from cxrbatch.errors import ImageRejected
from cxrbatch.intake.discover import index_file, walk
from cxrbatch.intake.read import read_radiograph
from cxrbatch.records import ImageFile
from tests.factories.intake import blobs, jpeg_bytes, png_bytes, write_dicom

SETTINGS = Settings()
SHARED = os.environ.get("CXRBATCH_SHARED_DATA", "")
PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"

SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "deflated": "1.2.840.10008.1.2.1.99",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg lossless": "1.2.840.10008.1.2.4.70",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg 2000": "1.2.840.10008.1.2.4.90",
    "htj2k": "1.2.840.10008.1.2.4.201",
}
NAMES = [*SYNTAXES, "png", "jpeg"]


def has_one_outcome(root: Path, file: ImageFile) -> bool:
    """Index and read a file; tell whether a file that the index refuses is refused for the same reason later."""
    indexed = index_file(root, file, SETTINGS)
    try:
        radiograph = read_radiograph(root / file.path, SETTINGS)
    except ImageRejected as rejected:
        return indexed.rejection is None or indexed.rejection.reason is rejected.reason
    assert radiograph.display.dtype == np.uint8
    assert max(radiograph.display.shape) <= SETTINGS.max_display_px
    return indexed.rejection is None and indexed.study_key != ""


def test_the_files_that_pydicom_tests_itself_with(recwarn: pytest.WarningsRecorder) -> None:
    files = list(walk(PYDICOM_FILES))
    assert len(files) > 50
    assert [file.path for file in files if not has_one_outcome(PYDICOM_FILES, file)] == []
    assert not recwarn.list


@pytest.mark.skipif(not SHARED, reason="CXRBATCH_SHARED_DATA is not set")
@pytest.mark.parametrize("folder", ["dicom", "labels", "nih1024"])
def test_the_shared_files(folder: str) -> None:
    root = Path(SHARED) / folder
    assert [file.path for file in walk(root) if not has_one_outcome(root, file)] == []


@pytest.mark.skipif(not SHARED, reason="CXRBATCH_SHARED_DATA is not set")
def test_every_real_png_is_accepted() -> None:
    root = Path(SHARED) / "nih1024"
    refused = {f.path for f in walk(root) if index_file(root, f, SETTINGS).rejection is not None}
    assert refused == {"labels.csv"}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small valid files, for `test_damaged_files` to damage."""
    folder = tmp_path_factory.mktemp("seeds")
    pixels = blobs(80, 72)
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": "1.2.3.4.5"}
    made = {
        name: write_dicom(folder / name, pixels=pixels, transfer_syntax=pydicom.uid.UID(uid), **uids).read_bytes()
        for name, uid in SYNTAXES.items()
    }
    return made | {"png": png_bytes(blobs(80, 72, bits=8)), "jpeg": jpeg_bytes(blobs(80, 72, bits=8))}


fractions = st.floats(0, 1, exclude_max=True)
# Where a byte is replaced, in the whole file or in its first 1500 bytes, where the structure is; and by what.
damages = st.lists(st.tuples(fractions, st.sampled_from([1500, 10**9]), st.integers(0, 255)), min_size=1, max_size=6)


@settings(max_examples=300)
@given(name=st.sampled_from(NAMES), damage=damages, keep=st.one_of(st.just(1.0), fractions))
def test_damaged_files(
    name: str,
    damage: list[tuple[float, int, int]],
    keep: float,
    seeds: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    content = bytearray(seeds[name])
    for fraction, limit, value in damage:
        content[int(fraction * min(limit, len(content)))] = value
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "file").write_bytes(content[: int(keep * len(content))])
    assert has_one_outcome(folder, ImageFile("file", 0, 0))
