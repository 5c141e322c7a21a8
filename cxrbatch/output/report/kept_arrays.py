"""What of an engine's answer is kept beside a report, as NumPy files, for whoever computes with it: `keep_arrays`.

A file's name ends in a hash of its content, as those of pictures do. Nothing of this is drawn or shown.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxrbatch.output.report.report_files import named_by_content
from cxrbatch.records import Float32, ImagePixels, StudyResult


@dataclass(frozen=True, slots=True)
class KeptArrays:
    """A result whose images name the arrays that are kept of them, and those arrays: .npy by file name."""

    result: StudyResult
    files: dict[str, bytes]


def keep_arrays(result: StudyResult, pixels: Sequence[ImagePixels]) -> KeptArrays:
    """Name and encode what a result says is to be kept; `pixels` follows the order of its images."""
    if not result.keeps_arrays:
        return KeptArrays(result, {})
    files: dict[str, bytes] = {}
    images = []
    for number, (image, arrays) in enumerate(zip(result.images, pixels, strict=True), start=1):
        kept = image
        if result.keeps_maps:
            maps_file = _keep(files, f"maps-{number}.npy", arrays.cams)
            kept = replace(kept, maps_file=maps_file, geometry=arrays.geometry)
        if result.keeps_embeddings and arrays.embedding is not None:
            kept = replace(kept, embedding_file=_keep(files, f"embedding-{number}.npy", arrays.embedding))
        images.append(kept)
    return KeptArrays(replace(result, images=tuple(images)), files)


def _keep(files: dict[str, bytes], name: str, array: Float32) -> str:
    content = encode_npy(array)
    files[named := named_by_content(name, content)] = content
    return named


def encode_npy(array: Float32) -> bytes:
    """Return an array as a .npy file, float32, little endian, by rows; the same array gives the same bytes."""
    written = io.BytesIO()
    np.save(written, np.ascontiguousarray(array, "<f4"), allow_pickle=False)
    return written.getvalue()
