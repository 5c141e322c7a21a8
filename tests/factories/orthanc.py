"""Debian's Orthanc as the archive of a test: on free loopback ports, in a folder of its own, ended whatever happens."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.factories.ports import free_port

PROGRAM = Path("/usr/sbin/Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
WHY_NOT = "needs Orthanc with its DICOMweb plugin (scripts/system-packages.sh)"
AET = "ORTHANC"
_PATIENCE_S = 60.0


def is_here() -> bool:
    """Tell whether this machine has Orthanc and its plugin."""
    return PROGRAM.exists() and PLUGIN.exists()


@dataclass(frozen=True, slots=True)
class Orthanc:
    """An Orthanc that answers: by DICOM on `dicom_port` as AET, by HTTP on `http_port`."""

    dicom_port: int
    http_port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb_url(self) -> str:
        return f"{self.url}/dicom-web"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def fetch(self, path: str, content: bytes | None = None, method: str = "GET") -> bytes:
        request = urllib.request.Request(f"{self.url}{path}", content, method=method)
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
            return bytes(answer.read())

    def read(self, path: str) -> Any:
        return json.loads(self.fetch(path))

    def know(self, aet: str, port: int, *, tls: bool = False) -> None:
        """Let it find an AE title by C-MOVE, or by C-STORE of its own."""
        known = {"AET": aet, "Host": "127.0.0.1", "Port": port, "UseDicomTls": tls}
        self.fetch(f"/modalities/{aet}", json.dumps(known).encode(), "PUT")

    def put(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self.fetch("/instances", path.read_bytes(), "POST")

    def objects(self) -> dict[str, bytes]:
        """Return every object it holds as a file, by its SOP Instance UID."""
        listed = self.read("/instances?expand")
        return {each["MainDicomTags"]["SOPInstanceUID"]: self.fetch(f"/instances/{each['ID']}/file") for each in listed}

    def empty(self) -> None:
        for study in self.read("/studies"):
            self.fetch(f"/studies/{study}", method="DELETE")


@contextmanager
def running_orthanc(folder: Path, **options: Any) -> Iterator[Orthanc]:
    """Yield an Orthanc that answers; `options` are of its configuration (`DicomModalities` and so on)."""
    orthanc = Orthanc(free_port(), free_port(), folder)
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(_configured(orthanc) | options))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([PROGRAM, configuration], stdout=log, stderr=log)
        try:
            _wait_until_it_answers(orthanc, process)
            yield orthanc
        finally:
            process.kill()  # asked to stop it takes 3.5 s, to close what is thrown away here
            process.wait()


def _configured(orthanc: Orthanc) -> dict[str, Any]:
    storage = str(orthanc.folder / "db")
    return {
        "Name": "test", "StorageDirectory": storage, "IndexDirectory": storage, "SaveJobs": False,
        "HttpServerEnabled": True, "HttpPort": orthanc.http_port, "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "DicomServerEnabled": True, "DicomAet": AET, "DicomPort": orthanc.dicom_port, "DicomCheckCalledAet": False,
        "DicomAlwaysAllowEcho": True, "DicomAlwaysAllowFind": True, "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True, "DicomAlwaysAllowStore": True, "DicomModalities": {},
        "OverwriteInstances": True, "StableAge": 1, "DicomScuTimeout": 5, "SynchronousCMove": True,
        "Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True},
    }  # fmt: skip


def _wait_until_it_answers(orthanc: Orthanc, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        assert process.poll() is None, orthanc.log
        try:
            orthanc.read("/system")
        except OSError:
            assert time.monotonic() < deadline, orthanc.log
            time.sleep(0.02)
        else:
            return
