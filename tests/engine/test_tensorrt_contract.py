"""Every TensorRT name that our source uses exists in the real bindings: 10.x, the newest 11.x, and TensorRT-RTX."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from cxrbatch.engine.manifest import PlanFacts
from tests.factories.tensorrt_api import (
    Api,
    compile_stub_libraries,
    find_untyped,
    find_uses,
    modules_that_use,
    read_api,
    spoil,
)
from tests.factories.wheels import fetch_package

ROOT = Path(__file__).parents[2] / "cxrbatch"
BINDINGS = ("10.13.2.6", "10.16.1.11", "11.4.0.106")
RTX = "1.7.1.116"


@pytest.fixture(scope="module")
def apis(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Api]:
    """What each version offers, by its own version number."""
    found = {}
    for version in BINDINGS:
        wheel = fetch_package(f"tensorrt-cu13-bindings=={version}")
        libraries = compile_stub_libraries(tmp_path_factory.mktemp("stubs"), int(version.split(".")[0]))
        found[version] = read_api("tensorrt_bindings", wheel, libraries=libraries)
    found[RTX] = read_api("tensorrt_rtx", fetch_package(f"tensorrt-rtx-cu13=={RTX}", with_dependencies=True))
    return found


@cache
def source_of(path: Path) -> str:
    return path.read_text()


def test_the_bindings_are_those_asked_for(apis: dict[str, Api]) -> None:
    assert {asked: api.version for asked, api in apis.items()} == {asked: asked for asked in apis}
    for api in apis.values():
        assert {"Builder", "Runtime", "ICudaEngine", "IExecutionContext"} <= api.members.keys()


@pytest.mark.parametrize("version", [*BINDINGS, RTX])
def test_every_name_that_we_use_exists(apis: dict[str, Api], version: str) -> None:
    missing = [
        f"{path.name}:{use.line}: {use.owner or 'module'} has no {use.member}"
        for path in modules_that_use("trt", ROOT)
        for use in find_uses(source_of(path), apis[version])
        if not use.exists
    ]
    assert missing == []


def test_every_name_of_rtx_alone_exists_there_and_only_there(apis: dict[str, Api]) -> None:
    for path in modules_that_use("rtx", ROOT):
        uses = find_uses(source_of(path), apis[RTX], alias="rtx")
        assert {use.member for use in uses} >= {"ComputeCapability", "set_compute_capability"}
        assert all(use.exists for use in uses)
        in_full = find_uses(source_of(path), apis["11.4.0.106"], alias="rtx")
        assert not all(use.exists for use in in_full)


def test_the_walk_sees_what_building_and_running_need(apis: dict[str, Api]) -> None:
    seen = {
        (use.owner, use.member)
        for path in modules_that_use("trt", ROOT)
        for use in find_uses(source_of(path), apis["11.4.0.106"])
    }
    assert seen >= {
        ("", "Builder"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("OnnxParser", "parse"),
        ("ParserError", "desc"),
        ("INetworkDefinition", "get_layer"),
        ("ILayer", "get_output"),
        ("ITensor", "dtype"),
        ("IBuilderConfig", "progress_monitor"),
        ("IProgressMonitor", "step_complete"),
        ("IOptimizationProfile", "set_shape"),
        ("ITimingCache", "serialize"),
        ("Builder", "build_serialized_network"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "create_execution_context"),
        ("IExecutionContext", "execute_async_v3"),
        ("ILogger", "log"),
        ("ILogger.Severity", "ERROR"),
    }


def test_nothing_of_tensorrt_is_used_on_what_has_no_type(apis: dict[str, Api]) -> None:
    for path in modules_that_use("trt", ROOT):
        known = {use.member for use in find_uses(source_of(path), apis[RTX], alias="rtx")}
        known |= {field.name for field in fields(PlanFacts)}
        assert find_untyped(source_of(path), apis["11.4.0.106"]) - known == set(), path.name


def test_every_single_misspelling_is_found(apis: dict[str, Api]) -> None:
    api = apis["11.4.0.106"]
    misspelt = 0
    for path in modules_that_use("trt", ROOT):
        source = source_of(path)
        for use in find_uses(source, api):
            found = find_uses(spoil(source, use), api)
            assert [wrong for wrong in found if not wrong.exists], f"{path.name}:{use.line} {use.member}"
            misspelt += 1
    assert misspelt > 60


def test_a_name_that_only_tensorrt_10_has_is_found(apis: dict[str, Api]) -> None:
    source = "def build(config: trt.IBuilderConfig) -> None:\n    config.set_flag(trt.BuilderFlag.FP16)\n"
    assert all(use.exists for use in find_uses(source, apis["10.13.2.6"]))
    (missing,) = (use for use in find_uses(source, apis["11.4.0.106"]) if not use.exists)
    assert (missing.owner, missing.member, missing.line) == ("BuilderFlag", "FP16", 2)
