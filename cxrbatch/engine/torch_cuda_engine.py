"""The engine on PyTorch CUDA, for a GPU without TensorRT.

It runs the bundle's ONNX file, in channels-last memory: the FP16 one where there is one. Batches go through
slots of fixed sizes (`FixedBatch`), two of each, so that one is filled while the other computes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.contract import join_scores, require_pixels, scores_from
from cxrbatch.engine.deferred_gate import PARITY_ROLE, TORCH_ROLE, is_unproven, settle_parity
from cxrbatch.engine.onnx_file import refers_to_other_files
from cxrbatch.engine.torch_graph import GraphNetwork
from cxrbatch.errors import EngineError
from cxrbatch.records import EngineDescription, Gray8, Scores

BACKEND = "torch"

BATCH_SIZES = (1, 4, 16, 32, 64, 128)
"""The sizes of slots; each costs memory of its own, so there are few. A batch takes the smallest that it fits in,
and one of more than the largest goes through in parts, which overlap."""

_SLOTS = 2

# cuDNN tries its algorithms in the first call; the graph must record what it chose.
_WARM_UP_RUNS = 3
log = logging.getLogger(__name__)


def open_torch(bundle: EngineBundle, *, role: str, device: str = "cuda") -> TorchCudaEngine:
    """Open the role's file on the first GPU; in half precision pass the gate first, where such a one never did.

    Raises:
        EngineError: no GPU, a file that is not the one that was built, or one that disagrees with its checkpoint.
    """
    engine = TorchCudaEngine(bundle, role=role, device=device)
    try:
        if engine.description.precision == "fp16":
            _pass_gate(bundle, engine, device)
    except BaseException:
        engine.close()
        raise
    return engine


def _pass_gate(bundle: EngineBundle, engine: TorchCudaEngine, device: str) -> None:
    if PARITY_ROLE not in bundle.manifest.files:
        log.warning(
            "engine %s: nobody compared its FP16 graph on torch with its checkpoint, and it has no images for that. %s",
            *(bundle.name, bundle.rebuild_with("onnx_fp16")),
        )
        return
    name = torch.cuda.get_device_name() if device == "cuda" else device
    here = f"{name}, torch {torch.__version__}"
    if is_unproven(bundle, TORCH_ROLE, here):
        settle_parity(bundle, TORCH_ROLE, engine, device=here)


class TorchCudaEngine:
    """Scores batches with PyTorch on the first GPU; on the CPU only in tests, to hold its logic to account."""

    def __init__(
        self, bundle: EngineBundle, *, role: str, device: str = "cuda", batch_sizes: tuple[int, ...] = BATCH_SIZES
    ) -> None:
        """Load the role's file onto the device.

        Args:
            bundle: the engine to open.
            role: which of its ONNX files: onnx_fp16, or onnx.
            device: a torch device.
            batch_sizes: of the slots, rising.

        Raises:
            EngineError: no such GPU, or the file is not the one that was built, or not a graph of the contract.
        """
        self.description: EngineDescription = bundle.describe(role, BACKEND)
        self._where = f"{bundle.folder / bundle.file(role).path}"
        self._mend = bundle.mend
        self._device = torch.device(device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise EngineError(
                f"torch {torch.__version__} sees no GPU. Run with --backend onnxruntime, or see `cxrbatch doctor`."
            )
        self._sizes = batch_sizes
        self._slots: dict[tuple[int, int], FixedBatch] = {}
        with self._explained():
            self._network: GraphNetwork | None = self._load(bundle.read_verified(role))
        self._check_scores(self.infer(np.zeros((1, *self.description.input.shape), np.uint8)))

    def infer(self, pixels: Gray8) -> Scores:
        """Score uint8 [N,1,S,S]; see `Engine.infer`."""
        if self._network is None:
            raise EngineError(f"{self._where}: the engine was closed")
        require_pixels(pixels, self.description, self._where)
        while True:
            try:
                with self._explained():
                    return join_scores(list(self._pipeline(pixels)))
            except torch.OutOfMemoryError as error:
                self._shrink_batch(error)

    def prepare_alone(self, pixels: Gray8) -> Callable[[], None]:
        """See `ComputesAlone.prepare_alone`."""
        self.infer(pixels)
        n_full, rest = divmod(len(pixels), self._sizes[-1])
        with self._explained():
            slots = [self._slot(self._sizes[-1], 0)] * n_full + ([self._slot(self._fitting(rest), 0)] if rest else [])

        def compute() -> None:
            for slot in slots:
                slot.compute_again()
            for slot in slots:
                slot.wait()

        return compute

    def close(self) -> None:
        """Release the network, the slots and their graphs."""
        self._slots.clear()
        self._network = None

    def _pipeline(self, pixels: Gray8) -> Iterator[Scores]:
        """Yield the scores of parts of the batch, in order; at most two parts are under way."""
        under_way: deque[FixedBatch] = deque()
        largest = self._sizes[-1]
        for number, start in enumerate(range(0, max(1, len(pixels)), largest)):
            part = pixels[start : start + largest]
            if len(under_way) == _SLOTS:
                yield under_way.popleft().collect()
            slot = self._slot(self._fitting(len(part)), number % _SLOTS)
            slot.submit(part)
            under_way.append(slot)
        while under_way:
            yield under_way.popleft().collect()

    def _fitting(self, count: int) -> int:
        return next(size for size in self._sizes if size >= count)

    def _slot(self, size: int, number: int) -> FixedBatch:
        if (size, number) not in self._slots:
            assert self._network is not None
            self._slots[size, number] = FixedBatch(self._network, size, self.description.input.size_px, self._device)
        return self._slots[size, number]

    def _shrink_batch(self, error: Exception) -> None:
        """Give up the largest size and every slot's memory; another process may have taken the GPU's."""
        if len(self._sizes) == 1:
            raise EngineError(
                f"{self._where}: the GPU has too little memory for a batch of {self._sizes[0]}: {error}. "
                f"End what else runs on it, or run with --backend onnxruntime."
            ) from error
        log.warning("the GPU is out of memory; batches go down from %d to %d", self._sizes[-1], self._sizes[-2])
        self._sizes = self._sizes[:-1]
        self._slots.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _load(self, model: bytes) -> GraphNetwork:
        if refers_to_other_files(model):
            raise EngineError(f"{self._where}: keeps weights in another file, which is not verified. {self._mend}")
        network = GraphNetwork(model).eval()
        try:
            return network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
        except torch.OutOfMemoryError as error:
            raise EngineError(f"{self._where}: the GPU has too little memory for its weights: {error}") from error

    def _check_scores(self, scores: Scores) -> None:
        classes = len(self.description.labels)
        if scores.probabilities.shape != (1, classes) or scores.cams.shape[:2] != (1, classes):
            raise EngineError(
                f"{self._where}: not the graph that engine.json describes: it scores "
                f"{scores.probabilities.shape[-1]} labels; engine.json names {classes}. {self._mend}"
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn torch's errors into ours. After an error of CUDA itself nothing works any more in this process."""
        try:
            # TF32 would round FP32 convolutions to 10 bits, which the parity gate never saw.
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=False):
                yield
        except torch.OutOfMemoryError:
            raise
        except ValueError as error:
            raise EngineError(f"{self._where}: {error}. {self._mend}") from error
        except RuntimeError as error:
            raise EngineError(f"{self._where}: torch failed on {self._device}: {error}") from error


class FixedBatch:
    """One slot for batches of up to `size` images: its own memory on both sides, its own stream, its own CUDA graph.

    A ResNet50 is some 120 kernels of a few microseconds; started one by one from Python they keep a fast GPU waiting
    at small batches. A CUDA graph starts all of them at once, but only ever for the same shapes and addresses. On a
    CPU the same steps are done plainly.

    `submit` returns at once, so that two slots overlap: one copies while the other computes.
    """

    def __init__(self, network: GraphNetwork, size: int, size_px: int, device: torch.device) -> None:
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
        return scores_from(
            {
                name: out[: self._submitted].numpy().copy()
                for name, out in zip(self._network.outputs, self._host_outputs, strict=True)
            }
        )

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
