"""An archive without labels becomes weights that a training starts from; what cannot be used is told, and why."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrbatch.cli import run_command_line
from cxrbatch.errors import EngineError, ExitCode, UsageError
from cxrbatch.intake import discover
from cxrbatch.model.data.known_images import recognise_patients, recognise_pictures
from cxrbatch.model.data.labelled import Sample
from cxrbatch.model.network import architectures
from cxrbatch.model.network.checkpoint import load_checkpoint
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.network.pretrained import find_init, initialise
from cxrbatch.model.network.pretraining_file import PretrainingFacts, read_pretraining
from cxrbatch.model.network.weights_file import read_weights
from cxrbatch.model.pretrain.archive import read_archive
from cxrbatch.model.pretrain.pretrain_model import pretrain_model, pretraining_folder, settle_options
from cxrbatch.model.pretrain.record import PretrainingPlan, PretrainingRun
from cxrbatch.model.pretrain.simsiam import SimSiam
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.model.train.record import Listener, TrainingProgress
from cxrbatch.records import InputSpec
from cxrbatch.system.record_json import from_json
from cxrbatch.system.stopping import Stopped, stop_cleanly_on
from tests.factories.intake import blobs, write_dicom
from tests.factories.labelled import write_image
from tests.factories.studies import read_rows
from tests.factories.trainable import write_csv_data

PLAN = PretrainingPlan(
    training=TrainingOptions(epochs=3, batch_size=4, precision="fp32"), architecture="tiny", size_px=64, workers=1
)
IMAGES = 10


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRBATCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten chests of five patients, and one each of what a run refuses or counts once."""
    folder = tmp_path_factory.mktemp("archive")
    for image in range(IMAGES):
        write_chest(folder / f"p{image // 2}" / f"{image}.dcm", image, PatientID=f"PATIENT-{image // 2}")
    shutil.copyfile(folder / "p0" / "0.dcm", folder / "p4" / "again.dcm")
    write_chest(folder / "lateral.dcm", 50, ViewPosition="LL")
    write_chest(folder / "hand.dcm", 51, BodyPartExamined="HAND")
    write_dicom(folder / "blank.dcm", pixels=np.full((96, 80), 7, np.uint16))
    write_image(folder / "holiday.png", seed=52)
    (folder / "labels.csv").write_text("path,finding\n")
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> PretrainingRun:
    folder = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXRBATCH_CACHE", str(folder / "cache"))
        return pretrain_model(archive, folder / "chest.safetensors", PLAN)


def write_chest(path: Path, seed: int, **keywords: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_dicom(path, pixels=blobs(96, 80, seed=seed), **keywords)


def facts_of(path: Path) -> PretrainingFacts:
    return read_pretraining(read_weights(path))[0]


def tensors_of(path: str | Path) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for _, tensor in sorted(read_weights(Path(path)).tensors.items())])


def stop_in_epoch(epoch: int) -> Listener:
    def step(at: TrainingProgress) -> None:
        if at.epoch == epoch:
            signal.raise_signal(signal.SIGTERM)

    return Listener(step=step)


@pytest.fixture
def signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    stop_cleanly_on(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


# --------------------------------------------------------------------------- the archive


def test_every_file_is_learned_from_or_counted_with_its_reason(archive: Path, pretrained: PretrainingRun) -> None:
    facts = pretrained.facts
    assert (facts.images, facts.patients, facts.of_unknown, facts.duplicates) == (IMAGES, 5, 0, 1)
    assert facts.refused == {"not_chest": 2, "not_frontal": 1, "blank": 1, "not_an_image": 1}
    assert pretrained.files == facts.images + facts.duplicates + sum(facts.refused.values())
    table = pretraining_folder(Path(pretrained.weights)) / "refused.csv"
    rows = {row["path"]: row["reason"] for row in read_rows(table)}
    assert rows == {
        "lateral.dcm": "not_frontal", "hand.dcm": "not_chest", "blank.dcm": "blank", "holiday.png": "not_chest",
        "labels.csv": "not_an_image",
    }  # fmt: skip


def test_a_file_that_cannot_be_opened_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cxrbatch.model.pretrain import archive as module

    for image in range(2):
        write_chest(tmp_path / "archive" / f"{image}.dcm", image)

    def refuse(root: Path, file: object, settings: object) -> object:
        if str(getattr(file, "path", "")) == "0.dcm":
            raise PermissionError(13, "Permission denied")
        return index_file(root, file, settings)  # type: ignore[arg-type]

    index_file = discover.index_file
    monkeypatch.setattr(module, "index_file", refuse)
    read = read_archive(tmp_path / "archive", InputSpec(64), workers=1)
    assert len(read.pixels) == 1
    assert [(each.path, each.reason) for each in read.refused] == [("0.dcm", "unreadable")]


def test_pixels_are_those_of_the_images_that_are_kept(archive: Path) -> None:
    read = read_archive(archive, InputSpec(64), workers=1)
    pixels = read.pixels.pixels_of(np.arange(len(read.pixels)))
    assert pixels.shape == (IMAGES, 1, 64, 64)
    assert all(picture.std() > 10 for picture in pixels)
    assert len(set(read.digests)) == IMAGES
    assert [sample.path.name for sample in read.images.samples] == [f"{image}.dcm" for image in range(IMAGES)]


@pytest.mark.parametrize(("images", "advice"), [(0, "Bring more;"), (3, "Bring more;"), (7, "--batch-size 3;")])
def test_too_few_images_are_refused_with_what_was_found(tmp_path: Path, images: int, advice: str) -> None:
    write_image(tmp_path / "archive" / "holiday.png")
    for image in range(images):
        write_chest(tmp_path / "archive" / f"{image}.dcm", image)
    plan = replace(PLAN, training=replace(PLAN.training, batch_size=8))
    with pytest.raises(UsageError) as told:
        pretrain_model(tmp_path / "archive", tmp_path / "chest.safetensors", plan)
    assert f"too few images to learn from: {images + 1} file" in str(told.value)
    assert "1 not_chest" in str(told.value)
    assert advice in str(told.value)
    assert not (tmp_path / "chest.safetensors").exists()


# --------------------------------------------------------------------------- the weights


def test_the_weights_say_how_they_were_made(pretrained: PretrainingRun) -> None:
    facts = facts_of(Path(pretrained.weights))
    assert facts == pretrained.facts
    assert (facts.method, facts.architecture, facts.input.size_px, facts.seed) == ("SimSiam", "tiny", 64, 0)
    assert (facts.epochs, facts.planned, facts.steps) == (3, 3, 6)
    assert -1 <= facts.loss < 1
    assert not facts.collapsed
    assert facts.libraries["torch"] == version("torch")
    folder = pretraining_folder(Path(pretrained.weights))
    assert from_json((folder / "pretraining.json").read_text(), PretrainingRun) == pretrained
    rows = read_rows(folder / "epochs.csv")
    assert [float(row["loss"]) for row in rows] == [epoch.loss for epoch in pretrained.epochs]
    assert not (folder / "last.ckpt").exists()


def test_training_starts_from_them_and_knows_whom_they_learned_from(
    tmp_path: Path, pretrained: PretrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = find_init(pretrained.weights, "tiny")
    network = ChestNetwork("tiny", 2, spec=InputSpec(64))
    told = initialise(network, init, seed=0, labels=("A", "B"))
    assert told.startswith("Weights start from weights pretrained without labels (SimSiam, 10 images, spread ")
    assert told.endswith("; the head is random.")
    held = read_weights(Path(pretrained.weights)).tensors
    assert torch.equal(network.features.state_dict()["layer4.0.conv2.weight"], held["layer4.0.conv2.weight"])
    samples = [Sample(Path("x"), "", (), patient_id=name) for name in ("PATIENT-3", "PATIENT-7")]
    assert recognise_patients(init.known[0], "train", samples).tolist() == [True, False]

    from cxrbatch.model.train.record import TrainingPlan
    from cxrbatch.model.train.train_model import train_model

    options = TrainingOptions(epochs=1, batch_size=8, precision="fp32")
    plan = TrainingPlan(training=options, size_px=64, workers=1, init=pretrained.weights)
    (run,) = train_model(write_csv_data(tmp_path / "data"), tmp_path / "model.safetensors", plan).runs
    known = load_checkpoint(Path(run.checkpoint)).known
    assert len(known) == 2
    assert recognise_patients(known[1], "train", samples).tolist() == [True, False]
    assert run.facts.architecture == "tiny", "nobody named it: the file did"
    assert "pretrained without labels" in run.facts.training.init


def test_pictures_that_were_learned_from_are_known_too(archive: Path, pretrained: PretrainingRun) -> None:
    digests = read_archive(archive, InputSpec(64), workers=1).digests
    (known,) = find_init(pretrained.weights, "tiny").known
    assert recognise_pictures(known, "train", [*digests[:2], "f" * 64]).tolist() == [True, True, False]


def test_another_architecture_and_what_needs_labels_are_refused(pretrained: PretrainingRun) -> None:
    with pytest.raises(UsageError, match=r"is a tiny, not a resnet18\. Add --architecture tiny"):
        find_init(pretrained.weights, "resnet18")
    with pytest.raises(EngineError, match=r"pretrained weights, which know no labels\. .*--init"):
        load_checkpoint(Path(pretrained.weights))


@pytest.mark.parametrize("change", [{"schema": 99}, {"images": "many"}, {"spread": None}])
def test_damaged_facts_are_refused(tmp_path: Path, pretrained: PretrainingRun, change: dict[str, object]) -> None:
    import safetensors.torch

    file = read_weights(Path(pretrained.weights))
    said = json.loads(file.metadata["cxrbatch_pretraining"]) | change
    safetensors.torch.save_file(file.tensors, tmp_path / "odd.safetensors", {"cxrbatch_pretraining": json.dumps(said)})
    with pytest.raises(EngineError, match=r"odd\.safetensors"):
        find_init(str(tmp_path / "odd.safetensors"), "tiny")


def test_pretraining_changes_what_it_started_with_and_leaves_the_same_twice(
    archive: Path, tmp_path: Path, pretrained: PretrainingRun
) -> None:
    again = pretrain_model(archive, tmp_path / "again.safetensors", PLAN)
    assert torch.equal(tensors_of(again.weights), tensors_of(pretrained.weights))
    going_on = replace(PLAN, init=pretrained.weights, training=replace(PLAN.training, epochs=1))
    further = pretrain_model(archive, tmp_path / "further.safetensors", going_on)
    assert not torch.equal(tensors_of(further.weights), tensors_of(pretrained.weights))
    assert "pretrained without labels" in further.facts.init
    assert len(find_init(further.weights, "tiny").known) == 2


# --------------------------------------------------------------------------- interruption, divergence, collapse


@pytest.mark.usefixtures("signals")
def test_a_stop_keeps_whole_epochs_and_resuming_gives_the_same_weights(
    archive: Path, tmp_path: Path, pretrained: PretrainingRun
) -> None:
    weights = tmp_path / "chest.safetensors"
    with pytest.raises(Stopped, match="--resume goes on") as stopped:
        pretrain_model(archive, weights, PLAN, stop_in_epoch(3))
    assert stopped.value.signal_number == signal.SIGTERM
    facts = facts_of(weights)
    assert (facts.epochs, facts.planned) == (2, 3)
    assert not torch.equal(tensors_of(weights), tensors_of(pretrained.weights))
    resumed = pretrain_model(archive, weights, replace(PLAN, resume=True))
    assert [epoch.epoch for epoch in resumed.epochs] == [1, 2, 3]
    assert torch.equal(tensors_of(weights), tensors_of(pretrained.weights))
    said: list[str] = []
    pretrain_model(archive, weights, replace(PLAN, resume=True), Listener(say=said.append))
    assert said[-1].endswith("nothing to do")


@pytest.mark.usefixtures("signals")
def test_a_stop_in_the_first_epoch_keeps_nothing(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="no epoch was finished"):
        pretrain_model(archive, tmp_path / "chest.safetensors", PLAN, stop_in_epoch(1))
    assert not (tmp_path / "chest.safetensors").exists()


def test_a_loss_that_is_no_number_writes_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward: Callable[..., object] = SimSiam.forward

    def spoilt(self: SimSiam, one: torch.Tensor, other: torch.Tensor) -> object:
        return forward(self, one * float("nan"), other)

    monkeypatch.setattr(SimSiam, "forward", spoilt)
    with pytest.raises(UsageError, match=r"in epoch 1 the loss was not a number any more; nothing was written"):
        pretrain_model(archive, tmp_path / "chest.safetensors", PLAN)
    assert not (tmp_path / "chest.safetensors").exists()


def test_a_collapse_is_seen_and_said(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cxrbatch.cli.print_model import print_pretraining
    from cxrbatch.cli.terminal import open_console

    forward: Callable[..., object] = SimSiam.forward

    def constant(self: SimSiam, one: torch.Tensor, other: torch.Tensor) -> object:
        return forward(self, one * 0 + 1, other * 0 + 1)

    monkeypatch.setattr(SimSiam, "forward", constant)
    plan = replace(PLAN, training=replace(PLAN.training, epochs=1))
    run = pretrain_model(archive, tmp_path / "chest.safetensors", plan)
    assert run.facts.collapsed
    assert run.facts.spread == pytest.approx(0.0, abs=1e-3)
    print_pretraining(open_console(), run)
    assert "embeddings collapsed" in " ".join(capsys.readouterr().out.split())


# --------------------------------------------------------------------------- options


def test_a_schedule_is_steps_and_the_rate_follows_the_batch() -> None:
    settled = settle_options(PretrainingPlan(), 1000)
    assert (settled.batch_size, settled.epochs, settled.optimizer) == (32, 65, "sgd")
    assert settled.learning_rate == pytest.approx(0.05 / 8)
    assert settle_options(PretrainingPlan(), 1_000_000).epochs == 10
    larger = settle_options(PretrainingPlan(training=TrainingOptions(epochs=3, batch_size=64)), 1000)
    assert larger.epochs == 3
    assert larger.learning_rate == pytest.approx(0.0125)


def test_the_command_says_what_it_met_and_what_to_do_next(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(architectures._ARCHITECTURES, "resnet18", architectures._ARCHITECTURES["tiny"])
    weights = tmp_path / "chest.safetensors"
    arguments = ["pretrain", str(archive), "-o", str(weights), "--image-size", "64", "--epochs", "1"]
    assert run_command_line([*arguments, "--batch-size", "4", "--workers", "1", "-a", "resnet18"]) == ExitCode.DONE
    told = " ".join(capsys.readouterr().out.split())
    assert "10 radiographs of 5 patients; 1 file that show the same as another; 5 files left out" in told
    assert "epoch 1: loss " in told
    assert f"--architecture resnet18 --init {weights}" in told
    assert run_command_line([*arguments, "--patient-pattern", "("]) == ExitCode.USAGE
