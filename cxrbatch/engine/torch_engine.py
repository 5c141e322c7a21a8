"""The engine on PyTorch on the CPU in FP32: the reference that every other backend is compared with.

It runs the network's own weights, not a bundle's files, so it also scores checkpoints that no engine was built of.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from cxrbatch.engine.contract import output_names, require_pixels, scores_from
from cxrbatch.errors import EngineError
from cxrbatch.records import EngineDescription, Float32, Gray8, Scores

BACKEND = "torch"


class TorchEngine:
    """Scores batches with a network that keeps the graph contract (docs/design.md)."""

    def __init__(self, network: nn.Module, description: EngineDescription) -> None:
        """Take a network, which is put into evaluation mode.

        Args:
            network: uint8 [N,1,S,S] in; probabilities [N,C], logits [N,C] and cams [N,C,h,w] out, in this order,
                and after them the extra outputs that the description names.
            description: which engine this is.
        """
        self.description: EngineDescription = description
        self._network: nn.Module | None = network.float().cpu().eval()

    @torch.inference_mode()
    def infer(self, pixels: Gray8) -> Scores:
        """Score uint8 [N,1,S,S]; see `Engine.infer`."""
        if self._network is None:
            raise EngineError(f"engine {self.description.name}: it was closed")
        require_pixels(pixels, self.description, f"engine {self.description.name}")
        answered = self._network(torch.from_numpy(np.ascontiguousarray(pixels)))
        names = output_names(self.description.extra_outputs)
        if len(answered) != len(names):
            raise EngineError(f"engine {self.description.name}: answers {len(answered)} tensors, not {len(names)}")
        return scores_from(dict(zip(names, map(_as_array, answered), strict=True)))

    def close(self) -> None:
        """Release the network."""
        self._network = None


def _as_array(tensor: Tensor) -> Float32:
    array: Float32 = tensor.float().numpy()
    return array
