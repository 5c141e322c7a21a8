"""The archive that tests of this room talk to is the one they think it is."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pydicom

from tests.factories.orthanc import Orthanc
from tests.factories.ports import free_port
from tests.pacs.conftest import radiograph


def test_it_keeps_what_it_is_given_knows_whom_it_is_told_and_speaks_dicomweb(orthanc: Orthanc, tmp_path: Path) -> None:
    sent = radiograph("1.2.3", "1.2.3.4")
    sent.save_as(tmp_path / "1.dcm", enforce_file_format=True)
    orthanc.put([tmp_path / "1.dcm"])
    assert pydicom.dcmread(BytesIO(orthanc.objects()["1.2.3.4"])).PixelData == sent.PixelData
    assert [each["0020000D"]["Value"] for each in orthanc.read("/dicom-web/studies")] == [["1.2.3"]]
    orthanc.know("HERE", free_port())
    assert "HERE" in orthanc.read("/modalities")
    orthanc.empty()
    assert not orthanc.objects()
