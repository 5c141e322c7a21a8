"""Trainings that never ran: records as `cxrbatch train` leaves them, every number of them known beforehand."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.model.figures.bootstrap import draw_resamples
from cxrbatch.model.figures.figures import LabelledScores, MeasuredLabels, make_calls, measure_labels
from cxrbatch.model.network.checkpoint import CheckpointFacts
from cxrbatch.model.train.calibration import Calibration
from cxrbatch.model.train.describe import overall_figures, with_metrics
from cxrbatch.model.train.out_of_fold import OUT_OF_FOLD_CSV, OutOfFold
from cxrbatch.model.train.record import EpochFigures, TrainingPart, TrainingRun
from cxrbatch.pages.cells import restored
from cxrbatch.records import Float32, InputSpec, Label, Task

LABELS = (Label("Effusion", 0.31, urgent=True), Label("Pneumonia", 0.44), Label("Hernia", None))
CLASSES = (Label("covid", None), Label("normal", None, normal=True), Label("pneumonia", None))
OPTIONS = {
    "epochs": 8,
    "batch_size": 32,
    "accumulate": 1,
    "learning_rate": 0.001,
    "optimizer": "adamw",
    "weight_decay": 0.02,
    "schedule": "one-cycle",
    "warm_up": 0.25,
    "loss": "",
    "freeze": 0,
    "seed": 7,
    "augmentation": {"shift": 0.06, "zoom": 0.1},
    "patience": 0,
    "small_epochs": 6,
    "precision": "auto",
    "devices": "auto",
    "operating_point": "youden",
}


def make_run(
    *,
    labels: tuple[Label, ...] = LABELS,
    task: Task = "multilabel",
    epochs: int = 8,
    kept: int = 7,
    fold: int = 0,
    seed: int = 0,
    interrupted: bool = False,
    leaks: Sequence[str] = (),
) -> TrainingRun:
    """Make the record of a training of so many epochs, 8 being asked for; the first 6 see images at 149 px."""
    scores = draw_scores(labels, task, seed=seed)
    measured = measure_labels(scores)
    training = TrainingFacts(
        data="images, csv layout: 500 images of 240 patients",
        images={"train": 380, "val": 120},
        recipe="ab" * 32,
        seed=7,
        seconds=332.4,
        options=OPTIONS,
        libraries={"torch": "2.12.0", "numpy": "2.3.0"},
        figures=dict(overall_figures(measured)),
        patients={"train": "cd" * 32, "val": "ef" * 32},
        measured_on="val",
        data_sha256="12" * 32,
        init="Weights start from random weights.",
    )
    facts = CheckpointFacts(
        created="2026-01-02T03:04:05+00:00",
        architecture="resnet18",
        task=task,
        labels=with_metrics(labels, measured, scores.probabilities),
        input=InputSpec(224),
        training=training,
    )
    return TrainingRun(
        checkpoint=f"models/fold-{fold}.safetensors" if fold else "models/chest.safetensors",
        data="/data/images",
        layout="csv",
        data_sha256="12" * 32,
        parts=make_parts(len(labels)),
        notes=("3 rows without an image were left out.",),
        leaks=tuple(leaks),
        facts=facts,
        operating_point_rule="youden",
        calibration=Calibration((1.4, 0.8, 1.0)[: len(labels)], (0.25, -0.5, 0.0)[: len(labels)]),
        epochs=tuple(make_epoch(number, len(labels), seed) for number in range(1, epochs + 1)),
        kept=kept,
        measured=measured,
        resamples=50,
        interrupted=interrupted,
        seconds=332.4,
        fold=fold,
        trained_at="2026-01-02T03:04:05+00:00",
        cxrbatch_version="0.1.0",
    )


def make_parts(labels: int) -> tuple[TrainingPart, ...]:
    """Make a training part of 380 images and a validation part of 120."""
    train, val = (190, 76, 4)[:labels], (60, 24, 2)[:labels]
    return (
        TrainingPart("train", 380, 180, train, (0, 19, 0)[:labels]),
        TrainingPart("val", 120, 60, val, (0,) * labels),
    )


def make_epoch(number: int, labels: int, seed: int = 0) -> EpochFigures:
    """Make an epoch that is better than the one before, until the seventh."""
    small = number <= 6
    auroc = 0.6 + 0.04 * min(number, 14 - number) - 0.01 * seed
    return EpochFigures(
        epoch=number,
        seconds=11.0 if small else 24.0,
        size_px=149 if small else 224,
        learning_rate=1e-3 * float(np.sin(np.pi * number / 9)),
        loss=0.8 / number + 0.2,
        images_per_s=70.0 if small else 31.0,
        val_loss=0.9 / number + 0.3,
        val_auroc=auroc,
        label_auroc=tuple(auroc + 0.05 * (place - 1) for place in range(labels)),
    )


def draw_scores(labels: tuple[Label, ...], task: Task, *, seed: int = 0, images: int = 120) -> LabelledScores:
    """Draw scores of two images a patient that know something of each label, the same each time."""
    generator = np.random.default_rng(seed)
    shares = np.array([0.5, 0.2, 0.02])[: len(labels)]
    targets = (generator.random((images, len(labels))) < shares).astype(np.float32)
    if task == "multiclass":
        targets = np.eye(len(labels), dtype=np.float32)[generator.integers(0, len(labels), images)]
    raw = 1.6 * targets - 0.8 + generator.normal(0.0, 1.0, targets.shape)
    probabilities = (1 / (1 + np.exp(-raw))).astype(np.float32)
    if task == "multiclass":
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    likeliest = probabilities.argmax(axis=1).astype(np.int64)
    return LabelledScores(
        labels=labels,
        task=task,
        targets=targets,
        probabilities=probabilities,
        calls=make_calls(labels, task, probabilities),
        classes=likeliest if task == "multiclass" else np.empty(0, np.int64),
        weights=draw_resamples([f"p{at // 2}" for at in range(images)], count=50, seed=0),
    )


def without_validation(run: TrainingRun) -> TrainingRun:
    """Return the record of a training that measured nothing."""
    epochs = tuple(replace(epoch, val_loss=None, val_auroc=None, label_auroc=()) for epoch in run.epochs)
    return replace(run, epochs=epochs, measured=MeasuredLabels((), {}))


def read_out_of_fold(folder: Path) -> OutOfFold:
    """Read the table of out-of-fold scores as any other program would."""
    with (folder / OUT_OF_FOLD_CSV).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    labels = [column.removeprefix("target_") for column in rows[0] if column.startswith("target_")]

    def read(kind: str) -> Float32:
        return np.array([[float(row[f"{kind}_{label}"] or "nan") for label in labels] for row in rows], np.float32)

    return OutOfFold(
        labels=tuple(map(restored, labels)),
        images=tuple(restored(row["path"]) for row in rows),
        patients=tuple(restored(row["patient"]) for row in rows),
        fold=np.array([int(row["fold"]) for row in rows], np.int64),
        targets=read("target"),
        logits=read("logit"),
    )
