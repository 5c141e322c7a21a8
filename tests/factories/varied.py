"""An output folder that holds some of everything: scored, refused, doubled and failed images, each kind of verdict."""

from __future__ import annotations

import shutil
from pathlib import Path

from cxrbatch.output.run_json import RunReport
from cxrbatch.records import Label
from tests.factories.engine import write_tiny_bundle
from tests.factories.intake import write_dicom
from tests.factories.studies import four_greys, run_quietly, write_image
from tests.factories.validated import VALIDATED

POISON = 77
"""The grey of a first quadrant that the engine gives no number for."""

LABELS = (
    Label("TopLeft", 0.5, urgent=True, maps=VALIDATED),
    Label("Top,=Right", 0.5),
    Label("BottomLeft", None),
)


def write_varied_input(folder: Path) -> Path:
    """Write two DICOM images of one patient, PNGs of each kind of verdict, and what is refused or fails."""
    for number, greys in enumerate([(230, 20, 60, 40), (20, 240, 60, 40)], start=1):
        path = folder / "night" / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dicom(
            path,
            pixels=four_greys(*greys),
            PatientName="Doe^=Jane",
            PatientID="-1",
            StudyInstanceUID="1.2.3.4",
            SOPInstanceUID=f"1.2.3.4.{number}",
        )
    shutil.copy(folder / "night" / "1.dcm", folder / "night" / "again.dcm")
    write_image(folder / "=cmd,;@x.png", 20, 220, 60, 40)
    write_image(folder / "nothing.png", 20, 60, 100, 40)
    write_image(folder / "failed.png", POISON, 60, 100, 40)
    (folder / "notes.txt").write_text("no image")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder


def run_varied(folder: Path, **settings: object) -> tuple[Path, RunReport]:
    """Run over such a folder; return the output folder, and what run.json says."""
    engine = write_tiny_bundle(folder / "engines", labels=LABELS, poison_value=POISON, ensemble=True)
    images = write_varied_input(folder / "images")
    report = run_quietly(images, folder / "out", engine=str(engine), **settings)
    return folder / "out", report
