"""The gate of a build: how far each engine of a new bundle is from its checkpoint.

Every file that scores is run and compared, but for an RTX plan where no GPU can run it: that one is pending, and
what its gate needs goes into the bundle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cxrbatch.engine.manifest import PENDING, ParityFigures
from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.contract import Engine
from cxrbatch.engine.agreement import DeferredGate, save_gate
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.engine.tensorrt_engine import open_tensorrt
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.build.parity import LIMITS, ParityImages, measure_parity, score_by_reference
from cxrbatch.model.build.tensorrt_build import PlanBuilder
from cxrbatch.records import Scores

Parity = dict[str, ParityFigures | Literal["pending"]]

# The graphs that ONNX Runtime runs on the CPU; in FP16 slowly, and rounding where a GPU would.
_ONNX_ROLES = ("onnx", "onnx_fp16")


def pass_gate(
    bundle: EngineBundle, network: ChestNetwork, images: ParityImages, builders: tuple[PlanBuilder, ...]
) -> Parity:
    """Compare every engine of the bundle with the FP32 PyTorch network on the same images.

    Raises:
        EngineError: one of them disagrees, or cannot run.
    """
    reference = score_by_reference(network, images.pixels)
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


def save_deferred_gate(path: Path, network: ChestNetwork, phantoms: ParityImages) -> None:
    """Keep what a pending plan is to be compared with: phantoms, for a bundle travels and patients' images do not."""
    reference = score_by_reference(network, phantoms.pixels)
    save_gate(path, DeferredGate(phantoms.pixels, reference, phantoms.source, LIMITS["fp16"]))


def _measure(
    bundle: EngineBundle, role: str, engine: Engine, on: tuple[ParityImages, Scores], *, device: str = ""
) -> ParityFigures:
    images, reference = on
    try:
        return measure_parity(engine, reference, images, limit=LIMITS[bundle.file(role).precision], device=device)
    finally:
        engine.close()
