"""Whether a backend can run on this machine, and if not, how to get it; nothing is opened to find out."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution

from cxrbatch.engine.cuda import import_pycuda, probe_cuda
from cxrbatch.engine.tensorrt_flavour import FLAVOURS, import_flavour, require_gpu, tensorrt_version
from cxrbatch.errors import EngineError

FASTEST_FIRST = ("tensorrt", "tensorrt-rtx", "torch", "onnxruntime")
"""Every backend, in the order in which `--backend auto` prefers them."""


@dataclass(frozen=True, slots=True)
class BackendState:
    """Whether a backend runs here; `detail` says on what, or what is missing and how to get it."""

    backend: str
    runs: bool
    detail: str


def look_at_backend(backend: str) -> BackendState:
    """Tell whether a backend of `FASTEST_FIRST` runs here."""
    return _LOOKS[backend]()


def _onnxruntime() -> BackendState:
    return BackendState("onnxruntime", runs=True, detail=f"ONNX Runtime {version_of('onnxruntime')} on the CPU")


def _torch() -> BackendState:
    probe = probe_cuda()
    if not probe.gpus:
        return BackendState("torch", runs=False, detail=f"needs an NVIDIA GPU: {probe.problem}")
    if missing := [name for name in ("torch", "onnx") if importlib.util.find_spec(name) is None]:
        return BackendState("torch", runs=False, detail=f"{', '.join(missing)}: pip install 'cxrbatch[train]'")
    # Only torch itself knows whether it was built for CUDA; it is slow to import, so it is asked last.
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        mend = "install a build of torch for CUDA: https://pytorch.org/get-started/locally"
        return BackendState("torch", runs=False, detail=f"torch {torch.__version__} does not see the GPU; {mend}")
    return BackendState("torch", runs=True, detail=f"torch {torch.__version__} on {torch.cuda.get_device_name()}")


def _tensorrt(backend: str) -> BackendState:
    flavour = FLAVOURS[backend]
    try:
        gpu = require_gpu(flavour)
        module = import_flavour(flavour)
        import_pycuda()
    except EngineError as error:
        return BackendState(backend, runs=False, detail=str(error).removeprefix(f"backend {backend}: ").rstrip("."))
    return BackendState(backend, runs=True, detail=f"{flavour.title} {tensorrt_version(module)} on {gpu.name}")


_LOOKS: dict[str, Callable[[], BackendState]] = {
    "tensorrt": lambda: _tensorrt("tensorrt"),
    "tensorrt-rtx": lambda: _tensorrt("tensorrt-rtx"),
    "torch": _torch,
    "onnxruntime": _onnxruntime,
}


def installed_version(package: str) -> str:
    """Return an installed package's version, empty where it is not installed."""
    try:
        return version_of(package)
    except PackageNotFoundError:
        return ""


@cache
def version_of(package: str) -> str:
    """Return an installed package's version.

    Asking importlib for it would read all of the package's metadata, with its manual, as an e-mail.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    installed = distribution(package)
    stated = re.search(r"^Version:[ \t]*(\S+)", installed.read_text("METADATA") or "", re.MULTILINE)
    return stated[1] if stated else installed.version
