"""Study results and pixels as batch would hand them to the output room, each detail of choice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cxrbatch.errors import Flag
from cxrbatch.records import (
    EngineDescription,
    FileRow,
    FileStatus,
    Fit,
    Float32,
    Geometry,
    Gray8,
    Header,
    ImagePixels,
    ImageResult,
    InputSpec,
    Label,
    RefusedImage,
    StudyResult,
    StudyRow,
)
from tests.factories.validated import VALIDATED

STUDY_KEY = "0123456789abcdef"
LABELS = (
    Label("Effusion", 0.5, metrics={"auroc": 0.934}, maps=VALIDATED),
    Label("Nodule", 0.4, metrics={"auroc": 0.871}, maps=VALIDATED),
    Label("Pneumothorax", 0.35, urgent=True, metrics={"auroc": 0.956}, maps=VALIDATED),
)


def make_header(**fields: str | int) -> Header:
    known: dict[str, str | int] = {
        "study_instance_uid": "1.2.3",
        "patient_id": "PID-1",
        "patient_name": "Doe^Jane^^Dr",
        "patient_birth_date": "19620228",
        "patient_sex": "F",
        "patient_age": "058Y",
        "accession_number": "ACC-77",
        "study_date": "20240131",
        "study_description": "Chest PA",
        "modality": "DX",
        "rows": 512,
        "columns": 400,
    }
    return Header(**(known | fields))  # type: ignore[arg-type]


def make_engine(labels: Sequence[Label] = LABELS, *, notice: str = "") -> EngineDescription:
    return EngineDescription(
        name="demo",
        sha256="deadbeef" * 8,
        backend="onnxruntime",
        precision="fp32",
        architecture="resnet50",
        task="multilabel",
        labels=tuple(labels),
        input=InputSpec(size_px=224),
        created="2024-02-01T00:00:00+00:00",
        notice=notice,
    )


def make_study_result(
    probabilities: Sequence[Sequence[float]] = ((0.9, 0.2, 0.1),),
    *,
    labels: Sequence[Label] = LABELS,
    header: Header | None = None,
    flags: tuple[Flag, ...] = (),
    refused: tuple[RefusedImage, ...] = (),
    notice: str = "",
    revision: int = 1,
    study_key: str = STUDY_KEY,
) -> StudyResult:
    """One scored image per row of `probabilities`."""
    images = tuple(
        ImageResult(f"night/{n}.dcm", header or make_header(), flags, tuple(row), f"{n:064x}")
        for n, row in enumerate(probabilities, start=1)
    )
    return StudyResult(
        study_key=study_key,
        revision=revision,
        engine=make_engine(labels, notice=notice),
        images=images,
        refused=refused,
        scored_at="2024-02-01T03:04:05+00:00",
        cxrbatch_version="0.1.0",
    )


def plain(name: str) -> str:
    """Return the name of a picture without the hash of its content, as earlier versions named it."""
    return re.sub(r"-[0-9a-f]{12}\.jpg$", ".jpg", name)


def as_earlier_version(result: StudyResult) -> StudyResult:
    """Return a printed result as earlier versions wrote it: its pictures have plain names."""
    images = tuple(
        replace(
            image,
            image_file=plain(image.image_file),
            thumbnail_file=plain(image.thumbnail_file),
            heatmaps=tuple(replace(heatmap, file=plain(heatmap.file)) for heatmap in image.heatmaps),
        )
        for image in result.images
    )
    return replace(result, images=images)


def make_geometry(rows: int, columns: int, fit: Fit = "pad", size_px: int = 224) -> Geometry:
    """The three fits, from their definition, independent of intake."""
    if fit == "stretch":
        return Geometry(rows, columns, size_px, size_px / columns, size_px / rows, 0.0, 0.0)
    scale = size_px / (max(rows, columns) if fit == "pad" else min(rows, columns))
    offset_x, offset_y = (size_px - columns * scale) / 2, (size_px - rows * scale) / 2
    return Geometry(rows, columns, size_px, scale, scale, offset_x, offset_y)


def make_cam(n_cells: int = 7, *, row: float = 2.0, column: float = 4.0, height: float = 8.0) -> Float32:
    """One round hill of evidence whose top is at this cell, on ground that speaks against the finding."""
    down, across = np.mgrid[0:n_cells, 0:n_cells]
    hill = np.exp(-((down - row) ** 2 + (across - column) ** 2) / 2)
    return np.asarray((height + 1) * hill - 1, dtype=np.float32)


def make_pixels(
    n_labels: int = 3, *, display: Gray8 | None = None, rows: int = 512, columns: int = 400, fit: Fit = "pad"
) -> ImagePixels:
    """A smooth grey display image (or the one given) and one hill of evidence per label, each elsewhere."""
    if display is None:
        down, across = np.mgrid[0 : rows // 2, 0 : columns // 2]
        display = (255 * (0.5 + 0.4 * np.sin(down / 30) * np.cos(across / 40))).astype(np.uint8)
    cams = np.stack([make_cam(row=1 + n % 5, column=1 + (2 * n) % 5) for n in range(n_labels)])
    return ImagePixels(display, cams, make_geometry(rows, columns, fit))


def make_file_row(path: str = "night/1.dcm", *, status: FileStatus = "scored", **fields: object) -> FileRow:
    known: dict[str, object] = {
        "reason": "",
        "message": "",
        "study_key": STUDY_KEY,
        "header": make_header(),
        "flags": (),
        "engine": "demo",
        "engine_sha256": "deadbeef" * 8,
        "backend": "onnxruntime",
        "precision": "fp32",
        "probabilities": (0.9, 0.2, 0.1) if status == "scored" else (),
        "scored_at": "2024-02-01T03:04:05+00:00",
    }
    return FileRow(path, status, **(known | fields))  # type: ignore[arg-type]


def make_study_row(result: StudyResult | None = None, **fields: object) -> StudyRow:
    """A reported study; without a result, pass the status that says why."""
    key = result.study_key if result else STUDY_KEY
    known: dict[str, object] = {
        "study_key": key,
        "header": make_header(),
        "revision": 1,
        "status": "reported" if result else "unscored",
        "n_images": len(result.images) if result else 1,
        "n_scored": len(result.images) if result else 0,
        "report_html": f"reports/{key}/report.html" if result else "",
        "report_pdf": f"reports/{key}/report.pdf" if result else "",
        "thumbnail": f"reports/{key}/thumb-1.jpg" if result else "",
        "reported_at": "2024-02-01T03:04:06+00:00" if result else "",
        "result": result,
    }
    return StudyRow(**(known | fields))  # type: ignore[arg-type]
