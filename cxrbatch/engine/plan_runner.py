"""Running a deserialised TensorRT plan on batches of any size.

Two slots, each with its stream, its execution context and its own pinned and device memory, take turns: while one
computes, the other's images travel. A short last batch runs in the same slot; no plan is built again for it.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrbatch.engine.contract import INPUT
from cxrbatch.engine.cuda import Array, CudaDevice, DeviceMemoryExhausted
from cxrbatch.engine.tensorrt_flavour import told_errors
from cxrbatch.errors import EngineError
from cxrbatch.records import Gray8

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)

_SLOTS = 2


class PlanRunner:
    """Runs one plan on one GPU. Not for use by several threads at once."""

    def __init__(
        self, module: Any, engine: trt.ICudaEngine, logger: trt.ILogger, device: CudaDevice, batch: int
    ) -> None:
        """Take a plan; memory is allocated when the first images come.

        Args:
            module: TensorRT, of the flavour of the plan.
            engine: with the tensors of the contract, and a batch size that is open.
            logger: the one that the engine was deserialised with.
            device: the GPU that it lies on, which the runner does not close.
            batch: images that are computed together at most.
        """
        self._trt, self._logger, self._device = module, logger, device
        self._engine: trt.ICudaEngine | None = engine
        self._batch = batch
        self._slots: list[_Slot] = []
        self._outputs = _output_names(engine)

    @property
    def batch(self) -> int:
        """How many images are computed together at most; fewer than at first once memory ran out."""
        return self._batch

    def infer(self, pixels: Gray8) -> dict[str, Array]:
        """Compute uint8 [N,1,S,S], N at least 1; return each output as [N,...], in the order of the images.

        Raises:
            EngineError: TensorRT or CUDA failed, or there is not even memory for a single image.
        """
        try:
            with self._device.current():
                parts = self._run_all(pixels)
        except EngineError as error:
            _forget_frames(error)
            raise
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}

    def prepare_alone(self, pixels: Gray8) -> Callable[[], None]:
        """Leave uint8 [N,1,S,S] on the GPU; return what computes them there again, without any copy, and waits."""
        n_full, rest = divmod(len(pixels), self._batch)
        sizes = [self._batch] * n_full + ([rest] if rest else [])
        with self._device.current():
            slot = self._slot(0)
            slot.submit(pixels[: sizes[0]])
            slot.collect()

        def compute() -> None:
            with self._device.current():
                slot.compute_again(pixels.shape[1:], sizes)

        return compute

    def close(self) -> None:
        """Give back all memory, streams and contexts, and let go of the plan; a second call does nothing."""
        try:
            if self._slots:
                with self._device.current():
                    self._release_slots()
        finally:
            self._slots, self._engine = [], None

    def _run_all(self, pixels: Gray8) -> list[dict[str, Array]]:
        parts: list[dict[str, Array]] = []
        done = 0
        while done < len(pixels):
            try:
                for part in self._run(pixels[done:]):
                    parts.append(part)
                    done += len(part[self._outputs[0]])
            except DeviceMemoryExhausted as error:
                self._halve_batch(error)
        return parts

    def _run(self, pixels: Gray8) -> Iterator[dict[str, Array]]:
        """Compute the images in batches, and yield what each gave, in their order."""
        at_work: deque[_Slot] = deque()
        for number, start in enumerate(range(0, len(pixels), self._batch)):
            if len(at_work) == _SLOTS:
                yield at_work.popleft().collect()
            slot = self._slot(number % _SLOTS)
            slot.submit(pixels[start : start + self._batch])
            at_work.append(slot)
        while at_work:
            yield at_work.popleft().collect()

    def _slot(self, number: int) -> _Slot:
        if number == len(self._slots):
            self._slots.append(_Slot(self._trt, self._engine, self._logger, self._device, self._batch))
        return self._slots[number]

    def _halve_batch(self, error: DeviceMemoryExhausted) -> None:
        self._release_slots()
        if self._batch == 1:
            raise EngineError(f"GPU {self._device.name}: no memory for a single image: {error}") from error
        self._batch //= 2
        log.warning("GPU %s: out of memory; going on with batches of %d", self._device.name, self._batch)

    def _release_slots(self) -> None:
        while self._slots:
            self._slots.pop().release()


def _output_names(engine: trt.ICudaEngine) -> tuple[str, ...]:
    names = (engine.get_tensor_name(number) for number in range(engine.num_io_tensors))
    return tuple(name for name in names if name != INPUT)


def _forget_frames(error: BaseException | None) -> None:
    """Let go of the local variables that an error's traceback keeps: TensorRT's objects must not outlive the GPU's."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class _Slot:
    """One batch on its way: a context of the plan, a stream, and pinned and device memory for every tensor."""

    def __init__(
        self, module: Any, engine: trt.ICudaEngine, logger: trt.ILogger, device: CudaDevice, batch: int
    ) -> None:
        trt: Any = module
        self._device, self._logger = device, logger
        self._outputs = _output_names(engine)
        self._memory: dict[str, Any] = {}
        self._host: dict[str, Array] = {}
        self._workspace: Any = None
        self._workspace_bytes = 0
        self._at_work = 0
        self._stream = device.open_stream()
        # Without memory of its own: TensorRT would take what the largest batch of the profile needs.
        self._context: trt.IExecutionContext | None = engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if self._context is None:
            raise self._failure("create an execution context")
        try:
            self._shape_context(self._context, tuple(engine.get_tensor_shape(INPUT))[1:], batch)
            self._allocate_tensors(trt, engine, self._context)
        except BaseException:
            self.release()
            raise

    def submit(self, pixels: Gray8) -> None:
        """Queue upload, computing and download of a batch; what the slot gave before must have been collected."""
        context: trt.IExecutionContext | None = self._context
        if context is None or self._at_work:
            raise AssertionError("a slot takes one batch at a time, until it is released")
        self._shape_context(context, pixels.shape[1:], len(pixels))
        np.copyto(self._host[INPUT][: len(pixels)], pixels)
        self._device.upload(self._memory[INPUT], self._host[INPUT][: len(pixels)], self._stream)
        if not context.execute_async_v3(self._stream.handle):
            raise self._failure("start computing")
        for name in self._outputs:
            self._device.download(self._host[name][: len(pixels)], self._memory[name], self._stream)
        self._at_work = len(pixels)

    def collect(self) -> dict[str, Array]:
        """Wait for the batch; return copies, for the pinned arrays are written again by the next one."""
        self._device.wait_for(self._stream)
        count, self._at_work = self._at_work, 0
        return {name: self._host[name][:count].copy() for name in self._outputs}

    def compute_again(self, image: tuple[int, ...], counts: list[int]) -> None:
        """Compute batches of so many of the images that are still on the GPU, and wait; nothing is copied."""
        context: trt.IExecutionContext | None = self._context
        if context is None or self._at_work:
            raise AssertionError("a slot takes one batch at a time, until it is released")
        for count in counts:
            self._shape_context(context, image, count)
            if not context.execute_async_v3(self._stream.handle):
                raise self._failure("start computing")
        self._device.wait_for(self._stream)

    def release(self) -> None:
        """Wait for what is queued, then give everything back: first what uses memory, then the memory."""
        self._device.wait_for(self._stream)
        self._context = None
        for memory in (*self._memory.values(), *([self._workspace] if self._workspace is not None else [])):
            self._device.free(memory)
        self._memory, self._host, self._workspace, self._at_work = {}, {}, None, 0

    def _shape_context(self, context: trt.IExecutionContext, image: tuple[int, ...], count: int) -> None:
        if not context.set_input_shape(INPUT, (count, *image)):
            raise self._failure(f"take a batch of {count}")
        needed = context.update_device_memory_size_for_shapes()
        if self._workspace is None or needed > self._workspace_bytes:
            if self._workspace is not None:
                self._device.free(self._workspace)
                self._workspace = None
            self._workspace, self._workspace_bytes = self._device.allocate(needed), needed
        context.set_device_memory(int(self._workspace), self._workspace_bytes)

    def _allocate_tensors(self, module: Any, engine: trt.ICudaEngine, context: trt.IExecutionContext) -> None:
        trt: Any = module
        for name in (INPUT, *self._outputs):
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            shape = tuple(context.get_tensor_shape(name))
            self._host[name] = self._device.allocate_pinned(shape, dtype)
            self._memory[name] = self._device.allocate(self._host[name].nbytes)
            if not context.set_tensor_address(name, int(self._memory[name])):
                raise self._failure(f"take the address of {name}")

    def _failure(self, doing: str) -> Exception:
        """Tell lack of memory, which a smaller batch may mend, from everything else."""
        told = told_errors(self._logger)
        if "outofmemory" in told.replace(" ", "").lower():
            return DeviceMemoryExhausted(f"TensorRT cannot {doing}: {told}")
        return EngineError(f"TensorRT cannot {doing}: {told}")
