"""Study results as DICOM images give them, and what judges the objects made of them: dciodvfy of dicom3tools."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.records import Label, SourceFacts, StudyResult
from tests.factories.output import LABELS, make_header, make_study_result

STUDY, SERIES, INSTANCE = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2", "1.2.826.0.1.3680043.8.498.3"
COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"
SOURCE = SourceFacts(study_time="081500", study_id="S1", referring_physician="Roe^Richard", orientation=("L", "F"))

needs_dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed (dciodvfy)")


def make_dicom_result(
    probabilities: Sequence[Sequence[float]] = ((0.9, 0.2, 0.1),),
    *,
    labels: Sequence[Label] = LABELS,
    revision: int = 1,
    source: SourceFacts | None = SOURCE,
    **fields: Any,
) -> StudyResult:
    """One scored DICOM image per row of `probabilities`, each an instance of its own."""
    uids = {"study_instance_uid": STUDY, "series_instance_uid": SERIES, "sop_class_uid": COMPUTED_RADIOGRAPHY}
    header = replace(make_header(**(uids | {"modality": "CR"} | fields)), source=source)
    result = make_study_result(probabilities, labels=labels, header=header, revision=revision)
    images = [
        replace(image, header=replace(header, sop_instance_uid=f"{INSTANCE}.{number}"))
        for number, image in enumerate(result.images, start=1)
    ]
    return replace(result, images=tuple(images))


def errors_in(path: Path) -> list[str]:
    """Return what dciodvfy finds wrong in a DICOM file; its warnings are not errors."""
    judged = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
    said = judged.stderr.decode("utf-8", "replace").splitlines()
    return [line for line in said if line.startswith("Error")] + [f"exit code {judged.returncode}"] * judged.returncode
