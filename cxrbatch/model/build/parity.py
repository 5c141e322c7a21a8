"""How far an engine and its FP32 PyTorch reference differ, and how far they may."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cxrbatch.engine.agreement import compare_scores, infer_in_batches, refuse_disagreement
from cxrbatch.engine.manifest import ParityFigures, Precision
from cxrbatch.engine.contract import Engine
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.records import Gray8, Scores

MIN_IMAGES = 64

# Largest change of a probability that the gate lets pass, by precision. FP32 against FP32: what is left is the
# order of additions; ten times the largest change ever measured here. FP16: the contract's own limit (docs/design.md).
LIMITS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3}

NOT_INSTALLED = "it was not installed"

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
    engine: Engine, reference: Scores, images: ParityImages, *, limit: float, device: str = ""
) -> ParityFigures:
    """Score the images by the engine and compare with what the reference says of them.

    Raises:
        EngineError: the engine answers with NaN or Inf, or is farther from the reference than `limit` allows.
    """
    description = engine.description
    answered = infer_in_batches(engine, images.pixels, _BATCH)
    comparison = compare_scores(answered, reference, description.labels)
    figures = comparison.figures(images.source, limit, device)
    refuse_disagreement(
        comparison,
        figures,
        f"engine {description.name} ({description.backend}, {description.precision})",
        NOT_INSTALLED,
    )
    return figures


@torch.inference_mode()
def score_by_reference(network: ChestNetwork, pixels: Gray8) -> Scores:
    """Score uint8 [N,1,S,S] by the network itself, in FP32 on the CPU, in its evaluation mode."""
    parts = [network(torch.from_numpy(batch)) for batch in np.array_split(pixels, max(1, len(pixels) // _BATCH))]
    probabilities, logits, cams = (torch.cat(tensors).float().numpy() for tensors in zip(*parts, strict=True))
    return Scores(probabilities, logits, cams)
