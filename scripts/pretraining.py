"""Measure whether pretraining without labels helps: the same trainings from random weights and from pretrained ones.

Usage: python scripts/pretraining.py DATA [--unlabelled FOLDER ...] [--label Pneumonia] [-a resnet18] [--size 128]
       [--pretrain-epochs N] [--epochs N] [--share 0.25 --share 1] [--seeds 3] [--work FOLDER]

DATA is labelled, with its parts train and val, as `cxrbatch train` takes it. The archive to pretrain on are the
radiographs of its part train and those below each --unlabelled FOLDER, without any whose patient, by file name, is in
val. Every training is the product's own, with its defaults: of a share of the patients of train, validated on all of
val, once from random weights and once with --init, by seed. Prints a table for docs/measurements/pretraining.md.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from cxrbatch.intake.discover import walk
from cxrbatch.model.data.dataset import load_data
from cxrbatch.model.data.image_facts import PatientFinder
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.network.architectures import architectures
from cxrbatch.model.pretrain.pretrain_model import pretrain_model
from cxrbatch.model.pretrain.record import PretrainingPlan, PretrainingRun
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.model.train.record import Listener, TrainingPlan
from cxrbatch.model.train.train_model import train_model

NONE = "none"


@dataclass(frozen=True, slots=True)
class Measured:
    """AUROC on the validation images by seed, of trainings that began alike; `images` were learned from."""

    share: float
    start: str
    images: int
    aurocs: tuple[float, ...]


def gather_archive(images: LabelledImages, folders: Sequence[Path], target: Path) -> Path:
    """Put the radiographs to pretrain on into a folder: none of a patient of val, none of unknown ones beside val's."""
    finder = PatientFinder()
    held_out = {patient_of(sample, finder) for sample in images.part("val")}
    chosen = [(sample.path, patient_of(sample, finder)) for sample in images.part("train")]
    for folder in folders:
        found = [folder.resolve() / file.path for file in walk(folder)]
        chosen += [(path, finder.find(path) or path.as_posix()) for path in found]
    for number, (path, patient) in enumerate(chosen):
        if patient not in held_out:
            # Not links: a walk refuses those that lead out of its folder.
            place = target / f"{number // 1000:03d}" / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    return target


def patient_of(sample: Sample, finder: PatientFinder) -> str:
    """Return whose an image is, by its file name, so that the same patient is found in another collection's folder."""
    return finder.find(sample.path) or sample.patient


def write_share(images: LabelledImages, share: float, seed: int, table: Path) -> int:
    """Write a table of val and of a share of the patients of train; return how many images that are."""
    patients = sorted({sample.patient for sample in images.part("train")})
    count = math.ceil(share * len(patients))
    kept = set(np.random.default_rng(seed).permutation(patients)[:count].tolist())
    chosen = [sample for sample in images.samples if sample.split == "val" or sample.patient in kept]
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "patient", "split", *images.labels])
        for sample in chosen:
            writer.writerow([sample.path.resolve(), sample.patient, sample.split, *(int(at) for at in sample.targets)])
    return sum(sample.split == "train" for sample in chosen)


def measure(options: argparse.Namespace, images: LabelledImages, share: float, start: str, work: Path) -> Measured:
    """Train once per seed from these weights; return the AUROC of each on the validation images."""
    aurocs, count = [], 0
    for seed in range(options.seeds):
        table = work / f"share-{share:g}-{seed}.csv"
        count = write_share(images, share, seed, table)
        plan = TrainingPlan(
            data=DataOptions(labels=images.labels, seed=seed),
            training=TrainingOptions(epochs=options.epochs, batch_size=0, average=0.98, keep="auto", seed=seed),
            architecture=options.architecture,
            size_px=options.size,
            init=start,
        )
        (run,) = train_model(table, work / "model.safetensors", plan).runs
        aurocs.append(run.facts.training.figures["macro_auroc"])
    return Measured(share, "random" if start == NONE else "pretrained", count, tuple(aurocs))


def row(measured: Measured, beside: Measured | None) -> str:
    """Return a line of the table: the mean over seeds, how far they are apart, and what was gained, seed by seed."""
    spread = f"{stdev(measured.aurocs):.3f}" if len(measured.aurocs) > 1 else ""
    gains = [] if beside is None else [b - a for a, b in zip(beside.aurocs, measured.aurocs, strict=True)]
    gained = f"{mean(gains):+.3f} ({', '.join(f'{gain:+.3f}' for gain in gains)})" if gains else ""
    cells = (f"{measured.share:.0%}", str(measured.images), measured.start, f"{mean(measured.aurocs):.3f}", spread)
    return "| " + " | ".join((*cells, gained)) + " |"


def pretrain(options: argparse.Namespace, images: LabelledImages, work: Path) -> PretrainingRun:
    """Pretrain on the archive, and tell how that went."""
    archive = gather_archive(images, options.unlabelled, work / "archive")
    plan = PretrainingPlan(
        training=TrainingOptions(epochs=options.pretrain_epochs, batch_size=options.batch_size),
        architecture=options.architecture,
        size_px=options.size,
    )
    run = pretrain_model(archive, work / "pretrained.safetensors", plan, Listener(say=print))
    facts = run.facts
    print(
        f"\nPretrained on {facts.images} images in {facts.steps} steps ({facts.seconds:.0f} s): loss {facts.loss:.3f}, "
        f"recognised {facts.recognised:.0%}, spread {facts.spread:.2f}.\n"
    )
    return run


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--unlabelled", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument("--label", default="Pneumonia")
    parser.add_argument("-a", "--architecture", choices=architectures(), default="resnet18")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--pretrain-epochs", type=int, default=0, help="0: as many as `cxrbatch pretrain` takes")
    parser.add_argument("--batch-size", type=int, default=32, help="of the pretraining")
    parser.add_argument("--epochs", type=int, default=0, help="of each training; 0: as many as `cxrbatch train` takes")
    parser.add_argument("--share", type=float, action="append", help="share of the patients with labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder for what is made; kept.  [default: one that is removed]")
    options = parser.parse_args()
    options.share = options.share or [0.25, 1.0]
    return options


def main() -> None:
    """Measure, and print a table in Markdown."""
    options = read_options()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        images = load_data(options.data, DataOptions(labels=(options.label,)))
        weights = pretrain(options, images, work).weights
        epochs = f"{options.epochs} epochs" if options.epochs else "the usual number of epochs"
        print(
            f"{datetime.now(timezone.utc):%Y-%m-%d}, {options.architecture} at {options.size} px, {options.label}, "
            f"{epochs} of training, {options.seeds} seed(s), {os.cpu_count()} cores.\n"
        )
        print("| patients with labels | images | starts from | AUROC | between seeds | gained (by seed) |")
        print("|" + " --- |" * 6)
        for share in options.share:
            plain = measure(options, images, share, NONE, work)
            print(row(plain, None), flush=True)
            print(row(measure(options, images, share, weights, work), plain), flush=True)
    print(f"\n{time.monotonic() - started:.0f} s.")


if __name__ == "__main__":
    main()
