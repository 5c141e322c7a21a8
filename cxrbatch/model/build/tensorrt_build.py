"""Building a TensorRT plan: strongly typed, one optimisation profile, every error told.

Written against TensorRT 10.13 and later, 11, and TensorRT-RTX. A strongly typed network computes in the types that
the graph says; TensorRT 11 knows no other way, and no flag for FP16.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cxrbatch.engine.contract import EXTRA_OUTPUTS, INPUT, OUTPUTS
from cxrbatch.engine.cuda import Gpu, import_pycuda, probe_cuda
from cxrbatch.engine.manifest import BatchProfile, PlanFacts
from cxrbatch.engine.tensorrt_flavour import Flavour, import_flavour, open_logger, tensorrt_version, told_errors
from cxrbatch.errors import EngineError, UsageError
from cxrbatch.model.build.build_progress import BuildProgress, open_monitor
from cxrbatch.system import durable
from cxrbatch.system.stopping import stop_at_safe_points

if TYPE_CHECKING:
    import tensorrt as trt
    import tensorrt_rtx as rtx


# Workstations that a plan is built for where no GPU tells: A100, RTX 30, RTX 40 and RTX 50 (Ampere to Blackwell).
RTX_COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How a plan is built.

    `workspace_mb`: device memory that a layer may use while it runs; 0 leaves TensorRT all there is.
    `version_compatible`: the plan also runs on later TensorRT versions. `hardware_compatible`: also on other
    GPUs, Ampere and newer. Both cost speed and are full TensorRT's. `compute_capabilities`: GPUs that an RTX
    plan is for, such as ("8.9",); empty takes the one of this machine, or `RTX_COMPUTE_CAPABILITIES`.
    """

    profile: BatchProfile = field(default_factory=BatchProfile)
    workspace_mb: int = 0
    version_compatible: bool = False
    hardware_compatible: bool = False
    compute_capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanBuilder:
    """A flavour that can build here: its module, and the GPU of this machine where there is one."""

    flavour: Flavour
    module: ModuleType
    gpu: Gpu | None
    options: PlanOptions

    @property
    def target(self) -> str:
        """Which GPUs the plan is for, in words."""
        if self.gpu and not self.options.compute_capabilities:
            return self.gpu.name
        return f"compute capability {', '.join(self._compute_capabilities())}"

    @property
    def device(self) -> str:
        """What the plan runs on here, in words: the GPU and the version."""
        return f"{self.gpu.name if self.gpu else 'no GPU'}, {self.flavour.title} {tensorrt_version(self.module)}"

    def runs_here(self) -> bool:
        """Tell whether this machine can also run the plan that it builds."""
        if self.gpu is None or importlib.util.find_spec("pycuda") is None:
            return False
        return self.options.hardware_compatible or self.gpu.compute_capability in self._compute_capabilities()

    def build(self, model: bytes, path: Path, *, timing_cache: Path, report: BuildProgress) -> PlanFacts:
        """Build the plan of an ONNX model and write it to `path`, whole or not at all.

        Args:
            model: the graph of the contract (docs/design.md) with its weights, as an ONNX file holds it.
            path: the plan's file.
            timing_cache: what earlier builds measured on this machine; read, and written again.
            report: told (phase, step, steps) while TensorRT builds.

        Raises:
            EngineError: the graph cannot be parsed, is not in half precision, or TensorRT cannot build it.
            Stopped: a signal asked for it.
        """
        trt: Any = self.module
        logger = open_logger(trt)
        builder = _open_builder(trt, logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parse_network(trt, network, logger, model)
        require_half_precision(trt, network)
        config = self._configure(builder, network)
        cache = _attach_timing_cache(config, timing_cache) if self.flavour.times_tactics else None
        with stop_at_safe_points():
            config.progress_monitor = open_monitor(trt, report)
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError(f"{self.flavour.title} cannot build a plan: {told_errors(logger)}")
        with durable.replacing(path) as temporary:
            temporary.write_bytes(plan)
        if cache is not None:
            _keep_timing_cache(config, timing_cache)
        return self._facts()

    def _configure(self, builder: trt.Builder, network: trt.INetworkDefinition) -> trt.IBuilderConfig:
        trt: Any = self.module
        options, config = self.options, builder.create_builder_config()
        if options.workspace_mb:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if self.flavour.backend == "tensorrt-rtx":
            name_compute_capabilities(self.module, config, self._compute_capabilities())
        add_batch_profile(builder, network, config, options.profile)
        return config

    def _compute_capabilities(self) -> tuple[str, ...]:
        if self.options.compute_capabilities:
            return self.options.compute_capabilities
        return (self.gpu.compute_capability,) if self.gpu else RTX_COMPUTE_CAPABILITIES

    def _facts(self) -> PlanFacts:
        return PlanFacts(
            tensorrt_version=tensorrt_version(self.module),
            compute_capabilities=self._compute_capabilities(),
            gpu=self.gpu.name if self.gpu else "",
            profile=self.options.profile,
            version_compatible=self.options.version_compatible,
            hardware_compatible=self.options.hardware_compatible,
        )


def open_plan_builder(flavour: Flavour, options: PlanOptions) -> PlanBuilder:
    """Return what builds plans of this flavour here; quick, and asked before any other work is done.

    Raises:
        EngineError: a GPU or the flavour's module is missing.
        UsageError: the options ask for what this flavour cannot do.
    """
    rtx_only, full_only = options.compute_capabilities, options.version_compatible or options.hardware_compatible
    if flavour.builds_without_gpu and full_only:
        raise UsageError(
            f"{flavour.backend} has no version- or hardware-compatible plans: name the GPUs with --compute-capability."
        )
    if rtx_only and not flavour.builds_without_gpu:
        raise UsageError(f"{flavour.backend} builds for the GPU of this machine; leave --compute-capability out.")
    probe = probe_cuda()
    if not probe.gpus and not flavour.builds_without_gpu:
        raise EngineError(
            f"{flavour.backend}: a plan is built on the GPU that it runs on, and here is none: {probe.problem}. "
            f"With --onnx-only the bundle is built without the plan; add the plan on the machine with the GPU."
        )
    if not flavour.builds_without_gpu:
        import_pycuda()
    return PlanBuilder(flavour, import_flavour(flavour), probe.gpus[0] if probe.gpus else None, options)


def parse_network(trt: Any, network: trt.INetworkDefinition, logger: trt.ILogger, model: bytes) -> None:
    """Parse an ONNX model into the network.

    Raises:
        EngineError: with every error of the parser, or because its tensors are not those of the contract.
    """
    parser: trt.OnnxParser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = [parser.get_error(number) for number in range(parser.num_errors)]
        told = "\n".join(f"  {error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors)
        raise EngineError(f"TensorRT cannot read the ONNX graph:\n{told or '  ' + told_errors(logger)}")
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    outputs = [network.get_output(number) for number in range(network.num_outputs)]
    types = {tensor.name: tensor.dtype for tensor in [*inputs, *outputs]}
    given = [*OUTPUTS, *(name for name in EXTRA_OUTPUTS if name in types)]
    wanted = {INPUT: trt.DataType.UINT8} | dict.fromkeys(given, trt.DataType.FLOAT)
    if types != wanted or len(inputs) != 1:
        found = ", ".join(f"{name} {kind}" for name, kind in types.items())
        raise EngineError(f"the ONNX graph is not that of the contract: its tensors are {found}")


def require_half_precision(trt: Any, network: trt.INetworkDefinition) -> None:
    """Check that every convolution of a parsed network computes in half precision.

    Raises:
        EngineError: one does not; the plan would be slower than asked for, and nobody would see it.
    """
    types = count_layer_types(network)
    others = {kind: count for (layer, kind), count in types.items() if layer == trt.LayerType.CONVOLUTION}
    half = others.pop(trt.DataType.HALF, 0)
    if others or not half:
        found = ", ".join(f"{count} in {kind}" for kind, count in others.items()) or "there are none"
        raise EngineError(f"the network's convolutions are not all in half precision: {half} are, {found}")


def count_layer_types(network: trt.INetworkDefinition) -> Counter[tuple[Any, Any]]:
    """Count a network's layers by (layer type, type of the first output)."""
    counts: Counter[tuple[Any, Any]] = Counter()
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        counts[layer.type, layer.get_output(0).dtype] += 1
    return counts


def add_batch_profile(
    builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig, batch: BatchProfile
) -> None:
    """Give the network its one optimisation profile: batches from `batch.min` to `batch.max`, fastest at `batch.opt`.

    Raises:
        EngineError: TensorRT refuses it.
    """
    image = tuple(network.get_input(0).shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, (batch.min, *image), (batch.opt, *image), (batch.max, *image))
    if not profile or config.add_optimization_profile(profile) < 0:
        raise EngineError(f"TensorRT refuses batches of {batch.min} to {batch.max} images of {list(image)}")


def name_compute_capabilities(rtx: Any, config: rtx.IBuilderConfig, wanted: tuple[str, ...]) -> None:
    """Say for which GPUs an RTX plan is built, such as ("8.9", "12.0").

    Raises:
        UsageError: TensorRT-RTX does not know one of them.
    """
    known = {name: value for name, value in rtx.ComputeCapability.__members__.items() if name.startswith("SM")}
    config.num_compute_capabilities = len(wanted)
    for number, text in enumerate(wanted):
        capability = known.get("SM" + text.replace(".", ""))
        if capability is None or not config.set_compute_capability(capability, number):
            raise UsageError(
                f"compute capability {text}: TensorRT-RTX {tensorrt_version(rtx)} builds for "
                f"{', '.join(f'{name[2:-1]}.{name[-1]}' for name in known)}."
            )


def _open_builder(trt: Any, logger: trt.ILogger) -> trt.Builder:
    try:
        return trt.Builder(logger)
    except TypeError as error:  # pybind11 says no more where the library answers with a null pointer
        raise EngineError(f"TensorRT cannot start a builder here: {told_errors(logger)}") from error


def _attach_timing_cache(config: trt.IBuilderConfig, path: Path) -> trt.ITimingCache:
    known = b""
    with suppress(OSError):
        known = path.read_bytes()
    cache = config.create_timing_cache(known)
    # A cache of another GPU or version is refused by TensorRT; the build then measures afresh.
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _keep_timing_cache(config: trt.IBuilderConfig, path: Path) -> None:
    cache = config.get_timing_cache()
    durable.replace_bytes(path, bytes(cache.serialize()))
