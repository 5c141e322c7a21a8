"""Measure which images an engine calls unlike its training images: held-out ones, other sources, altered, no chests.

Usage: python scripts/novelty.py SHARED_DATA [--source nih256|fourclass384] [--size 112] [--epochs 6]

Trains a small network on one source, and prints a table with the share of each kind of image that lies beyond the
threshold, in FP32 and in INT8.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort

from cxrbatch.config import Settings
from cxrbatch.errors import ImageRejected
from cxrbatch.intake.preprocess import fit_image, source_side
from cxrbatch.intake.read import read_radiograph
from cxrbatch.model.build.int8 import quantise_onnx
from cxrbatch.model.data.dataset import load_data
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.network.checkpoint import load_checkpoint
from cxrbatch.model.network.export import export_onnx
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.model.train.record import Listener, TrainingPlan
from cxrbatch.model.train.train_model import train_model
from cxrbatch.records import Float32, Gray8, InputSpec

TABLES = {"nih256": "Pneumonia"}
OTHERS = ("nih256", "nih1024", "fourclass384/normal", "fourclass384/pneumonia_bac", "fourclass384/covid", "dicom/chest")
NO_CHESTS = ("dicom/not_chest/MG1_J2KI", "dicom/transfer_syntaxes/RG3_UNC")
MOST_IMAGES = 60


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--source", choices=("nih256", "fourclass384"), default="nih256")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--epochs", type=int, default=6)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        measure(asked.shared, asked.source, Path(work), InputSpec(asked.size), asked.epochs)


def measure(shared: Path, source: str, work: Path, spec: InputSpec, epochs: int) -> None:
    """Train on a source, and print the table."""
    data = undivided(shared / source, work / source)
    options = DataOptions(test_fraction=0.2, val_fraction=0.25, labels=(TABLES[source],) if source in TABLES else ())
    plan = TrainingPlan(
        data=options,
        training=TrainingOptions(epochs=epochs, batch_size=16, average=0.9),
        architecture="resnet18",
        size_px=spec.size_px,
    )
    train_model(data, work / "small.safetensors", plan, Listener(say=lambda text: print(f"# {text}")))
    network = load_checkpoint(work / "small.safetensors").network
    facts = load_checkpoint(work / "small.safetensors").facts
    print(f"# AUROC {facts.training.figures.get('macro_auroc', 0):.3f} on validation images; {facts.training.novelty}")
    export_onnx(network, work / "fp32.onnx", size_px=spec.size_px)
    images = load_data(data, options)
    calibration = np.stack(list(read([sample.path for sample in images.part("train")][:64], spec)))
    quantise_onnx(work / "fp32.onnx", work / "int8.onnx", calibration)
    held_out = [sample.path for sample in images.part("test")]
    print("\n| images | how many | beyond the threshold | in INT8 | median distance |\n| --- | --- | --- | --- | --- |")
    for name, pixels in kinds(shared, source, held_out, spec):
        exact, quantised = (distances(work / file, pixels) for file in ("fp32.onnx", "int8.onnx"))
        shares = " | ".join(f"{np.mean(told > 1):.1%}" for told in (exact, quantised))
        print(f"| {name} | {len(pixels)} | {shares} | {np.median(exact):.2f} |", flush=True)


def undivided(source: Path, copy: Path) -> Path:
    """Return a folder of links to the images whose table brings no parts along, so that some can be held out."""
    table = source / "labels.csv"
    if not table.is_file():
        return source
    copy.mkdir()
    for image in source.glob("*.png"):
        (copy / image.name).symlink_to(image)
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    with (copy / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [name for name in rows[0] if name != "split"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return copy


def kinds(shared: Path, source: str, held_out: list[Path], spec: InputSpec) -> Iterator[tuple[str, Gray8]]:
    """Yield kinds of images by name, uint8 [N,1,S,S]."""
    same = np.stack(list(read(held_out, spec)))
    yield f"{source}, held out (other patients)", same
    for other in (each for each in OTHERS if not each.startswith(source)):
        files = sorted(path for path in (shared / other).iterdir() if path.suffix != ".csv")
        yield other, np.stack(list(read(files[:: max(1, len(files) // MOST_IMAGES)], spec)))
    altered = same[:MOST_IMAGES]
    yield "held out, black and white exchanged", 255 - altered
    yield "held out, upside down", np.ascontiguousarray(altered[:, :, ::-1])
    yield "held out, lying on the side", np.ascontiguousarray(altered.transpose(0, 1, 3, 2))
    yield (
        "held out, left half black",
        np.where(np.arange(spec.size_px) < spec.size_px // 2, 0, altered).astype(np.uint8),
    )
    yield "held out, a third as bright", (altered // 3).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, altered.shape, np.uint8)
    yield "noise", noise
    for no_chest in NO_CHESTS:
        yield no_chest, np.stack(list(read([shared / no_chest], spec)))


def read(files: list[Path], spec: InputSpec) -> Iterator[Gray8]:
    """Yield what the engine eats of each image, uint8 [1,S,S], as a run would, but whatever it shows."""
    settings = Settings(pixel_check=False)
    for path in files:
        try:
            radiograph = read_radiograph(path, settings, source_px=source_side(spec))
        except ImageRejected as rejected:
            print(f"# {path.name}: {rejected}")
            continue
        yield fit_image(radiograph.judged, spec, radiograph.rows, radiograph.columns)[0]


def distances(graph: Path, pixels: Gray8) -> Float32:
    """Return the distances that a graph tells, float32 [N]."""
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    batches = [pixels[start : start + 16] for start in range(0, len(pixels), 16)]
    return np.concatenate([session.run(["distance"], {"pixels": batch})[0] for batch in batches])


if __name__ == "__main__":
    main()
