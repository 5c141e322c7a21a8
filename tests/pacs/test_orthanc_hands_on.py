"""Orthanc, as docs/deploy sets it up, hands on the radiographs that reach it, and none of our own objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxrbatch.output.dicom.sr import render_sr
from tests.factories.objects import make_dicom_result
from tests.factories.orthanc import WHY_NOT, is_here, running_orthanc
from tests.pacs.conftest import StartServer, radiograph, wait_for

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"


@pytest.mark.skipif(not is_here(), reason=WHY_NOT)
def test_orthanc_hands_on_radiographs_and_nothing_else(tmp_path: Path, start: StartServer) -> None:
    said = json.loads((DEPLOY / "orthanc.json").read_text())
    receiver = start("--accept-from", said["DicomAet"])
    peer = said["DicomModalities"]["cxrbatch"] | {"Host": "127.0.0.1", "Port": receiver.port}
    changed = said | {"DicomModalities": {"cxrbatch": peer}, "LuaScripts": [str(DEPLOY / "orthanc.lua")]}
    for key in ("Name", "DicomPort", "RemoteAccessAllowed", "DicomCheckCalledAet"):
        del changed[key]  # the test's own
    own_picture, foreign = radiograph(), radiograph()
    own_picture.Manufacturer = "cxrbatch"  # which came back with the modality of a radiograph
    paths = [tmp_path / f"{number}.dcm" for number in range(3)]
    paths[0].write_bytes(render_sr(make_dicom_result(), "all"))
    own_picture.save_as(paths[1], enforce_file_format=True)
    foreign.save_as(paths[2], enforce_file_format=True)
    with running_orthanc(tmp_path / "orthanc", **changed) as orthanc:
        orthanc.put(paths)
        wait_for(lambda: bool(receiver.stored))
        assert len(orthanc.read("/jobs")) == 1, orthanc.log
    assert [path.stem for path in receiver.stored] == [foreign.SOPInstanceUID]
