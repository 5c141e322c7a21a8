"""A server that receives into a folder, in a process of its own, objects to send it, and an archive beside it."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from tests.factories.orthanc import WHY_NOT, Orthanc, is_here, running_orthanc
from tests.factories.ports import free_port
from tests.pacs.archives import finished, finished_once

__all__ = ["PATIENCE_S", "Server", "StartServer", "finished", "finished_once", "radiograph", "wait_for"]

PATIENCE_S = 60.0


@pytest.fixture(autouse=True, scope="module")
def collected() -> Iterator[None]:
    """Let what pynetdicom leaves open, sockets of refused associations too, go before tests begin that mind.

    Once for each module: in the process of the whole suite, with all that it has loaded, this takes 0.65 s of CPU.
    """
    yield
    gc.collect()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An empty archive that knows nobody: `orthanc.know(aet, port)` tells it where to send what is moved."""
    if not is_here():
        pytest.skip(WHY_NOT)
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@dataclass(slots=True)
class Server:
    """A `cxrbatch receive` that listens."""

    process: subprocess.Popen[str]
    port: int
    root: Path

    def stop(self, how: signal.Signals = signal.SIGTERM) -> str:
        """End it, and return what it printed."""
        self.process.send_signal(how)
        return self.process.communicate(timeout=PATIENCE_S)[0]

    @property
    def stored(self) -> list[Path]:
        """Every file that a walk of INPUT could meet."""
        return sorted(
            path for path in self.root.rglob("*") if path.is_file() and ".cxrbatch-incoming" not in path.parts
        )


StartServer = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartServer]:
    servers: list[Server] = []

    def start(*options: str, root: Path = tmp_path / "incoming") -> Server:
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "cxrbatch",
            "receive",
            str(root),
            "--port",
            str(port),
            "--min-free",
            "0",
            *options,
        ]
        process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        servers.append(Server(process, port, root))
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "listens on" in line, line + process.communicate()[0]
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.communicate()


def radiograph(study: str = "", sop: str = "", level: int = 100) -> Dataset:
    """Make a small object of computed radiography."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = UID(sop) if sop else generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = study or generate_uid(), generate_uid()
    made.PatientName, made.Modality = "Doe^Jane", "CR"
    made.Rows = made.Columns = 64
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation, made.SamplesPerPixel = 7, 0, 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.PixelData = np.full((64, 64), level, np.uint8).tobytes()
    return made


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
