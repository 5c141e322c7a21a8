"""A GPU for a machine without one: pycuda's driver module and TensorRT's runtime, faked at their boundary.

The fakes are strict where the real ones are dangerous. Nothing works unless the context is current in this thread;
work queued on a stream happens when the stream is waited for, so a buffer that is written or freed too early gives
wrong numbers; memory is finite; freed memory and unknown addresses are errors. Plans are the bytes of an ONNX
file, computed by ONNX Runtime from the "device's" memory. That the names used are TensorRT's own is not shown
here, but by tests/engine/test_tensorrt_contract.py.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.contract import INPUT, OUTPUTS
from cxrbatch.engine.cuda import CudaProbe, Gpu
from cxrbatch.engine.manifest import BatchProfile, EngineFile, PlanFacts
from cxrbatch.engine.tensorrt_flavour import FLAVOURS

GPU = Gpu(0, "NVIDIA Fake 4090", "8.9", 24 << 30)
VERSION = "10.13.3.9"


@dataclass
class FakeGpu:
    """The state of the one GPU: what is allocated, what is queued, and what happened, in `events`."""

    free_bytes: int = 1 << 30
    memory: dict[int, np.ndarray[Any, np.dtype[np.uint8]]] = field(default_factory=dict)
    streams: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    current: int = 0
    retained: int = 0
    objects: int = 0
    fail_next_wait: bool = False
    broken: bool = False
    addresses: Any = field(default_factory=lambda: itertools.count(0x1000, 0x1000))

    def require_current(self) -> None:
        if self.broken:
            raise self.errors.LogicError("an illegal memory access was encountered")
        if not self.current:
            raise self.errors.LogicError("invalid device context")

    def at(self, address: int, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if address not in self.memory:
            raise AssertionError(f"{address:#x} is no memory of the device, or was freed")
        return self.memory[address][:count]

    @property
    def errors(self) -> Any:
        return _Errors


class _Errors:
    class Error(Exception):
        """pycuda.driver.Error: root of them all."""

    class MemoryError(Error):  # noqa: A001  # pycuda's own name
        """Out of memory."""

    class LogicError(Error):
        """Everything that a program does wrong."""


class _Memory:
    def __init__(self, gpu: FakeGpu, count: int) -> None:
        gpu.require_current()
        if count > gpu.free_bytes:
            raise gpu.errors.MemoryError("cuMemAlloc failed: out of memory")
        self._gpu, self._count, self._address = gpu, count, next(gpu.addresses)
        gpu.free_bytes -= count
        # Never what the last owner left: a result that was not computed shows.
        gpu.memory[self._address] = np.full(count, 0xAB, np.uint8)

    def __int__(self) -> int:
        return int(self._address)

    def free(self) -> None:
        self._gpu.require_current()
        del self._gpu.memory[self._address]
        self._gpu.free_bytes += self._count


class _Stream:
    def __init__(self, gpu: FakeGpu, flags: int) -> None:
        gpu.require_current()
        assert flags == 1, "a stream that waits for the default stream"
        self._gpu, self.handle = gpu, len(gpu.streams) + 1
        gpu.streams[self.handle] = []

    def synchronize(self) -> None:
        self._gpu.require_current()
        self._gpu.events.append(f"wait {self.handle}")
        if self._gpu.fail_next_wait:
            self._gpu.broken = True
            self._gpu.streams[self.handle].clear()
            self._gpu.require_current()
        queue = self._gpu.streams[self.handle]
        while queue:
            queue.pop(0)()


class _Context:
    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        gpu.retained += 1

    def push(self) -> None:
        self._gpu.current += 1

    def pop(self) -> None:
        self._gpu.current -= 1

    def detach(self) -> None:
        assert not self._gpu.objects, "TensorRT's objects outlive the context"
        self._gpu.retained -= 1
        self._gpu.events.append("detach")


def fake_pycuda(gpu: FakeGpu) -> ModuleType:
    """Return what `import pycuda.driver` is to give."""

    def copy_in(memory: _Memory, array: Any, stream: _Stream) -> None:
        gpu.require_current()
        gpu.events.append(f"upload {stream.handle}")
        address = int(memory)

        def copy() -> None:
            gpu.at(address, array.nbytes)[:] = array.reshape(-1).view(np.uint8)

        gpu.streams[stream.handle].append(copy)

    def copy_out(array: Any, memory: _Memory, stream: _Stream) -> None:
        gpu.require_current()
        address = int(memory)

        def copy() -> None:
            array.reshape(-1).view(np.uint8)[:] = gpu.at(address, array.nbytes)

        gpu.streams[stream.handle].append(copy)

    module: Any = ModuleType("pycuda.driver")
    module.init = lambda: None
    module.Device = lambda index: SimpleNamespace(name=lambda: GPU.name, retain_primary_context=partial(_Context, gpu))
    module.Stream = partial(_Stream, gpu)
    module.mem_alloc = partial(_Memory, gpu)
    module.pagelocked_empty = np.empty
    module.memcpy_htod_async, module.memcpy_dtoh_async = copy_in, copy_out
    module.Error, module.MemoryError, module.LogicError = _Errors.Error, _Errors.MemoryError, _Errors.LogicError
    found: ModuleType = module
    return found


class _Counted:
    """One of TensorRT's objects, which must all be gone before the context is."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        gpu.objects += 1

    def __del__(self) -> None:
        self._gpu.objects -= 1


class _ExecutionContext(_Counted):
    def __init__(self, gpu: FakeGpu, engine: _Engine) -> None:
        super().__init__(gpu)
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self._workspace = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, 0)
        fits = name == INPUT and all(
            low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
        )
        if not fits:
            self._engine.logger.log("error", f"{shape} is outside the profile")
        self._shape = shape if fits else self._shape
        self._workspace = 0
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self._shape[0], *self._engine.get_tensor_shape(name)[1:])

    def update_device_memory_size_for_shapes(self) -> int:
        return self._engine.workspace_per_image * self._shape[0]

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.update_device_memory_size_for_shapes()
        self._workspace = memory

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return name in {INPUT, *OUTPUTS}

    def execute_async_v3(self, stream_handle: int) -> bool:
        self._gpu.require_current()
        assert stream_handle in self._gpu.streams, "not a stream of ours"
        assert self._workspace in self._gpu.memory, "no device memory for these shapes"
        self._gpu.events.append(f"compute {stream_handle} {self._shape[0]}")
        shape, addresses = self._shape, dict(self._addresses)

        def compute() -> None:
            pixels = self._gpu.at(addresses[INPUT], int(np.prod(shape))).reshape(shape).copy()
            for name, array in self._engine.compute(pixels).items():
                flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                self._gpu.at(addresses[name], flat.nbytes)[:] = flat

        self._gpu.streams[stream_handle].append(compute)
        return True


class _Engine(_Counted):
    """`distort` is added to every probability: what a plan that disagrees with its checkpoint does."""

    def __init__(self, gpu: FakeGpu, module: Any, plan: bytes, logger: Any) -> None:
        super().__init__(gpu)
        self.logger, self._module = logger, module
        self._session = ort.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self._tensors: dict[str, Any] = {
            node.name: node for node in [*self._session.get_outputs(), *self._session.get_inputs()]
        }
        self.workspace_per_image: int = module.workspace_per_image
        self.num_io_tensors = len(self._tensors)

    def compute(self, pixels: Any) -> dict[str, Any]:
        answered = dict(zip(OUTPUTS, self._session.run(list(OUTPUTS), {INPUT: pixels}), strict=True))
        answered["probabilities"] = answered["probabilities"] + np.float32(self._module.distort)
        return answered

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_dtype(self, name: str) -> str:
        kind: str = self._tensors[name].type
        return {"tensor(uint8)": "uint8", "tensor(float)": "float"}[kind]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self._tensors[name].shape[1:])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        return [(size, *self._tensors[name].shape[1:]) for size in self._module.profile]

    def create_execution_context(self, strategy: str) -> _ExecutionContext:
        assert strategy == "user managed", "TensorRT would allocate for the largest batch by itself"
        return _ExecutionContext(self._gpu, self)


def fake_tensorrt(gpu: FakeGpu, *, profile: tuple[int, int, int] = (1, 4, 8)) -> Any:
    """Return what `import tensorrt` is to give: what runs plans, nothing that builds them."""
    module: Any = ModuleType("tensorrt")

    class ILogger:
        Severity = SimpleNamespace(INTERNAL_ERROR="internal error", ERROR="error", WARNING="warning")

        def log(self, severity: str, message: str) -> None:
            raise NotImplementedError

    class Runtime(_Counted):
        def __init__(self, logger: ILogger) -> None:
            super().__init__(gpu)
            gpu.require_current()
            self._logger, self.engine_host_code_allowed = logger, False

        def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
            if plan.startswith(b"refuse"):
                self._logger.log(ILogger.Severity.ERROR, "Serialization assertion failed")
                return None
            return _Engine(gpu, module, plan, self._logger)

    module.__version__ = VERSION
    module.ILogger, module.Runtime = ILogger, Runtime
    module.DataType = SimpleNamespace(UINT8="uint8", FLOAT="float", HALF="half")
    module.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    module.nptype = {"uint8": np.uint8, "float": np.float32}.__getitem__
    module.profile, module.workspace_per_image, module.distort = profile, 1000, 0.0
    return module


def install_fake_gpu(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu, tensorrt: Any) -> None:
    """Let this process see the fakes: the probe finds the GPU, and both modules can be imported."""
    pycuda = ModuleType("pycuda")
    monkeypatch.setitem(sys.modules, "pycuda", pycuda)
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake_pycuda(gpu))
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
    monkeypatch.setattr("cxrbatch.engine.tensorrt_flavour.probe_cuda", lambda: CudaProbe((GPU,), "13.0"))


PLAN_FACTS = PlanFacts(VERSION, (GPU.compute_capability,), GPU.name, BatchProfile(1, 4, 8))


def add_plan(folder: Path, *, facts: PlanFacts | None = PLAN_FACTS, content: bytes | None = None) -> EngineBundle:
    """Give a bundle of `write_tiny_bundle` a plan for the fake TensorRT: its own ONNX graph, or `content`."""
    flavour, bundle = FLAVOURS["tensorrt"], load_bundle(folder)
    path = folder / flavour.file
    path.write_bytes(bundle.read_verified("onnx") if content is None else content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    files = {**bundle.manifest.files, flavour.role: EngineFile(path.name, digest, "fp16", facts)}
    return save_bundle(folder, replace(bundle.manifest, files=files))
