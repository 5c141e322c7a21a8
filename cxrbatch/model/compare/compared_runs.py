"""What `cxrbatch compare` is given: what each model is, where it lies and what was measured of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cxrbatch.engine.installed import find_bundle
from cxrbatch.engine.open import plan_engine
from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.errors import EngineError, UsageError
from cxrbatch.model.compare.record import ComparedModel, MeasuredOn
from cxrbatch.model.evaluate.evaluate import METRICS_JSON
from cxrbatch.model.evaluate.record import SCHEMA, Caution, Evaluation
from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.model.figures.figure_lines import describe_too_few
from cxrbatch.model.figures.figures import MeasuredLabels
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.model.network.checkpoint import CHECKPOINT_SUFFIX, load_checkpoint
from cxrbatch.model.network.network import ScoringNetwork
from cxrbatch.model.network.open_model import describe_checkpoint
from cxrbatch.records import EngineDescription
from cxrbatch.system.record_json import from_json


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that lies on this machine: `place` is what `open_model` takes, `run` what the command was given."""

    run: str
    place: str
    description: EngineDescription
    size_bytes: int
    parameters: int | None


@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    """A folder that `cxrbatch evaluate` left."""

    run: str
    evaluation: Evaluation


def read_run(run: str) -> StoredModel | EvaluatedRun:
    """Read a checkpoint (*.safetensors), a folder with metrics.json, or an engine: its folder or its name.

    Raises:
        EngineError: it is none of these, or is damaged.
        UsageError: its metrics.json cannot be read.
    """
    if (Path(run) / METRICS_JSON).is_file():
        return EvaluatedRun(run, _read_evaluation(Path(run) / METRICS_JSON))
    if run.endswith(CHECKPOINT_SUFFIX):
        return _read_checkpoint(run)
    try:
        return _read_bundle(run)
    except EngineError as error:
        raise EngineError(
            f"{run}: cannot be compared. It is no checkpoint (*{CHECKPOINT_SUFFIX}), no folder that "
            f"`cxrbatch evaluate` left (no {METRICS_JSON}), and no engine that can be read: {error}"
        ) from None


def find_evaluated(evaluation: Evaluation, given: Mapping[str, StoredModel]) -> StoredModel | None:
    """Return the model that was evaluated: among those given, by SHA-256, or still where it was, and the same."""
    wanted = evaluation.model.sha256
    if wanted in given:
        return given[wanted]
    if not evaluation.model_place:
        return None
    try:
        found = read_run(evaluation.model_place)
    except (EngineError, UsageError):
        return None
    return found if isinstance(found, StoredModel) and found.description.sha256 == wanted else None


def compare_stored(model: StoredModel) -> ComparedModel:
    """Make the row of a model by what it says of itself; its throughput is not measured yet."""
    description, training = model.description, _training(model.description)
    return ComparedModel(
        run=model.run,
        name=description.name,
        sha256=description.sha256,
        architecture=description.architecture,
        task=description.task,
        labels=tuple(label.name for label in description.labels),
        size_px=description.input.size_px,
        trained_on=training.data,
        trained_s=training.seconds or None,
        measured_on=_own_images(training),
        figures=dict(_own_figures(training.figures)),
        accuracy=Estimate.stored(training.figures, "accuracy"),
        parameters=model.parameters,
        size_bytes=model.size_bytes,
        cautions=_notice(description),
    )


def compare_evaluated(run: EvaluatedRun, model: StoredModel | None) -> ComparedModel:
    """Make the row of an evaluation, and of the model that was evaluated, where it is at hand."""
    evaluation, description = run.evaluation, run.evaluation.model
    data, training = evaluation.data, _training(description)
    cautions = tuple(caution for caution in evaluation.cautions if caution.severity == "void")
    few = describe_too_few(evaluation.measured)
    return ComparedModel(
        run=run.run,
        name=description.name,
        sha256=description.sha256,
        architecture=description.architecture,
        task=description.task,
        labels=tuple(label.label for label in evaluation.measured.labels),
        size_px=description.input.size_px,
        trained_on=training.data,
        trained_s=training.seconds or None,
        measured_on=MeasuredOn(Path(data.root).name, data.split, data.sha256, data.images, chosen_by=data.chosen_by),
        figures=evaluation.measured.macro,
        accuracy=find_accuracy(evaluation.measured),
        parameters=None if model is None else model.parameters,
        size_bytes=None if model is None else model.size_bytes,
        evaluated=True,
        cautions=(*cautions, *((Caution("doubtful", few),) if few else ()), *_notice(description)),
    )


def find_accuracy(measured: MeasuredLabels) -> Estimate | None:
    """Return the share of images that were answered rightly, of classes or of one label; several labels have none.

    Of one label it follows from sensitivity and specificity, which are shares of known counts; without interval.
    """
    if measured.classes is not None:
        return measured.classes.accuracy
    if len(measured.labels) != 1:
        return None
    (label,) = measured.labels
    rates = (label.figures.get(Figure.SENSITIVITY), label.figures.get(Figure.SPECIFICITY))
    counts = (label.positives, label.images - label.positives)
    if label.operating_point is None or any(rate is None and count for rate, count in zip(rates, counts, strict=True)):
        return None
    right = sum(rate.value * count for rate, count in zip(rates, counts, strict=True) if rate is not None)
    return Estimate(right / label.images, right / label.images, right / label.images)


# --------------------------------------------------------------------------- reading


def _read_evaluation(path: Path) -> Evaluation:
    mend = f"Evaluate again: cxrbatch evaluate MODEL DATA -o {path.parent}"
    try:
        evaluation = from_json(path.read_text(encoding="utf-8"), Evaluation)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: damaged, or of another version: {error}. {mend}") from None
    if evaluation.schema > SCHEMA:
        raise UsageError(f"{path}: written by a newer cxrbatch (schema {evaluation.schema}). Upgrade, or {mend}")
    return evaluation


def _read_checkpoint(run: str) -> StoredModel:
    path = Path(run)
    checkpoint = load_checkpoint(path)
    description = describe_checkpoint(path, checkpoint)
    return StoredModel(run, run, description, path.stat().st_size, _count_parameters(checkpoint.network))


def _read_bundle(run: str) -> StoredModel:
    bundle = find_bundle(run)
    description = plan_engine(bundle)
    parameters = None
    if "checkpoint" in bundle.manifest.files:
        parameters = _count_parameters(load_checkpoint(bundle.verified_file("checkpoint")).network)
    size_bytes = bundle.verified_file("onnx").stat().st_size
    return StoredModel(run, run, description, size_bytes, parameters)


def _count_parameters(network: ScoringNetwork) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# --------------------------------------------------------------------------- what a model says of itself


def _training(description: EngineDescription) -> TrainingFacts:
    return msgspec.convert(description.training, TrainingFacts)


def _own_images(training: TrainingFacts) -> MeasuredOn | None:
    """Return the images that the training measured on: as a rule those that also chose the epoch."""
    if not training.figures:
        return None
    part = training.measured_on
    # What it says of its data begins with the name and a comma.
    data, _, _ = training.data.partition(",")
    # Who does not say where figures are from is not trusted more than who does.
    chosen_by = training.figures_promise_too_much or not part
    return MeasuredOn(data, part, training.data_sha256, training.images.get(part), chosen_by=chosen_by)


def _own_figures(figures: Mapping[str, float]) -> Iterator[tuple[Figure, Estimate]]:
    for figure in Figure:
        estimate = Estimate.stored(figures, f"macro_{figure.value}")
        if estimate is not None:
            yield figure, estimate


def _notice(description: EngineDescription) -> tuple[Caution, ...]:
    return (Caution("note", description.notice),) if description.notice else ()
