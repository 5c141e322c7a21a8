"""Operating points and figures of an ensemble, or of a mirrored network, on labelled images that taught it nothing.

Start at `measure_checkpoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cxrbatch.engine.training_facts import CHOOSING_PART, TrainingFacts
from cxrbatch.errors import UsageError
from cxrbatch.model.build.gate import score_by_reference
from cxrbatch.model.data.dataset import prepare_pixels
from cxrbatch.model.data.labelled import LabelledImages, Sample, describe_patients, patients_sha256, take_targets
from cxrbatch.model.data.layouts import read_data
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.pixels import ReportProgress
from cxrbatch.model.data.splits import hash_pixels
from cxrbatch.model.evaluate.acquaintance import get_acquainted
from cxrbatch.model.figures.operating_points import OperatingPointRule, parse_operating_point
from cxrbatch.model.network.checkpoint import Checkpoint
from cxrbatch.model.network.combine import POINTS_OF_MEMBERS
from cxrbatch.model.train.describe import RESAMPLES, measure_validation, overall_figures, place_points, with_metrics
from cxrbatch.pages.wording import counted
from cxrbatch.records import Label

Say = Callable[[str], None]


def measure_checkpoint(
    data: Path, options: DataOptions, checkpoint: Checkpoint, *, say: Say, report: ReportProgress | None = None
) -> Checkpoint:
    """Choose the operating points on those images of DATA, of any part, that no member learned from, and measure there.

    The same images choose the points and measure, so the figures promise a little too much, as those of a training do;
    they are marked in the same way. Where DATA has no such image, the points stay the means of the members'.

    Args:
        data: labelled images in any layout that training takes.
        options: how they are read.
        checkpoint: of an ensemble, or of a mirrored network.
        say: told what came of it.
        report: told (images done, images in all).

    Raises:
        UsageError: the data cannot be used, or knows other labels.
    """
    names = tuple(label.name for label in checkpoint.facts.labels)
    found = read_data(data, options)
    if set(names) - set(found.labels):
        missing = ", ".join(name for name in names if name not in found.labels)
        raise UsageError(f"{data}: says nothing about {missing}, which the checkpoint knows. Leave --data out.")
    pixels = prepare_pixels(found.samples, checkpoint.facts.input, report=report).pixels
    met = get_acquainted(checkpoint.known, found.samples, hash_pixels(pixels))
    unseen = np.flatnonzero(~met.learned) if met.is_told else np.zeros(0, np.int64)
    if not len(unseen):
        say(f"{data}: {_why_none(checkpoint)}; operating points stay as they are, and nothing is measured")
        return checkpoint
    targets = take_targets([found.samples[at] for at in unseen], found.labels, names, missing=np.nan)
    samples = [
        replace(found.samples[at], split=CHOOSING_PART, targets=tuple(row))
        for at, row in zip(unseen.tolist(), targets.tolist(), strict=True)
    ]
    say(f"operating points are chosen, and figures measured, on {counted(len(samples), 'image')} that no member saw")
    probabilities = score_by_reference(checkpoint.network, pixels[unseen]).probabilities
    images = replace(found, labels=names, samples=tuple(samples), task=checkpoint.facts.task)
    rule = _rule(checkpoint.facts.training)
    points, _ = place_points(rule, checkpoint.facts.labels, samples, probabilities)
    labels = [replace(label, operating_point=at) for label, at in zip(checkpoint.facts.labels, points, strict=True)]
    return _with_figures(checkpoint, labels, images, probabilities, rule)


def _why_none(checkpoint: Checkpoint) -> str:
    if not checkpoint.known:
        return "the checkpoints do not say whom they learned from"
    return "every image was learned from by a member"


def _with_figures(
    checkpoint: Checkpoint,
    labels: Sequence[Label],
    images: LabelledImages,
    probabilities: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    rule: OperatingPointRule,
) -> Checkpoint:
    facts = checkpoint.facts
    measured = measure_validation(labels, images, probabilities, resamples=RESAMPLES)
    training = replace(
        facts.training,
        data=f"{facts.training.data}; measured on {_tell_data(images, images.samples)}",
        images=facts.training.images | {CHOOSING_PART: len(images.samples)},
        figures=dict(overall_figures(measured)),
        measured_on=CHOOSING_PART,
        chosen_on={"operating points": CHOOSING_PART},
        patients=facts.training.patients | {CHOOSING_PART: patients_sha256(images.samples)},
        options=facts.training.options | {"operating_point": str(rule)},
    )
    labelled = with_metrics(labels, measured, probabilities)
    return replace(checkpoint, facts=replace(facts, labels=labelled, training=training))


def _tell_data(images: LabelledImages, samples: Sequence[Sample]) -> str:
    return f"{images.root.name}: {counted(len(samples), 'image')} of {describe_patients(samples)}"


def _rule(training: TrainingFacts) -> OperatingPointRule:
    """Return the rule that the members' points followed, where it was one for all; rates of alarms are left out."""
    told = str(training.options.get("operating_point", ""))
    if told.startswith(POINTS_OF_MEMBERS):
        told = told.removeprefix(POINTS_OF_MEMBERS).strip(" ()")
    if not told or told.startswith("alarms"):
        return OperatingPointRule()
    return parse_operating_point(told)
