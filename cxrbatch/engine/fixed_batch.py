"""Batches of one fixed size through a network on a GPU, as a replayed CUDA graph; on a CPU the same steps, plainly.

A ResNet50 is some 120 kernels of a few microseconds; started one by one from Python they keep a fast GPU waiting
at small batches. A CUDA graph starts all of them at once, but only ever for the same shapes and addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cxrbatch.records import Gray8, Scores

# cuDNN tries its algorithms in the first call; the graph must record what it chose.
_WARM_UP_RUNS = 3


class FixedBatch:
    """One slot for batches of up to `size` images: its own memory on both sides, its own stream, its own graph.

    `submit` returns at once, so that two slots overlap: one copies while the other computes.
    """

    def __init__(self, network: nn.Module, size: int, size_px: int, device: torch.device) -> None:
        """Take the memory and record the graph.

        Raises:
            torch.OutOfMemoryError: the GPU has too little memory for this size.
        """
        on_gpu = device.type == "cuda"
        self._network = network
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        # Pinned: the GPU fetches it by itself while the processor goes on.
        self._host_pixels = torch.zeros((size, 1, size_px, size_px), dtype=torch.uint8, pin_memory=on_gpu)
        self._pixels = self._host_pixels.to(device, copy=True)
        self._compute: Callable[[], None] = self._compute_plainly
        self._outputs: tuple[Tensor, ...] = ()
        self._submitted = 0
        with torch.no_grad(), self._on_stream():
            self._compute()
            if on_gpu:
                self._compute = self._record_graph()
        self.wait()
        self._host_outputs = self._make_host_outputs(pinned=on_gpu)

    @torch.no_grad()
    def submit(self, pixels: Gray8) -> None:
        """Begin to score uint8 [n,1,S,S], n at most the slot's size; what was in the slot must be collected."""
        self._submitted = len(pixels)
        # The rest of the batch keeps older images; no image's scores depend on its neighbours.
        self._host_pixels[: len(pixels)].numpy()[...] = pixels
        with self._on_stream():
            self._pixels.copy_(self._host_pixels, non_blocking=True)
            self._compute()
            for host, out in zip(self._host_outputs, self._outputs, strict=True):
                host.copy_(out, non_blocking=True)

    def collect(self) -> Scores:
        """Wait for what was submitted and return its scores, in memory of their own."""
        self.wait()
        probabilities, logits, cams = (out[: self._submitted].numpy().copy() for out in self._host_outputs)
        return Scores(probabilities, logits, cams)

    @torch.no_grad()
    def compute_again(self) -> None:
        """Begin to compute what lies on the device once more; copy nothing."""
        with self._on_stream():
            self._compute()

    def _make_host_outputs(self, *, pinned: bool) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(out, device="cpu", pin_memory=pinned) for out in self._outputs)

    def _compute_plainly(self) -> None:
        self._outputs = self._network(self._pixels)

    def _record_graph(self) -> Callable[[], None]:
        for _ in range(_WARM_UP_RUNS):
            self._compute_plainly()
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._compute_plainly()
        # The graph's outputs hold nothing before the first replay.
        graph.replay()
        return graph.replay

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        with torch.cuda.device(self._stream.device), torch.cuda.stream(self._stream):
            yield

    def wait(self) -> None:
        """Wait until everything that was begun is done."""
        if self._stream is not None:
            self._stream.synchronize()
