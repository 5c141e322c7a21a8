"""Labelled data in any layout becomes a checkpoint that stands alone, and what cannot be trained on is told before."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxrbatch.cli import run_command_line
from cxrbatch.engine.bundle import load_bundle
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.model.data.dataset import load_data
from cxrbatch.model.data.known_images import recognise_patients
from cxrbatch.model.data.labelled import patients_sha256
from cxrbatch.model.data.layouts import read_data
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.evaluate.acquaintance import get_acquainted
from cxrbatch.model.evaluate.evaluate import EvaluationOptions, evaluate_model
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.model.figures.operating_points import OperatingPointRule, parse_operating_point
from cxrbatch.model.network.checkpoint import load_checkpoint
from cxrbatch.model.train.calibration import fit_calibration
from cxrbatch.model.train.checks import training_folder
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.model.train.record import (
    EpochFigures,
    Listener,
    TrainingPlan,
    TrainingProgress,
    TrainingRun,
    TrainingSummary,
)
from cxrbatch.model.train.train_model import train_model
from cxrbatch.system.record_json import from_json
from cxrbatch.system.stopping import Stopped, stop_cleanly_on
from tests.factories.model import one_network
from tests.factories.studies import read_rows
from tests.factories.trainable import write_class_data, write_csv_data, write_nih_data, write_spot_image
from tests.factories.training import read_out_of_fold

QUICK = TrainingPlan(
    training=TrainingOptions(epochs=3, batch_size=8, precision="fp32"),
    learning_rate=2e-3,
    small_epochs=0,
    architecture="resnet18",
    size_px=64,
    workers=1,
)
QUICK_ARGUMENTS = [
    *("--architecture", "resnet18", "--image-size", "64"),
    *("--epochs", "3", "--small-epochs", "0", "--batch-size", "8", "--lr", "0.002", "--workers", "1"),
]
# Where what is learned does not matter: states and checkpoints of few bytes.
TINY = replace(QUICK, architecture="tiny")
SHORT = replace(TINY, training=replace(QUICK.training, epochs=1))
LAYOUTS: dict[str, Callable[[Path], Path]] = {"nih": write_nih_data, "folders": write_class_data, "csv": write_csv_data}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRBATCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv_data(tmp_path / "data")


def read_summary(checkpoint: Path) -> TrainingSummary:
    return from_json((training_folder(checkpoint) / "training.json").read_text(), TrainingSummary)


# --------------------------------------------------------------------------- from data to reports


@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_in_every_layout_trains_and_evaluates(tmp_path: Path, layout: str) -> None:
    data, checkpoint = LAYOUTS[layout](tmp_path / "data"), tmp_path / "model.safetensors"
    (run,) = train_model(data, checkpoint, SHORT).runs
    labels = {"nih": ["Pneumonia"], "folders": ["lower", "normal", "upper"], "csv": ["Upper", "Lower"]}[layout]
    assert [label.name for label in run.facts.labels] == labels
    part = "test" if layout == "nih" else "val"
    figures = evaluate_model(str(checkpoint), data, tmp_path / "out", EvaluationOptions(split=part, resamples=20))
    # The patients of that part were not learned from, and the checkpoint knows whose they were.
    assert not [caution for caution in figures.cautions if caution.severity == "void"]


def test_nobody_has_to_name_an_architecture(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrbatch.model.train.checks.FOR_SMALL_SETS", "tiny")
    (run,) = train_model(data, tmp_path / "model.safetensors", replace(SHORT, architecture="")).runs
    assert run.facts.architecture == "tiny"


def test_a_folder_of_classes_trains_evaluates_builds_and_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, checkpoint = write_class_data(tmp_path / "data"), tmp_path / "model.safetensors"
    assert run_command_line(["train", str(data), "-o", str(checkpoint), *QUICK_ARGUMENTS]) == ExitCode.DONE
    assert "cxrbatch evaluate" in capsys.readouterr().out
    evaluation = tmp_path / "evaluation"
    command = ["evaluate", str(checkpoint), str(data), "-o", str(evaluation), "--split", "val", "--bootstrap", "20"]
    assert run_command_line([*command, "--workers", "1"]) == ExitCode.DONE
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert metrics["measured"]["macro"]["auroc"]["value"] > 0.9

    engines = tmp_path / "engines"
    assert run_command_line(["build", str(checkpoint), "-n", "spots", "--engines", str(engines)]) == ExitCode.DONE
    manifest = load_bundle(engines / "spots").manifest
    assert manifest.labels == load_checkpoint(checkpoint).facts.labels
    assert manifest.verdict == "argmax"
    assert all(label.images_with and label.images_without for label in manifest.labels)

    images, out = tmp_path / "images", tmp_path / "out"
    write_spot_image(images / "with.png", 9001, (20, 90))
    write_spot_image(images / "without.png", 9002, None)
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")  # spots do not look like a chest
    command = ["run", str(images), "-o", str(out), "-e", str(engines / "spots"), "--no-pdf", "--workers", "1"]
    assert run_command_line(command) == ExitCode.DONE
    rows = {row["path"]: row for row in read_rows(out / "images.csv")}
    assert float(rows["with.png"]["prob_upper"]) > float(rows["without.png"]["prob_upper"])
    assert (out / "reports" / rows["with.png"]["study_key"] / "report.html").is_file()
    labels = [label.name for label in manifest.labels]
    for row in rows.values():
        likeliest = max(labels, key=lambda name: float(row[f"prob_{name}"]))
        assert [row[f"positive_{name}"] for name in labels] == [str(int(name == likeliest)) for name in labels]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """A network trained on half of the images, with enough others to calibrate on."""
    folder = tmp_path_factory.mktemp("trained")
    options = DataOptions(val_fraction=0.4)
    plan = replace(TINY, operating_point=parse_operating_point("sensitivity=0.9"), data=options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXRBATCH_CACHE", str(folder / "cache"))
        (run,) = train_model(write_csv_data(folder / "data"), folder / "model.safetensors", plan).runs
    return run


def test_a_checkpoint_stands_alone(trained: TrainingRun) -> None:
    loaded = load_checkpoint(Path(trained.checkpoint))
    facts, network = loaded.facts, loaded.network
    assert facts == trained.facts
    assert (facts.architecture, facts.input.size_px) == ("tiny", 64)
    assert facts.training.images["train"] + facts.training.images["val"] == 64
    assert facts.training.options["epochs"] == 3
    assert facts.training.options["operating_point"] == "sensitivity=0.9"
    assert (facts.training.measured_on, facts.training.seed) == ("val", 0)
    assert facts.training.figures["macro_auroc"] == trained.measured.macro[Figure.AUROC].value
    assert {"torch", "lightning"} <= facts.training.libraries.keys()
    for label, temperature in zip(facts.labels, network.temperature.tolist(), strict=True):
        assert label.operating_point is not None
        assert 0 < label.operating_point < 1
        assert label.metrics["sensitivity"] >= 0.9
        assert label.metrics["auroc_low"] <= label.metrics["auroc"] <= label.metrics["auroc_high"]
        assert temperature != 1.0


def test_patients_of_each_part_are_known_by_their_digest(trained: TrainingRun) -> None:
    images = load_data(Path(trained.data), DataOptions(val_fraction=0.4))
    expected = {part: patients_sha256(images.part(part)) for part in ("train", "val")}
    assert trained.facts.training.patients == expected


def test_a_checkpoint_knows_its_patients_and_those_of_the_weights_it_began_with(
    trained: TrainingRun, tmp_path: Path
) -> None:
    images = load_data(Path(trained.data), DataOptions(val_fraction=0.4))
    (known,) = load_checkpoint(Path(trained.checkpoint)).known
    for part, other in (("train", "val"), ("val", "train")):
        assert recognise_patients(known, part, images.part(part)).all()
        assert not recognise_patients(known, part, images.part(other)).any()
    plan = replace(SHORT, init=trained.checkpoint)
    (run,) = train_model(write_class_data(tmp_path / "others"), tmp_path / "finer.safetensors", plan).runs
    own, first = load_checkpoint(Path(run.checkpoint)).known
    assert first == known
    assert own.parts["train"].of_unknown == run.parts[0].of_unknown == run.parts[0].images
    assert run.parts[0].patients == 0
    assert run.facts.training.data.endswith("of unknown patients")
    figures = evaluate_model(
        run.checkpoint, tmp_path / "others", tmp_path / "out", EvaluationOptions(split="all", resamples=20)
    )
    (void,) = (caution.text for caution in figures.cautions if caution.severity == "void")
    # The training's pictures, as evaluation sees them, to the bit.
    assert f"{run.parts[0].images} are the very pictures that the model learned from" in void


def test_points_for_a_rate_of_alarms_say_what_they_came_to(data: Path, tmp_path: Path) -> None:
    rule = parse_operating_point("alarms=20%")
    plan = replace(SHORT, operating_point=rule, data=DataOptions(val_fraction=0.4))
    (run,) = train_model(data, tmp_path / "model.safetensors", plan).runs
    assert run.alarms is not None
    figures = load_checkpoint(tmp_path / "model.safetensors").facts.training.figures
    assert figures["alarm_rate"] == run.alarms.rate.value <= 0.2
    assert figures["alarm_rate_low"] <= figures["alarm_rate"] <= figures["alarm_rate_high"]
    assert run.operating_point_rule == "alarms=0.2"
    assert "so that at most 0.2 of the studies" in (tmp_path / "model-training" / "training.html").read_text()
    assert read_summary(tmp_path / "model.safetensors").runs[0].alarms == run.alarms


def test_everything_else_lies_beside_the_checkpoint(trained: TrainingRun) -> None:
    folder = training_folder(Path(trained.checkpoint))
    left = {path.name for path in folder.iterdir()}
    assert {"training.html", "training.json", "epochs.csv", "tensorboard"} <= left
    assert not {name for name in left if name.endswith(".ckpt")}
    with (folder / "epochs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    (run,) = read_summary(Path(trained.checkpoint)).runs
    assert run == trained
    assert [float(row["val_auroc_Upper"]) for row in rows] == pytest.approx(
        [epoch.label_auroc[0] for epoch in run.epochs]
    )
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))


def test_the_same_command_gives_the_same_weights_and_a_finished_one_is_not_done_again(
    trained: TrainingRun, tmp_path: Path
) -> None:
    checkpoint, said = tmp_path / "again.safetensors", list[str]()
    options = DataOptions(val_fraction=0.4)
    plan = replace(TINY, operating_point=parse_operating_point("sensitivity=0.9"), data=options)
    (again,) = train_model(Path(trained.data), checkpoint, plan).runs
    weights = [load_checkpoint(Path(path)).network.state_dict() for path in (trained.checkpoint, checkpoint)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    resumed = train_model(Path(trained.data), checkpoint, replace(plan, resume=True), Listener(say=said.append))
    assert resumed.runs == (again,)
    assert "nothing to do" in said[0]


def test_a_label_of_too_few_images_gets_no_operating_point(data: Path, tmp_path: Path) -> None:
    table = (data / "labels.csv").read_text().splitlines()
    # The first three images alone have it: two of one patient, one of another.
    lines = [f"{line},{'Rare' if at == 0 else int(at <= 3)}" for at, line in enumerate(table)]
    (data / "labels.csv").write_text("\n".join(lines) + "\n")
    train_model(data, tmp_path / "model.safetensors", SHORT)
    labels = load_checkpoint(tmp_path / "model.safetensors").facts.labels
    points = {label.name: label.operating_point for label in labels}
    assert points["Rare"] is None
    assert points["Upper"] is not None
    # What a report says of it instead of a verdict: where a score lies among those of the validation images.
    rare, *_ = (label for label in labels if label.name == "Rare")
    assert len(rare.reference) == 101
    assert 0.0 <= rare.reference[0] < rare.reference[-1] <= 1.0
    assert rare.has_too_few_images


# --------------------------------------------------------------------------- stopped, gone on, folded


def stop_in_epoch(number: int) -> Listener:
    def step(progress: TrainingProgress) -> None:
        if progress.epoch == number:
            raise Stopped(signal.SIGINT)

    return Listener(step=step)


def test_a_stopped_training_keeps_the_best_so_far_and_goes_on(data: Path, tmp_path: Path) -> None:
    checkpoint, whole = tmp_path / "model.safetensors", tmp_path / "whole.safetensors"
    with pytest.raises(Stopped) as stopped:
        train_model(data, checkpoint, TINY, stop_in_epoch(3))
    assert "--resume" in stopped.value.advice
    assert read_summary(checkpoint).runs[0].interrupted
    assert len(read_summary(checkpoint).runs[0].epochs) == 2
    assert load_checkpoint(checkpoint).facts.labels[0].operating_point is not None

    (resumed,) = train_model(data, checkpoint, replace(TINY, resume=True)).runs
    (expected,) = train_model(data, whole, TINY).runs
    assert (resumed.interrupted, resumed.kept, resumed.measured) == (False, expected.kept, expected.measured)


def test_a_stop_while_saving_waits_until_all_is_saved(data: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    before = signal.getsignal(signal.SIGUSR1)

    def ask_to_stop(_: EpochFigures) -> None:
        stop_cleanly_on(signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)

    try:
        # After the last safe point of the last epoch: nothing is left to stop but the saving.
        with pytest.raises(Stopped) as stopped:
            train_model(data, checkpoint, SHORT, Listener(epoch=ask_to_stop))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert "--resume" in stopped.value.advice
    assert load_checkpoint(checkpoint).facts.labels[0].metrics


def test_another_operating_point_is_placed_anew(trained: TrainingRun, tmp_path: Path) -> None:
    checkpoint = tmp_path / "again.safetensors"
    plan = replace(SHORT, data=DataOptions(val_fraction=0.4))
    train_model(Path(trained.data), checkpoint, plan)
    other = replace(plan, operating_point=parse_operating_point("fixed=0.25"), resume=True)
    train_model(Path(trained.data), checkpoint, other)
    assert {label.operating_point for label in load_checkpoint(checkpoint).facts.labels} == {0.25}


def test_a_checkpoint_to_start_from_brings_its_head_where_the_labels_are_the_same(
    trained: TrainingRun, tmp_path: Path
) -> None:
    data = DataOptions(val_fraction=0.4)
    plan = replace(SHORT, init=trained.checkpoint, data=data, learning_rate=1e-9)
    (run,) = train_model(Path(trained.data), tmp_path / "finer.safetensors", plan).runs
    assert "with its head" in run.facts.training.init
    before, after = (
        one_network(load_checkpoint(Path(path))).head.weight for path in (trained.checkpoint, run.checkpoint)
    )
    torch.testing.assert_close(after, before, atol=1e-6, rtol=0)


def test_a_training_of_other_data_is_not_gone_on_with(data: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    with pytest.raises(Stopped):
        train_model(data, checkpoint, TINY, stop_in_epoch(2))
    other = replace(TINY, resume=True, data=DataOptions(labels=("Lower",)))
    with pytest.raises(UsageError, match="the state of another training"):
        train_model(data, checkpoint, other)


def check_cross_fitted(summary: TrainingSummary, checkpoint: Path) -> None:
    """The checkpoint is the chosen fold's network with what the images of all folds chose."""
    loaded, own = load_checkpoint(checkpoint), load_checkpoint(Path(summary.runs[summary.chosen].checkpoint))
    assert torch.equal(one_network(loaded).head.weight, one_network(own).head.weight)
    scores = read_out_of_fold(training_folder(checkpoint))
    assert (len(scores.images), set(scores.fold.tolist())) == (64, {1, 2})
    expected = fit_calibration(scores.logits, scores.targets, "multilabel")
    assert loaded.network.temperature.tolist() == pytest.approx(expected.temperature, rel=1e-3)
    assert loaded.known == own.known
    training = loaded.facts.training
    assert (training.measured_on, training.images["out-of-fold"]) == ("out-of-fold", 64)
    assert training.chosen_on["operating points"] == "other folds"
    assert summary.cross_fitted is not None
    assert summary.cross_fitted.facts == loaded.facts
    assert {label.images for label in summary.cross_fitted.measured.labels} == {64}
    page = (training_folder(checkpoint) / "training.html").read_text()
    assert "cross-fitted: judged by a calibration and points that the other folds chose" in page
    assert "64 images of all folds, each scored by a network that never saw its patient" in page


def test_folds_validate_every_patient_once_and_tell_their_spread(data: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    plan = replace(SHORT, data=DataOptions(folds=2))
    summary = train_model(data, checkpoint, plan)
    assert [run.fold for run in summary.runs] == [1, 2]
    assert sum(run.facts.training.images["val"] for run in summary.runs) == 64
    aurocs = [run.facts.training.figures["macro_auroc"] for run in summary.runs]
    assert summary.spread["macro_auroc"].mean == pytest.approx(np.mean(aurocs))
    assert summary.spread["macro_auroc"].deviation == pytest.approx(np.std(aurocs, ddof=1))
    chosen = summary.runs[summary.chosen]
    assert chosen.facts.training.figures["macro_auroc"] == min(aurocs)
    check_cross_fitted(summary, checkpoint)
    assert (training_folder(checkpoint) / "training.html").is_file()
    # With --ensemble the same folds, which are there, become one; and it knows all patients as learned from.
    again = train_model(data, checkpoint, replace(plan, ensemble=True, resume=True))
    assert again.ensemble
    combined = load_checkpoint(checkpoint)
    assert [member.name for member in combined.facts.members] == ["fold-1", "fold-2"]
    assert [member.training for member in combined.facts.members] == [
        load_checkpoint(Path(run.checkpoint)).facts.training for run in summary.runs
    ]
    assert combined.facts.training.figures == {}
    samples = read_data(data, DataOptions()).samples
    assert get_acquainted(combined.known, samples, [""] * len(samples)).learned.all()
    assert not get_acquainted(
        load_checkpoint(Path(chosen.checkpoint)).known, samples, [""] * len(samples)
    ).learned.all()
    page = (training_folder(checkpoint) / "training.html").read_text()
    assert "All folds together became the checkpoint" in page
    assert "2, the checkpoint" not in page
    assert "1, the checkpoint" not in page


# --------------------------------------------------------------------------- before any training


def spoil_image(data: Path) -> None:
    (data / "003.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")


def lose_image(data: Path) -> None:
    (data / "003.png").unlink()


def one_class_only(data: Path) -> None:
    lines = (data / "labels.csv").read_text().splitlines()
    (data / "labels.csv").write_text("\n".join([lines[0], *(f"{line[:-1]}0" for line in lines[1:])]) + "\n")


def add_split(data: Path, part_of: Callable[[int], str]) -> None:
    head, *lines = (data / "labels.csv").read_text().splitlines()
    rows = [f"{head},split", *(f"{line},{part_of(at)}" for at, line in enumerate(lines))]
    (data / "labels.csv").write_text("\n".join(rows) + "\n")


def put_a_patient_in_two_parts(data: Path) -> None:
    add_split(data, lambda at: "val" if at % 8 == 1 else "train")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_image, "003.png"),
        (lose_image, "003.png"),
        (one_class_only, "nothing to learn"),
        (put_a_patient_in_two_parts, "patient"),
    ],
)
def test_data_that_cannot_be_trained_on_is_told_before_any_training(
    data: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(data)
    with pytest.raises(UsageError, match=message):
        train_model(data, tmp_path / "model.safetensors", QUICK, Listener(step=lambda _: pytest.fail()))
    assert not (tmp_path / "model.safetensors").exists()


def test_a_part_is_cut_where_the_data_brings_none_to_validate_on(data: Path, tmp_path: Path) -> None:
    add_split(data, lambda at: "train" if at < 48 else "test")
    (run,) = train_model(data, tmp_path / "model.safetensors", SHORT).runs
    assert {part.name for part in run.parts} == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": DataOptions(labels=("Upper", "Tumour"))}, "Tumour"),
        ({"architecture": "resnet5"}, "architecture resnet5: unknown"),
        ({"init": "weights.pth"}, "weights.pth"),
        ({"training": replace(QUICK.training, loss="ce")}, "loss ce: does not fit a multilabel task"),
        ({"training": replace(QUICK.training, batch_size=200)}, "--batch-size"),
        ({"ensemble": True}, "an ensemble is made of folds"),
        ({"data": DataOptions(folds=2), "training": replace(QUICK.training, devices="cpu:2")}, "folds: are trained by"),
        ({"training": replace(QUICK.training, devices="cpu:9")}, "fewer than one batch of 72"),
        ({"training": replace(QUICK.training, freeze=9)}, "freeze 9: resnet18 has 5 stages"),
        ({"training": replace(QUICK.training, devices="8")}, "devices 8"),
        ({"operating_point": OperatingPointRule("alarms", 0.01)}, "have no finding, and it takes 100"),
        ({"architecture": "inception_v3", "size_px": 96, "small_epochs": 1}, "small epochs: inception_v3 takes 75 px"),
    ],
)
def test_a_plan_that_cannot_work_is_told_before_any_training(
    data: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    plan = replace(QUICK, **change)
    with pytest.raises(UsageError, match=message):
        train_model(data, tmp_path / "model.safetensors", plan, Listener(images=lambda _done, _all: pytest.fail()))


def test_a_leak_that_is_let_through_is_told_in_every_report(data: Path, tmp_path: Path) -> None:
    put_a_patient_in_two_parts(data)
    train_model(data, tmp_path / "model.safetensors", replace(SHORT, data=DataOptions(allow_leak=True)))
    notice = load_checkpoint(tmp_path / "model.safetensors").facts.notice
    assert "Patients with images in two parts: 8" in notice


def test_other_names_than_safetensors_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.safetensors"):
        train_model(data, tmp_path / "model.pt", QUICK)


def test_a_table_is_data_too(tmp_path: Path) -> None:
    folder = write_csv_data(tmp_path / "data")
    (folder / "labels.csv").rename(folder / "mine.csv")
    (run,) = train_model(folder / "mine.csv", tmp_path / "model.safetensors", SHORT).runs
    assert run.layout == "csv"


# --------------------------------------------------------------------------- urgent


def test_who_is_urgent_is_said_by_name_and_decides_nothing_about_the_weights(tmp_path: Path, data: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    (plain,) = train_model(data, checkpoint, SHORT).runs
    assert not any(label.urgent for label in plain.facts.labels)
    (urgent,) = train_model(data, checkpoint, replace(SHORT, urgent=("Lower",), resume=True)).runs
    assert [label.name for label in load_checkpoint(checkpoint).facts.labels if label.urgent] == ["Lower"]
    assert urgent.facts.training.recipe == plain.facts.training.recipe
    assert urgent.measured == plain.measured


def test_an_unknown_urgent_label_is_told_before_anything_is_trained(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(data), "-o", str(tmp_path / "m.safetensors"), *QUICK_ARGUMENTS, "--urgent", "Lower,Mass"]
    assert run_command_line(arguments) == ExitCode.USAGE
    assert "urgent: Mass: no such finding. There are Upper, Lower." in capsys.readouterr().err
    assert not (tmp_path / "m.safetensors").exists()


def test_a_rate_of_alarms_is_refused_where_the_likeliest_class_is_called(tmp_path: Path) -> None:
    classes = write_class_data(tmp_path / "classes")
    with pytest.raises(UsageError, match="the likeliest one is called"):
        train_model(
            classes, tmp_path / "m.safetensors", replace(SHORT, operating_point=OperatingPointRule("alarms", 0.2))
        )


def test_what_means_nothing_found_is_never_urgent(tmp_path: Path) -> None:
    classes = write_class_data(tmp_path / "classes")
    with pytest.raises(UsageError, match=r"urgent: normal: no such finding\. There are lower, upper"):
        train_model(classes, tmp_path / "m.safetensors", replace(SHORT, urgent=("normal",)))


# --------------------------------------------------------------------------- boxes


def test_boxes_reach_the_training_and_its_recipe(tmp_path: Path) -> None:
    data = write_nih_data(tmp_path / "data")
    boxes = tmp_path / "boxes.csv"
    marked = [f"{patient:08d}_000.png,Pneumonia,88,18,48,48" for patient in range(1, 25, 2)]
    boxes.write_text("image,label,x,y,w,h\n" + "\n".join(marked) + "\n")
    said: list[str] = []
    runs = {}
    for name, plan in (("plain", SHORT), ("boxed", replace(SHORT, boxes=boxes))):
        train_model(data, tmp_path / f"{name}.safetensors", plan, Listener(say=said.append))
        runs[name] = load_checkpoint(tmp_path / f"{name}.safetensors")
    assert "findings are marked on 12 images: they teach the heatmaps" in said
    assert runs["plain"].facts.labels[0].maps is None
    # A fifth of the patients validates, half of their marked images: far too few to tell.
    maps = runs["boxed"].facts.labels[0].maps
    assert maps is not None
    assert 0 < maps.images < 12
    assert "too few marked images" in maps.reason
    assert maps.source == "validation images of data"
    recipes = {checkpoint.facts.training.recipe for checkpoint in runs.values()}
    heads = [one_network(checkpoint).head.weight for checkpoint in runs.values()]
    assert len(recipes) == 2
    assert not torch.equal(*heads)


def test_boxes_of_unknown_images_are_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_nih_data(tmp_path / "data")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("image,label,x,y,w,h\nnobody.png,Pneumonia,1,1,9,9\n")
    arguments = ["train", str(data), "-o", str(tmp_path / "m.safetensors"), *QUICK_ARGUMENTS, "--boxes", str(boxes)]
    assert run_command_line(arguments) == ExitCode.USAGE
    assert "no such image: nobody.png" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "m.safetensors").exists()
