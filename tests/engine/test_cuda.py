"""The probe asks the driver by ctypes; a driver compiled for the test shows that it asks rightly."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cxrbatch.engine import cuda
from cxrbatch.engine.cuda import CudaProbe, Gpu, probe_cuda
from cxrbatch.engine.tensorrt_flavour import FLAVOURS, require_gpu
from cxrbatch.errors import EngineError

# The signatures of cuda.h. Two GPUs, whose handles are not their indices.
DRIVER = r"""
#include <stddef.h>
#include <stdio.h>
int cuInit(unsigned int flags) { return flags ? 1 : INIT; }
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int index) { *device = index + 40; return index < COUNT ? 0 : 101; }
int cuDeviceGetName(char *name, int size, int device) { return snprintf(name, size, "GPU %d", device - 40) < 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  if (device < 40) return 101;
  *value = attribute == 75 ? 8 : attribute == 76 ? 9 - (device - 40) * 3 : -1;
  return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)(device - 39) << 34; return 0; }
"""


def install_driver(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str = DRIVER, **macros: int) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "driver.c").write_text(source)
    options = [f"-D{name}={value}" for name, value in ({"INIT": 0, "COUNT": 2} | macros).items()]
    library = folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", *options, "-o", str(library), str(folder / "driver.c")], check=True)
    monkeypatch.setattr(cuda, "DRIVER_LIBRARY", str(library))


def test_each_gpu_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(tmp_path, monkeypatch)
    assert probe_cuda() == CudaProbe((Gpu(0, "GPU 0", "8.9", 1 << 34), Gpu(1, "GPU 1", "8.6", 2 << 34)), "13.2")


def test_without_a_driver_the_problem_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "DRIVER_LIBRARY", str(tmp_path / "libcuda.so.1"))
    probe = probe_cuda()
    assert (probe.gpus, probe.problem) == ((), f"no NVIDIA driver ({tmp_path / 'libcuda.so.1'} is not there)")


@pytest.mark.parametrize(("status", "words"), [(100, "no CUDA device"), (803, "do not belong together"), (7, "cuda.h")])
def test_a_driver_that_refuses_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    install_driver(tmp_path, monkeypatch, INIT=status)
    probe = probe_cuda()
    assert probe.gpus == ()
    assert f"cuInit answers {status}" in probe.problem
    assert words in probe.problem


def test_a_driver_without_gpus_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(tmp_path, monkeypatch, COUNT=0)
    assert probe_cuda() == CudaProbe((), "13.2", "the NVIDIA driver finds no GPU")


def test_a_library_that_is_no_driver_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(tmp_path, monkeypatch, source="int nothing;")
    assert "cuInit" in probe_cuda().problem


def test_a_needed_gpu_is_the_first_one() -> None:
    first = Gpu(0, "A", "8.9", 1)
    assert require_gpu(FLAVOURS["tensorrt"], CudaProbe((first, Gpu(1, "B", "9.0", 1)))) == first
    with pytest.raises(EngineError, match="backend tensorrt-rtx: needs an NVIDIA GPU: it is gone"):
        require_gpu(FLAVOURS["tensorrt-rtx"], CudaProbe(problem="it is gone"))
