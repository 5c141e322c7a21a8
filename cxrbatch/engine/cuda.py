"""CUDA on this machine: its GPUs asked of the driver, and one GPU behind pycuda. No framework is loaded for either.

`probe_cuda` asks by ctypes: without a GPU TensorRT's `Builder()` raises a TypeError that says nothing, and its
`Runtime()` can crash the process. Neither is touched before the probe has found a GPU. Names and numbers are those of
the CUDA driver API reference (cuda.h), stable since CUDA 5.

`CudaDevice` is device and pinned memory, streams, copies, and errors that mean something: all of pycuda that cxrbatch
uses is here. It works on the device's primary context, the one that torch and TensorRT's own CUDA runtime use, so that
all of them may live in one process.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cxrbatch.errors import EngineError

if TYPE_CHECKING:
    import pycuda.driver as cuda

DRIVER_LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_ERRORS = {
    2: "out of memory",
    100: "no CUDA device",
    101: "no such device",
    803: "the driver and this library do not belong together",
    804: "forward compatibility is not supported on this GPU",
    999: "unknown error; is the GPU in use by another driver, or lost?",
}
# CU_STREAM_NON_BLOCKING: no waiting for the default stream, on which other libraries in the process may work.
_NON_BLOCKING = 1

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the driver counts them; `compute_capability` such as "8.9"."""

    index: int
    name: str
    compute_capability: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class CudaProbe:
    """What the driver says: its CUDA version (such as "13.0") and its GPUs, or the problem in words."""

    gpus: tuple[Gpu, ...] = ()
    driver_version: str = ""
    problem: str = ""


class _DriverError(Exception):
    """A call of the driver answered with something else than success."""


def probe_cuda() -> CudaProbe:
    """Ask the driver for its GPUs; never raises, and creates no context on any of them."""
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return CudaProbe(problem=f"no NVIDIA driver ({DRIVER_LIBRARY} is not there)")
    try:
        _call(driver, "cuInit", 0)
        version, count = ctypes.c_int(), ctypes.c_int()
        _call(driver, "cuDriverGetVersion", ctypes.byref(version))
        _call(driver, "cuDeviceGetCount", ctypes.byref(count))
        gpus = tuple(_describe_gpu(driver, index) for index in range(count.value))
    except (_DriverError, AttributeError) as error:
        return CudaProbe(problem=f"the NVIDIA driver finds no GPU that can be used: {error}")
    text = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return CudaProbe(gpus, text, "" if gpus else "the NVIDIA driver finds no GPU")


def _describe_gpu(driver: ctypes.CDLL, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    memory, name = ctypes.c_size_t(), ctypes.create_string_buffer(256)
    _call(driver, "cuDeviceGet", ctypes.byref(device), index)
    _call(driver, "cuDeviceGetName", name, len(name), device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
    _call(driver, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    return Gpu(index, name.value.decode(errors="replace"), f"{major.value}.{minor.value}", memory.value)


def _call(driver: ctypes.CDLL, name: str, *arguments: object) -> None:
    status = getattr(driver, name)(*arguments)
    if status != 0:
        raise _DriverError(f"{name} answers {status} ({_ERRORS.get(status, 'see CUresult in cuda.h')})")


class DeviceMemoryExhausted(Exception):
    """The GPU has no memory left for this; what was there before still works."""


class CudaDevice:
    """The GPU of one engine. Memory and streams may be touched only within `current()`."""

    def __init__(self, index: int = 0) -> None:
        """Retain the primary context of GPU `index`, counted as the driver counts.

        Raises:
            EngineError: pycuda is missing, or the driver refuses.
        """
        self._cuda: Any = import_pycuda()
        self._broken = ""
        with self._explained("open the GPU"):
            self._cuda.init()
            device: cuda.Device = self._cuda.Device(index)
            self.name: str = device.name()
            self._context: cuda.Context | None = device.retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU the calling thread's for the length of the block.

        Raises:
            EngineError: it was closed, or an earlier CUDA error has left it unusable.
        """
        if self._context is None or self._broken:
            raise EngineError(f"GPU {self.name}: {self._broken or 'it was closed'}")
        context: cuda.Context = self._context
        with self._explained("take the GPU"):
            context.push()
        try:
            yield
        finally:
            # After a sticky error every call fails, this one too; the first error is the one to tell.
            with suppress(self._cuda.Error):
                context.pop()

    def open_stream(self) -> cuda.Stream:
        """Open a stream of its own, which waits for no other."""
        with self._explained("open a stream"):
            return self._cuda.Stream(_NON_BLOCKING)

    def allocate(self, n_bytes: int) -> cuda.DeviceAllocation:
        """Allocate device memory; `int()` of it is its address, aligned to 256 bytes.

        Raises:
            DeviceMemoryExhausted: there is not enough.
        """
        with self._explained(f"allocate {n_bytes} bytes"):
            return self._cuda.mem_alloc(max(n_bytes, 1))

    def allocate_pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Allocate an array in host memory that the GPU copies from and to on its own.

        Raises:
            DeviceMemoryExhausted: there is not enough.
        """
        with self._explained(f"pin an array of {list(shape)}"):
            array: Array = self._cuda.pagelocked_empty(shape, np.dtype(dtype))
            return array

    def upload(self, memory: cuda.DeviceAllocation, array: Array, stream: cuda.Stream) -> None:
        """Queue a copy of a pinned array; it must not change before the stream has come there."""
        with self._explained("copy to the GPU"):
            self._cuda.memcpy_htod_async(memory, array, stream)

    def download(self, array: Array, memory: cuda.DeviceAllocation, stream: cuda.Stream) -> None:
        """Queue a copy into a pinned array, whose values are there once the stream was waited for."""
        with self._explained("copy from the GPU"):
            self._cuda.memcpy_dtoh_async(array, memory, stream)

    def wait_for(self, stream: cuda.Stream) -> None:
        """Wait until all that was queued on the stream is done."""
        with self._explained("compute"):
            stream.synchronize()

    def free(self, memory: cuda.DeviceAllocation) -> None:
        """Give device memory back."""
        with self._explained("free memory"):
            memory.free()

    def close(self) -> None:
        """Let go of the primary context; others in the process keep theirs. A second call does nothing."""
        context, self._context = self._context, None
        if context is not None:
            with suppress(self._cuda.Error):
                context.detach()

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        cuda: Any = self._cuda
        try:
            yield
        except cuda.MemoryError as error:
            raise DeviceMemoryExhausted(f"cannot {doing}: {error}") from error
        except cuda.Error as error:
            # Any other error of the driver stays with the context until the process ends.
            self._broken = f"CUDA failed to {doing}: {error}. Run the same command again: finished studies are kept"
            raise EngineError(f"GPU: {self._broken}") from error


def import_pycuda() -> Any:
    """Import pycuda's driver interface; it needs the NVIDIA driver's library to load.

    Raises:
        EngineError: it is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module("pycuda.driver")
    except ModuleNotFoundError:
        raise EngineError(
            "TensorRT engines run by way of pycuda, which is not installed. pip install 'pycuda>=2026.1' "
            "(compiled while it installs: needs a C++ compiler and the CUDA headers)"
        ) from None
    except ImportError as error:
        raise EngineError(f"pycuda cannot be loaded: {error}") from error
