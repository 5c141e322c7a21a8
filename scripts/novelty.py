"""Measure which images an engine calls unlike its training images: held-out ones, other sources, altered, no chests.

Usage: python scripts/novelty.py SHARED_DATA [--source nih256|fourclass384] [--size 112] [--epochs 6]
           [--checkpoint FILE]

Trains a small network on one source; or takes a checkpoint that was trained on the parts which the source brings along:
half of the validation patients then set the threshold, and the other half are held out. Prints a table with the share
of each kind of image that lies beyond the threshold, in FP32 and in INT8.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from cxrbatch.config import Settings
from cxrbatch.engine.training_facts import NoveltyFacts
from cxrbatch.errors import ImageRejected
from cxrbatch.intake.preprocess import fit_image, source_side
from cxrbatch.intake.read import read_radiograph
from cxrbatch.model.build.int8 import quantise_onnx
from cxrbatch.model.data.dataset import PixelSet, load_data
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.network.checkpoint import CheckpointFacts, load_checkpoint
from cxrbatch.model.network.export import export_onnx
from cxrbatch.model.network.network import ChestNetwork, ScoringNetwork
from cxrbatch.model.train.novelty import fit_novelty
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
    parser.add_argument("--checkpoint", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        if asked.checkpoint is None:
            trained = train(asked.shared / asked.source, Path(work), InputSpec(asked.size), asked.epochs)
        else:
            trained = fit(asked.shared / asked.source, asked.checkpoint)
        measure(asked.shared, asked.source, Path(work), trained)


@dataclass(frozen=True, slots=True)
class Trained:
    """A network that tells distances, 64 images that it learned from, uint8 [64,1,S,S], and files held out."""

    network: ScoringNetwork
    learned: Gray8
    held_out: list[Path]


def train(source: Path, work: Path, spec: InputSpec, epochs: int) -> Trained:
    """Train on a source, with a fifth of its patients held out."""
    data = undivided(source, work / source.name)
    labels = (TABLES[source.name],) if source.name in TABLES else ()
    options = DataOptions(test_fraction=0.2, val_fraction=0.25, labels=labels)
    plan = TrainingPlan(
        data=options,
        training=TrainingOptions(epochs=epochs, batch_size=16, average=0.9),
        architecture="resnet18",
        size_px=spec.size_px,
    )
    train_model(data, work / "small.safetensors", plan, Listener(say=lambda text: print(f"# {text}")))
    loaded = load_checkpoint(work / "small.safetensors")
    tell(loaded.facts, loaded.facts.training.novelty)
    images = load_data(data, options)
    learned = np.stack(list(read([sample.path for sample in images.part("train")][:64], spec)))
    return Trained(loaded.network, learned, [sample.path for sample in images.part("test")])


def fit(source: Path, checkpoint: Path) -> Trained:
    """Fit the distance of a network that was trained on the parts which the source brings along."""
    loaded = load_checkpoint(checkpoint)
    network = loaded.network
    if not isinstance(network, ChestNetwork):
        sys.exit(f"{checkpoint}: an ensemble or mirrored; name the checkpoint of a single network")
    labels = tuple(label.name for label in loaded.facts.labels)
    images = load_data(source, DataOptions(labels=labels))
    if images.sha256 != loaded.facts.training.data_sha256:
        print("# the checkpoint names another version of this data")
    patients = sorted({sample.patient for sample in images.part("val")})
    held_out = set(patients[::2])
    parts = {
        "train": [sample.path for sample in images.part("train")],
        "val": [sample.path for sample in images.part("val") if sample.patient not in held_out],
    }
    sets = {}
    for name, files in parts.items():
        pixels = np.stack(list(read(files, loaded.facts.input)))
        sets[name] = PixelSet(pixels, np.zeros((len(pixels), 1), np.float32))
    tell(loaded.facts, fit_novelty(network, sets["train"], sets["val"]))
    left = [sample.path for sample in images.part("val") if sample.patient in held_out]
    return Trained(network, sets["train"].pixels[:64], left)


def tell(facts: CheckpointFacts, novelty: NoveltyFacts | None) -> None:
    """Say what was trained, and how the distance was fitted."""
    auroc = facts.training.figures.get("macro_auroc", float("nan"))
    print(f"# {facts.architecture}, {facts.input.size_px} px, AUROC {auroc:.3f} on validation images; {novelty}")


def measure(shared: Path, source: str, work: Path, trained: Trained) -> None:
    """Print the table."""
    spec = trained.network.spec
    export_onnx(trained.network, work / "fp32.onnx", size_px=spec.size_px)
    quantise_onnx(work / "fp32.onnx", work / "int8.onnx", trained.learned)
    print("\n| images | how many | beyond the threshold | in INT8 | median distance |\n| --- | --- | --- | --- | --- |")
    for name, pixels in kinds(shared, source, trained.held_out, spec):
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
        if pixels := list(read([shared / no_chest], spec)):
            yield no_chest, np.stack(pixels)


def read(files: list[Path], spec: InputSpec) -> Iterator[Gray8]:
    """Yield what the engine eats of each image, uint8 [1,S,S], as a run would, but whatever it shows."""
    settings = Settings(
        pixel_check=False,
        accept_modality="CR,DX,RG,MG",
        accept_body_part="BREAST,EXTREMITY",
        accept_view="any",
    )
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
