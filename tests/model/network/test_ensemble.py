"""Several checkpoints become one network whose maps, logits and probabilities are the mean of theirs, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrbatch.engine import cells as engine_cells
from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.errors import EngineError, UsageError
from cxrbatch.model.data.known_images import KnownImages
from cxrbatch.model.network import architectures
from cxrbatch.model.network.checkpoint import (
    Checkpoint,
    CheckpointFacts,
    build_network,
    load_checkpoint,
    read_known_images,
    save_checkpoint,
)
from cxrbatch.model.network.combine import POINTS_OF_MEMBERS, mirror_checkpoint, read_checkpoints
from cxrbatch.model.network.ensemble import EnsembleNetwork
from cxrbatch.model.network.network import ChestNetwork, build_seeded
from cxrbatch.model.network.pretrained import find_init
from cxrbatch.records import InputSpec, Label, Task
from tests.factories.model import build_three_layers, draw_noise
from tests.factories.validated import VALIDATED

SIZE_PX = 64
LABELS = (
    Label("A", 0.2, urgent=True, metrics={"auroc": 0.9}, images_with=40, images_without=50, reference=(0.1, 0.9)),
    Label("B", None),
)


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            architectures._ARCHITECTURES, "tiny", architectures._Architecture(build_three_layers, output_strides=(4,))
        )
        # Or every network would measure it.
        patch.setitem(engine_cells._ORIGINS, "tiny", 0.5)
        yield


def write_member(path: Path, seed: int, *, task: Task = "multilabel", **changes: object) -> Path:
    """Write a checkpoint with weights and a calibration of its own."""
    facts = CheckpointFacts(
        created="2026-01-02T03:04:05+00:00", architecture="tiny", task=task, labels=LABELS, input=InputSpec(SIZE_PX),
        output_stride=4,
        training=TrainingFacts(
            data="made up", recipe=f"{seed}", seed=seed, figures={"macro_auroc": 0.9}, measured_on="val",
            options={"operating_point": "youden", "epochs": 3}, patients={"train": f"{seed}", "test": "the same"},
        ),
    )  # fmt: skip
    facts = replace(facts, **changes)  # type: ignore[arg-type]
    network = build_seeded(lambda: build_network(facts), seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        network.head.weight.mul_(6)
        scale = torch.rand(len(LABELS), generator=generator) + 0.5
        network.temperature.copy_(scale[:1].expand(len(LABELS)) if task == "multiclass" else scale)
        if task != "multiclass":
            network.offset.copy_(torch.rand(len(LABELS), generator=generator) - 0.5)
    save_checkpoint(path, Checkpoint(network, facts, (KnownImages(f"{seed:02x}" * 32),)))
    return path


def write_members(folder: Path, count: int = 3, **changes: object) -> list[Path]:
    return [write_member(folder / f"fold-{seed}.safetensors", seed, **changes) for seed in range(1, count + 1)]  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
@pytest.mark.parametrize("mirror", [False, True])
def test_an_ensemble_is_the_mean_of_its_members_and_survives_its_file(tmp_path: Path, task: Task, mirror: bool) -> None:
    paths = write_members(tmp_path, task=task)
    combined = read_checkpoints(paths)
    combined = mirror_checkpoint(combined) if mirror else combined
    save_checkpoint(tmp_path / "all.safetensors", combined)
    loaded = load_checkpoint(tmp_path / "all.safetensors")
    pixels = torch.from_numpy(draw_noise(4, SIZE_PX))
    singles = [load_checkpoint(path) for path in paths]
    members = [(mirror_checkpoint(each) if mirror else each).network for each in singles]
    with torch.no_grad():
        answered = loaded.network.answers(pixels)
        of_members = [member.answers(pixels) for member in members]
    calibrated = torch.stack(
        [each["logits"] / member.temperature + member.offset for each, member in zip(of_members, members, strict=True)]
    )
    each = torch.stack([answer["probabilities"] for answer in of_members])
    logits = calibrated.mean(dim=0)
    torch.testing.assert_close(answered["logits"], logits)
    expected = logits.softmax(dim=1) if task == "multiclass" else logits.sigmoid()
    torch.testing.assert_close(answered["probabilities"], expected)
    torch.testing.assert_close(answered["disagreement"], each.std(dim=0, correction=0), atol=1e-6, rtol=1e-4)
    assert float(answered["disagreement"].min()) > 1e-4, "or nothing is tested"
    # The law of the contract: the mean of a map and one bias are the logit.
    bias = torch.stack(
        [
            one.head.bias / one.temperature + one.offset
            for member in members
            for one in member.modules()
            if isinstance(one, ChestNetwork)
        ]
    ).mean(dim=0)
    torch.testing.assert_close(answered["cams"].mean(dim=(2, 3)) + bias, logits)


def test_it_says_what_is_true_of_all_and_claims_nothing_that_nobody_measured(tmp_path: Path) -> None:
    given = read_checkpoints(write_members(tmp_path))
    label = given.facts.labels[0]
    assert (label.metrics, label.reference, label.images_with) == ({}, (), None)
    assert (label.operating_point, label.urgent) == (0.2, True)
    training = given.facts.training
    assert (training.figures, training.measured_on, training.patients) == ({}, "", {"test": "the same"})
    assert training.options == {"operating_point": f"{POINTS_OF_MEMBERS} (youden)", "epochs": 3}
    assert given.facts.architecture == "3 x tiny"
    assert [(each.name, each.training.figures) for each in given.facts.members] == [
        (f"fold-{seed}", {"macro_auroc": 0.9}) for seed in (1, 2, 3)
    ]
    assert given.network.extra_outputs == ("disagreement",)


def test_operating_points_are_averaged_over_logits_where_most_members_have_one(tmp_path: Path) -> None:
    points = [(0.2, None), (0.5, 0.3), (None, None)]
    paths = [
        write_member(
            tmp_path / f"{seed}.safetensors", seed,
            labels=tuple(replace(label, operating_point=at) for label, at in zip(LABELS, of_member, strict=True)),
        )
        for seed, of_member in enumerate(points)
    ]  # fmt: skip
    first, second = read_checkpoints(paths).facts.labels
    # The middle of logit(0.2) = -1.386 and logit(0.5) = 0.
    assert first.operating_point == pytest.approx(1 / 3)
    assert second.operating_point is None


def test_it_knows_everybody_whom_a_member_knows(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "all.safetensors", read_checkpoints(write_members(tmp_path)))
    keys = [known.key for known in read_known_images(tmp_path / "all.safetensors")]
    assert keys == [f"{seed:02x}" * 32 for seed in (1, 2, 3)]


def test_a_member_that_does_not_say_whom_it_knows_is_named(tmp_path: Path) -> None:
    paths = write_members(tmp_path, 2)
    silent = load_checkpoint(paths[1])
    save_checkpoint(paths[1], replace(silent, known=()))
    assert "Not known whom fold-2 learned from" in read_checkpoints(paths).facts.notice


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": (LABELS[1], LABELS[0])}, r"the same labels\. .*1.safetensors: A, B; .*2.safetensors: B, A\."),
        ({"labels": (LABELS[0], replace(LABELS[1], normal=True))}, r"same labels.*B \(normal\)"),
        ({"task": "multiclass"}, "the same task.*multilabel.*multiclass"),
        ({"input": InputSpec(96)}, "the same input.*64 px.*96 px"),
        ({"input": InputSpec(64, mean=0.4)}, "the same input.*mean 0.5.*mean 0.4"),
        ({"architecture": "resnet18", "output_stride": 32}, "the same maps.*16 x 16 cells.*2 x 2 cells"),
    ],
)
def test_what_differs_is_said(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    paths = [
        write_member(tmp_path / "1.safetensors", 1), write_member(tmp_path / "2.safetensors", 2, **changes)  # type: ignore[arg-type]
    ]  # fmt: skip
    with pytest.raises(UsageError, match=says):
        read_checkpoints(paths)


def test_a_member_is_taken_once_and_an_ensemble_is_none(tmp_path: Path) -> None:
    paths = write_members(tmp_path, 2)
    (tmp_path / "again.safetensors").write_bytes(paths[0].read_bytes())
    with pytest.raises(UsageError, match=r"again.safetensors: is the same checkpoint as .*fold-1"):
        read_checkpoints([*paths, tmp_path / "again.safetensors"])
    save_checkpoint(tmp_path / "all.safetensors", read_checkpoints(paths))
    with pytest.raises(UsageError, match="is an ensemble itself"):
        read_checkpoints([tmp_path / "all.safetensors", write_member(tmp_path / "3.safetensors", 3)])
    with pytest.raises(UsageError, match="is an ensemble"):
        find_init(str(tmp_path / "all.safetensors"), "tiny")


def test_a_file_of_too_many_members_is_refused_before_they_are_built(tmp_path: Path) -> None:
    combined = read_checkpoints(write_members(tmp_path, 2))
    with pytest.raises(ValueError, match="at most 100"):
        replace(combined.facts, members=combined.facts.members * 51)
    path = tmp_path / "many.safetensors"
    save_checkpoint(path, combined)
    content = path.read_bytes()
    broken = content.replace(b"fold-2", b"fold-\xff", 1)
    path.write_bytes(broken)
    with pytest.raises(EngineError, match="damaged"):
        load_checkpoint(path)


def test_an_ensembles_distance_is_the_mean_of_its_members() -> None:
    """Members that also tell how far an image lies from those of their training, as if each had its own number."""

    class Far(ChestNetwork):
        def __init__(self, far: float) -> None:
            super().__init__("tiny", 2, spec=InputSpec(SIZE_PX), output_stride=4)
            self.far = far

        @property
        def extra_outputs(self):  # type: ignore[no-untyped-def]
            return ("distance",)

        def forward(self, pixels: torch.Tensor):  # type: ignore[no-untyped-def]
            return (*super().forward(pixels), torch.full((len(pixels),), self.far))

    pixels = torch.from_numpy(draw_noise(2, SIZE_PX))
    with torch.no_grad():
        both = EnsembleNetwork([Far(1.0), Far(4.0)]).eval()
        one = EnsembleNetwork([Far(1.0), ChestNetwork("tiny", 2, spec=InputSpec(SIZE_PX), output_stride=4)]).eval()
        assert both.extra_outputs == ("disagreement", "distance")
        np.testing.assert_allclose(both.answers(pixels)["distance"].numpy(), [2.5, 2.5])
        assert one.extra_outputs == ("disagreement",)
        assert len(one(pixels)) == 4


@pytest.mark.parametrize(("telling", "expected"), [((1, 2), ("disagreement", "distance")), ((1,), ("disagreement",))])
def test_a_distance_is_told_where_all_members_tell_one_and_the_file_is_read_again(
    tmp_path: Path, telling: tuple[int, ...], expected: tuple[str, ...]
) -> None:
    paths = [
        write_member(
            tmp_path / f"fold-{seed}.safetensors", seed, extra_outputs=("distance",) if seed in telling else ()
        )
        for seed in (1, 2)
    ]
    save_checkpoint(tmp_path / "all.safetensors", read_checkpoints(paths))
    loaded = load_checkpoint(tmp_path / "all.safetensors")
    assert loaded.network.extra_outputs == loaded.facts.extra_outputs == expected
    with torch.no_grad():
        answered = loaded.network.answers(torch.from_numpy(draw_noise(2, SIZE_PX)))
    assert tuple(answered)[3:] == expected


def test_members_pool_alike_and_an_ensemble_claims_no_checked_maps(tmp_path: Path) -> None:
    one = write_member(tmp_path / "one.safetensors", 1, labels=(replace(LABELS[0], maps=VALIDATED), LABELS[1]))
    other = write_member(tmp_path / "other.safetensors", 2, pooling="attention")
    with pytest.raises(UsageError, match=r"same pooling. .*one.safetensors: average; .*other.safetensors: attention"):
        read_checkpoints([one, other])
    alike = write_member(tmp_path / "alike.safetensors", 3)
    assert [label.maps for label in read_checkpoints([one, alike]).facts.labels] == [None, None]
