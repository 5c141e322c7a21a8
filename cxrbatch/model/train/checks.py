"""What is settled before a training computes anything: what cannot work, what the options come to, what is trained."""

from __future__ import annotations

import hashlib
import math
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cxrbatch.engine.training_facts import CALIBRATION_PART, CHOOSING_PART
from cxrbatch.errors import UsageError
from cxrbatch.model.data.dataset import PreparedImages
from cxrbatch.model.data.labelled import LabelledImages
from cxrbatch.model.data.urgent import mark_urgent
from cxrbatch.model.figures.alarms import require_normal_studies
from cxrbatch.model.network.architectures import has_output_stride, smallest_size
from cxrbatch.model.network.checkpoint import CHECKPOINT_SUFFIX, CheckpointFacts, build_network
from cxrbatch.model.network.pretrained import USUAL_ARCHITECTURE, Init
from cxrbatch.model.train.augment import NONE
from cxrbatch.model.train.losses import check_loss, usual_loss
from cxrbatch.model.train.options import (
    SMALLEST_SIDE_PX,
    TrainingOptions,
    count_processes,
    flips_usually,
    images_per_round,
    resolve_precision,
    usual_keep,
    usual_learning_rate,
    usual_small_epochs,
    with_usual_length,
)
from cxrbatch.model.train.record import Listener, TrainingPlan
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.records import InputSpec, Label, now_text
from cxrbatch.system import durable
from cxrbatch.system.record_json import to_json

# With fewer images a DenseNet learns better from random weights than a ResNet50.
FOR_SMALL_SETS, _RESNET_FROM = "densenet121", 2000
USUAL_STRIDE, FINER_STRIDE, FINER_FROM_PX = 32, 16, 320
# Multiplications of the convolutions at a stride of 16 beside 32; a test counts them.
COST_OF_FINER = {"resnet18": 1.7, "resnet50": 1.5}


def training_folder(checkpoint: Path) -> Path:
    """Return where a training leaves everything but its checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name.removesuffix(CHECKPOINT_SUFFIX)}-training")


def check_place(checkpoint: Path, folder: Path | None = None) -> Path:
    """Make the folder beside the checkpoint and return it; find out that both places can be written to.

    `folder`: None is `training_folder`.

    Raises:
        UsageError: not a checkpoint's name.
        OutputNotWritable: they cannot.
    """
    if checkpoint.suffix != CHECKPOINT_SUFFIX:
        raise UsageError(f"{checkpoint}: a checkpoint's name ends in {CHECKPOINT_SUFFIX}.")
    folder = folder or training_folder(checkpoint)
    with output_errors_explained(folder):
        durable.make_folder(folder)
        for place in (folder, checkpoint.parent):
            _write_probe(place)
    return folder


def _write_probe(folder: Path) -> None:
    """Find out now, not after hours, that nothing can be written there."""
    with tempfile.TemporaryFile(dir=folder, prefix=durable.TEMPORARY_PREFIX) as probe:
        probe.write(b"0")


def usual_architecture(images: int, output_stride: int | None) -> str:
    """Return the network that learns best from so many training images where it starts from random weights.

    One with the output stride that was asked for; None asked for none.
    """
    fits_small = output_stride is None or has_output_stride(FOR_SMALL_SETS, output_stride)
    return FOR_SMALL_SETS if images < _RESNET_FROM and fits_small else USUAL_ARCHITECTURE


def settle_options(plan: TrainingPlan, images: LabelledImages, *, pretrained: bool) -> TrainingOptions:
    """Put the usual values for these images where the plan leaves them open."""
    wanted, rate, small = plan.training, plan.learning_rate, plan.small_epochs
    training, validation = len(images.part("train")), sum(sample.split == "val" for sample in images.samples)
    # What is set aside shall leave validation images that chose nothing, not even the epoch.
    validation = validation if choosing_part(images) == CHOOSING_PART else 0
    wanted = with_usual_length(wanted, training)
    can_be_small = _small_side(plan) >= max(smallest_size(plan.architecture), SMALLEST_SIDE_PX)
    usual_small = usual_small_epochs(training, wanted.epochs) if can_be_small else 0
    usual_flip = wanted.augmentation.flip or (wanted.augmentation != NONE and flips_usually(training))
    return replace(
        wanted,
        learning_rate=usual_learning_rate(wanted.optimizer, pretrained=pretrained) if rate is None else rate,
        small_epochs=usual_small if small is None else small,
        augmentation=replace(wanted.augmentation, flip=usual_flip if plan.flip is None else plan.flip),
        # Who stops early wants the epoch that nothing later was better than.
        keep=("best" if wanted.patience else usual_keep(validation)) if wanted.keep == "auto" else wanted.keep,
    )


def _small_side(plan: TrainingPlan) -> int:
    return round(plan.size_px * plan.training.small_scale)


def check_plan(plan: TrainingPlan, options: TrainingOptions, images: LabelledImages) -> None:
    """Find out before hours of work what cannot work: names, sizes, GPUs, too few images.

    Raises:
        UsageError: what, and how to mend it.
    """
    check_loss(options.loss or usual_loss(images.task), images.task)
    untrained = describe_untrained(plan, images)
    mark_urgent(untrained.labels, plan.urgent)
    network = build_network(untrained)
    if options.freeze > len(network.stages()):
        raise UsageError(f"freeze {options.freeze}: {plan.architecture} has {len(network.stages())} stages.")
    if options.small_epochs and _small_side(plan) < smallest_size(plan.architecture):
        raise UsageError(
            f"small epochs: {plan.architecture} takes {smallest_size(plan.architecture)} px and more, and half of "
            f"{plan.size_px} px is less. Use --small-epochs 0, or larger images."
        )
    if plan.operating_point.goal == "alarms" and plan.operating_point.value is not None:
        if images.task == "multiclass":
            raise UsageError(
                "operating point alarms: of classes that exclude each other the likeliest one is called, whatever "
                "their points. Choose a rule such as youden, or --binary."
            )
        samples = images.part(choosing_part(images))
        targets = np.array([sample.targets for sample in samples], np.float32)
        labels = describe_untrained(plan, images).labels
        studies = [sample.study_key() for sample in samples]
        require_normal_studies(plan.operating_point.value, targets, labels, studies)
    if plan.data.folds and count_processes(options) > 1:
        raise UsageError("folds: are trained by one process. Leave --devices out, or train them one by one.")
    n_training, needed = len(images.part("train")), images_per_round(options)
    if n_training < needed:
        raise UsageError(
            f"{images.root}: {n_training} training images are fewer than one batch of {needed}. "
            f"Bring more, or use --batch-size {max(2, n_training // 2)}."
        )


def offer_finer_maps(plan: TrainingPlan) -> str:
    """Say that finer heatmaps are to be had; "" where there are none, or somebody chose, or they would gain little.

    Not the default: it costs half as much work again, in every later run too, and nothing says that scores gain.
    """
    if plan.output_stride is not None or plan.size_px < FINER_FROM_PX:
        return ""
    if not has_output_stride(plan.architecture, FINER_STRIDE) or plan.architecture not in COST_OF_FINER:
        return ""
    # Padded strides leave a cell for what is over.
    coarse, fine = (math.ceil(plan.size_px / stride) for stride in (USUAL_STRIDE, FINER_STRIDE))
    return (
        f"heatmaps will have {coarse} x {coarse} cells; with --output-stride {FINER_STRIDE} they have {fine} x {fine}, "
        f"and training and scoring take {COST_OF_FINER[plan.architecture]:g} times the work"
    )


def choosing_part(images: LabelledImages) -> str:
    """Return the part on which calibration and operating points are chosen: what was set aside, else val."""
    return CALIBRATION_PART if any(sample.split == CALIBRATION_PART for sample in images.samples) else CHOOSING_PART


def describe_untrained(plan: TrainingPlan, images: LabelledImages) -> CheckpointFacts:
    """Describe the network that is to be trained, as its checkpoint will."""
    return CheckpointFacts(
        created=now_text(),
        architecture=plan.architecture,
        task=images.task,
        labels=tuple(Label(name, normal=name == images.normal_label) for name in images.labels),
        input=InputSpec(plan.size_px, fit=plan.fit),
        output_stride=plan.output_stride or USUAL_STRIDE,
        pooling=plan.pooling,
    )


@dataclass(frozen=True, slots=True)
class Training:
    """One network to train: its images, where its checkpoint goes, and everything that decides its weights."""

    prepared: PreparedImages
    checkpoint: Path
    plan: TrainingPlan
    options: TrainingOptions
    init: Init
    fold: int
    listener: Listener

    @property
    def images(self) -> LabelledImages:
        """The labelled images."""
        return self.prepared.images

    @property
    def untrained(self) -> CheckpointFacts:
        """What its checkpoint says before anything is learned."""
        return describe_untrained(self.plan, self.images)

    @property
    def folder(self) -> Path:
        """Where everything but its checkpoint goes."""
        return training_folder(self.checkpoint)

    @property
    def recipe(self) -> str:
        """The SHA-256 of what decides the weights, but for the processor and its threads: 64 hex digits."""
        options = replace(self.options, precision=resolve_precision(self.options))
        data = (self.images.sha256, self.prepared.pixels_sha256)
        marked = self.prepared.marked.sha256 if self.prepared.marked else ""
        decisive = (data, marked, replace(self.untrained, created=""), options, self.init.origin, version("torch"))
        return hashlib.sha256(to_json(decisive).encode()).hexdigest()
