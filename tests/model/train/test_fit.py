"""Training learns, the same way twice, and keeps quiet."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxrbatch.errors import UsageError
from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.model.figures.metrics import measure_auroc
from cxrbatch.model.network.network import ChestNetwork, build_seeded, predict_probabilities
from cxrbatch.model.train.augment import NONE
from cxrbatch.model.train.fit import predict_logits, train_network
from cxrbatch.model.train.optimisation import one_cycle
from cxrbatch.model.train.options import Schedule, TrainingOptions
from cxrbatch.model.train.record import EpochFigures, Listener, TrainingProgress
from cxrbatch.model.train.states import LAST, Journal
from cxrbatch.records import Gray8, InputSpec, Task
from cxrbatch.system.stopping import Stopped

SIZE_PX = 32
OPTIONS = TrainingOptions(epochs=2, batch_size=16, learning_rate=3e-3, precision="fp32")


def draw_spots(count: int, seed: int) -> PixelSet:
    """Noise, half of it with a bright spot somewhere; the first label says whether, the second its opposite."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (count, 1, SIZE_PX, SIZE_PX), dtype=np.uint8)
    present = rng.random(count) < 0.5
    for image in np.flatnonzero(present):
        row, column = rng.integers(4, 20, 2)
        pixels[image, 0, row : row + 8, column : column + 8] = 250
    return PixelSet(pixels, np.stack([present, ~present], axis=1).astype(np.float32))


def build_small(task: Task = "multilabel") -> ChestNetwork:
    return build_seeded(lambda: ChestNetwork("tiny", 2, spec=InputSpec(SIZE_PX), task=task), seed=0)


def weights(network: ChestNetwork) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in network.state_dict().values()])


def test_a_network_learns_what_can_be_learned() -> None:
    network, unseen = build_small(), draw_spots(64, seed=2)
    options = TrainingOptions(epochs=4, batch_size=16, learning_rate=1e-2, precision="fp32")
    losses = [epoch.loss for epoch in train_network(network, draw_spots(128, seed=1), options).epochs]
    assert len(losses) == 4
    assert losses[-1] < 0.5 * losses[0]
    scores = predict_probabilities(network, unseen.pixels)
    truths = unseen.targets > 0
    assert measure_auroc(truths[:, 0], scores[:, 0]) == pytest.approx(1.0, abs=0.03)
    assert measure_auroc(truths[:, 1], scores[:, 1]) == pytest.approx(1.0, abs=0.03)
    assert not network.training


def test_the_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    data, found = draw_spots(48, seed=1), []
    for seed in (0, 0, 1):
        network = build_small()
        options = TrainingOptions(epochs=1, batch_size=16, seed=seed, precision="fp32")
        found.append((train_network(network, data, options).epochs[0].loss, weights(network)))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][1], found[2][1])


def test_bf16_trains_the_same_network_roughly() -> None:
    data = draw_spots(64, seed=1)
    options = TrainingOptions(epochs=1, batch_size=32, learning_rate=1e-4, precision="fp32")
    both = (options, replace(options, precision="bf16"))
    losses = [train_network(build_small(), data, each).epochs[0].loss for each in both]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_training_leaves_the_global_seed_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    train_network(build_small(), draw_spots(32, seed=1), OPTIONS)
    build_small()
    assert torch.equal(torch.rand(3), expected)


def test_progress_is_told_after_every_step() -> None:
    told: list[TrainingProgress] = []
    train_network(build_small(), draw_spots(40, seed=1), OPTIONS, listener=Listener(step=told.append))
    # 40 images are two whole batches of 16; the eight left over change from epoch to epoch.
    assert [(progress.step, progress.epoch) for progress in told] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert {(progress.steps, progress.epochs) for progress in told} == {(4, 2)}
    assert all(0 < progress.loss < 5 for progress in told)


def test_lightning_prints_nothing_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    train_network(build_small(), draw_spots(32, seed=1), OPTIONS)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert not caplog.records


def test_fewer_images_than_a_batch_are_refused() -> None:
    with pytest.raises(UsageError, match="8 images are fewer than one batch of 16"):
        train_network(build_small(), draw_spots(8, seed=1), OPTIONS)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="epochs must not be negative"):
        TrainingOptions(epochs=-1)
    with pytest.raises(UsageError, match="average is a decay"):
        TrainingOptions(average=1.0)


def test_the_weights_that_are_kept_are_the_moving_average_of_those_after_each_step() -> None:
    network, after_steps = build_small(), []
    options = replace(OPTIONS, epochs=2, average=0.5)
    listener = Listener(step=lambda _: after_steps.append(network.head.weight.detach().clone()))
    train_network(network, draw_spots(48, seed=1), options, listener=listener)
    expected = after_steps[0]
    for step, weights in enumerate(after_steps[1:], start=1):
        expected = expected.lerp(weights, 1 - min(0.5, (1 + step) / (10 + step)))
    torch.testing.assert_close(network.head.weight.detach(), expected)
    assert not torch.equal(expected, after_steps[-1])


def test_an_averaging_training_that_was_interrupted_ends_as_one_that_was_not(tmp_path: Path) -> None:
    data, validation = draw_spots(32, seed=1), draw_spots(16, seed=2)
    options = replace(OPTIONS, epochs=4, average=0.9, keep="last")
    whole, halved, resumed = build_small(), build_small(), build_small()
    train_network(whole, data, options, validation=validation, journal=Journal(tmp_path / "whole", "r"))
    stopping = Listener(step=stop_in_epoch(3))
    stopped = train_network(
        halved, data, options, validation=validation, journal=Journal(tmp_path / "half", "r"), listener=stopping
    )
    assert stopped.stopped is not None
    assert stopped.kept == 2
    ended = train_network(
        resumed, data, options, validation=validation, journal=Journal(tmp_path / "half", "r", resume=True)
    )
    assert ended.kept == 4
    assert torch.equal(weights(resumed), weights(whole))


def test_the_last_epoch_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=5, learning_rate=1e-2, keep="last")
    journal = Journal(tmp_path, "recipe")
    trained = train_network(
        build_small(), draw_spots(48, seed=1), options, validation=draw_spots(48, seed=2), journal=journal
    )
    assert trained.kept == 5
    assert not journal.best.exists()


def test_regions_teach_the_maps_where_to_look() -> None:
    data, unseen = draw_spots(160, seed=1), draw_spots(32, seed=2)
    hits = []
    for regions in (None, spot_regions(data)):
        network = build_small()
        options = TrainingOptions(epochs=4, batch_size=16, learning_rate=1e-2, precision="fp32")
        train_network(network, replace(data, regions=regions), options)
        with torch.no_grad():
            cams = network(torch.from_numpy(unseen.pixels)).cams[:, 0]
        hits.append(peaks_on_spots(cams, spot_regions(unseen)[:, 0]))
    assert hits[1] > 0.8
    assert hits[1] > hits[0]


def test_small_epochs_see_images_at_half_the_size() -> None:
    sides: list[int] = []
    network = build_small()
    network.features.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
    train_network(network, draw_spots(32, seed=1), replace(OPTIONS, epochs=3, small_epochs=2))
    assert sides == [16, 16, 16, 16, 32, 32]


# --------------------------------------------------------------------------- the best epoch, interruptions


def test_the_best_epoch_on_the_validation_images_is_kept(tmp_path: Path) -> None:
    network, validation = build_small(), draw_spots(48, seed=2)
    options = replace(OPTIONS, epochs=5, learning_rate=1e-2)  # so fast that it goes up and down
    trained = train_network(network, draw_spots(48, seed=1), options, validation=validation, journal=journal(tmp_path))
    aurocs = [epoch.val_auroc or 0.0 for epoch in trained.epochs]
    assert trained.kept == 1 + int(np.argmax(aurocs))
    assert len(set(aurocs)) > 1
    assert macro_auroc(network, validation) == pytest.approx(max(aurocs), abs=1e-6)


@pytest.mark.parametrize("schedule", ["one-cycle", "plateau"])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    tmp_path: Path, schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrbatch.model.train.optimisation.PLATEAU_PATIENCE", 0)  # every epoch that is no better counts
    data, validation = draw_spots(48, seed=1), draw_spots(32, seed=2)
    options = replace(OPTIONS, epochs=4, schedule=schedule, learning_rate=1e-2)
    whole = build_small()
    expected = train_network(whole, data, options, validation=validation, journal=journal(tmp_path / "whole"))

    interrupted = build_small()
    first = train_network(
        interrupted,
        data,
        options,
        validation=validation,
        journal=journal(tmp_path / "halves"),
        listener=Listener(step=stop_in_epoch(3)),
    )
    assert first.stopped is not None
    assert len(first.epochs) == 2
    resumed = build_small()
    second = train_network(
        resumed, data, options, validation=validation, journal=journal(tmp_path / "halves", resume=True)
    )
    assert second.stopped is None
    assert len({epoch.learning_rate for epoch in second.epochs}) > 1
    assert without_times(second.epochs) == without_times(expected.epochs)
    assert second.kept == expected.kept
    assert torch.equal(weights(resumed), weights(whole))


def test_what_was_best_before_the_stop_is_kept_also_by_worse_epochs_after_it(tmp_path: Path) -> None:
    data, validation = draw_spots(48, seed=1), draw_spots(32, seed=2)
    options, network = replace(OPTIONS, epochs=4), build_small()
    stopping = Listener(step=stop_in_epoch(3))
    stopped = train_network(network, data, options, validation=validation, journal=journal(tmp_path), listener=stopping)
    best = max(epoch.val_auroc or 0.0 for epoch in stopped.epochs)
    assert macro_auroc(network, validation) == pytest.approx(best, abs=1e-6)

    upside_down = replace(validation, targets=1 - validation.targets)  # so that what comes is worse
    resumed = train_network(network, data, options, validation=upside_down, journal=journal(tmp_path, resume=True))
    assert resumed.kept == stopped.kept
    assert macro_auroc(network, validation) == pytest.approx(best, abs=1e-6)


def test_a_stop_before_the_first_epoch_ends_leaves_nothing_to_keep(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train_network(
            build_small(),
            draw_spots(32, seed=1),
            OPTIONS,
            validation=draw_spots(32, seed=2),
            journal=journal(tmp_path),
            listener=Listener(step=stop_in_epoch(1)),
        )


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    data, validation = draw_spots(32, seed=1), draw_spots(32, seed=2)
    train_network(build_small(), data, OPTIONS, validation=validation, journal=journal(tmp_path))
    with pytest.raises(UsageError, match="the state of another training"):
        train_network(
            build_small(), data, OPTIONS, validation=validation, journal=Journal(tmp_path, "another", resume=True)
        )


def test_a_state_that_was_moved_is_refused(tmp_path: Path) -> None:
    data, validation = draw_spots(32, seed=1), draw_spots(32, seed=2)
    train_network(build_small(), data, OPTIONS, validation=validation, journal=journal(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(UsageError, match="Put it back there"):
        train_network(
            build_small(), data, OPTIONS, validation=validation, journal=journal(tmp_path / "there", resume=True)
        )


def test_a_loss_that_is_no_number_ends_it_and_the_best_before_is_kept(tmp_path: Path) -> None:
    network, validation = build_small(), draw_spots(32, seed=2)

    def break_it(progress: TrainingProgress) -> None:
        if progress.epoch == 3:
            torch.nn.init.constant_(network.head.bias, float("nan"))

    trained = train_network(
        network,
        draw_spots(32, seed=1),
        replace(OPTIONS, epochs=4),
        validation=validation,
        journal=journal(tmp_path),
        listener=Listener(step=break_it),
    )
    assert "in epoch 3 the loss was not a number" in str(trained.diverged)
    assert trained.kept <= 2
    assert torch.isfinite(network.head.bias).all()


def test_a_loss_that_never_was_a_number_says_what_to_try() -> None:
    data = replace(draw_spots(32, seed=1), targets=np.full((32, 2), np.inf, np.float32))
    with pytest.raises(UsageError, match="a lower learning rate"):
        train_network(build_small(), data, OPTIONS)


def test_a_full_disk_leaves_the_last_state_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, validation = draw_spots(32, seed=1), draw_spots(32, seed=2)
    train_network(build_small(), data, OPTIONS, validation=validation, journal=journal(tmp_path))
    before = (tmp_path / LAST).read_bytes()

    def fill_up(state: Any, path: Path) -> None:
        path.write_bytes(b"half a state")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cxrbatch.model.train.states.torch.save", fill_up)
    longer = replace(OPTIONS, epochs=3)
    with pytest.raises(OSError, match="No space left"):
        train_network(build_small(), data, longer, validation=validation, journal=journal(tmp_path, resume=True))
    assert (tmp_path / LAST).read_bytes() == before


def test_a_state_is_never_executed(tmp_path: Path) -> None:
    torch.save({"hook": Path}, tmp_path / LAST)  # a class is more than weights
    with pytest.raises(UsageError, match="Leave --resume out"):
        train_network(build_small(), draw_spots(32, seed=1), OPTIONS, journal=Journal(tmp_path, "recipe", resume=True))


def test_nothing_better_for_a_while_ends_it(tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=12, patience=2, learning_rate=1e-9)
    trained = train_network(
        build_small(), draw_spots(32, seed=1), options, validation=draw_spots(32, seed=2), journal=journal(tmp_path)
    )
    assert len(trained.epochs) < 12


# --------------------------------------------------------------------------- options


def test_frozen_stages_hold_still_until_they_may_learn(tmp_path: Path) -> None:
    found: list[list[bool]] = []
    data = draw_spots(32, seed=1)
    for unfreeze_after in (0, 1):
        network = build_small()
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        train_network(network, data, replace(OPTIONS, freeze=2, unfreeze_after=unfreeze_after))
        after = network.state_dict()
        names = ("features.bn1.running_mean", "features.layer1.0.conv1.weight", "features.layer2.0.conv1.weight")
        found.append([torch.equal(before[name], after[name]) for name in names])
        assert all(parameter.requires_grad for parameter in network.parameters())
    assert found == [[True, True, False], [False, False, False]]


def test_accumulated_batches_make_one_step() -> None:
    options = replace(OPTIONS, batch_size=8, precision="fp32", augmentation=NONE, warm_up=0.0, optimizer="sgd")
    rates = []
    for accumulate in (1, 4):
        trained = train_network(build_small(), draw_spots(32, seed=1), replace(options, accumulate=accumulate))
        rates.append([epoch.learning_rate / options.learning_rate for epoch in trained.epochs])
    # The last step of each epoch, of eight steps in all and of two.
    assert rates[0] == pytest.approx([one_cycle(3, 8, 0.0), one_cycle(7, 8, 0.0)])
    assert rates[1] == pytest.approx([one_cycle(0, 2, 0.0), one_cycle(1, 2, 0.0)])


def test_unknown_labels_teach_nothing() -> None:
    data = draw_spots(32, seed=1)
    half_known = replace(data, targets=np.where([[True, False]] * 32, data.targets, np.nan).astype(np.float32))
    network = build_small()
    before = network.head.weight[1].detach().clone()
    train_network(network, half_known, replace(OPTIONS, weight_decay=0.0))
    assert torch.equal(network.head.weight[1], before)
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


def test_between_classes_the_softmax_decides_which_epoch_is_best(tmp_path: Path) -> None:
    data, validation = draw_spots(48, seed=1), draw_spots(48, seed=2)
    network = build_small("multiclass")
    trained = train_network(network, data, OPTIONS, validation=validation, journal=journal(tmp_path))
    probabilities, truths = predict_probabilities(network, validation.pixels), validation.targets > 0
    measured = [measure_auroc(truths[:, label], probabilities[:, label]) for label in range(2)]
    assert trained.epochs[trained.kept - 1].label_auroc == pytest.approx(measured)


def test_images_may_stay_on_the_disk(tmp_path: Path) -> None:
    data = draw_spots(64, seed=1)
    np.save(tmp_path / "pixels.npy", data.pixels)
    rows = np.arange(16, 48)
    mapped = PixelSet(np.load(tmp_path / "pixels.npy", mmap_mode="r"), data.targets[rows], rows=rows)
    in_memory = PixelSet(data.pixels[rows], data.targets[rows])
    networks = [build_small(), build_small()]
    for network, images in zip(networks, (mapped, in_memory), strict=True):
        train_network(network, images, OPTIONS)
    assert torch.equal(weights(networks[0]), weights(networks[1]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0"),
        ({"small_epochs": 2}, "at least one epoch"),
        ({"devices": "gpu"}, "use auto, cpu"),
        ({"freeze": -1}, "freeze must not be negative"),
        ({"warm_up": 1.0}, "warm_up is a part"),
        ({"learning_rate": float("inf")}, "learning_rate must be a number"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(OPTIONS, **wrong)


def test_gpus_that_are_not_there_are_refused() -> None:
    with pytest.raises(UsageError, match="devices 64"):
        train_network(build_small(), draw_spots(32, seed=1), replace(OPTIONS, devices="64"))


# --------------------------------------------------------------------------- parts


def journal(folder: Path, *, resume: bool = False) -> Journal:
    return Journal(folder, "recipe", resume)


def macro_auroc(network: ChestNetwork, images: PixelSet) -> float:
    logits, truths = predict_logits(network, images), images.targets > 0
    return float(np.mean([measure_auroc(truths[:, label], logits[:, label]) for label in range(2)]))


def stop_in_epoch(number: int) -> Callable[[TrainingProgress], None]:
    """Stand in for Ctrl-C in the middle of an epoch."""

    def stop(progress: TrainingProgress) -> None:
        if progress.epoch == number:
            raise Stopped(signal.SIGINT)

    return stop


def without_times(epochs: tuple[EpochFigures, ...]) -> list[EpochFigures]:
    return [replace(epoch, seconds=0.0, images_per_s=0.0) for epoch in epochs]


def spot_regions(data: PixelSet) -> Gray8:
    """Mark the spot of each image, at the image's own size, for the first label: uint8 [N,2,32,32]."""
    spots = np.where(data.pixels >= 200, np.uint8(255), np.uint8(0))
    return np.concatenate([spots, np.zeros_like(spots)], axis=1)


def peaks_on_spots(cams: torch.Tensor, regions: Gray8) -> float:
    """Return in how many images with a spot the highest cell of the map touches it."""
    side = regions.shape[-1] // cams.shape[-1]
    cells = regions.reshape(len(regions), cams.shape[1], side, cams.shape[2], side).max(axis=(2, 4))
    with_spot = np.flatnonzero(regions.any(axis=(1, 2)))
    peaks = cams.flatten(1).argmax(dim=1).numpy()
    return float(np.mean([cells[image].reshape(-1)[peaks[image]] > 0 for image in with_spot]))
