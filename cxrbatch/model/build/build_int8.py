"""Adding an INT8 file to a bundle, if it is accurate enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cxrbatch.engine.manifest import AccuracyFigures, EngineFile, ParityFigures
from cxrbatch.engine.bundle import EngineBundle, save_bundle
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.errors import EngineError
from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.model.build.int8_images import Int8Images
from cxrbatch.model.figures.metrics import measure_auroc
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.build.quantise import quantise_onnx
from cxrbatch.model.network.network import predict_probabilities
from cxrbatch.records import Float32

ROLE = "onnx_int8"
INT8_FILE = "model.int8.onnx"

AUROC_LIMIT = 0.005
"""The largest drop of mean AUROC on labelled images that a build accepts."""

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
    parity, accuracy = judge_int8(ungated, reference, images)
    return save_bundle(
        bundle.folder,
        replace(
            ungated.manifest,
            parity=ungated.manifest.parity | {ROLE: parity},
            accuracy=ungated.manifest.accuracy | ({ROLE: accuracy} if accuracy else {}),
        ),
    )


def judge_int8(
    bundle: EngineBundle, reference: ChestNetwork, images: Int8Images
) -> tuple[ParityFigures, AccuracyFigures | None]:
    """Score the images by both and compare; accuracy is None where no image has a label.

    Raises:
        EngineError: beyond one of the limits, or NaN or Inf.
    """
    answered = _score(bundle, images.judged)
    wanted = predict_probabilities(reference, images.judged.pixels)
    change = np.abs(answered - wanted)
    parity = ParityFigures(
        images=len(change),
        source=images.source,
        max_probability_change=float(change.max()),
        mean_probability_change=float(change.mean()),
        limit=1.0,
    )
    if not parity.mean_probability_change <= CHANGE_LIMIT:
        raise EngineError(
            f"engine {bundle.name} in INT8: its probabilities change by {parity.mean_probability_change:.2g} on "
            f"average (limit {CHANGE_LIMIT:g}, {parity.images} {images.source}); it was not installed. "
            f"Calibrate on images like those that it will see, with --data, or stay with FP32."
        )
    accuracy = _compare_auroc(answered, wanted, images)
    if accuracy is not None and accuracy.drop > accuracy.limit:
        raise EngineError(
            f"engine {bundle.name} in INT8: mean AUROC drops from {accuracy.auroc_reference:.4f} to "
            f"{accuracy.auroc:.4f} (limit {accuracy.limit:g}, {accuracy.images} {images.source}); it was not "
            f"installed. Calibrate on other images, with --data, or stay with FP32."
        )
    return parity, accuracy


def _score(bundle: EngineBundle, images: PixelSet) -> Float32:
    engine = OnnxRuntimeEngine(bundle, role=ROLE)
    try:
        batches = np.array_split(images.pixels, max(1, len(images.pixels) // _BATCH))
        return np.concatenate([engine.infer(batch).probabilities for batch in batches])
    finally:
        engine.close()


def _compare_auroc(answered: Float32, wanted: Float32, images: Int8Images) -> AccuracyFigures | None:
    targets = images.judged.targets
    references, aurocs = _aurocs(targets, wanted), _aurocs(targets, answered)
    if not references:
        return None
    return AccuracyFigures(
        images=len(answered),
        source=images.source,
        auroc_reference=float(np.mean(references)),
        auroc=float(np.mean(aurocs)),
        worst_drop=max(reference - auroc for reference, auroc in zip(references, aurocs, strict=True)),
        limit=AUROC_LIMIT,
    )


def _aurocs(targets: Float32, scores: Float32) -> Sequence[float]:
    """Return the AUROC of each label that the images can tell: some have it, some have not."""
    found = []
    for column in range(targets.shape[1]):
        known = ~np.isnan(targets[:, column])
        if not known.any():
            continue
        auroc = measure_auroc(targets[known, column] > 0.5, scores[known, column])
        if auroc is not None:
            found.append(auroc)
    return found
