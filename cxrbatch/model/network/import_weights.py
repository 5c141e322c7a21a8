"""Importing weights that others trained, as a checkpoint of ours that computes the same. Start at `import_weights`.

What network, labels and scaling each format stands for:

- `torchxrayvision`: ResNet50 and DenseNet121 of TorchXRayVision (Cohen et al. 2022, arXiv:2111.00595). Code and
  weights are under Apache-2.0. One channel, scaled to -1024..1024; 18 outputs, of which the package itself answers
  only those that have an operating threshold.
- `chexnet`: DenseNet121 over ImageNet's scaling as in github.com/arnoweng/CheXNet, which names no licence: 14 outputs
  in the order of ChestX-ray14, under names such as `module.densenet121.classifier.0.weight`.
- `torchvision`: any of our architectures under torchvision's own names, over ImageNet's scaling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.errors import UsageError
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, build_network, save_checkpoint
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.network.transfer import (
    FeatureWeights,
    Scaling,
    fold_scaling,
    match_features,
    recognise_architecture,
    torchvision_scaling,
)
from cxrbatch.model.network.weights_file import WeightsFile, read_weights, without_prefix
from cxrbatch.pages.retelling import kept
from cxrbatch.records import Fit, InputSpec, Label, Task, now_text


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What a file of weights does not say of itself.

    `labels` name the outputs in their order, where the format does not; `size_px` of 0 takes the size that the
    format was made for. `fit` is how an image fills the square; centre crops are usual with all three formats.
    """

    weights_format: Format
    labels: tuple[str, ...] = ()
    task: Task = "multilabel"
    size_px: int = 0
    fit: Fit = "crop"


@dataclass(frozen=True, slots=True)
class ImportedWeights:
    """What the new checkpoint says of itself, and the names of the outputs that it leaves out."""

    facts: CheckpointFacts
    left_out: tuple[str, ...]


def import_weights(path: Path, out: Path, options: ImportOptions) -> ImportedWeights:
    """Turn a file of weights into a checkpoint.

    The scaling of the input that the weights were trained on is folded into the first convolution
    (`fold_scaling`). Probabilities are the sigmoid (or softmax) of the file's own logits, and TorchXRayVision's
    thresholds become operating points. What that package answers by default is something else: `op_norm`, which
    bends each probability so that its threshold comes to lie at 0.5. That is no probability any more, so it is left
    to the reader: p below the threshold t is p / 2t there, p above it 1 - (1 - p) / (2 - 2t). Verdicts are the same.

    Raises:
        UsageError: there is no such file, or it holds something else than the options say.
        EngineError: the file is damaged, or a pickle that would have to run code.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file. {SOURCES[options.weights_format]}")
    file = read_weights(path)
    model = read_foreign_model(file, options.weights_format, options.labels)
    facts = _describe(file, model, options)
    save_checkpoint(out, Checkpoint(_fill_network(facts, model), facts))
    return ImportedWeights(facts, model.left_out)


def _fill_network(facts: CheckpointFacts, model: ForeignModel) -> ChestNetwork:
    network = build_network(facts)
    folded = fold_scaling(model.features, model.scaling, facts.input)
    # Counters of batches, which the file may lack, stay at 0: they play no part but in the training of BatchNorms.
    network.features.load_state_dict(network.features.state_dict() | folded)
    network.head.load_state_dict({"weight": model.head_weight, "bias": model.head_bias})
    return network.eval()


def _describe(file: WeightsFile, model: ForeignModel, options: ImportOptions) -> CheckpointFacts:
    return CheckpointFacts(
        created=now_text(),
        architecture=model.architecture,
        task=options.task,
        labels=model.labels,
        input=InputSpec(options.size_px or model.size_px, fit=options.fit),
        training=TrainingFacts(
            data=kept("not known here: imported, format {name}").format(name=options.weights_format),
            recipe=file.sha256,
            options={"file": file.path.name, "sha256": file.sha256},
        ),
        notice=kept(
            "Imported weights ({name}), not measured by cxrbatch. Their probabilities are not calibrated: read them "
            "against the operating points, not as chances."
        ).format(name=options.weights_format),
    )


Format = Literal["torchxrayvision", "torchvision", "chexnet"]

# What a user without the file is told.
SOURCES: dict[Format, str] = {
    "torchxrayvision": (
        "Download https://github.com/mlmed/torchxrayvision/releases/download/v1/"
        "pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt (ResNet50), or save a DenseNet's state dict with the "
        "torchxrayvision package; docs/import.md shows how."
    ),
    "torchvision": "Save the state dict of a network of torchvision: torch.save(model.state_dict(), PATH).",
    "chexnet": "Bring model.pth.tar of github.com/arnoweng/CheXNet, or weights under the same names.",
}

# torchxrayvision.datasets.default_pathologies: the order of every model's outputs.
XRV_LABELS = (
    "Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema",
    "Emphysema", "Fibrosis", "Effusion", "Pneumonia", "Pleural_Thickening",
    "Cardiomegaly", "Nodule", "Mass", "Hernia", "Lung Lesion",
    "Fracture", "Lung Opacity", "Enlarged Cardiomediastinum",
)  # fmt: skip

# Its ResNet50 is published without thresholds; these stand in the package, as resnet50-res512-all. None: not trained.
XRV_RESNET50_POINTS = (
    0.51570356, 0.50444704, 0.53787947, 0.50723547, 0.5025118, 0.5035252,
    0.5038076, 0.51862943, 0.5078151, 0.50724894, 0.5056339, 0.510706,
    0.5053923, 0.5020846, None, 0.5080557, 0.5138526, None,
)  # fmt: skip

# A grey g of 0..1 enters as 2048 g - 1024.
_XRV_SCALING = Scaling((0.5,), (1 / 2048,))
_XRV_SIZES_PX = {"resnet50": 512, "densenet121": 224}

CHEXNET_LABELS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass",
    "Nodule", "Pneumonia", "Pneumothorax", "Consolidation", "Edema",
    "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """What a foreign file stands for. `head_weight` is [C,channels] and `head_bias` [C], one row per label.

    `size_px` is the side of the images that it was made for; `left_out` names the outputs that are not taken.
    """

    architecture: str
    features: FeatureWeights
    scaling: Scaling
    head_weight: Tensor
    head_bias: Tensor
    labels: tuple[Label, ...]
    size_px: int
    left_out: tuple[str, ...] = ()


def read_foreign_model(file: WeightsFile, weights_format: Format, labels: tuple[str, ...] = ()) -> ForeignModel:
    """Tell what the tensors of a file stand for.

    Args:
        file: as `read_weights` gives it.
        weights_format: who wrote it.
        labels: what the outputs mean, in their order; `torchvision` needs it, `chexnet` has it, and
            `torchxrayvision` takes none.

    Raises:
        UsageError: the file does not have this format, or its outputs are not those of the labels.
    """
    readers: dict[Format, Callable[[WeightsFile, tuple[str, ...]], ForeignModel]] = {
        "torchxrayvision": _read_torchxrayvision,
        "torchvision": _read_torchvision,
        "chexnet": _read_chexnet,
    }
    return readers[weights_format](file, labels)


def _read_torchxrayvision(file: WeightsFile, labels: tuple[str, ...]) -> ForeignModel:
    if labels:
        raise UsageError(f"{file.path}: --format torchxrayvision knows its own labels; leave --labels out.")
    tensors = without_prefix({name: file.tensors[name] for name in file.tensors if name != "op_threshs"}, "model.")
    architecture = recognise_architecture(tensors)
    features = match_features(file.path, tensors, architecture)
    if architecture not in _XRV_SIZES_PX or features.input_channels != 1:
        raise UsageError(
            f"{file.path}: is a {architecture} over {features.input_channels} channel(s); TorchXRayVision's are "
            f"{' and '.join(sorted(_XRV_SIZES_PX))} over one. Choose another --format."
        )
    weight, bias = _take_head(file, tensors, len(XRV_LABELS))
    points = _read_points(file, architecture)
    kept = [place for place, point in enumerate(points) if point is not None]
    return ForeignModel(
        architecture,
        features,
        _XRV_SCALING,
        weight[kept],
        bias[kept],
        tuple(Label(XRV_LABELS[place], points[place]) for place in kept),
        _XRV_SIZES_PX[architecture],
        tuple(name for place, name in enumerate(XRV_LABELS) if place not in kept),
    )


def _read_points(file: WeightsFile, architecture: str) -> tuple[float | None, ...]:
    """Return the operating threshold of each output; None where it was not trained."""
    found = file.tensors.get("op_threshs")
    if found is not None and found.shape == (len(XRV_LABELS),):
        # NaN stands for an output that has no name in the package, or no threshold.
        return tuple(None if math.isnan(point) else point for point in found.tolist())
    if architecture == "resnet50":
        return XRV_RESNET50_POINTS
    raise UsageError(
        f"{file.path}: has no op_threshs of {len(XRV_LABELS)} outputs, which tell what this DenseNet was trained on. "
        f"Save model.state_dict() of a model that torchxrayvision.models.DenseNet(weights=...) made."
    )


def _read_torchvision(file: WeightsFile, labels: tuple[str, ...]) -> ForeignModel:
    if not labels:
        raise UsageError(f"{file.path}: --format torchvision needs --labels, the names of its outputs in their order.")
    return _read_over_colours(file, file.tensors, labels, size_px=224)


def _read_chexnet(file: WeightsFile, labels: tuple[str, ...]) -> ForeignModel:
    # Its images were scaled to 256 px and cut into ten squares of 224 px, whose scores were averaged. One pass over
    # all 256 px sees the same at the same scale.
    tensors = without_prefix(file.tensors, "densenet121.")
    return _read_over_colours(file, tensors, labels or CHEXNET_LABELS, size_px=256)


def _read_over_colours(
    file: WeightsFile, tensors: dict[str, Tensor], labels: tuple[str, ...], *, size_px: int
) -> ForeignModel:
    architecture = recognise_architecture(tensors)
    features, scaling = match_features(file.path, tensors, architecture), torchvision_scaling(architecture)
    if features.input_channels != len(scaling.mean):
        raise UsageError(
            f"{file.path}: its first convolution takes {features.input_channels} channel(s), not 3, and nothing says "
            f"how its input was scaled. Is it --format torchxrayvision?"
        )
    weight, bias = _take_head(file, tensors, len(labels))
    named = tuple(Label(name, operating_point=None) for name in labels)
    return ForeignModel(architecture, features, scaling, weight, bias, named, size_px)


def _take_head(file: WeightsFile, tensors: dict[str, Tensor], outputs: int) -> tuple[Tensor, Tensor]:
    head = [tensor for name, tensor in tensors.items() if name.startswith(("fc.", "classifier."))]
    shapes = sorted((tensor.ndim for tensor in head), reverse=True)
    if shapes != [2, 1]:
        raise UsageError(
            f"{file.path}: its head is not one linear layer over pooled features, so it gives no heatmaps. "
            f"It can start a training: cxrbatch train DATA -o CHECKPOINT --init {file.path}"
        )
    weight, bias = sorted(head, key=lambda tensor: tensor.ndim, reverse=True)
    if len(weight) != outputs or len(bias) != outputs:
        raise UsageError(f"{file.path}: has {len(weight)} outputs, and there are {outputs} labels.")
    return weight.float(), bias.float()
