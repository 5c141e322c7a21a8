"""Measure what the defaults of `cxrbatch train` reach on real radiographs, from the command line as a user types it.

Usage: python scripts/training.py [--only four|nih] [--threads 2] [FOLDER [-- MORE OPTIONS OF train]]

FOLDER keeps the checkpoints (default: a temporary one). Prints a table in Markdown: four classes in five folds, and
Pneumonia against No Finding with three seeds, every training with `--image-size 128` and nothing else.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import mean, stdev

from cxrbatch.model.train.checks import training_folder
from cxrbatch.model.train.record import TrainingRun, TrainingSummary
from cxrbatch.system.record_json import from_json

SIDE_PX, FOLDS, SEEDS = 128, 5, (0, 1, 2)
SUITES = ("four", "nih")


@dataclass(frozen=True, slots=True)
class Trained:
    """One network that was trained: which one, and the figure that is asked for."""

    name: str
    figure: float
    run: TrainingRun


def train(data: Path, checkpoint: Path, options: Sequence[str], threads: int) -> TrainingSummary:
    """Run the command; return what it says of itself."""
    command = [sys.executable, "-m", "cxrbatch", "train", str(data), "-o", str(checkpoint)]
    settings = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    subprocess.run([*command, "--image-size", str(SIDE_PX), *options], check=True, env=settings, stdout=sys.stderr)
    record = training_folder(checkpoint) / "training.json"
    return from_json(record.read_text(), TrainingSummary)


def four_classes(data: Path, place: Path, more: Sequence[str], threads: int) -> Iterator[Trained]:
    """Train the four classes in folds: accuracy on the images of each fold's patients."""
    summary = train(data / "fourclass384", place / "four.safetensors", ["--folds", str(FOLDS), *more], threads)
    for run in summary.runs:
        yield Trained(f"four classes, fold {run.fold}, accuracy", run.facts.training.figures["accuracy"], run)


def pneumonia(data: Path, place: Path, more: Sequence[str], threads: int) -> Iterator[Trained]:
    """Train Pneumonia from seeds: AUROC on the validation patients that the data name."""
    for seed in SEEDS:
        summary = train(data / "nih256", place / f"nih-{seed}.safetensors", ["--seed", str(seed), *more], threads)
        run = summary.runs[0]
        label = next(label for label in run.facts.labels if label.name == "Pneumonia")
        yield Trained(f"Pneumonia, seed {seed}, AUROC", label.metrics["auroc"], run)


def line(trained: Trained) -> str:
    """Return a line of the table."""
    run = trained.run
    rate = mean(epoch.images_per_s for epoch in run.epochs)
    return f"| {trained.name} | {trained.figure:.3f} | {len(run.epochs)} | {run.seconds:.0f} | {rate:.0f} |"


def main() -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CXRBATCH_SHARED_DATA", "../shared/data")))
    parser.add_argument("--only", choices=SUITES)
    parser.add_argument("--threads", type=int, default=0, help="cores; 0 takes all")
    parser.add_argument("more", nargs="*", help="more options of train, after --")
    options = parser.parse_args()
    print(f"{datetime.now(timezone.utc):%Y-%m-%d}, {options.threads or os.cpu_count()} threads\n")
    print("| training | figure | epochs | seconds | images/s |\n| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory(prefix="cxrbatch-training-") as temporary:
        place = options.folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        for suite, measure in zip(SUITES, (four_classes, pneumonia), strict=True):
            if options.only in {None, suite}:
                report(measure(options.data, place, options.more, options.threads))


def report(measured: Iterator[Trained]) -> None:
    """Print the lines of one suite, and their mean and standard deviation."""
    done = []
    for trained in measured:
        done.append(trained.figure)
        print(line(trained), flush=True)
    if len(done) > 1:
        print(f"| **mean, standard deviation** | **{mean(done):.3f}**, {stdev(done):.3f} | | | |", flush=True)


if __name__ == "__main__":
    main()
