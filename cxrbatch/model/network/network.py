"""The network of the graph contract (docs/design.md), from pixels to probabilities, logits and activation maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # everyone's name for it

from cxrbatch.engine.cells import known_cells
from cxrbatch.engine.contract import output_names
from cxrbatch.model.network.architectures import build_features, require_size
from cxrbatch.model.network.attention import GatedAttention
from cxrbatch.model.network.cells import measure_cells
from cxrbatch.model.network.novelty import TrainingDistance
from cxrbatch.records import CellGrid, ExtraOutput, Float32, Gray8, InputSpec, Pooling, Task

# Scoring in larger batches than this gains nothing on a CPU and costs memory.
SCORING_BATCH = 32


class NetworkScores(NamedTuple):
    """What the network says of N images, float32: [N,C], [N,C] and [N,C,h,w] (docs/design.md)."""

    probabilities: Tensor
    logits: Tensor
    cams: Tensor


class NovelScores(NamedTuple):
    """The same of a network that also tells how far an image is from its training images, float32 [N]."""

    probabilities: Tensor
    logits: Tensor
    cams: Tensor
    distance: Tensor


class EmbeddedScores(NamedTuple):
    """The same of a network that also gives its pooled features, float32 [N,D]."""

    probabilities: Tensor
    logits: Tensor
    cams: Tensor
    embedding: Tensor


class NovelEmbeddedScores(NamedTuple):
    """The same of a network that gives both."""

    probabilities: Tensor
    logits: Tensor
    cams: Tensor
    distance: Tensor
    embedding: Tensor


AllScores = NetworkScores | NovelScores | EmbeddedScores | NovelEmbeddedScores


class ScoringNetwork(nn.Module):
    """What export, gate and checkpoints ask of a network, whether it is one, an ensemble or a mirrored one.

    It answers uint8 [N,1,S,S] with probabilities, logits and maps, and after them its `extra_outputs`. `temperature`
    and `offset`, float32 [C], are its calibration.
    """

    task: Task
    spec: InputSpec
    temperature: Tensor
    offset: Tensor

    @property
    def extra_outputs(self) -> tuple[ExtraOutput, ...]:
        """What it answers beyond probabilities, logits and maps, after them."""
        return ()

    @property
    def cells(self) -> CellGrid:
        """Where the cells of its maps lie in the input square."""
        raise NotImplementedError

    def answers(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return what it answers by the names of the outputs."""
        return dict(zip(output_names(self.extra_outputs), self(pixels), strict=True))

    def calibrate(self, logits: Tensor) -> Tensor:
        """Make probabilities of logits, both float32 [N,C]."""
        scaled = logits / self.temperature + self.offset
        return scaled.softmax(dim=1) if self.task == "multiclass" else scaled.sigmoid()


class ChestNetwork(ScoringNetwork):
    """A feature extractor, pooling and a linear head, with input and output scaling inside.

    The head runs as a 1x1 convolution before the pooling: both are linear, so the mean of the class
    activation maps plus the bias is the logit, and the maps come for free (Zhou et al. 2016). Where all cells count
    alike, Grad-CAM on the last feature map is ReLU(cams)/(h*w) exactly (Selvaraju et al. 2017, section 3.1).
    Under attention a map is N a_i (w . x_i): still what each cell adds to the logit, exactly. With the attention held
    still, it is the gradient times the features cell by cell (HiResCAM, Draelos and Carin 2020), but not Grad-CAM,
    which averages the gradient over cells that no longer count alike.
    """

    def __init__(
        self,
        architecture: str,
        n_labels: int,
        *,
        spec: InputSpec,
        task: Task = "multilabel",
        output_stride: int = 32,
        pooling: Pooling = "average",
    ) -> None:
        """Build the network with random weights.

        Args:
            architecture: one of `cxrbatch.model.network.architectures.architectures()`.
            n_labels: how many findings, or classes.
            spec: the input; its mean and std, in 0..1 grey, become part of the graph.
            task: sigmoid per label, or softmax over the classes of a multiclass task.
            output_stride: input pixels per cell of the class activation map, 32 or, for ResNets, 16.
            pooling: the mean over the cells, or learned weights, a distribution over the cells for each label.

        Raises:
            UsageError: the architecture is unknown, or takes no such image or stride.
        """
        super().__init__()
        require_size(architecture, spec.size_px)
        self.features, channels, self._stages = build_features(architecture, output_stride)
        self.head = nn.Linear(channels, n_labels)
        self.attention = GatedAttention(channels, n_labels) if pooling == "attention" else None
        self._known_cells = known_cells(architecture, output_stride)
        self.task: Task = task
        self.spec = spec
        self._gain = 1.0 / (255.0 * spec.std)
        self._shift = -spec.mean / spec.std
        # Calibration: probabilities come from logits / temperature + offset. Identity until it is fitted.
        self.register_buffer("temperature", torch.ones(n_labels))
        self.register_buffer("offset", torch.zeros(n_labels))
        # Only of a network whose training images were looked at once more, when it was trained.
        self.novelty: TrainingDistance | None = None
        # Whether it answers its pooled features, too; a fact of its checkpoint, and of no weight.
        self.gives_embedding = False

    def forward(self, pixels: Tensor) -> AllScores:
        """Score [N,1,S,S], 0..255, display polarity: uint8, or float where augmentation went before."""
        features = self.feature_map(pixels)
        cams = self.class_activation_maps(features)
        logits = cams.mean(dim=(2, 3)) + self.head.bias
        probabilities = self.calibrate(logits)
        scores = (probabilities, logits, cams)
        if self.novelty is None:
            return EmbeddedScores(*scores, self.pooled(features)) if self.gives_embedding else NetworkScores(*scores)
        if self.gives_embedding:
            return NovelEmbeddedScores(*scores, self.novelty(features), self.pooled(features))
        return NovelScores(*scores, self.novelty(features))

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Return the last feature map, [N,channels,h,w], in the type of the weights.

        Not negative but for EfficientNets, which end in a SiLU.
        """
        scaled = pixels.float() * self._gain + self._shift
        features: Tensor = self.features(scaled.to(self.head.weight.dtype))
        return features

    def class_activation_maps(self, features: Tensor) -> Tensor:
        """Return what each cell adds to the logits, N times: [N,channels,h,w] -> float32 [N,C,h,w], without the bias.

        Their mean over the cells and the bias are the logits, however cells are pooled.
        """
        maps = F.conv2d(features, self.head.weight[:, :, None, None]).float()
        return maps if self.attention is None else maps * self.attention(features)

    def pooled(self, features: Tensor) -> Tensor:
        """Return the mean feature vector of each image, whatever the pooling: [N,channels,h,w] -> float32 [N,channels].

        Attention differs by label, so that there is no one vector under it.
        """
        return features.float().mean(dim=(2, 3))

    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Return the feature extractor's modules from the input to the output, in about five groups."""
        return tuple(tuple(self.features.get_submodule(name) for name in stage) for stage in self._stages)

    @property
    def extra_outputs(self) -> tuple[ExtraOutput, ...]:
        """What it answers beyond probabilities, logits and maps, after them."""
        told: tuple[ExtraOutput, ...] = () if self.novelty is None else ("distance",)
        return (*told, "embedding") if self.gives_embedding else told

    def expect_novelty(self) -> TrainingDistance:
        """Let it answer distances to the training images, too; return the part that is to learn them."""
        if self.novelty is None:
            self.novelty = TrainingDistance(self.head.in_features)
        return self.novelty

    @property
    def cells(self) -> CellGrid:
        """Where the cells of its maps lie in the input square; measured where the architecture is not known."""
        if self._known_cells is None:
            self._known_cells = measure_cells(self.features)
        return self._known_cells


def build_seeded(build: Callable[[], ChestNetwork], seed: int) -> ChestNetwork:
    """Build a network whose random weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


@torch.inference_mode()
def predict_probabilities(network: ScoringNetwork, pixels: Gray8) -> Float32:
    """Score images in FP32: uint8 [N,1,S,S] -> float32 [N,C], 0..1."""
    batches = torch.split(torch.from_numpy(pixels), SCORING_BATCH)
    scored: Float32 = torch.cat([network.answers(batch)["probabilities"] for batch in batches]).numpy()
    return scored
