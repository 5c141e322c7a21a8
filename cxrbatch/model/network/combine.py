"""Checkpoints of folds or seeds become the checkpoint of one ensemble; any one becomes a mirrored one.

Start at `combine_checkpoints`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cxrbatch.engine.manifest import Member
from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.errors import UsageError
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, load_checkpoint, read_checkpoint
from cxrbatch.model.network.ensemble import EnsembleNetwork, Member as MemberNetwork, fold_calibration
from cxrbatch.model.network.mirror import MirroredNetwork, map_shape
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.pages.retelling import nkept
from cxrbatch.records import Label, now_text

Value = TypeVar("Value")

POINTS_OF_MEMBERS = "mean of its members' points, over logits"
"""What an ensemble says of its operating points that no image chose for it."""

_SHOWN = 4
# As far, in cells, as a heatmap's peak may be off.
_CELLS_APART = 0.1


@dataclass(frozen=True, slots=True)
class GivenCheckpoint:
    """A checkpoint and the file that it was read from."""

    path: Path
    sha256: str
    checkpoint: Checkpoint

    @property
    def facts(self) -> CheckpointFacts:
        """What it says of itself."""
        return self.checkpoint.facts


def read_checkpoints(paths: Sequence[Path]) -> Checkpoint:
    """Read one checkpoint, or several as the one of their ensemble.

    Raises:
        EngineError: one is missing, damaged, or no checkpoint.
        UsageError: they make no ensemble.
    """
    given = []
    for path in paths:
        # Read once: the hash is that of the weights that are taken.
        content = read_checkpoint(path)
        sha256 = hashlib.sha256(content).hexdigest()
        given.append(GivenCheckpoint(path, sha256, load_checkpoint(path, content)))
    return given[0].checkpoint if len(given) == 1 else combine_checkpoints(given)


def combine_checkpoints(given: Sequence[GivenCheckpoint]) -> Checkpoint:
    """Make one checkpoint of an ensemble's members, whose networks become part of it.

    Its operating points are the means of its members', over calibrated logits, where more than half of them have one.
    Nothing is said to be measured: the figures of the members are theirs, and stay with them.

    Raises:
        UsageError: they differ in what an ensemble needs them to share, or one is given twice.
    """
    _require_alike(given)
    facts = [each.facts for each in given]
    members: list[MemberNetwork] = []
    # A mean of some distances is none of the ensemble's: all members tell theirs, or none.
    tell_distance = all("distance" in each.checkpoint.network.extra_outputs for each in given)
    for each in given:
        network = each.checkpoint.network
        if not isinstance(network, (ChestNetwork, MirroredNetwork)):
            raise UsageError(f"{each.path}: is an ensemble itself. Name the checkpoints of its members.")
        single = network.network if isinstance(network, MirroredNetwork) else network
        fold_calibration(single)
        if not tell_distance:
            single.novelty = None
        single.gives_embedding = False  # features of different networks are not of one space
        members.append(network)
    network_of_all = EnsembleNetwork(members).eval()
    combined = CheckpointFacts(
        created=now_text(),
        architecture=_name_architectures([each.architecture for each in facts]),
        task=facts[0].task,
        labels=tuple(_common_label(labels) for labels in zip(*(each.labels for each in facts), strict=True)),
        input=facts[0].input,
        output_stride=facts[0].output_stride,
        pooling=facts[0].pooling,
        training=_common_training([each.training for each in facts]),
        notice=_tell_notices(given),
        cells=network_of_all.cells,
        members=tuple(_describe_member(each) for each in given),
        mirror=facts[0].mirror,
    )
    known = tuple(dict.fromkeys(images.key for each in given for images in each.checkpoint.known))
    by_key = {images.key: images for each in given for images in each.checkpoint.known}
    return Checkpoint(network_of_all, combined, tuple(by_key[key] for key in known))


def mirror_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """Let a network, or each member of an ensemble, look at mirror images as well; one that does stays as it is."""
    network = checkpoint.network
    if checkpoint.facts.mirror:
        return checkpoint
    if isinstance(network, ChestNetwork):
        mirrored: MirroredNetwork | EnsembleNetwork = MirroredNetwork(network)
    elif isinstance(network, EnsembleNetwork):
        mirrored = EnsembleNetwork(
            [MirroredNetwork(member) for member in network.members if isinstance(member, ChestNetwork)]
        )
        mirrored.temperature.copy_(network.temperature)
        mirrored.offset.copy_(network.offset)
    else:
        raise TypeError(f"a network that can be mirrored, not {type(network).__name__}")
    labels = tuple(_unmeasured(label) for label in checkpoint.facts.labels)
    training = replace(checkpoint.facts.training, figures={}, measured_on="")
    facts = replace(checkpoint.facts, mirror=True, cells=mirrored.cells, labels=labels, training=training)
    return replace(checkpoint, network=mirrored.eval(), facts=facts)


# --------------------------------------------------------------------------- what members must share


def _require_alike(given: Sequence[GivenCheckpoint]) -> None:
    shared: dict[str, Callable[[GivenCheckpoint], object]] = {
        "labels": lambda each: ", ".join(f"{label.name}{' (normal)' * label.normal}" for label in each.facts.labels),
        "task": lambda each: each.facts.task,
        "input": lambda each: _tell_input(each.facts),
        "pooling": lambda each: each.facts.pooling,
        "mirrored": lambda each: "mirrored" if each.facts.mirror else "not mirrored",
    }
    first = given[0]
    for what, tell in shared.items():
        for other in given[1:]:
            if tell(first) != tell(other):
                raise UsageError(
                    f"an ensemble: its members must have the same {what}. {first.path}: {tell(first)}; {other.path}: "
                    f"{tell(other)}."
                )
    for other in given[1:]:
        if not _lie_alike(first, other):
            raise UsageError(
                f"an ensemble: its members must have the same maps. {first.path}: {_tell_grid(first)}; {other.path}: "
                f"{_tell_grid(other)}."
            )
    seen: dict[str, Path] = {}
    for each in given:
        if each.sha256 in seen:
            raise UsageError(f"{each.path}: is the same checkpoint as {seen[each.sha256]}. Name each member once.")
        seen[each.sha256] = each.path


def _tell_input(facts: CheckpointFacts) -> str:
    spec = facts.input
    version = f", preprocessing {spec.preprocess_version}"
    return f"{spec.size_px} px, {spec.fit}, grey mean {spec.mean:g}, deviation {spec.std:g}{version}"


def _lie_alike(first: GivenCheckpoint, other: GivenCheckpoint) -> bool:
    """Tell whether two maps can be averaged cell by cell; an origin that was measured differs a little each time."""
    one, two = (each.checkpoint.network for each in (first, other))
    apart = (
        abs(one.cells.origin_x - two.cells.origin_x) / one.cells.stride_x,
        abs(one.cells.origin_y - two.cells.origin_y) / one.cells.stride_y,
    )
    strides = [(each.cells.stride_x, each.cells.stride_y) for each in (one, two)]
    return map_shape(one) == map_shape(two) and strides[0] == strides[1] and max(apart) <= _CELLS_APART


def _tell_grid(given: GivenCheckpoint) -> str:
    cells, (height, width) = given.checkpoint.network.cells, map_shape(given.checkpoint.network)[2:]
    return (
        f"{height} x {width} cells from ({cells.origin_x:g}, {cells.origin_y:g}), "
        f"{cells.stride_x:g} x {cells.stride_y:g} px each"
    )


# --------------------------------------------------------------------------- what is said of an ensemble


def _common_label(labels: Sequence[Label]) -> Label:
    """Return a label of the ensemble: urgent where any member says so, with nothing measured."""
    points = [label.operating_point for label in labels if label.operating_point is not None]
    point = _mean_point(points) if 2 * len(points) > len(labels) else None
    urgent = any(label.urgent for label in labels)
    return replace(_unmeasured(labels[0]), operating_point=point, urgent=urgent)


def _unmeasured(label: Label) -> Label:
    return replace(label, metrics={}, images_with=None, images_without=None, reference=(), maps=None)


def _mean_point(points: Sequence[float]) -> float:
    if len(set(points)) == 1:
        return points[0]
    inside = np.clip(np.array(points, np.float64), 1e-6, 1 - 1e-6)
    logit = float(np.mean(np.log(inside / (1 - inside))))
    return float(1 / (1 + np.exp(-logit)))


def _name_architectures(names: Sequence[str]) -> str:
    return " + ".join(f"{list(names).count(name)} x {name}" for name in dict.fromkeys(names))


def _describe_member(given: GivenCheckpoint) -> Member:
    facts = given.facts
    return Member(
        name=given.path.stem,
        sha256=given.sha256,
        created=facts.created,
        architecture=facts.architecture,
        output_stride=facts.output_stride,
        training=facts.training,
    )


def _common_training(members: Sequence[TrainingFacts]) -> TrainingFacts:
    """Say of the ensemble what is true of every member: of folds, no part has the same patients in all."""
    rules = {str(each.options.get("operating_point", "")) for each in members} - {""}
    rule = f"{POINTS_OF_MEMBERS}{f' ({next(iter(rules))})' if len(rules) == 1 else ''}"
    recipes = "".join(each.recipe for each in members)
    return TrainingFacts(
        data="; ".join(dict.fromkeys(each.data for each in members if each.data)),
        images=_shared([each.images for each in members]),
        recipe=hashlib.sha256(recipes.encode()).hexdigest() if recipes else "",
        seed=_same([each.seed for each in members], 0),
        seconds=round(sum(each.seconds for each in members), 1),
        options=_shared([each.options for each in members]) | {"operating_point": rule},
        libraries=_shared([each.libraries for each in members]),
        patients=_shared([each.patients for each in members]),
        data_sha256=_same([each.data_sha256 for each in members], ""),
        init=_same([each.init for each in members], ""),
    )


def _shared(members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the entries that all have alike."""
    return {name: value for name, value in members[0].items() if all(each.get(name) == value for each in members)}


def _same(values: Sequence[Value], otherwise: Value) -> Value:
    return values[0] if all(value == values[0] for value in values) else otherwise


def _tell_notices(given: Sequence[GivenCheckpoint]) -> str:
    """Return what the members have to say of themselves, once each, and which of them don't say whom they know."""
    silent = [each.path.stem for each in given if not each.checkpoint.known]
    told = [each.facts.notice for each in given if each.facts.notice]
    if silent and len(silent) < len(given):
        unknown = nkept(
            "Not known whom {names} learned from: {count} member of it.",
            "Not known whom {names} learned from: {count} members of it.",
            len(silent),
        )
        told.append(unknown.format(names=_listed(silent), count=len(silent)))
    return " ".join(dict.fromkeys(told))


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:_SHOWN]) + (" and others" if len(shown) > _SHOWN else "")
