"""A network with half-precision weights: uint8 goes in and float32 comes out, as before."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cxrbatch.model.network.network import ChestNetwork


def halve(network: ChestNetwork) -> ChestNetwork:
    """Return a copy that computes its features and class activation maps in FP16.

    Normalisation layers are folded into the convolutions before them in FP32: a running variance below 6e-8
    would be 0 in FP16, and a folded weight would be rounded twice. Grey scaling before the features, pooling,
    bias and calibration after them stay in FP32: they cost nothing, and every verdict passes through them.
    """
    half = copy.deepcopy(network).eval()
    half.features = nn.Sequential(fold_normalisation(half.features)).half()
    half.head.weight.data = half.head.weight.data.half()
    return half


def fold_normalisation(features: nn.Module) -> fx.GraphModule:
    """Return a copy without normalisation layers, for inference only.

    One behind a convolution that nothing else reads becomes part of it; any other (DenseNet's come first)
    becomes the scale and shift per channel that it is in evaluation mode.
    """
    graph = fx.symbolic_trace(copy.deepcopy(features).eval())
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        normalisation = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(normalisation, nn.BatchNorm2d):
            continue
        before = node.args[0]
        convolution = modules.get(str(before.target)) if before.op == "call_module" else None
        if isinstance(convolution, nn.Conv2d) and len(before.users) == 1:
            graph.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, normalisation))
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
        else:
            graph.set_submodule(str(node.target), _ScaleAndShift(normalisation))
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


class _ScaleAndShift(nn.Module):
    """What a normalisation layer is once its statistics are fixed: [N,C,H,W] -> x * scale + shift, per channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, normalisation: nn.BatchNorm2d) -> None:
        super().__init__()
        mean, variance = normalisation.running_mean, normalisation.running_var
        if mean is None or variance is None:
            raise ValueError("a normalisation layer without running statistics is no function of one image")
        gain = torch.rsqrt(variance + normalisation.eps)
        scale = gain if normalisation.weight is None else gain * normalisation.weight
        offset = torch.zeros_like(mean) if normalisation.bias is None else normalisation.bias
        self.register_buffer("scale", scale.detach()[:, None, None])
        self.register_buffer("shift", (offset - mean * scale).detach()[:, None, None])

    def forward(self, features: Tensor) -> Tensor:
        return features * self.scale + self.shift
