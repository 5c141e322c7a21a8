"""The records of a comparison: one trained model per row, and what keeps rows from being compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cxrbatch.model.compare.paired_record import PairedModels
from cxrbatch.model.compare.throughput import Throughput
from cxrbatch.model.evaluate.record import Caution
from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.model.figures.figures import Estimates
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.pages.retelling import kept
from cxrbatch.records import Task

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class MeasuredOn:
    """The images that figures were measured on: a part of some data.

    `sha256` identifies the data and is empty where nobody wrote it down; `images` is None where not known.
    `chosen_by` tells that these images also chose the epoch and the operating points.
    """

    data: str
    part: str
    sha256: str
    images: int | None
    chosen_by: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedModel:
    """One row: what the model is, what it is worth (means over its labels), and what it costs.

    `run` is what the command was given, `evaluated` tells that it is a folder that evaluate left. A figure that nobody
    measured is missing. `parameters`, `size_bytes` and `throughput` are None where the model itself is not
    at hand, or was not to be measured.
    """

    run: str
    name: str
    sha256: str
    architecture: str
    task: Task
    labels: tuple[str, ...]
    size_px: int
    trained_on: str
    trained_s: float | None
    measured_on: MeasuredOn | None
    figures: Estimates
    accuracy: Estimate | None
    parameters: int | None = None
    size_bytes: int | None = None
    throughput: Throughput | None = None
    evaluated: bool = False
    cautions: tuple[Caution, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rows, the best AUROC first, and why some figures cannot be set side by side: what compare.json holds.

    `pairs` are every two evaluations on the images that both scored, the better AUROC first.
    """

    models: tuple[ComparedModel, ...]
    cautions: tuple[Caution, ...]
    compared_at: str
    cxrbatch_version: str
    pairs: tuple[PairedModels, ...] = ()
    schema: int = SCHEMA

    def image_set(self, model: ComparedModel) -> int:
        """Return the number, from 1, of the set of images that the model was measured on; 0 where it was not.

        Figures of one set can be compared. Images of unknown data are a set of their own.
        """
        return _image_sets(self.models)[self.models.index(model)]

    @property
    def image_sets(self) -> int:
        """How many sets of images there are."""
        return max(_image_sets(self.models), default=0)


def sort_models(models: Sequence[ComparedModel]) -> tuple[ComparedModel, ...]:
    """Return the models, the best AUROC first, those without one last."""
    return tuple(sorted(models, key=lambda model: -_auroc(model)))


def find_cautions(models: Sequence[ComparedModel]) -> Iterator[Caution]:
    """Yield why the figures of these models say less side by side than they seem to."""
    for model in models:
        yield from (
            Caution(caution.severity, kept("{name}: {sentence}").format(name=model.name, sentence=caution.text))
            for caution in model.cautions
        )
    if max(_image_sets(models), default=0) > 1:
        yield Caution(
            "doubtful",
            kept(
                "The figures were measured on different images, numbered in the table, and can be compared within one "
                "number only. Evaluate all models on the same part of the same data, and compare those folders."
            ),
        )
    if len({frozenset(model.labels) for model in models}) > 1:
        yield Caution("doubtful", kept("The models know different labels, so their means are over different findings."))
    if own := [model.name for model in models if model.measured_on is not None and model.measured_on.chosen_by]:
        yield Caution(
            "doubtful",
            kept(
                "Figures on the images that also chose the epoch and the operating points promise a little too much: "
                "{names}."
            ).format(names=", ".join(own)),
        )
    if bare := [model.name for model in models if model.measured_on is None]:
        never = kept("Never measured: {names}. `cxrbatch evaluate MODEL DATA -o DIR` does.")
        yield Caution("note", never.format(names=", ".join(bare)))
    if away := [model.name for model in models if model.size_bytes is None]:
        gone = kept("Not where it was when it was evaluated, so without size and speed: {names}.")
        yield Caution("note", gone.format(names=", ".join(away)))


def _auroc(model: ComparedModel) -> float:
    estimate = model.figures.get(Figure.AUROC)
    return -1.0 if estimate is None else estimate.value


def _image_sets(models: Sequence[ComparedModel]) -> list[int]:
    """Return the number of each model's set of images, in the order of the models."""
    numbers: dict[tuple[str, str], int] = {}
    found = []
    for place, model in enumerate(models):
        if (images := model.measured_on) is None:
            found.append(0)
            continue
        key = (images.sha256 or f"unknown {place}", images.part)
        found.append(numbers.setdefault(key, len(numbers) + 1))
    return found
