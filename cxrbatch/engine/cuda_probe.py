"""The NVIDIA GPUs of this machine, asked of the driver itself by ctypes.

No framework is loaded for it: without a GPU TensorRT's `Builder()` raises a TypeError that says nothing, and its
`Runtime()` can crash the process. Neither is touched before this probe has found a GPU. Names and numbers are
those of the CUDA driver API reference (cuda.h), stable since CUDA 5.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

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
