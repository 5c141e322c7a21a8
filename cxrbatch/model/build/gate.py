"""The gate of a build: how far each engine of a new bundle is from its checkpoint, and how far it may be.

Every file that scores is run and compared, but for an RTX plan where no GPU can run it: that one is pending, and
what its gate needs goes into the bundle. Start at `pass_gate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from cxrbatch.engine.agreement import FP16_LIMITS, Limits, compare_scores, infer_in_batches, refuse_disagreement
from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.contract import Engine, output_names, scores_from
from cxrbatch.engine.deferred_gate import DeferredGate, save_gate
from cxrbatch.engine.manifest import PENDING, ParityFigures, Precision
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.engine.tensorrt_engine import open_tensorrt
from cxrbatch.model.build.tensorrt_build import PlanBuilder
from cxrbatch.model.network.network import ScoringNetwork
from cxrbatch.records import Gray8, Scores

Parity = dict[str, ParityFigures | Literal["pending"]]

# The graphs that ONNX Runtime runs on the CPU; in FP16 slowly, and rounding where a GPU would.
_ONNX_ROLES = ("onnx", "onnx_fp16")


def pass_gate(
    bundle: EngineBundle, reference: Scores, images: ParityImages, builders: tuple[PlanBuilder, ...] = ()
) -> Parity:
    """Compare every engine of the bundle with what the FP32 PyTorch network says of the same images.

    Raises:
        EngineError: one of them disagrees, or cannot run.
    """
    parity: Parity = {}
    for role in _ONNX_ROLES:
        if role in bundle.manifest.files:
            parity[role] = _measure(bundle, role, OnnxRuntimeEngine(bundle, role=role), (images, reference))
    for builder in builders:
        role = builder.flavour.role
        if builder.runs_here():
            opened = open_tensorrt(bundle, builder.flavour)
            parity[role] = _measure(bundle, role, opened, (images, reference), device=builder.device)
        else:
            parity[role] = PENDING
    return parity


def save_deferred_gate(path: Path, network: ScoringNetwork, phantoms: ParityImages) -> None:
    """Keep what a pending plan is to be compared with: phantoms, for a bundle travels and patients' images do not."""
    reference = score_by_reference(network, phantoms.pixels)
    save_gate(path, DeferredGate(phantoms.pixels, reference, phantoms.source, FP16_LIMITS.change))


def _measure(
    bundle: EngineBundle, role: str, engine: Engine, on: tuple[ParityImages, Scores], *, device: str = ""
) -> ParityFigures:
    images, reference = on
    try:
        return measure_parity(engine, reference, images, limits=LIMITS[bundle.file(role).precision], device=device)
    finally:
        engine.close()


MIN_IMAGES = 64

# FP32 against FP32: what is left is the order of additions; ten times the largest change ever measured here.
LIMITS: dict[Precision, Limits] = {"fp32": Limits(change=1e-4, embedding=1e-3), "fp16": FP16_LIMITS}

NOT_INSTALLED = "it was not installed"
_REMEDIES: dict[str, str] = {
    "fp16": ". Compare on images like those that it will see, with --data, or stay with FP32: leave --precision fp16 "
    "and --backend tensorrt out",
}

_BATCH = 8


@dataclass(frozen=True, slots=True)
class ParityImages:
    """What the gate looks at: `pixels` uint8 [N,1,S,S], N at least 64, and in words where they come from."""

    pixels: Gray8
    source: str

    def __post_init__(self) -> None:
        if len(self.pixels) < MIN_IMAGES:
            raise ValueError(f"the gate needs {MIN_IMAGES} images, not {len(self.pixels)}")


def measure_parity(
    engine: Engine, reference: Scores, images: ParityImages, *, limits: Limits, device: str = ""
) -> ParityFigures:
    """Score the images by the engine and compare with what the reference says of them.

    Raises:
        EngineError: the engine answers with NaN or Inf, or is farther from the reference than `limits` allow.
    """
    description = engine.description
    answered = infer_in_batches(engine, images.pixels, _BATCH)
    comparison = compare_scores(answered, reference, description.labels, description.verdict_rule)
    figures = comparison.figures(images.source, limits, device)
    refuse_disagreement(
        comparison,
        figures,
        f"engine {description.name} ({description.backend}, {description.precision})",
        NOT_INSTALLED + _REMEDIES.get(description.precision, ""),
    )
    return figures


@torch.inference_mode()
def score_by_reference(network: ScoringNetwork, pixels: Gray8) -> Scores:
    """Score uint8 [N,1,S,S] by the network itself, in FP32 on the CPU, in its evaluation mode."""
    parts = [network(torch.from_numpy(batch)) for batch in np.array_split(pixels, max(1, len(pixels) // _BATCH))]
    arrays = (torch.cat(tensors).float().numpy() for tensors in zip(*parts, strict=True))
    return scores_from(dict(zip(output_names(network.extra_outputs), arrays, strict=True)))
