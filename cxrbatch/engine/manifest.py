"""What engine.json says of an engine, its files and its gate, as records that refuse what makes no sense."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.engine.untrusted import (
    require_file,
    require_finite,
    require_input,
    require_labels,
    require_name,
    require_verdict,
)
from cxrbatch.records import CellGrid, ExtraOutput, InputSpec, Label, Pooling, Task, TrainingReference, VerdictRule

SCHEMA = 1

Precision = Literal["fp32", "fp16", "int8"]
PENDING: Literal["pending"] = "pending"
MOST_MEMBERS = 100
"""The most networks that one ensemble can have."""


@dataclass(frozen=True, slots=True)
class BatchProfile:
    """The batch sizes that a plan takes, and the one it is fastest at."""

    min: int = 1
    opt: int = 32
    max: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ValueError(f"batch sizes must be 1 <= min <= opt <= max, not {self.min}, {self.opt}, {self.max}")


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What a TensorRT plan was built with, and the only GPUs and versions that it runs on.

    `compute_capabilities` such as ("8.9",). `gpu` names the GPU of the building machine; empty: built without one.
    `version_compatible` plans also run on later versions, `hardware_compatible` ones on any GPU from Ampere on.
    """

    tensorrt_version: str
    compute_capabilities: tuple[str, ...]
    gpu: str
    profile: BatchProfile
    version_compatible: bool = False
    hardware_compatible: bool = False


@dataclass(frozen=True, slots=True)
class EngineFile:
    """One file of a bundle: where it lies, relative to the bundle folder, and the SHA-256 of its bytes."""

    path: str
    sha256: str
    precision: Precision
    plan: PlanFacts | None = None

    def __post_init__(self) -> None:
        require_file(self.path, self.sha256)


@dataclass(frozen=True, slots=True)
class Member:
    """One network of an ensemble: the checkpoint it came in, by its name and the SHA-256 of its bytes.

    `training` is what that checkpoint said of its training: its figures are the member's own, not the ensemble's.
    """

    name: str
    sha256: str
    created: str
    architecture: str
    output_stride: int = 32
    training: TrainingFacts = field(default_factory=TrainingFacts)

    def __post_init__(self) -> None:
        require_finite("a member's figures", self.training.figures.values())


@dataclass(frozen=True, slots=True)
class ParityFigures:
    """How far one file of the bundle is from the PyTorch FP32 reference, over `images` images.

    Changes are absolute differences of probabilities; `limit` is the largest change the gate lets pass, `p99_limit`
    the largest that 99 of 100 may reach. `heatmap_correlation` is the lowest Pearson correlation of a class
    activation map with the reference's, `heatmap_p01` what 99 of 100 maps reach, at least `heatmap_limit`; None where
    no map has any structure. `decision_flips` counts those of `verdicts` that differ, at most the share `flip_limit`;
    `farthest_flip` is how far the reference's probability of such a verdict is from its operating point. `device`
    names the GPU, if any. A limit of None was not asked for. Where nobody counted, in bundles of the first versions,
    `verdicts` is 0. `max_disagreement_change` is the largest change of an ensemble's disagreement, within `limit`, too.
    `max_distance_change` is that of the distance to the training images, 1 at its threshold; `unlike_flips` counts the
    images that only one of the two calls unlike those, at most a share of UNLIKE_LIMIT. `max_embedding_change` is the
    largest length of a change of an embedding, as a share of the reference's, at most `embedding_limit`.
    """

    images: int
    source: str
    max_probability_change: float
    mean_probability_change: float
    limit: float
    heatmap_correlation: float | None = None
    decision_flips: int = 0
    farthest_flip: float = 0.0
    device: str = ""
    verdicts: int = 0
    p99_probability_change: float | None = None
    p99_limit: float | None = None
    heatmap_p01: float | None = None
    heatmap_limit: float | None = None
    flip_limit: float | None = None
    max_disagreement_change: float | None = None
    max_distance_change: float | None = None
    unlike_flips: int = 0
    max_embedding_change: float | None = None
    embedding_limit: float | None = None


@dataclass(frozen=True, slots=True)
class AccuracyFigures:
    """What one file of the bundle loses against the PyTorch FP32 reference on `images` labelled images.

    `auroc` is the mean over the labels that the images can tell, `auroc_reference` that of the reference; `limit`
    is the largest drop that the gate lets pass, `worst_drop` the largest drop of a single label, `worst_label`, at
    most `worst_limit`. `decision_flips` counts those of `verdicts`, on labelled images, that differ, at most the share
    `flip_limit`; in bundles of the first versions nobody counted, and `verdicts` is 0.
    """

    images: int
    source: str
    auroc_reference: float
    auroc: float
    worst_drop: float
    limit: float
    worst_label: str = ""
    worst_limit: float | None = None
    decision_flips: int = 0
    verdicts: int = 0
    flip_limit: float | None = None

    @property
    def drop(self) -> float:
        """How much mean AUROC is lost; negative where some is won."""
        return self.auroc_reference - self.auroc


@dataclass(frozen=True, slots=True)
class AdjustedLabel:
    """What an adjustment made of one label, on the `images` whose truth is known, `positives` of them with the finding.

    `before` and `after` hold sensitivity, specificity and calibration_error, each where it could be measured. The same
    images chose what they measure `after`; `unseen` is what other patients' images chose, in turn (cross-fitted).
    `note` says why something was left as it was.
    """

    images: int
    positives: int
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    unseen: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        for figures in (self.before, self.after, self.unseen):
            require_finite("an adjusted label's figures", figures.values())


@dataclass(frozen=True, slots=True)
class Adjustment:
    """How an engine was made of the engine `of`, whose identity was `sha256`, without training.

    `urgent`: the labels that were named urgent; None left them. `operating_point`: what was asked for. `data` names
    the local images, of so many `patients`, that it was `calibrated` on or that placed operating points. `dropped`
    are the files that the new engine could not take along. `cautions` are reasons to doubt the figures. `maps` are the
    labels whose maps were checked on boxes.
    """

    of: str
    sha256: str
    created: str
    urgent: tuple[str, ...] | None = None
    operating_point: str = ""
    calibrated: bool = False
    data: str = ""
    images: int = 0
    patients: int = 0
    labels: dict[str, AdjustedLabel] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What engine.json says; `files`, `parity` and `accuracy` are keyed by role.

    `parity` also has `torch_fp16`, for the FP16 graph where torch runs it. `adjustments` are told in their order.

    Roles: onnx, onnx_fp16, onnx_int8, plan, plan_rtx, checkpoint, and parity_images for what the gate looks at on
    the machine that first loads a plan whose parity is "pending": the machine that built it could not run it.
    `verdict` is how probabilities become findings; None, as earlier versions wrote it, is the usual rule of the task.
    `cells` says where the maps' cells lie in the input square; bundles of earlier versions don't tell. `pooling`: how
    cells become a logit; the mean of a map plus the bias is the logit either way.
    `extra_outputs` are what its graphs give beyond probabilities, logits and cams.
    `members` are the networks of an ensemble; `mirror` tells that it also looks at every image's mirror image.
    `reference` is what the validation images were like, which drift is measured against.
    """

    schema: int = SCHEMA
    name: str
    created: str
    architecture: str
    task: Task
    labels: tuple[Label, ...]
    input: InputSpec
    files: dict[str, EngineFile]
    output_stride: int = 32
    pooling: Pooling = "average"
    training: TrainingFacts = field(default_factory=TrainingFacts)
    parity: dict[str, ParityFigures | Literal["pending"]] = field(default_factory=dict)
    accuracy: dict[str, AccuracyFigures] = field(default_factory=dict)
    notice: str = ""
    verdict: VerdictRule | None = None
    adjustments: tuple[Adjustment, ...] = ()
    cells: CellGrid | None = None
    extra_outputs: tuple[ExtraOutput, ...] = ()
    members: tuple[Member, ...] = ()
    mirror: bool = False
    reference: TrainingReference | None = None

    def __post_init__(self) -> None:
        require_name("the engine", self.name)
        require_labels(self.labels)
        require_verdict(self.verdict, self.task, self.labels)
        require_input(self.input)
        if not 1 <= self.output_stride <= self.input.size_px:
            raise ValueError("output_stride must be from 1 to the input's size_px")
        require_finite("figures", self.training.figures.values())
        if len(self.members) > MOST_MEMBERS:
            raise ValueError(f"members must be at most {MOST_MEMBERS}")
