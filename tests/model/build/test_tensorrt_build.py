"""Plans: a real one by TensorRT-RTX, which needs no GPU; and what is said where one cannot be built."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from cxrbatch.engine.cuda import CudaProbe, Gpu
from cxrbatch.engine.manifest import BatchProfile
from cxrbatch.engine.tensorrt_flavour import FLAVOURS, open_logger, told_errors
from cxrbatch.errors import EngineError, UsageError
from cxrbatch.model.build import tensorrt_build
from cxrbatch.model.build.build_progress import BuildPhases
from cxrbatch.model.build.tensorrt_build import (
    RTX_COMPUTE_CAPABILITIES,
    PlanBuilder,
    PlanOptions,
    add_batch_profile,
    count_layer_types,
    open_plan_builder,
    parse_network,
)
from cxrbatch.model.network.export import export_onnx, halve, require_half_weights
from cxrbatch.model.network.network import ChestNetwork, build_seeded
from cxrbatch.records import InputSpec
from cxrbatch.system import stopping
from cxrbatch.system.stopping import Stopped
from tests.factories.wheels import fetch_package

RTX_VERSION = "1.7.1.116"
SIZE_PX = 64


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    folder = fetch_package(f"tensorrt-rtx-cu13=={RTX_VERSION}", with_dependencies=True)
    sys.path.append(str(folder))
    try:
        module: ModuleType = pytest.importorskip("tensorrt_rtx")
        return module
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An FP16 ResNet50 of 14 labels, as `build` exports it."""
    network = build_seeded(lambda: ChestNetwork("resnet50", 14, spec=InputSpec(SIZE_PX), output_stride=16), seed=1)
    path = tmp_path_factory.mktemp("half") / "model.fp16.onnx"
    export_onnx(halve(network.eval()), path, size_px=SIZE_PX)
    require_half_weights(path)
    return path.read_bytes()


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_build, "probe_cuda", lambda: CudaProbe(problem="no NVIDIA driver"))


def builder(rtx: ModuleType, **options: Any) -> PlanBuilder:
    return PlanBuilder(FLAVOURS["tensorrt-rtx"], rtx, None, PlanOptions(**options))


def parsed(rtx: Any, model: bytes) -> Any:
    logger = open_logger(rtx)
    made = rtx.Builder(logger)
    network = made.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parse_network(rtx, network, logger, model)
    return made, network, logger


def test_a_real_plan_is_built_without_a_gpu(rtx: ModuleType, resnet50: bytes, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    facts = builder(rtx, profile=BatchProfile(1, 8, 64), workspace_mb=1024, compute_capabilities=("8.9", "12.0")).build(
        resnet50, tmp_path / "model.plan", timing_cache=tmp_path / "cache", report=lambda *step: told.append(step)
    )
    plan = (tmp_path / "model.plan").read_bytes()
    # 23.5 million half-precision weights, and no second copy of them.
    assert 45e6 < len(plan) < 60e6
    assert all(name in plan for name in (b"pixels", b"probabilities", b"logits", b"cams"))
    assert (facts.tensorrt_version, facts.compute_capabilities, facts.gpu) == (RTX_VERSION, ("8.9", "12.0"), "")
    assert facts.profile == BatchProfile(1, 8, 64)
    assert told[-1] == ("Building engine", 6, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["model.plan"]


def test_the_parsed_network_is_strongly_typed_half(rtx: Any, resnet50: bytes) -> None:
    _, network, _ = parsed(rtx, resnet50)
    assert network.get_flag(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    types = count_layer_types(network)
    # 53 of the ResNet50, and the head as a 1x1 convolution.
    assert types[rtx.LayerType.CONVOLUTION, rtx.DataType.HALF] == 54
    assert not [kind for layer, kind in types if layer == rtx.LayerType.CONVOLUTION and kind != rtx.DataType.HALF]
    pixels = network.get_input(0)
    assert (pixels.name, pixels.dtype, tuple(pixels.shape)) == ("pixels", rtx.DataType.UINT8, (-1, 1, SIZE_PX, SIZE_PX))
    outputs = {tensor.name: tensor for tensor in (network.get_output(i) for i in range(network.num_outputs))}
    assert {name: tuple(tensor.shape) for name, tensor in outputs.items()} == {
        "probabilities": (-1, 14), "logits": (-1, 14), "cams": (-1, 14, 4, 4),
    }  # fmt: skip
    assert {tensor.dtype for tensor in outputs.values()} == {rtx.DataType.FLOAT}


def test_the_profile_is_what_was_asked_for(rtx: Any, resnet50: bytes) -> None:
    made, network, _ = parsed(rtx, resnet50)
    config = made.create_builder_config()
    add_batch_profile(made, network, config, BatchProfile(2, 8, 16))
    assert config.num_optimization_profiles == 1
    profile = made.create_optimization_profile()
    image = (1, SIZE_PX, SIZE_PX)
    profile.set_shape("pixels", (2, *image), (8, *image), (16, *image))
    assert [tuple(shape) for shape in profile.get_shape("pixels")] == [(2, *image), (8, *image), (16, *image)]


def test_a_network_in_fp32_is_refused(rtx: ModuleType, network: ChestNetwork, tmp_path: Path) -> None:
    export_onnx(network, tmp_path / "model.onnx", size_px=64)
    with pytest.raises(EngineError, match=r"not all in half precision: 0 are, \d+ in DataType.FLOAT"):
        builder(rtx).build(
            (tmp_path / "model.onnx").read_bytes(),
            tmp_path / "plan",
            timing_cache=tmp_path / "c",
            report=lambda *_: None,
        )
    with pytest.raises(EngineError, match=r"not all FLOAT16: \d+ FLOAT"):
        require_half_weights(tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_every_error_of_the_parser_is_told(rtx: Any, resnet50: bytes) -> None:
    model = onnx.load_from_string(resnet50)
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(EngineError, match=r"cannot read the ONNX graph:\n  NoSuchOperator "):
        parsed(rtx, model.SerializeToString())
    with pytest.raises(EngineError, match="cannot read the ONNX graph"):
        parsed(rtx, b"no model")


def test_another_graph_than_the_contracts_is_refused(rtx: Any, resnet50: bytes) -> None:
    model = onnx.load_from_string(resnet50)
    for node in model.graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
        node.input[:] = ["scores" if name == "logits" else name for name in node.input]
    for output in model.graph.output:
        output.name = "scores" if output.name == "logits" else output.name
    with pytest.raises(EngineError, match=r"not that of the contract: its tensors are pixels .*scores"):
        parsed(rtx, model.SerializeToString())


def test_an_unknown_compute_capability_is_refused(rtx: ModuleType, resnet50: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"compute capability 1.2: TensorRT-RTX 1.7.1.116 builds for .*8.9, 12.0"):
        builder(rtx, compute_capabilities=("8.9", "1.2")).build(
            resnet50, tmp_path / "plan", timing_cache=tmp_path / "cache", report=lambda *_: None
        )


def test_a_signal_ends_a_build_and_leaves_nothing(
    rtx: ModuleType, resnet50: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_to_stop(*_: object) -> None:
        stopping._stop.signal_number = 15

    monkeypatch.setattr(stopping._stop, "signal_number", 0)
    with pytest.raises(Stopped):
        builder(rtx).build(resnet50, tmp_path / "plan", timing_cache=tmp_path / "cache", report=ask_to_stop)
    assert list(tmp_path.iterdir()) == []


def test_tensorrts_errors_are_kept_and_told_once(rtx: Any) -> None:
    logger = open_logger(rtx)
    logger.log(rtx.ILogger.Severity.WARNING, "only a warning")
    logger.log(rtx.ILogger.Severity.ERROR, "broken")
    logger.log(rtx.ILogger.Severity.INTERNAL_ERROR, "broken")
    assert told_errors(logger) == "broken"
    assert told_errors(logger) == "TensorRT does not say why"


def test_without_a_gpu_rtx_plans_are_for_workstations(
    no_gpu: None, rtx: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", rtx)
    opened = open_plan_builder(FLAVOURS["tensorrt-rtx"], PlanOptions())
    assert opened.target == f"compute capability {', '.join(RTX_COMPUTE_CAPABILITIES)}"
    assert not opened.runs_here()


def test_without_a_gpu_tensorrt_says_so_at_once(no_gpu: None) -> None:
    with pytest.raises(EngineError, match=r"here is none: no NVIDIA driver. With --onnx-only the bundle is built"):
        open_plan_builder(FLAVOURS["tensorrt"], PlanOptions())


@pytest.mark.parametrize(
    ("backend", "options", "words"),
    [
        ("tensorrt-rtx", PlanOptions(version_compatible=True), "no version- or hardware-compatible plans"),
        ("tensorrt-rtx", PlanOptions(hardware_compatible=True), "name the GPUs with --compute-capability"),
        ("tensorrt", PlanOptions(compute_capabilities=("8.9",)), "leave --compute-capability out"),
    ],
)
def test_options_of_the_other_flavour_are_refused(no_gpu: None, backend: str, options: PlanOptions, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_plan_builder(FLAVOURS[backend], options)


@pytest.mark.parametrize("sizes", [(0, 1, 2), (2, 1, 3), (1, 4, 3)])
def test_batch_sizes_must_be_in_order(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="1 <= min <= opt <= max"):
        BatchProfile(*sizes)


def test_a_plan_runs_here_where_its_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    gpu = Gpu(0, "NVIDIA RTX 4090", "8.9", 24 << 30)

    def runs(*capabilities: str) -> bool:
        options = PlanOptions(compute_capabilities=capabilities)
        return PlanBuilder(FLAVOURS["tensorrt-rtx"], ModuleType("none"), gpu, options).runs_here()

    assert (runs(), runs("8.9"), runs("12.0")) == (True, True, False)


def test_phases_are_told_two_levels_deep() -> None:
    told: list[tuple[str, int, int]] = []
    phases = BuildPhases(lambda *step: told.append(step))
    phases.start("build", None, 2)
    phases.start("inner", "build", 2)
    phases.start("innermost", "inner", 5)
    phases.complete("innermost", 0)
    phases.complete("inner", 0)
    phases.complete("inner", 1)
    phases.finish("innermost")
    phases.finish("inner")
    phases.complete("build", 0)
    phases.finish("build")
    assert told == [("inner", 1, 2), ("inner", 2, 2), ("build", 1, 2), ("build", 2, 2)]
