"""`make bench-intake`: how fast files are indexed and images decoded, on one core, beside pydicom at full resolution.

Times are of CPU, the smallest of several runs, so that another job on the machine counts little. The image
is a phantom of 2022x2464 pixels and 12 bits; a time is from the path to the display image, hash included. The other
way is what a reader of pydicom's documentation does: `pixel_array`, `apply_voi_lut` at full size, then a resize to
the same display image. JPEG 2000 is decoded there by pylibjpeg-openjpeg (MIT, and OpenJPEG's BSD licence); JPEG
Lossless and JPEG-LS, for which pydicom has no decoder of a free licence, by the same imagecodecs as here.
With --engine also: by how much its scores change when JPEG 2000 is decoded at a fraction of its size, beside how
much they change when the same pixels are rounded to 8 bits before they are shrunk and not after.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pydicom
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxrbatch.config import Settings
from cxrbatch.engine.installed import find_bundle
from cxrbatch.engine.open import open_engine
from cxrbatch.intake.dicom import pixel_data
from cxrbatch.intake.discover import index_file, walk
from cxrbatch.intake.display import SOURCE_PX
from cxrbatch.intake.preprocess import prepare
from cxrbatch.intake.read import read_radiograph
from cxrbatch.phantom.dicom import PhantomIdentity, write_phantom_dicom
from cxrbatch.phantom.draw import draw_phantom
from cxrbatch.records import Gray8, Radiograph

SETTINGS = Settings()
# No image is so large that it would be shrunk.
FULL_SIZE_PX = 8192
PYLIBJPEG = "pylibjpeg"
# What decodes the image the other way; "" is pydicom's choice.
PLAIN_DECODERS = {
    ExplicitVRLittleEndian: "",
    JPEG2000Lossless: PYLIBJPEG,
    JPEGLosslessSV1: "cxrbatch",
    JPEGLSLossless: "cxrbatch",
    RLELossless: "pydicom",
}
GOALS_MS = {ExplicitVRLittleEndian: 15, JPEG2000Lossless: 60, JPEGLosslessSV1: 60}
PHANTOM_SEEDS = range(20, 28)
INDEXED_FILES = 3000
IDENTITY = PhantomIdentity("BENCH", "1", "19700101", "1", "20260101", "120000", "2.25.1", "2.25.2", "2.25.3")


@dataclass(frozen=True)
class Image:
    """A phantom in one transfer syntax."""

    syntax: UID
    path: Path


def write_image(folder: Path, syntax: UID, seed: int = 11) -> Image:
    """Write a phantom of 2022x2464 pixels."""
    path = folder / f"{syntax.keyword}-{seed}"
    phantom = draw_phantom(seed, rows=2464, columns=2022)
    write_phantom_dicom(path, phantom, IDENTITY, transfer_syntax=syntax)
    return Image(syntax, path)


def cpu_ms(work: Callable[[], object], runs: int) -> float:
    """Return the milliseconds of CPU that the fastest of `runs` took, one after the other as in a worker."""
    best = float("inf")
    for _ in range(runs):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return 1e3 * best


def read_the_plain_way(image: Image) -> Gray8:
    """Decode and show an image by pydicom's own functions, at full size."""
    dataset = pydicom.dcmread(image.path)
    stored = pixel_array(dataset, decoding_plugin=PLAIN_DECODERS[image.syntax])
    shown = apply_voi_lut(apply_modality_lut(stored, dataset), dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = shown.max() - shown
    levels = (shown * (255 / 4095)).astype(np.uint8)
    return np.asarray(cv2.resize(levels, (840, 1024), interpolation=cv2.INTER_AREA), np.uint8)


def print_times(images: Sequence[Image], runs: int) -> None:
    """Print the table of times."""
    print(
        "| image | cxrbatch, ms | pydicom at full size, ms | its decoder | goal, ms |\n| --- | --- | --- | --- | --- |"
    )
    for image in images:
        ours = cpu_ms(partial(read_radiograph, image.path, SETTINGS), runs)
        plain = cpu_ms(partial(read_the_plain_way, image), runs)
        decoder = PLAIN_DECODERS[image.syntax] or "pydicom (native)"
        print(f"| {image.syntax.keyword} | {ours:.1f} | {plain:.1f} | {decoder} | {GOALS_MS.get(image.syntax, '')} |")


def measure_index(folder: Path, image: Image) -> float:
    """Return how many headers are indexed in a second of CPU, from page cache."""
    many = folder / "many"
    many.mkdir()
    content = image.path.read_bytes()[: 64 * 1024]
    for number in range(INDEXED_FILES):
        (many / str(number)).write_bytes(content)
    files = list(walk(many))
    started = time.process_time()
    for file in files:
        index_file(many, file, SETTINGS)
    return INDEXED_FILES / (time.process_time() - started)


def print_changes(
    name: str,
    images: Sequence[Path],
    engine_name: str,
    source_px: int = SOURCE_PX,
    settings: Settings = SETTINGS,
) -> None:
    """Print by how much probabilities move when these JPEG 2000 images are decoded at a fraction of their size."""
    bundle = find_bundle(engine_name)
    with closing(open_engine(bundle, backend="onnxruntime", threads=1)) as engine:
        ways: tuple[Callable[[Path], Radiograph], ...] = (
            partial(read_radiograph, settings=settings, source_px=source_px),
            partial(read_whole, source_px=source_px),
            partial(read_rounded_first, source_px=source_px),
        )
        reduced, whole, rounded = (
            np.concatenate(
                [engine.infer(prepare(way(path), bundle.input).pixels[np.newaxis]).probabilities for path in images]
            )
            for way in ways
        )
    cells = (f"{f(np.abs(scores - whole)):.4f}" for scores in (reduced, rounded) for f in (np.max, np.mean))
    print(f"| {name} | {len(images)} | {' | '.join(cells)} |")


def read_whole(path: Path, source_px: int) -> Radiograph:
    """Read an image with the decoder's reduction switched off."""
    with patch.object(pixel_data, "reducible_levels", lambda *_: 0):
        return read_radiograph(path, SETTINGS, source_px=source_px)


def read_rounded_first(path: Path, source_px: int) -> Radiograph:
    """Read an image at full size and shrink its 8-bit display image: as right, but other roundings."""
    radiograph = read_radiograph(path, SETTINGS, source_px=FULL_SIZE_PX)
    height, width = radiograph.judged.shape
    scale = source_px / max(height, width)
    size = (round(width * scale), round(height * scale))
    shrunk = np.asarray(cv2.resize(radiograph.judged, size, interpolation=cv2.INTER_AREA), np.uint8)
    return replace(radiograph, source=shrunk)


def write_real_images(folder: Path, shared: Path, every: int = 6) -> list[Path]:
    """Write public PNG images of 1024 pixels as JPEG 2000 of 12 bits, and return their paths.

    A little noise fills the bits that 8-bit files lack.
    """
    written = []
    for number, source in enumerate(sorted((shared / "nih1024").rglob("*.png"))[::every]):
        pixels = np.asarray(cv2.imread(str(source), cv2.IMREAD_GRAYSCALE), np.float64)
        noise = np.random.default_rng(number).normal(0, 8, pixels.shape)
        stored = np.clip(np.rint(16 * pixels + 8 + noise), 0, 4095).astype(np.uint16)
        like = replace(draw_phantom(1, rows=64), stored=stored, window_center=2048, window_width=4096)
        written.append(folder / f"real-{number}")
        write_phantom_dicom(written[-1], like, IDENTITY, transfer_syntax=JPEG2000Lossless)
    return written


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--engine", default="", help="also measure what reduced JPEG 2000 does to its scores")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        images = [write_image(folder, syntax) for syntax in PLAIN_DECODERS]
        print_times(images, options.runs)
        print(f"\nindex: {measure_index(folder, images[0]):.0f} files/s of CPU, goal 1500\n")
        if options.engine:
            measure_changes(folder, options.engine)


def measure_changes(folder: Path, engine: str) -> None:
    """Print what reduced decoding does to probabilities, on phantoms and on what there is of real images."""
    print("| JPEG 2000 images | count | reduced: largest | mean | rounded first: largest | mean |")
    print("| --- | --- | --- | --- | --- | --- |")
    phantoms = [write_image(folder, JPEG2000Lossless, seed).path for seed in PHANTOM_SEEDS]
    print_changes("phantoms, 2464 px, read at 1024", phantoms, engine)
    quarter = replace(SETTINGS, jpeg2000="quarter")
    print_changes("the same with jpeg2000 = quarter, so 616", phantoms, engine, settings=quarter)
    shared = Path(os.environ.get("CXRBATCH_SHARED_DATA") or "nowhere")
    if (shared / "nih1024").is_dir():
        rg1 = shared / "dicom" / "chest" / "rg1_cr_pa_mono1_15bit_j2k.dcm"
        print_changes("real RG1, 1955 px, read at 512", [rg1], engine, 512)
        real = write_real_images(folder, shared)
        print_changes("NIH ChestX-ray14, 1024 px, read at 512", real, engine, 512)
        print_changes("the same with jpeg2000 = quarter, read at 420, so 256", real, engine, 420, quarter)


if __name__ == "__main__":
    main()
