"""`make bench-intake`: how fast files are indexed and films decoded, on one core, beside pydicom at full resolution.

Times are of CPU, the smallest of several runs, so that another job on the machine does not count. The film is a
phantom of 2022x2464 pixels and 12 bits. The other way is what a reader of pydicom's documentation does:
`pixel_array`, `apply_voi_lut` at full size, then a resize to the same display image.
Also measured: by how much a score changes when JPEG 2000 is decoded at a fraction of its size.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pydicom
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from cxrbatch.config import Settings
from cxrbatch.engine.bundle import find_bundle
from cxrbatch.engine.open import open_engine
from cxrbatch.intake.discover import index_file, walk
from cxrbatch.intake.preprocess import prepare
from cxrbatch.intake.read import read_radiograph
from cxrbatch.phantom.dicom import PhantomIdentity, write_phantom_dicom
from cxrbatch.phantom.draw import draw_phantom
from cxrbatch.records import Gray8, Radiograph

SETTINGS = Settings()
# No film is so large that it would be reduced while decoding.
WHOLE = replace(SETTINGS, max_display_px=1_000_000)
SYNTAXES = (ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless)
INDEXED_FILES = 3000
IDENTITY = PhantomIdentity("BENCH", "1", "19700101", "1", "20260101", "120000", "2.25.1", "2.25.2", "2.25.3")


@dataclass(frozen=True)
class Film:
    """A phantom in one transfer syntax."""

    name: str
    path: Path


def write_film(folder: Path, syntax: UID, seed: int = 11) -> Film:
    """Write a phantom of 2022x2464 pixels."""
    path = folder / f"{syntax.keyword}-{seed}"
    phantom = draw_phantom(seed, rows=2464, columns=2022)
    write_phantom_dicom(path, phantom, IDENTITY, transfer_syntax=syntax)
    return Film(syntax.keyword, path)


def cpu_ms(work: Callable[[], object], runs: int) -> float:
    """Return the milliseconds of CPU that the fastest of `runs` took."""
    best = float("inf")
    for _ in range(runs):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return 1e3 * best


def read_the_plain_way(path: Path) -> Gray8:
    """Decode and show a film by pydicom's own functions, at full size."""
    dataset = pydicom.dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = shown.max() - shown
    levels = (shown * (255 / 4095)).astype(np.uint8)
    return np.asarray(cv2.resize(levels, (840, 1024), interpolation=cv2.INTER_AREA), np.uint8)


def measure_index(folder: Path, film: Film) -> float:
    """Return how many headers are indexed in a second of CPU, from page cache."""
    many = folder / "many"
    many.mkdir()
    content = film.path.read_bytes()[: 64 * 1024]
    for number in range(INDEXED_FILES):
        (many / str(number)).write_bytes(content)
    files = list(walk(many))
    started = time.process_time()
    for file in files:
        index_file(many, file, SETTINGS)
    return INDEXED_FILES / (time.process_time() - started)


def largest_change(films: list[Path], engine_name: str) -> float:
    """Return by how much, at most, a probability moves when JPEG 2000 is decoded at a fraction of its size."""
    bundle = find_bundle(engine_name)
    engine = open_engine(bundle, backend="onnxruntime", threads=1)
    try:
        reduced = [read_radiograph(path, SETTINGS) for path in films]
        whole = [_shown_at_display_size(read_radiograph(path, WHOLE)) for path in films]
        scores = [
            engine.infer(np.stack([prepare(film, bundle.input).pixels for film in way])).probabilities
            for way in (reduced, whole)
        ]
    finally:
        engine.close()
    return float(np.abs(scores[0] - scores[1]).max())


def _shown_at_display_size(radiograph: Radiograph) -> Radiograph:
    height, width = radiograph.display.shape
    scale = SETTINGS.max_display_px / max(height, width)
    size = (round(width * scale), round(height * scale))
    return replace(radiograph, display=cv2.resize(radiograph.display, size, interpolation=cv2.INTER_AREA))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--engine", default="", help="also measure what reduced JPEG 2000 does to its scores")
    parser.add_argument("--real", type=Path, nargs="*", default=[], help="JPEG 2000 films for that, beside phantoms")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as work:
        films = [write_film(Path(work), syntax) for syntax in SYNTAXES]
        print("| film | cxrbatch, ms | pydicom at full size, ms |\n| --- | --- | --- |")
        for film in films:
            ours = cpu_ms(lambda path=film.path: read_radiograph(path, SETTINGS), options.runs)  # type: ignore[misc]
            plain = cpu_ms(lambda path=film.path: read_the_plain_way(path), 2)  # type: ignore[misc]
            print(f"| {film.name} | {ours:.1f} | {plain:.1f} |")
        print(f"\nindex: {measure_index(Path(work), films[0]):.0f} files/s of CPU")
        if options.engine:
            phantoms = [write_film(Path(work), JPEG2000Lossless, seed).path for seed in range(20, 28)]
            change = largest_change([*phantoms, *options.real], options.engine)
            print(f"largest change of a probability, {len(phantoms)} phantoms, {len(options.real)} real: {change:.4f}")


if __name__ == "__main__":
    main()
