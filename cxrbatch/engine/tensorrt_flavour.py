"""TensorRT's two flavours: which Python module each one is, and what it lacks on this machine.

`tensorrt` builds on the GPU that it is to run on; `tensorrt_rtx` also without any, for RTX workstations. Both
have the same API but for what is named here, so the rest of cxrbatch knows one of them, called `trt`.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from cxrbatch.engine.cuda import CudaProbe, Gpu, probe_cuda
from cxrbatch.errors import EngineError

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)

TensorRTBackend = Literal["tensorrt", "tensorrt-rtx"]

# TensorRT 10.13 is the oldest whose parser and strongly typed networks are known to take our graphs.
OLDEST_TENSORRT = (10, 13)


@dataclass(frozen=True, slots=True)
class Flavour:
    """One flavour: its `backend` and `module` names, the `role` of its plan, and what it can do.

    `package`: what pip brings it with. `builds_without_gpu`: for named compute capabilities. `times_tactics`: it
    measures while it builds, which a cache saves; RTX compiles on the machine that runs the plan instead.
    """

    backend: TensorRTBackend
    module: str
    role: Literal["plan", "plan_rtx"]
    file: str
    title: str
    package: str
    builds_without_gpu: bool
    times_tactics: bool


FLAVOURS: dict[str, Flavour] = {
    "tensorrt": Flavour("tensorrt", "tensorrt", "plan", "model.plan", "TensorRT", "tensorrt", False, True),
    "tensorrt-rtx": Flavour(
        "tensorrt-rtx", "tensorrt_rtx", "plan_rtx", "model.rtx.plan", "TensorRT-RTX", "tensorrt-rtx-cu13", True, False
    ),
}  # fmt: skip


def require_gpu(flavour: Flavour, probe: CudaProbe | None = None) -> Gpu:
    """Return the GPU that plans run on: the first that the driver counts (CUDA_VISIBLE_DEVICES chooses it).

    Raises:
        EngineError: there is none.
    """
    probe = probe or probe_cuda()
    if not probe.gpus:
        raise EngineError(f"backend {flavour.backend}: needs an NVIDIA GPU: {probe.problem}.")
    return probe.gpus[0]


def import_flavour(flavour: Flavour) -> ModuleType:
    """Import the flavour's Python module.

    Raises:
        EngineError: it is not installed, its libraries cannot be loaded, or it is too old.
    """
    try:
        module = importlib.import_module(flavour.module)
    except ModuleNotFoundError:
        raise EngineError(
            f"backend {flavour.backend}: {flavour.title} is not installed. pip install {flavour.package}"
        ) from None
    except (ImportError, OSError) as error:
        raise EngineError(f"backend {flavour.backend}: {flavour.title} cannot be loaded: {error}") from error
    version = tensorrt_version(module)
    found = tuple(int(part) for part in version.split(".")[:2])
    if flavour.backend == "tensorrt" and found < OLDEST_TENSORRT:
        oldest = ".".join(map(str, OLDEST_TENSORRT))
        raise EngineError(
            f"backend tensorrt: version {version} is older than {oldest}. pip install 'tensorrt>={oldest}'"
        )
    return module


def tensorrt_version(module: ModuleType) -> str:
    """Return the version of a flavour's module, such as "11.4.0.106"."""
    return str(module.__version__)


def open_logger(trt: Any) -> Any:
    """Return a `trt.ILogger` that writes to our log and keeps the errors it was told, in `errors`.

    TensorRT answers None or False where something fails; why is in its log only.
    """

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]  # a class of a library without types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: trt.ILogger.Severity, message: str) -> None:
            if severity in {trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR}:
                self.errors.append(message)
            warns = severity == trt.ILogger.Severity.WARNING
            log.log(logging.INFO if warns else logging.DEBUG, "%s: %s", trt.__name__, message)

    return CollectingLogger()


def told_errors(logger: Any) -> str:
    """Return in one line what TensorRT told a logger of `open_logger` since it was last asked."""
    told = "; ".join(dict.fromkeys(logger.errors)) or "TensorRT does not say why"
    logger.errors.clear()
    return told
