"""Archives for tests: one of our own that answers as it is told, dcmtk's, and an output folder with objects to send."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom import AE, evt
from pynetdicom.events import EventHandlerType
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made as they are asked for
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    SecondaryCaptureImageStorage,
    StorageCommitmentPushModel,
)

from cxrbatch.output.dicom.encapsulated_pdf import render_document
from cxrbatch.output.folder.settle import read_result
from tests.factories.engine import write_tiny_bundle
from tests.factories.intake import blobs, write_dicom
from tests.factories.ports import free_port
from tests.factories.studies import run_quietly

CLASSES = (Comprehensive3DSRStorage, SecondaryCaptureImageStorage, EncapsulatedPDFStorage)
EVERY = (JPEGBaseline8Bit, ExplicitVRLittleEndian, ImplicitVRLittleEndian)

needs_dcmtk = pytest.mark.skipif(shutil.which("storescp") is None, reason="needs dcmtk (scripts/system-packages.sh)")


@dataclass(slots=True)
class Archive:
    """A server that keeps what it is sent, and answers what `status` says of the n-th object from 1."""

    port: int = 0
    status: Callable[[int], int | None] = lambda _: 0x0000
    taken: list[tuple[str, UID, bytes]] = field(default_factory=list)
    asked: list[Dataset] = field(default_factory=list)
    associations: list[str] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def uids(self) -> list[str]:
        """The UIDs of all objects in the order in which they came."""
        return [uid for uid, _, _ in self.taken]

    def store(self, event: evt.Event) -> int:
        with self.guard:
            request: Any = event.request
            content = request.DataSet.getvalue()
            self.taken.append((str(request.AffectedSOPInstanceUID), UID(event.context.transfer_syntax), content))
            number = len(self.taken)
        status = self.status(number)
        if status is None:
            event.assoc.abort()
            return 0x0110
        return status

    def dataset(self, number: int) -> Dataset:
        """Return the n-th object that came, from 0."""
        _, syntax, content = self.taken[number]
        found = pydicom.dcmread(BytesIO(_with_meta(content, syntax)), force=True)
        assert isinstance(found, Dataset)
        return found


def _with_meta(content: bytes, syntax: UID) -> bytes:
    head = Dataset()
    head.file_meta = pydicom.dataset.FileMetaDataset()
    head.file_meta.TransferSyntaxUID = syntax
    head.file_meta.MediaStorageSOPClassUID = head.file_meta.MediaStorageSOPInstanceUID = UID("1.2")
    stream = BytesIO()
    pydicom.dcmwrite(stream, head, enforce_file_format=True)
    return stream.getvalue() + content


@contextmanager
def archive(
    status: Callable[[int], int | None] = lambda _: 0x0000,
    *,
    classes: tuple[str, ...] = CLASSES,
    syntaxes: tuple[UID, ...] = EVERY,
    port: int = 0,
    commits: Callable[[Archive, evt.Event], tuple[int, None]] | None = None,
    stores: Callable[[evt.Event], int] | None = None,
) -> Iterator[Archive]:
    """Run an archive in this process."""
    entity = AE(ae_title="ARCHIVE")
    for sop_class in classes:
        entity.add_supported_context(sop_class, list(syntaxes))
    kept = Archive(port or free_port(), status)
    handlers: list[EventHandlerType] = [
        (evt.EVT_C_STORE, stores or kept.store),
        (evt.EVT_ACCEPTED, lambda event: kept.associations.append(event.assoc.requestor.ae_title)),
    ]
    if commits is not None:
        entity.add_supported_context(StorageCommitmentPushModel)
        handlers.append((evt.EVT_N_ACTION, partial(commits, kept)))
    # Not by `start_server`, which takes half a second to end.
    server = entity.make_server(("127.0.0.1", kept.port), evt_handlers=handlers)
    # It collects garbage at every 60th look, which at this pace is most of what this process would do.
    vars(server)["service_actions"] = lambda: None
    entity._servers.append(server)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        for association in entity.active_associations:
            association.abort()
        server.shutdown()


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """Run dcmtk's server; yield its port."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = ["storescp", "-od", str(folder), *options, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port))
        yield port
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def write_study(folder: Path, number: int, image: int = 1) -> Path:
    """Write one radiograph of a made-up study."""
    folder.mkdir(parents=True, exist_ok=True)
    uids = {
        "StudyInstanceUID": f"2.999.{number}",
        "SeriesInstanceUID": f"2.999.{number}.1",
        "SOPInstanceUID": f"2.999.{number}.1.{image}",
    }
    return write_dicom(folder / f"{number}-{image}.dcm", pixels=blobs(seed=10 * number + image), **uids)


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run with objects: its input, its output, its engine."""

    images: Path
    out: Path
    engine: str

    def run(self, **settings: object) -> None:
        """Run again."""
        choice: dict[str, object] = {"dicom": "sr,sc", "heatmaps": "all"}
        run_quietly(self.images, self.out, engine=self.engine, **(choice | settings))

    @property
    def objects(self) -> list[Path]:
        """Every current object."""
        found = sorted(self.out.glob("reports/*/dicom/*.dcm"))
        return [path for path in found if not path.name.startswith("sr-r")]

    @property
    def uids(self) -> list[str]:
        return sorted(str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in self.objects)


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Three studies, of which one has a document, too."""
    root = tmp_path_factory.mktemp("finished")
    made = Finished(root / "images", root / "out", str(write_tiny_bundle(root / "engines")))
    for number in (1, 2, 3):
        write_study(made.images, number)
    made.run()
    folder = min((made.out / "reports").iterdir())
    result = read_result(folder)
    assert result is not None
    # As if it had been printed: what prints PDFs takes longer to load than all the rest.
    (folder / "dicom" / "report.dcm").write_bytes(render_document(result, b"%PDF-1.7 made up\n%%EOF\n"))
    for folder in (made.images, made.out):
        shutil.copytree(folder, folder.with_name(f"{folder.name}-as-made"))
    return made


@pytest.fixture
def finished(finished_once: Finished) -> Finished:
    """The same folders as they were made: a ledger knows where its own are."""
    for folder in (finished_once.images, finished_once.out):
        shutil.rmtree(folder)
        shutil.copytree(folder.with_name(f"{folder.name}-as-made"), folder)
    return finished_once


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for a process to end, and return what it printed."""
    with suppress(subprocess.TimeoutExpired):
        return process.communicate(timeout=60)[0]
    process.kill()
    raise AssertionError(f"it does not end: {process.communicate()[0]}")


def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait for something that comes soon."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)
