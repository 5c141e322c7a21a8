"""`make demo-pacs`: Orthanc -> pull -> watch -> send -> Orthanc, and every object back, compared with what was written.

An Orthanc of its own (Debian's, with its DICOMweb plugin) is started on free ports, filled with public radiographs
where CXRBATCH_SHARED_DATA names them, else with phantoms, all of them dated today. What came back is compared by
C-MOVE and by WADO-RS; then our own objects are put into INPUT, as an archive's router would, and nothing may change.
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from pathlib import Path

import pydicom
from dicomweb_client import DICOMwebClient
from PIL import Image
from pydicom import Dataset
from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made as they are asked for
    StudyRootQueryRetrieveInformationModelMove as StudyRootMove,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.phantom import draw_phantom
from tests.factories.intake import write_dicom
from tests.factories.orthanc import AET, WHY_NOT, Orthanc, is_here, running_orthanc
from tests.factories.ports import free_port

ROOT = Path(__file__).parents[1]
OURS, READER = "CXRBATCH", "READER"
# Those of the public radiographs that Orthanc takes as they are: DX, CR in JPEG 2000, CR in JPEG Baseline.
_REAL = ("nih_00000001_000_dx.dcm", "rg1_cr_pa_mono1_15bit_j2k.dcm", "siim_cr_jpeg_baseline.dcm")

Tell = Callable[[str], None]


@dataclass(slots=True)
class Loop:
    """What happened: files and data sets by SOP Instance UID, and the rows of the tables in the end.

    `back` are the objects of Orthanc by the way they came; `told` is what each command printed.
    """

    sources: dict[str, Path] = field(default_factory=dict)
    pulled: dict[str, Path] = field(default_factory=dict)
    written: dict[str, Path] = field(default_factory=dict)
    back: dict[str, dict[str, Dataset]] = field(default_factory=dict)
    studies: list[dict[str, str]] = field(default_factory=list)
    images: list[dict[str, str]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def differing(self) -> list[str]:
        """Return what is missing or another one than was written, in words."""
        differing = [
            f"{uid}: not pulled as it was"
            for uid, path in self.sources.items()
            if not _same(path, self.pulled.get(uid))
        ]
        for way, found in self.back.items():
            differing += [
                f"{path.name}: not the same by {way}"
                for uid, path in self.written.items()
                if uid not in found or found[uid] != pydicom.dcmread(path)
            ]
        return differing


def _same(one: Path, other: Path | None) -> bool:
    return other is not None and pydicom.dcmread(one) == pydicom.dcmread(other)


def go_round(folder: Path, engine: Path, films: list[Path], tell: Tell) -> Loop:
    """Take films through the whole loop in a folder; return what happened."""
    loop, places = Loop(), {name: folder / name for name in ("incoming", "results")}
    with running_orthanc(folder / "orthanc") as orthanc:
        tell(f"Orthanc answers by DICOM on port {orthanc.dicom_port}, by HTTP on {orthanc.http_port}")
        orthanc.put(films)
        loop.sources = _by_uid(films)
        tell(f"{len(loop.sources)} radiographs lie in it")
        port = free_port()
        orthanc.know(OURS, port)
        peer = ["127.0.0.1", str(orthanc.dicom_port), "--called", AET, "--calling", OURS]
        pull: list[str | Path] = ["pull", places["incoming"], *peer, "--listen-port", str(port), "--min-free", "0"]
        watch: list[str | Path] = ["watch", places["incoming"], "-o", places["results"], "-e", engine]
        watch += ["--once", "--settle", "0", "--dicom", "--heatmaps", "all", "--workers", "1"]
        send: list[str | Path] = ["send", places["results"], *peer]
        for command in (pull, watch, send):
            loop.told.append(_cxrbatch(command, tell))
        loop.pulled = _by_uid(places["incoming"].glob("[!.]*/*.dcm"))
        loop.written = _by_uid(places["results"].glob("reports/*/dicom/*.dcm"))
        studies = {str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID) for path in films}
        loop.back = {"C-MOVE": moved(orthanc, studies), "WADO": fetched(orthanc, studies)}
        tell(f"{len(loop.written)} objects were written; back come {_numbers(loop)}")
        loop.told.append(_cxrbatch([*pull, "--modality", "any"], tell))
        _preview(orthanc, loop, folder / "overlay.png", tell)
        for number, each in enumerate(loop.written):
            (places["incoming"] / f"routed-{number}.dcm").write_bytes(orthanc.objects()[each])
        loop.told.append(_cxrbatch(watch, tell))
    loop.studies, loop.images = (_rows(places["results"] / f"{name}.csv") for name in ("studies", "images"))
    return loop


def moved(orthanc: Orthanc, studies: set[str]) -> dict[str, Dataset]:
    """Return every object of these studies, as Orthanc sends it to a receiver that takes all there is."""
    came: dict[str, Dataset] = {}

    def keep(event: evt.Event) -> int:
        found = pydicom.dcmread(BytesIO(event.encoded_dataset()))
        came[str(found.SOPInstanceUID)] = found
        return 0x0000

    receiver, port = AE(READER), free_port()
    for context in AllStoragePresentationContexts:
        receiver.add_supported_context(str(context.abstract_syntax), AllTransferSyntaxes)
    receiver.add_requested_context(StudyRootMove)
    server = receiver.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    orthanc.know(READER, port)
    association = receiver.associate("127.0.0.1", orthanc.dicom_port, ae_title=AET)
    for study in studies:
        wanted = Dataset()
        wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "STUDY", study
        for _ in association.send_c_move(wanted, READER, StudyRootMove):
            pass
    association.release()
    if server is not None:
        server.shutdown()
    return came


def fetched(orthanc: Orthanc, studies: set[str]) -> dict[str, Dataset]:
    """Return every object of these studies by WADO-RS, as it is stored."""
    client = DICOMwebClient(orthanc.dicomweb_url)
    found = (each for study in studies for each in client.iter_study(study, media_types=(("application/dicom", "*"),)))
    return {str(each.SOPInstanceUID): each for each in found}


def todays_films(folder: Path) -> list[Path]:
    """Write radiographs dated now into a folder: public ones where they are at hand, else phantoms."""
    folder.mkdir(parents=True, exist_ok=True)
    public = Path(os.environ.get("CXRBATCH_SHARED_DATA", "/nowhere")) / "dicom" / "chest"
    sources = [public / name for name in _REAL if (public / name).exists()]
    if not sources:
        sources = [_phantom(folder / f"phantom-{seed}.dcm", seed) for seed in range(3)]
    return [_dated(path, folder / path.name) for path in sources]


def _phantom(path: Path, seed: int) -> Path:
    drawn = draw_phantom(seed)
    window = {"WindowCenter": drawn.window_center, "WindowWidth": drawn.window_width}
    return write_dicom(path, pixels=drawn.stored, PatientID=str(seed), PatientName=f"Phantom^{seed}", **window)


def _dated(source: Path, target: Path) -> Path:
    found, now = pydicom.dcmread(source), datetime.now()  # noqa: DTZ005  # as an archive beside us dates it
    found.StudyDate, found.StudyTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    found.save_as(target)
    return target


def _cxrbatch(command: Sequence[str | Path], tell: Tell) -> str:
    """Run a command, as a person would; end where it fails."""
    line = ["cxrbatch", *map(str, command)]
    tell(f"\n$ {shlex.join(line)}")
    done = subprocess.run([sys.executable, "-m", *line], capture_output=True, text=True, check=False, cwd=ROOT)
    for printed in (done.stdout + done.stderr).splitlines():
        tell(f"  {printed}")
    if done.returncode:
        sys.exit(f"{line[1]} ended with exit code {done.returncode}")
    return done.stdout


def _preview(orthanc: Orthanc, loop: Loop, picture: Path, tell: Tell) -> None:
    """Keep what Orthanc shows of the first overlay."""
    overlays = [uid for uid, path in loop.written.items() if path.name.startswith("overlay")]
    for instance in orthanc.read("/instances?expand"):
        if instance["MainDicomTags"]["SOPInstanceUID"] in overlays[:1]:
            Image.open(BytesIO(orthanc.fetch(f"/instances/{instance['ID']}/preview"))).save(picture)
            tell(f"what Orthanc shows of an overlay: {picture}")


def _by_uid(paths: object) -> dict[str, Path]:
    found = {path: str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths}  # type: ignore[attr-defined]
    assert len(set(found.values())) == len(found), "an object is there twice"
    return {uid: path for path, uid in found.items()}


def _numbers(loop: Loop) -> str:
    return ", ".join(f"{len(set(found) & set(loop.written))} by {way}" for way, found in loop.back.items())


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def main() -> None:
    """Go round, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-e", "--engine", type=Path, default=ROOT / "engines" / "demo", help="engine's folder")
    parser.add_argument("-o", "--output", type=Path, help="a new folder for all of it; a temporary one without")
    given = parser.parse_args()
    if not is_here():
        sys.exit(WHY_NOT)
    if not (given.engine / "engine.json").exists():
        sys.exit(f"{given.engine}: no engine. `make demo` builds one in minutes; --engine names another.")
    folder = given.output or Path(tempfile.mkdtemp(prefix="cxrbatch-demo-pacs-"))
    demonstrate(folder, given.engine.resolve(), print)
    print(f"Everything lies in {folder}")


def demonstrate(folder: Path, engine: Path, tell: Tell) -> Loop:
    """Go round with today's films, and say what came of it; end where anything is not as it should be."""
    loop = go_round(folder, engine, todays_films(folder / "films"), tell)
    tell("")
    for row in loop.studies:
        tell(f"study {row['study_key']}: revision {row['revision']}, {row['priority']}")
    own = sum(row["reason"] == "own_output" for row in loop.images)
    tell(f"{own} objects of our own came back into INPUT and changed nothing")
    if loop.differing or any(row["revision"] != "1" for row in loop.studies):
        sys.exit("\n".join(["not as it should be:", *loop.differing]))
    tell(f"all {len(loop.written)} objects are in the archive as they were written")
    return loop


if __name__ == "__main__":
    main()
