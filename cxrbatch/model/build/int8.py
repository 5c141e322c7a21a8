"""Adding an INT8 file to a bundle, if it is accurate enough. Start at `add_int8_file`.

Static quantisation with ONNX Runtime's tools: pairs of QuantizeLinear and DequantizeLinear around the operators
(QDQ), activations as uint8 per tensor, weights as int8 per channel.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from cxrbatch.engine.agreement import Agreement, Limits, compare_scores, infer_in_batches, too_many_flips
from cxrbatch.engine.bundle import EngineBundle, save_bundle
from cxrbatch.engine.contract import INPUT
from cxrbatch.engine.manifest import AccuracyFigures, EngineFile, ParityFigures
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.errors import EngineError
from cxrbatch.model.build.gate import score_by_reference
from cxrbatch.model.build.images import Int8Images
from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.model.figures.metrics import measure_aurocs
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.records import Gray8, Scores
from cxrbatch.system import durable

ROLE = "onnx_int8"
INT8_FILE = "model.int8.onnx"

AUROC_LIMIT = 0.005
"""The largest drop of mean AUROC on labelled images that a build accepts."""

WORST_DROP_LIMIT = 0.02
"""The largest drop of a single label's AUROC: the mean of many labels hides one that is lost."""

FLIP_LIMIT = 0.02
"""The largest share of verdicts on labelled images that may differ from the checkpoint's."""

CHANGE_LIMIT = 0.05
"""The largest mean change of a probability: what a broken quantisation exceeds also where no image has a label.

The demo engine's is 0.006. Single images move by up to 0.15, so their maximum is recorded and not limited.
"""

_BATCH = 8


def add_int8_file(bundle: EngineBundle, reference: ChestNetwork, images: Int8Images) -> EngineBundle:
    """Quantise the bundle's FP32 file, compare, and write the INT8 file and its figures into the bundle.

    Args:
        bundle: has an FP32 ONNX file; engine.json is written again.
        reference: the checkpoint's network, FP32.
        images: to calibrate and to judge on.

    Raises:
        EngineError: the INT8 engine is not accurate enough, or answers NaN or Inf.
    """
    target = bundle.folder / INT8_FILE
    quantise_onnx(bundle.verified_file("onnx"), target, images.calibration)
    entry = EngineFile(INT8_FILE, sha256_of_file(target), "int8")
    ungated = save_bundle(bundle.folder, replace(bundle.manifest, files=bundle.manifest.files | {ROLE: entry}))
    parity, accuracy = judge_int8(ungated, score_by_reference(reference, images.judged.pixels), images)
    return save_bundle(
        ungated.folder,
        replace(
            ungated.manifest,
            parity=ungated.manifest.parity | {ROLE: parity},
            accuracy=ungated.manifest.accuracy | ({ROLE: accuracy} if accuracy else {}),
        ),
    )


def judge_int8(
    bundle: EngineBundle, reference: Scores, images: Int8Images
) -> tuple[ParityFigures, AccuracyFigures | None]:
    """Score the judged images, and compare with what the reference says; accuracy is None where none has a label.

    Raises:
        EngineError: beyond one of the limits, or NaN or Inf.
    """
    comparison = compare_scores(_score(bundle, images.judged), reference, bundle.labels, bundle.verdict_rule)
    parity = comparison.figures(images.source, Limits(change=1.0))
    if not parity.mean_probability_change <= CHANGE_LIMIT:
        raise EngineError(
            f"engine {bundle.name} in INT8: its probabilities change by {parity.mean_probability_change:.2g} on "
            f"average (limit {CHANGE_LIMIT:g}, {parity.images} {images.source}); it was not installed. "
            f"Calibrate on images like those that it will see, with --data, or stay with FP32."
        )
    accuracy = _measure_loss(comparison, images)
    if accuracy is not None and (loss := _find_loss(accuracy)):
        raise EngineError(
            f"engine {bundle.name} in INT8: {loss}, {accuracy.images} {images.source}); it was not installed. "
            f"Calibrate on other images, with --data, or stay with FP32."
        )
    return parity, accuracy


def _find_loss(accuracy: AccuracyFigures) -> str:
    """Say what was lost beyond its limit; empty where nothing was. The sentence ends inside its bracket."""
    if accuracy.drop > accuracy.limit:
        return f"mean AUROC drops from {accuracy.auroc_reference:.4f} to {accuracy.auroc:.4f} (limit {accuracy.limit:g}"
    if accuracy.worst_limit is not None and accuracy.worst_drop > accuracy.worst_limit:
        return f"AUROC of {accuracy.worst_label} drops by {accuracy.worst_drop:.4f} (limit {accuracy.worst_limit:g}"
    flips, verdicts, limit = accuracy.decision_flips, accuracy.verdicts, accuracy.flip_limit
    if limit is not None and too_many_flips(flips, verdicts, limit):
        return f"{flips} of {verdicts} verdicts differ from the checkpoint's (limit {limit:.1%} of them"
    return ""


def _score(bundle: EngineBundle, images: PixelSet) -> Scores:
    engine = OnnxRuntimeEngine(bundle, role=ROLE)
    try:
        return infer_in_batches(engine, images.pixels, _BATCH)
    finally:
        engine.close()


def _measure_loss(comparison: Agreement, images: Int8Images) -> AccuracyFigures | None:
    targets = images.judged.targets
    answered, wanted = (measure_aurocs(targets, scores) for scores in (comparison.answered, comparison.reference))
    # Those that the images can tell: some have the label, some have not.
    told = [
        (label.name, before, after)
        for label, before, after in zip(comparison.labels, wanted, answered, strict=True)
        if before is not None and after is not None
    ]
    if not told:
        return None
    worst_drop, worst_label = max((before - after, name) for name, before, after in told)
    judged = ~np.isnan(targets) & [label.operating_point is not None for label in comparison.labels]
    return AccuracyFigures(
        images=len(targets),
        source=images.source,
        auroc_reference=float(np.mean([before for _, before, _ in told])),
        auroc=float(np.mean([after for _, _, after in told])),
        worst_drop=worst_drop,
        limit=AUROC_LIMIT,
        worst_label=worst_label,
        worst_limit=WORST_DROP_LIMIT,
        decision_flips=int((comparison.flipped & judged).sum()),
        verdicts=int(judged.sum()),
        flip_limit=FLIP_LIMIT,
    )


# A chain of these stays in integers from one convolution to the next; others (sigmoids, means) stay in float.
_QUANTISED = ("Conv", "Add", "Relu", "MaxPool", "AveragePool", "Concat")

# ONNX Runtime keeps every activation of a calibration batch in memory.
_CALIBRATION_BATCH = 8


def quantise_onnx(source: Path, target: Path, images: Gray8) -> None:
    """Write the INT8 twin of the FP32 graph `source` to `target`, whole or not at all.

    The first convolution, the head and what comes before and after them stay in float. On the demo engine, over
    320 phantoms, the first convolution in INT8 doubled the largest change of a probability (0.39 beside 0.19) and
    gained 1 % of time. Weights get 7 bits: without VNNI instructions sums of products of 8-bit ones saturate,
    and an engine that passed its gate on one machine would answer otherwise on another.

    Args:
        source: an ONNX file as `export_onnx` writes it.
        target: where the quantised file goes.
        images: uint8 [N,1,S,S]; the range of every activation is measured on them.

    Raises:
        EngineError: the graph has no convolution to quantise.
    """
    with tempfile.TemporaryDirectory(prefix="cxrbatch-int8-") as work, _quiet_quantiser():
        prepared = Path(work) / "prepared.onnx"
        # Symbolic shape inference would need sympy, and only the batch size is symbolic here.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        with durable.replacing(target) as temporary:
            quantize_static(
                prepared,
                temporary,
                _Images(images),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(_QUANTISED),
                nodes_to_exclude=nodes_kept_in_float(onnx.load(prepared, load_external_data=False)),
                per_channel=True,
                reduce_range=True,
                calibrate_method=CalibrationMethod.MinMax,
            )


def nodes_kept_in_float(model: onnx.ModelProto) -> list[str]:
    """Name the nodes up to and with the first convolution, and those that no convolution follows: from the head on.

    ONNX sorts nodes so that each comes after what it needs.

    Raises:
        EngineError: fewer than three convolutions, so that none is between them.
    """
    nodes = list(model.graph.node)
    convolutions = [place for place, node in enumerate(nodes) if node.op_type == "Conv"]
    if len(convolutions) < 3:
        raise EngineError(f"nothing to quantise: the graph has {len(convolutions)} convolutions.")
    needed: set[str] = set()  # by a convolution, directly or not
    last = []
    for node in reversed(nodes):
        if needed.isdisjoint(node.output):
            last.append(node.name)
        if node.op_type == "Conv" or not needed.isdisjoint(node.output):
            needed.update(node.input)
    first = [node.name for node in nodes[: convolutions[0] + 1]]
    return [*first, *reversed(last)]


class _Images(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime ships no types
    """Hands images out in batches, as ONNX Runtime's calibration asks for them."""

    def __init__(self, images: Gray8) -> None:
        self._batches = iter(np.array_split(images, max(1, len(images) // _CALIBRATION_BATCH)))

    def get_next(self) -> dict[str, Gray8] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


@contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """Keep the tool's notes out of our output (it logs on the root logger); errors come as exceptions."""
    level = logging.root.level
    try:
        logging.root.setLevel(logging.ERROR)
        yield
    finally:
        logging.root.setLevel(level)
