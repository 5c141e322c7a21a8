"""Comparing trained models and evaluations, as CSV and HTML. Start at `compare_models`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbatch import __version__
from cxrbatch.config import available_cores
from cxrbatch.errors import UsageError
from cxrbatch.model.compare.compared_runs import (
    EvaluatedRun,
    StoredModel,
    compare_evaluated,
    compare_stored,
    find_evaluated,
    read_run,
)
from cxrbatch.model.compare.differences import compare_pairs
from cxrbatch.model.compare.record import ComparedModel, Comparison, find_cautions, sort_models
from cxrbatch.model.compare.report import write_comparison_page, write_comparison_table
from cxrbatch.model.compare.throughput import Throughput, busy_cores, measure_throughput
from cxrbatch.model.data.pixels import ReportProgress
from cxrbatch.model.evaluate.record import Caution
from cxrbatch.model.evaluate.report import PREDICTIONS_CSV
from cxrbatch.model.network.open_model import open_model
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.pages.retelling import kept
from cxrbatch.pages.wording import counted
from cxrbatch.records import now_text
from cxrbatch.system import durable
from cxrbatch.system.record_json import to_json

COMPARE_JSON = "compare.json"

BATCH_SIZE = 8
"""Images at once where nobody says otherwise: what engines on a CPU are quickest with."""

BUSY_SHARE = 0.5
"""A machine whose load is a greater share of its cores than this is not fit for timing.

A ResNet50 at 128 px that scored 29 images/s on one of two cores came down to 3 on both, at a load of 4.
"""


def compare_models(
    models: Sequence[str],
    out: Path,
    *,
    measure: bool = True,
    batch_size: int = BATCH_SIZE,
    threads: int = 0,
    report: ReportProgress = lambda _done, _all: None,
) -> Comparison:
    """Set trained models side by side and leave compare.csv, compare.json and compare.html in `out`.

    Evaluations are also compared two by two on the very images that both scored (`compare_pairs`).

    A row's figures come from the evaluation, where a folder of one is given, else from the model's own training.
    An evaluation and its model, both given, are one row. Everything is read before anything is measured.

    Args:
        models: checkpoints (*.safetensors), engines (folder or name), folders that `cxrbatch evaluate` left.
        out: the folder for the results; created where missing.
        measure: whether to measure the speed of each model, one after another.
        batch_size: images at once, the same for all.
        threads: cores, the same for all; 0 takes all that this process has.
        report: told (models measured, models in all).

    Raises:
        UsageError: no model is given, or an evaluation cannot be read.
        EngineError: a model is missing, damaged, or cannot run here.
        OutputNotWritable: `out` cannot be written.
    """
    if not models:
        raise UsageError("compare: name at least one checkpoint, engine or evaluation.")
    runs = [read_run(run) for run in models]
    rows = _make_rows(runs)
    compared = sort_models([row.model for row in rows])
    pairs, gone = compare_pairs(_evaluations(runs, compared))
    disturbed = tuple(_find_disturbance()) if measure else ()
    if measure:
        compared = sort_models([row.model for row in _measure(rows, batch_size, threads, report)])
    cautions = (*find_cautions(compared), *_untested(compared, gone), *disturbed)
    comparison = Comparison(compared, cautions, now_text(), __version__, pairs)
    with output_errors_explained(out):
        durable.make_folder(out)
        write_comparison_table(out, comparison)
        durable.replace_text(out / COMPARE_JSON, to_json(comparison, indent=2) + "\n")
        write_comparison_page(out, comparison)
    return comparison


@dataclass(frozen=True, slots=True)
class _Row:
    """A row, and the model to time, where it is at hand."""

    model: ComparedModel
    stored: StoredModel | None


def _make_rows(runs: Sequence[StoredModel | EvaluatedRun]) -> list[_Row]:
    given = {run.description.sha256: run for run in runs if isinstance(run, StoredModel)}
    evaluated = {run.evaluation.model.sha256 for run in runs if isinstance(run, EvaluatedRun)}
    rows = []
    for run in runs:
        if isinstance(run, EvaluatedRun):
            stored = find_evaluated(run.evaluation, given)
            rows.append(_Row(compare_evaluated(run, stored), stored))
        elif run.description.sha256 not in evaluated:
            rows.append(_Row(compare_stored(run), run))
    return rows


def _evaluations(runs: Sequence[StoredModel | EvaluatedRun], models: Sequence[ComparedModel]) -> list[EvaluatedRun]:
    """Return the evaluations, each once, in the order of the rows."""
    found = {run.run: run for run in runs if isinstance(run, EvaluatedRun)}
    return [found.pop(model.run) for model in models if model.run in found]


def _untested(models: Sequence[ComparedModel], gone: Sequence[str]) -> Iterator[Caution]:
    """Say which differences nobody tested."""
    if gone:
        without = kept("Without {file}, so that no difference was tested: {names}.")
        yield Caution("note", without.format(file=PREDICTIONS_CSV, names=", ".join(gone)))
    own = [model.name for model in models if model.measured_on is not None and not model.evaluated]
    if own and len(models) > 1:
        yield Caution(
            "note",
            kept(
                "No difference was tested for {names}, by the figures of the training alone: evaluate all models on "
                "the same images and compare those folders."
            ).format(names=", ".join(own)),
        )


def _measure(rows: Sequence[_Row], batch_size: int, threads: int, report: ReportProgress) -> list[_Row]:
    """Time every model once, though several rows may be of it."""
    stored = {row.stored.description.sha256: row.stored for row in rows if row.stored is not None}
    measured: dict[str, Throughput] = {}
    report(0, len(stored))
    for sha256, model in stored.items():
        measured[sha256] = _time_model(model, batch_size, threads)
        report(len(measured), len(stored))
    return [_with_throughput(row, measured) for row in rows]


def _find_disturbance() -> Iterator[Caution]:
    """Warn of other programs on the cores: two threads that wait for each other lose far more than their share."""
    busy, cores = busy_cores(), available_cores()
    if busy > BUSY_SHARE * cores:
        yield Caution(
            "doubtful",
            kept(
                "Other programs kept the machine busy (load {load} on {cores}) when the models were timed: images/s "
                "are too low, and not by the same for all. Compare again when it is quiet."
            ).format(load=f"{busy:.1f}", cores=counted(cores, "core")),
        )


def _time_model(model: StoredModel, batch_size: int, threads: int) -> Throughput:
    engine = open_model(model.place, threads=threads)
    try:
        return measure_throughput(engine, batch_size=batch_size, threads=threads)
    finally:
        engine.close()


def _with_throughput(row: _Row, measured: Mapping[str, Throughput]) -> _Row:
    if row.stored is None:
        return row
    return replace(row, model=replace(row.model, throughput=measured[row.stored.description.sha256]))
