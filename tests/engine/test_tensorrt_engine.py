"""The TensorRT engine against a fake driver: what overlaps, what lack of memory does, what is refused, how it ends."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.cuda import CudaProbe, Gpu
from cxrbatch.engine.manifest import PlanFacts
from cxrbatch.engine.open import open_engine, plan_engine
from cxrbatch.engine.tensorrt_engine import open_tensorrt, refuse_foreign_plan
from cxrbatch.engine.tensorrt_flavour import FLAVOURS, import_flavour
from cxrbatch.errors import EngineError, ExitCode
from cxrbatch.records import Gray8, Label
from tests.factories.engine import tiny_graph, tiny_probabilities, write_tiny_bundle
from tests.factories.gpu import GPU, PLAN_FACTS, VERSION, FakeGpu, add_plan, fake_tensorrt, install_fake_gpu

TENSORRT, RTX = FLAVOURS["tensorrt"], FLAVOURS["tensorrt-rtx"]


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


@pytest.fixture
def tensorrt(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = fake_tensorrt(gpu)
    install_fake_gpu(monkeypatch, gpu, module)
    return module


@pytest.fixture
def bundle(tmp_path: Path) -> EngineBundle:
    return add_plan(write_tiny_bundle(tmp_path))


def images(count: int) -> Gray8:
    """Images that all differ, so that any mix-up of rows shows."""
    levels = np.random.default_rng(0).integers(0, 256, (count, 1, 2, 2), dtype=np.uint8)
    return levels.repeat(16, axis=2).repeat(16, axis=3)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9, 23])
def test_any_number_of_images_is_scored_in_their_order(
    bundle: EngineBundle, tensorrt: Any, gpu: FakeGpu, count: int
) -> None:
    engine = open_tensorrt(bundle, TENSORRT)
    scores = engine.infer(images(count))
    np.testing.assert_allclose(scores.probabilities, tiny_probabilities(images(count)), atol=1e-6)
    assert (scores.logits.shape, scores.cams.shape) == ((count, 4), (count, 4, 2, 2))
    computed = [int(event.split()[2]) for event in gpu.events if event.startswith("compute")]
    assert computed == [4] * (count // 4) + ([count % 4] if count % 4 else [])
    engine.close()


def test_the_second_batch_travels_before_the_first_is_waited_for(
    bundle: EngineBundle, tensorrt: Any, gpu: FakeGpu
) -> None:
    engine = open_tensorrt(bundle, TENSORRT)
    engine.infer(images(16))
    first, second = ["upload 1", "compute 1 4"], ["upload 2", "compute 2 4"]
    assert gpu.events == [*first, *second, "wait 1", *first, "wait 2", *second, "wait 1", "wait 2"]
    engine.close()


def test_a_small_batch_takes_one_slot_only(bundle: EngineBundle, tensorrt: Any, gpu: FakeGpu) -> None:
    engine = open_tensorrt(bundle, TENSORRT)
    engine.infer(images(3))
    assert list(gpu.streams) == [1]
    engine.close()


def test_memory_is_taken_once_and_reused(bundle: EngineBundle, tensorrt: Any, gpu: FakeGpu) -> None:
    engine = open_tensorrt(bundle, TENSORRT)
    engine.infer(images(8))
    held = dict(gpu.memory)
    engine.infer(images(8))
    assert gpu.memory.keys() == held.keys()
    engine.close()


def test_alone_it_computes_the_same_batches_and_copies_nothing(
    bundle: EngineBundle, tensorrt: Any, gpu: FakeGpu
) -> None:
    engine = open_tensorrt(bundle, TENSORRT)
    compute = engine.prepare_alone(images(9))
    gpu.events.clear()
    compute()
    compute()
    assert gpu.events == ["compute 1 4", "compute 1 4", "compute 1 1", "wait 1"] * 2
    np.testing.assert_allclose(engine.infer(images(3)).probabilities, tiny_probabilities(images(3)), atol=1e-6)
    engine.close()


def test_without_memory_the_batch_is_halved_and_nothing_is_lost(
    bundle: EngineBundle, tensorrt: Any, gpu: FakeGpu, caplog: pytest.LogCaptureFixture
) -> None:
    engine = open_tensorrt(bundle, TENSORRT)
    # One image takes 1000 of scratch, 1024 of pixels and 96 of results; a batch of 4 does not fit, two of 2 do.
    gpu.free_bytes = 8600
    scores = engine.infer(images(11))
    np.testing.assert_allclose(scores.probabilities, tiny_probabilities(images(11)), atol=1e-6)
    assert "going on with batches of 2" in caplog.text
    gpu.events.clear()
    engine.infer(images(4))
    assert [event.split()[2] for event in gpu.events if event.startswith("compute")] == ["2", "2"]
    engine.close()
    assert gpu.free_bytes == 8600


def test_memory_that_ends_in_the_middle_loses_no_batch(bundle: EngineBundle, tensorrt: Any, gpu: FakeGpu) -> None:
    engine = open_tensorrt(bundle, TENSORRT)
    # Enough for the first slot of 4, not for the second.
    gpu.free_bytes = 9000
    scores = engine.infer(images(10))
    np.testing.assert_allclose(scores.probabilities, tiny_probabilities(images(10)), atol=1e-6)
    engine.close()
    assert gpu.free_bytes == 9000


def test_without_memory_for_one_image_it_gives_up(bundle: EngineBundle, tensorrt: Any, gpu: FakeGpu) -> None:
    engine = open_tensorrt(bundle, TENSORRT)
    gpu.free_bytes = 100
    with pytest.raises(EngineError, match="no memory for a single image") as refusal:
        engine.infer(images(8))
    assert refusal.value.exit_code is ExitCode.ENGINE
    engine.close()
    assert gpu.free_bytes == 100


def test_a_cuda_error_ends_the_engine_with_exit_code_5(bundle: EngineBundle, tensorrt: Any, gpu: FakeGpu) -> None:
    engine = open_tensorrt(bundle, TENSORRT)
    engine.infer(images(2))
    gpu.fail_next_wait = True
    with pytest.raises(
        EngineError, match=r"CUDA failed to compute: an illegal memory access.*finished studies are kept"
    ):
        engine.infer(images(2))
    # It sticks: the next call does not even try.
    gpu.fail_next_wait, gpu.broken = False, False
    with pytest.raises(EngineError, match="illegal memory access") as refusal:
        engine.infer(images(2))
    assert refusal.value.exit_code is ExitCode.ENGINE
    engine.close()


def test_closing_gives_everything_back_and_the_context_last(bundle: EngineBundle, tensorrt: Any, gpu: FakeGpu) -> None:
    engine = open_tensorrt(bundle, TENSORRT)
    engine.infer(images(9))
    engine.close()
    engine.close()
    assert (gpu.memory, gpu.retained, gpu.current, gpu.objects) == ({}, 0, 0, 0)
    assert gpu.events[-1] == "detach"
    with pytest.raises(EngineError, match="was closed"):
        engine.infer(images(1))


def test_an_engine_that_nobody_closes_gives_everything_back(bundle: EngineBundle, tensorrt: Any, gpu: FakeGpu) -> None:
    engine = open_tensorrt(bundle, TENSORRT)
    engine.infer(images(2))
    del engine
    gc.collect()
    assert (gpu.memory, gpu.retained, gpu.objects) == ({}, 0, 0)


def test_two_engines_close_in_any_order(bundle: EngineBundle, tensorrt: Any, gpu: FakeGpu) -> None:
    first, second = open_tensorrt(bundle, TENSORRT), open_tensorrt(bundle, TENSORRT)
    first.infer(images(2))
    gpu.objects -= 2  # the second engine's own, which outlive the first one's context by right
    first.close()
    gpu.objects += 2
    np.testing.assert_allclose(second.infer(images(5)).probabilities, tiny_probabilities(images(5)), atol=1e-6)
    second.close()
    assert (gpu.memory, gpu.retained) == ({}, 0)


def test_the_context_is_current_only_while_it_works(bundle: EngineBundle, tensorrt: Any, gpu: FakeGpu) -> None:
    engine = open_tensorrt(bundle, TENSORRT)
    assert gpu.current == 0
    engine.infer(images(2))
    assert gpu.current == 0
    engine.close()


@pytest.mark.parametrize(
    "pixels", [np.zeros((1, 1, 16, 16), np.uint8), np.zeros((1, 1, 32, 32)), np.zeros((0, 1, 32, 32), np.uint8)]
)
def test_other_pixels_are_refused(bundle: EngineBundle, tensorrt: Any, pixels: Any) -> None:
    engine = open_tensorrt(bundle, TENSORRT)
    with pytest.raises(EngineError, match=r"takes uint8 \[N,1,32,32\]"):
        engine.infer(pixels)
    engine.close()


def test_auto_takes_the_plan_and_says_so(bundle: EngineBundle, tensorrt: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert plan_engine(bundle).backend == "tensorrt"
    engine = open_engine(bundle)
    assert (engine.description.backend, engine.description.precision) == ("tensorrt", "fp16")
    assert "runs on tensorrt in fp16 (auto: the fastest that can run here)" in caplog.text
    engine.close()


def test_auto_says_why_it_does_not_take_a_foreign_plan(
    tmp_path: Path, tensorrt: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    foreign = add_plan(write_tiny_bundle(tmp_path), facts=replace(PLAN_FACTS, gpu="NVIDIA L4"))
    engine = open_engine(foreign)
    assert engine.description.backend == "onnxruntime"
    assert "built for NVIDIA L4, here is NVIDIA Fake 4090" in caplog.text
    engine.close()


def test_without_a_gpu_it_is_said_at_once(bundle: EngineBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrbatch.engine.tensorrt_flavour.probe_cuda", lambda: CudaProbe(problem="no NVIDIA driver"))
    for act in (open_engine, plan_engine):
        with pytest.raises(EngineError, match="tensorrt cannot run here: needs an NVIDIA GPU: no NVIDIA driver"):
            act(bundle, backend="tensorrt")
    assert open_engine(bundle).description.backend == "onnxruntime"


def test_without_tensorrt_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"not installed\. pip install tensorrt$"):
        import_flavour(TENSORRT)


def test_an_old_tensorrt_is_refused(tensorrt: Any) -> None:
    tensorrt.__version__ = "10.9.0.34"
    with pytest.raises(EngineError, match=r"10.9.0.34 is older than 10.13. pip install 'tensorrt>=10.13'"):
        import_flavour(TENSORRT)


def mended_by(bundle: EngineBundle) -> str:
    return f"cxrbatch build CHECKPOINT -n {bundle.name} --backend tensorrt"


def test_a_tampered_plan_is_refused(bundle: EngineBundle, tensorrt: Any, gpu: FakeGpu) -> None:
    path = bundle.folder / "model.plan"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(EngineError, match=r"model.plan: not the file this engine was built with .* cxrbatch build"):
        open_tensorrt(bundle, TENSORRT)
    assert (gpu.retained, gpu.objects) == (0, 0)


def test_a_missing_plan_is_refused(bundle: EngineBundle, tensorrt: Any, tmp_path: Path) -> None:
    (bundle.folder / "model.plan").unlink()
    with pytest.raises(EngineError, match=r"model.plan: missing .* cxrbatch build"):
        open_tensorrt(bundle, TENSORRT)
    without = load_bundle(write_tiny_bundle(tmp_path / "other"))
    with pytest.raises(EngineError, match=r"has no TensorRT plan.*cxrbatch build.*--backend tensorrt"):
        open_engine(without, backend="tensorrt")


def test_a_plan_that_tensorrt_refuses_is_refused_with_its_words(tmp_path: Path, tensorrt: Any, gpu: FakeGpu) -> None:
    bundle = add_plan(write_tiny_bundle(tmp_path), content=b"refuse me")
    with pytest.raises(EngineError, match=r"tensorrt 10.13.3.9 refuses it: Serialization assertion failed") as refusal:
        open_tensorrt(bundle, TENSORRT)
    assert mended_by(bundle) in str(refusal.value)
    assert (gpu.retained, gpu.objects) == (0, 0)


def test_a_plan_of_another_label_count_is_refused(tmp_path: Path, tensorrt: Any, gpu: FakeGpu) -> None:
    content = tiny_graph(3, 32).SerializeToString()
    bundle = add_plan(write_tiny_bundle(tmp_path), content=content)
    with pytest.raises(EngineError, match=r"is float32 \[-1, 3\]; 4 labels are named") as refusal:
        open_tensorrt(bundle, TENSORRT)
    assert mended_by(bundle) in str(refusal.value)
    assert (gpu.retained, gpu.objects) == (0, 0)


def test_a_plan_that_engine_json_says_nothing_of_is_refused(tmp_path: Path, tensorrt: Any) -> None:
    bundle = add_plan(write_tiny_bundle(tmp_path), facts=None)
    with pytest.raises(EngineError, match=r"does not say what model\.plan was built for"):
        open_tensorrt(bundle, TENSORRT)


OTHER_MODEL = Gpu(0, "NVIDIA RTX 4080", "8.9", 16 << 30)
OLDER_CHIP = Gpu(0, "NVIDIA T4", "7.5", 16 << 30)


@pytest.mark.parametrize(
    ("facts", "gpu", "version", "refused"),
    [
        (PLAN_FACTS, GPU, VERSION, ""),
        (PLAN_FACTS, GPU, "10.13.3.12", ""),
        (PLAN_FACTS, GPU, "10.14.1.48", "built with TensorRT 10.13.3.9, here is 10.14.1.48"),
        (PLAN_FACTS, GPU, "11.4.0.106", "here is 11.4.0.106"),
        (PLAN_FACTS, OTHER_MODEL, VERSION, "built for NVIDIA Fake 4090, here is NVIDIA RTX 4080"),
        (replace(PLAN_FACTS, version_compatible=True), GPU, "10.16.0.72", ""),
        (replace(PLAN_FACTS, version_compatible=True), GPU, "10.13.2.6", "here is 10.13.2.6"),
        (replace(PLAN_FACTS, version_compatible=True), GPU, "11.4.0.106", "here is 11.4"),
        (replace(PLAN_FACTS, hardware_compatible=True), OTHER_MODEL, VERSION, ""),
        (replace(PLAN_FACTS, hardware_compatible=True), OLDER_CHIP, VERSION, "compute capability 7.5"),
    ],
)
def test_a_plan_belongs_to_its_gpu_and_version(
    tmp_path: Path, facts: PlanFacts, gpu: Gpu, version: str, refused: str
) -> None:
    bundle = add_plan(write_tiny_bundle(tmp_path), facts=facts)
    if not refused:
        refuse_foreign_plan(bundle, TENSORRT, gpu, version)
        return
    with pytest.raises(EngineError, match=refused) as refusal:
        refuse_foreign_plan(bundle, TENSORRT, gpu, version)
    assert mended_by(bundle) in str(refusal.value)


@pytest.mark.parametrize(("gpu", "fits"), [(OTHER_MODEL, True), (GPU, True), (OLDER_CHIP, False)])
def test_an_rtx_plan_belongs_to_compute_capabilities(tmp_path: Path, gpu: Gpu, fits: bool) -> None:
    bundle = add_plan(
        write_tiny_bundle(tmp_path), facts=replace(PLAN_FACTS, gpu="", compute_capabilities=("8.9", "12.0"))
    )
    files = {**bundle.manifest.files, "plan_rtx": bundle.file("plan")}
    rtx = save_bundle(bundle.folder, replace(bundle.manifest, files=files))
    if fits:
        refuse_foreign_plan(rtx, RTX, gpu, VERSION)
        return
    with pytest.raises(EngineError, match=r"built for compute capability 8.9, 12.0, here is NVIDIA T4.*tensorrt-rtx"):
        refuse_foreign_plan(rtx, RTX, gpu, VERSION)


def test_the_rebuild_command_names_the_checkpoint_that_lies_in_the_bundle(bundle: EngineBundle) -> None:
    files = {**bundle.manifest.files, "checkpoint": replace(bundle.file("onnx"), path="checkpoint.safetensors")}
    whole = EngineBundle(Path("my engines") / "tiny", replace(bundle.manifest, files=files))
    assert whole.rebuild_with("plan") == (
        "Build it again here: cxrbatch build 'my engines/tiny/checkpoint.safetensors' -n tiny "
        "--engines 'my engines' --backend tensorrt"
    )


def test_labels_without_operating_points_open_too(tmp_path: Path, tensorrt: Any) -> None:
    engine = open_tensorrt(add_plan(write_tiny_bundle(tmp_path, labels=(Label("A", None), "B"))), TENSORRT)
    assert engine.infer(images(2)).probabilities.shape == (2, 2)
    engine.close()
