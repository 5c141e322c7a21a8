"""What runs here, and how to get what does not, told apart by the one thing that is missing."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import get_args

import pytest

from cxrbatch.cli.options import BACKENDS, PRECISIONS
from cxrbatch.config import Backend, PrecisionChoice
from cxrbatch.engine import backends, tensorrt_flavour
from cxrbatch.engine.backends import FASTEST_FIRST, BackendState, look_at_backend, version_of
from cxrbatch.engine.cuda import CudaProbe, Gpu
from cxrbatch.engine.open import ROLES

ONE_GPU = CudaProbe((Gpu(0, "Test GPU", "9.0", 2**34),), "13.0")
NO_GPU = CudaProbe(problem="no NVIDIA driver")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine whose GPU, installed modules and torch can be set."""
    state = SimpleNamespace(
        probe=ONE_GPU,
        modules={"torch", "onnx", "tensorrt", "tensorrt_rtx", "pycuda"},
        versions={"tensorrt": "11.4.0.106", "tensorrt_rtx": "1.7.1.116"},
        cuda=True,
    )
    cuda = SimpleNamespace(is_available=lambda: state.cuda, get_device_name=lambda: "Test GPU")

    def find_spec(name: str) -> ModuleSpec | None:
        return ModuleSpec(name, None) if name in state.modules else None

    def import_module(name: str) -> SimpleNamespace:
        if name.partition(".")[0] not in state.modules:
            raise ModuleNotFoundError(name)
        return SimpleNamespace(__version__=state.versions.get(name, "2.9"), cuda=cuda)

    monkeypatch.setattr(backends, "probe_cuda", lambda: state.probe)
    monkeypatch.setattr(tensorrt_flavour, "probe_cuda", lambda: state.probe)
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(importlib, "import_module", import_module)
    return state


def test_what_the_command_line_and_the_settings_offer_is_what_there_is() -> None:
    assert get_args(Backend) == BACKENDS
    assert set(BACKENDS) == {"auto", *FASTEST_FIRST}
    assert set(ROLES) == set(FASTEST_FIRST)
    assert set(PRECISIONS) == set(get_args(PrecisionChoice)) == {"auto"}.union(*ROLES.values())


def test_onnxruntime_runs_everywhere(machine: SimpleNamespace) -> None:
    machine.probe = NO_GPU
    assert look_at_backend("onnxruntime").runs


@pytest.mark.parametrize("backend", [name for name in FASTEST_FIRST if name != "onnxruntime"])
def test_the_others_need_a_gpu(machine: SimpleNamespace, backend: str) -> None:
    machine.probe = NO_GPU
    state = look_at_backend(backend)
    assert not state.runs
    assert state.detail == "needs an NVIDIA GPU: no NVIDIA driver"


def test_torch_runs_on_a_gpu_that_it_sees(machine: SimpleNamespace) -> None:
    assert look_at_backend("torch").runs
    assert look_at_backend("torch").detail == "torch 2.9 on Test GPU"
    machine.cuda = False
    assert "does not see the GPU" in look_at_backend("torch").detail
    machine.modules = set()
    assert look_at_backend("torch").detail == "torch, onnx: pip install 'cxrbatch[train]'"


def test_tensorrt_runs_where_it_and_pycuda_are(machine: SimpleNamespace) -> None:
    assert look_at_backend("tensorrt") == BackendState("tensorrt", runs=True, detail="TensorRT 11.4.0.106 on Test GPU")
    assert look_at_backend("tensorrt-rtx").detail == "TensorRT-RTX 1.7.1.116 on Test GPU"
    machine.modules = {"tensorrt"}
    assert not look_at_backend("tensorrt").runs
    assert "pip install 'pycuda" in look_at_backend("tensorrt").detail
    machine.versions["tensorrt"] = "10.9.0.34"
    assert "10.9.0.34 is older than 10.13" in look_at_backend("tensorrt").detail


def test_tensorrt_names_the_package_that_brings_it(machine: SimpleNamespace) -> None:
    machine.modules = {"pycuda"}
    assert look_at_backend("tensorrt").detail == "TensorRT is not installed. pip install tensorrt"
    assert look_at_backend("tensorrt-rtx").detail == "TensorRT-RTX is not installed. pip install tensorrt-rtx-cu13"


def test_a_version_is_what_importlib_says() -> None:
    for package in ("numpy", "onnxruntime", "jinja2"):
        assert version_of(package) == version(package)
    with pytest.raises(PackageNotFoundError):
        version_of("no-such-package")
