"""Importing weights that others trained, as a checkpoint of ours that computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxrbatch.engine.manifest import TrainingFacts
from cxrbatch.errors import UsageError
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, build_network, save_checkpoint
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.network.transfer import fold_scaling
from cxrbatch.model.network.weight_formats import SOURCES, ForeignModel, Format, read_foreign_model
from cxrbatch.model.network.weights_file import WeightsFile, read_weights
from cxrbatch.records import Fit, InputSpec, Task, now_text


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
            data=f"not known here: imported, format {options.weights_format}",
            recipe=file.sha256,
            options={"file": file.path.name, "sha256": file.sha256},
        ),
        notice=(
            f"Imported weights ({options.weights_format}), not measured by cxrbatch. Their probabilities are not "
            f"calibrated: read them against the operating points, not as chances."
        ),
    )
