"""The engine on this machine's GPU by way of a TensorRT plan, for both of TensorRT's flavours."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.contract import INPUT, output_shapes, require_pixels, scores_from
from cxrbatch.engine.cuda import CudaDevice, DeviceMemoryExhausted, Gpu, import_pycuda
from cxrbatch.engine.deferred_gate import is_unproven, settle_parity
from cxrbatch.engine.manifest import BatchProfile, PlanFacts
from cxrbatch.engine.plan_runner import PlanRunner
from cxrbatch.engine.tensorrt_flavour import (
    Flavour,
    import_flavour,
    open_logger,
    require_gpu,
    tensorrt_version,
    told_errors,
)
from cxrbatch.errors import EngineError
from cxrbatch.records import EngineDescription, Gray8, Scores

if TYPE_CHECKING:
    import tensorrt as trt

# The first compute capability of the hardware-compatible plans (HardwareCompatibilityLevel.AMPERE_PLUS).
_AMPERE = (8, 0)


class TensorRTEngine:
    """Scores batches with a TensorRT plan."""

    def __init__(self, bundle: EngineBundle, flavour: Flavour, module: ModuleType, device: CudaDevice) -> None:
        """Load the plan and check that it keeps the contract; `open_tensorrt` does all that comes before.

        Args:
            bundle: the engine to open; its plan belongs to this GPU and version.
            flavour: which of TensorRT's two.
            module: its Python module.
            device: the GPU, which the engine closes in the end.

        Raises:
            EngineError: the plan is not the one that was built, or cannot be loaded.
        """
        self.description: EngineDescription = bundle.describe(flavour.role, flavour.backend)
        self._where = f"{bundle.folder / bundle.file(flavour.role).path}"
        self._mend = bundle.rebuild_with(flavour.role)
        self._device = device
        with device.current():
            self._loaded = _LoadedPlan(module, bundle.read_verified(flavour.role), _facts(bundle, flavour))
        try:
            batch = self._check_plan(self._loaded.describe()).opt
        except BaseException:
            self._loaded.release()
            raise
        self._runner = PlanRunner(module, self._loaded.engine, self._loaded.logger, device, batch)
        # Also where nobody closes it: before the interpreter takes TensorRT and pycuda apart.
        self._release = weakref.finalize(self, _release, self._runner, self._loaded, device)

    def infer(self, pixels: Gray8) -> Scores:
        """Score uint8 [N,1,S,S]; see `Engine.infer`."""
        if not self._release.alive:
            raise EngineError(f"{self._where}: the engine was closed")
        require_pixels(pixels, self.description, self._where, at_least=1)
        answered = self._runner.infer(pixels)
        return scores_from(answered)

    def prepare_alone(self, pixels: Gray8) -> Callable[[], None]:
        """See `ComputesAlone.prepare_alone`."""
        self.infer(pixels)
        return self._runner.prepare_alone(pixels)

    def close(self) -> None:
        """Release the plan, its memory and the GPU's context, in this order; a second call does nothing."""
        self._release()

    def _check_plan(self, found: _PlanTensors | None) -> BatchProfile:
        if found is None:
            raise EngineError(f"{self._where}: {self._loaded.title} refuses it: {self._loaded.told()}. {self._mend}")
        size, classes = self.description.input.size_px, len(self.description.labels)
        wanted: dict[str, tuple[int | None, ...]] = {INPUT: (-1, 1, size, size)} | {
            name: (-1, *shape) for name, shape in output_shapes(self.description).items()
        }
        if found.shapes.keys() != wanted.keys():
            self._refuse(f"its tensors are {', '.join(found.shapes)}; wanted {', '.join(wanted)}")
        for name, shape in wanted.items():
            dtype = np.uint8 if name == INPUT else np.float32
            if found.dtypes[name] != dtype or not _fits(found.shapes[name], shape):
                self._refuse(f"{name} is {found.dtypes[name]} {list(found.shapes[name])}; {classes} labels are named")
        return found.profile

    def _refuse(self, what: str) -> None:
        raise EngineError(f"{self._where}: not the plan that engine.json describes: {what}. {self._mend}")


@dataclass(frozen=True, slots=True)
class _PlanTensors:
    """A plan's tensors by name, -1 for what is open, and its first profile."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[Any]]
    profile: BatchProfile


class _LoadedPlan:
    """TensorRT's objects for one plan, in the order in which they need each other; `engine` None: refused.

    Nobody else keeps them, not even in the frames of an error on its way up: they must be gone before the GPU's
    context is let go.
    """

    def __init__(self, module: ModuleType, plan: bytes, facts: PlanFacts) -> None:
        trt: Any = module
        self._module = module
        self.logger = open_logger(trt)
        self._runtime: trt.Runtime | None = trt.Runtime(self.logger)
        # Such a plan carries a runtime of its own, which is code; its SHA-256 was verified.
        self._runtime.engine_host_code_allowed = facts.version_compatible
        self.engine: trt.ICudaEngine | None = self._runtime.deserialize_cuda_engine(plan)

    def describe(self) -> _PlanTensors | None:
        """Return what the plan takes and answers; None where TensorRT refused it."""
        trt: Any = self._module
        engine: trt.ICudaEngine | None = self.engine
        if engine is None:
            return None
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        dtypes = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        profile = engine.get_tensor_profile_shape(INPUT, 0) if INPUT in names else ()
        return _PlanTensors(shapes, dtypes, BatchProfile(*(shape[0] for shape in profile)))

    @property
    def title(self) -> str:
        """Which TensorRT this is, in words."""
        return f"{self._module.__name__} {tensorrt_version(self._module)}"

    def told(self) -> str:
        """Return what TensorRT said about what failed."""
        return told_errors(self.logger)

    def release(self) -> None:
        """Let go of the engine, then of the runtime that made it."""
        self.engine = None
        self._runtime = None


def open_tensorrt(bundle: EngineBundle, flavour: Flavour) -> TensorRTEngine:
    """Open the bundle's plan on this machine's GPU, and pass the gate first where it was not passed on such a one.

    Raises:
        EngineError: no GPU, no TensorRT, a plan for another of them, a damaged one, or one that disagrees with
            its checkpoint.
    """
    gpu, module = find_machine(bundle, flavour)
    device = CudaDevice(gpu.index)
    try:
        engine = TensorRTEngine(bundle, flavour, module, device)
    except DeviceMemoryExhausted as error:
        device.close()
        raise EngineError(f"{bundle.folder}: GPU {gpu.name} has no memory for its plan: {error}") from error
    except EngineError:
        device.close()
        raise
    try:
        here = f"{gpu.name}, {flavour.title} {tensorrt_version(module)}"
        if is_unproven(bundle, flavour.role, here):
            settle_parity(bundle, flavour.role, engine, device=here)
    except BaseException:
        engine.close()
        raise
    return engine


def find_machine(bundle: EngineBundle, flavour: Flavour) -> tuple[Gpu, ModuleType]:
    """Return the GPU and the TensorRT that the bundle's plan runs on here; nothing of the plan is loaded.

    Raises:
        EngineError: something is missing, or the plan belongs to another GPU or version.
    """
    gpu = require_gpu(flavour)
    _facts(bundle, flavour)
    module = import_flavour(flavour)
    import_pycuda()
    refuse_foreign_plan(bundle, flavour, gpu, tensorrt_version(module))
    return gpu, module


def refuse_foreign_plan(bundle: EngineBundle, flavour: Flavour, gpu: Gpu, version: str) -> None:
    """Refuse a plan that was built for another GPU or with another version, before TensorRT sees it.

    Full TensorRT's plans belong to the GPU model they were timed on; RTX plans to compute capabilities. Both
    belong to one release (major.minor.patch), unless built version-compatible: then to a later one of its major.

    Raises:
        EngineError: with the command that rebuilds it.
    """
    facts = _facts(bundle, flavour)
    where, mend = bundle.folder / bundle.file(flavour.role).path, bundle.rebuild_with(flavour.role)
    if not _version_fits(facts, version):
        raise EngineError(f"{where}: built with {flavour.title} {facts.tensorrt_version}, here is {version}. {mend}")
    if not _gpu_fits(facts, flavour, gpu):
        built_for = (
            facts.gpu if flavour.times_tactics else f"compute capability {', '.join(facts.compute_capabilities)}"
        )
        raise EngineError(
            f"{where}: built for {built_for}, here is {gpu.name} (compute capability {gpu.compute_capability}). {mend}"
        )


def _version_fits(facts: PlanFacts, version: str) -> bool:
    built, here = (tuple(map(int, text.split(".")[:3])) for text in (facts.tensorrt_version, version))
    return built == here or (facts.version_compatible and built[0] == here[0] and built <= here)


def _gpu_fits(facts: PlanFacts, flavour: Flavour, gpu: Gpu) -> bool:
    major, minor = map(int, gpu.compute_capability.split("."))
    if facts.hardware_compatible and (major, minor) >= _AMPERE:
        return True
    same_model = not flavour.times_tactics or facts.gpu == gpu.name
    return same_model and gpu.compute_capability in facts.compute_capabilities


def _facts(bundle: EngineBundle, flavour: Flavour) -> PlanFacts:
    if flavour.role not in bundle.manifest.files:
        raise EngineError(
            f"{bundle.folder}: engine {bundle.name} has no {flavour.title} plan. {bundle.rebuild_with(flavour.role)}"
        )
    entry = bundle.file(flavour.role)
    if entry.plan is None:
        raise EngineError(
            f"{bundle.folder}: engine.json does not say what {entry.path} was built for. "
            f"{bundle.rebuild_with(flavour.role)}"
        )
    return entry.plan


def _fits(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(want in {size, None} for size, want in zip(found, wanted, strict=True))


def _release(runner: PlanRunner, plan: _LoadedPlan, device: CudaDevice) -> None:
    # A GPU that failed refuses this too; what broke was told when it broke.
    with suppress(EngineError):
        runner.close()
    plan.release()
    device.close()
