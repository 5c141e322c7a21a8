"""Copies of a network whose weights are shuffled: what draws the same maps with them does not show what was learned.

The check of Adebayo et al. (2018), "Sanity checks for saliency maps". The values of each convolution's and linear
layer's weights change places within their tensor, so that their scale stays and nothing that was learned does; biases
and what BatchNorm knows of its inputs stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np

from cxrbatch.config import available_cores
from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.contract import INPUT
from cxrbatch.engine.installed import find_bundle
from cxrbatch.engine.onnx_file import refers_to_other_files
from cxrbatch.errors import EngineError
from cxrbatch.model.network.checkpoint import CHECKPOINT_SUFFIX, load_checkpoint
from cxrbatch.model.network.network import ScoringNetwork
from cxrbatch.records import Float32, Gray8

COPIES = 3
_BATCH = 16


def draw_shuffled_maps(model: str, pixels: Gray8, *, threads: int = 0) -> Float32:
    """Return the maps that copies of a model with shuffled weights draw: float32 [R,N,C,h,w].

    Args:
        model: a checkpoint, or an engine's folder or name, of which the FP32 graph is taken whatever runs it.
        pixels: uint8 [N,1,S,S].
        threads: how many cores; 0 takes all.

    Raises:
        EngineError: the model is missing or damaged.
    """
    if model.endswith(CHECKPOINT_SUFFIX):
        return shuffled_maps_of_network(load_checkpoint(Path(model)).network, pixels)
    return shuffled_maps_of_bundle(find_bundle(model), pixels, threads=threads)


def shuffled_maps_of_bundle(bundle: EngineBundle, pixels: Gray8, *, threads: int = 0) -> Float32:
    """Do so with the FP32 graph of a bundle, in ONNX Runtime on the CPU."""
    content = bundle.read_verified("onnx")
    if refers_to_other_files(content):
        raise EngineError(f"{bundle.folder}: its graph keeps weights in another file. {bundle.mend}")
    return np.stack([_run(shuffle_graph(content, seed), pixels, threads) for seed in range(COPIES)])


def shuffled_maps_of_network(network: ScoringNetwork, pixels: Gray8) -> Float32:
    """Do so with a network of PyTorch, in FP32, on the device that it is on."""
    return np.stack([_draw(shuffle_network(network, seed), pixels) for seed in range(COPIES)])


def shuffle_graph(model: bytes, seed: int) -> bytes:
    """Return an ONNX graph with shuffled weights: all numbers in tensors of more than one dimension."""
    import onnx
    from onnx import numpy_helper

    loaded = onnx.load_model_from_string(model)
    generator = np.random.default_rng(seed)
    constants = [node.attribute[0].t for node in loaded.graph.node if node.op_type == "Constant"]
    for tensor in [*loaded.graph.initializer, *constants]:
        values = numpy_helper.to_array(tensor)
        if values.ndim > 1 and values.dtype.kind == "f":
            mixed = generator.permutation(values.ravel()).reshape(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(mixed, tensor.name))
    shuffled: bytes = loaded.SerializeToString()
    return shuffled


def shuffle_network(network: ScoringNetwork, seed: int) -> ScoringNetwork:
    """Return a copy of a network with shuffled weights, in evaluation mode."""
    import torch

    copy, generator = deepcopy(network).eval(), np.random.default_rng(seed)
    with torch.no_grad():
        for weights in copy.parameters():
            if weights.ndim > 1:
                order = torch.from_numpy(generator.permutation(weights.numel())).to(weights.device)
                weights.copy_(weights.reshape(-1)[order].reshape(weights.shape))
    return copy


def maps_of_network(network: ScoringNetwork, pixels: Gray8) -> Float32:
    """Return a network's own maps, float32 [N,C,h,w]."""
    return _draw(network, pixels)


def _batches(pixels: Gray8) -> Iterator[Gray8]:
    for start in range(0, len(pixels), _BATCH):
        yield pixels[start : start + _BATCH]


def _draw(network: ScoringNetwork, pixels: Gray8) -> Float32:
    import torch

    device = network.temperature.device
    with torch.inference_mode():
        drawn = [
            network.answers(torch.from_numpy(np.array(batch)).to(device))["cams"].cpu() for batch in _batches(pixels)
        ]
    maps: Float32 = torch.cat(drawn).numpy()
    return maps


def _run(model: bytes, pixels: Gray8, threads: int) -> Float32:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.log_severity_level = 4
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["cams"], {INPUT: batch})[0] for batch in _batches(pixels)])
