"""ONNX Runtime scores what the graph computes, and refuses a graph that breaks the contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cxrbatch.config import Backend
from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.contract import Engine
from cxrbatch.engine.manifest import EngineFile
from cxrbatch.engine.onnx_file import refers_to_other_files
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.engine.open import open_engine
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.errors import EngineError
from cxrbatch.records import Gray8, InputSpec, Label
from tests.factories.engine import tiny_graph, tiny_probabilities, write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> EngineBundle:
    return load_bundle(write_tiny_bundle(tmp_path))


def draw_noise(n: int, size_px: int = 32) -> Gray8:
    return np.random.default_rng(n).integers(0, 256, (n, 1, size_px, size_px), dtype=np.uint8)


def install_model(bundle: EngineBundle, model: onnx.ModelProto | bytes) -> EngineBundle:
    """Put another graph into the bundle, under its right hash."""
    path = bundle.folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    entry = EngineFile("model.onnx", sha256_of_file(path), "fp32")
    return save_bundle(bundle.folder, replace(bundle.manifest, files={"onnx": entry}))


@pytest.mark.parametrize("n", [1, 3, 8])
def test_scores_have_the_graphs_values_in_the_order_of_the_images(bundle: EngineBundle, n: int) -> None:
    pixels = draw_noise(n)
    scores = open_engine(bundle).infer(pixels)
    np.testing.assert_allclose(scores.probabilities, tiny_probabilities(pixels), atol=1e-6)
    np.testing.assert_allclose(scores.cams.mean(axis=(2, 3)) - 4.0, scores.logits, atol=1e-5)
    assert scores.cams.shape == (n, 4, 2, 2)
    assert {array.dtype for array in (scores.probabilities, scores.logits, scores.cams)} == {np.dtype(np.float32)}


def test_threads_do_not_change_the_scores(bundle: EngineBundle) -> None:
    pixels = draw_noise(5)
    one, two = (OnnxRuntimeEngine(bundle, threads=threads).infer(pixels) for threads in (1, 2))
    np.testing.assert_array_equal(one.probabilities, two.probabilities)


def test_engine_says_which_engine_it_is(bundle: EngineBundle) -> None:
    engine: Engine = open_engine(bundle, backend="onnxruntime")
    assert engine.description == bundle.describe("onnx", "onnxruntime")


def test_the_choice_of_backend_is_logged(bundle: EngineBundle, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="cxrbatch"):
        open_engine(bundle)
    assert "engine tiny runs on onnxruntime in fp32 (auto: the fastest that can run here" in caplog.text


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx", "torch"])
def test_a_backend_that_cannot_run_is_an_error_not_a_fallback(
    bundle: EngineBundle, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrbatch.engine.cuda.DRIVER_LIBRARY", "libcuda-that-is-not-there.so")
    why = "needs an NVIDIA GPU: no NVIDIA driver"
    with pytest.raises(EngineError, match=f"backend {backend} cannot run here: {why}.* --backend onnxruntime"):
        open_engine(bundle, backend=backend)


def test_a_nan_stays_in_its_own_images_row(tmp_path: Path) -> None:
    pixels = draw_noise(3)
    pixels[1, 0, :16, :16] = 77
    scores = open_engine(load_bundle(write_tiny_bundle(tmp_path, poison_value=77))).infer(pixels)
    assert np.isnan(scores.probabilities).any(axis=1).tolist() == [False, True, False]
    np.testing.assert_allclose(scores.probabilities[[0, 2]], tiny_probabilities(pixels[[0, 2]]), atol=1e-6)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((1, 1, 31, 32), np.uint8), np.zeros((1, 32, 32), np.uint8), np.zeros((1, 1, 32, 32), np.float32)],
)
def test_pixels_of_another_shape_or_type_are_refused(bundle: EngineBundle, pixels: Gray8) -> None:
    with pytest.raises(EngineError, match=r"takes uint8 \[N,1,32,32\], got"):
        open_engine(bundle).infer(pixels)


def test_a_closed_engine_says_so(bundle: EngineBundle) -> None:
    engine = open_engine(bundle)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="was closed"):
        engine.infer(draw_noise(1))


def test_a_wrong_label_count_is_refused(bundle: EngineBundle) -> None:
    fewer = save_bundle(bundle.folder, replace(bundle.manifest, labels=(Label("A"), Label("B"))))
    with pytest.raises(EngineError, match=r"probabilities is tensor\(float\) \['N', 4\]; wanted .*'N', 2.* -n tiny"):
        open_engine(fewer)


def test_a_label_count_that_shows_only_at_run_time_is_refused(bundle: EngineBundle) -> None:
    model = tiny_graph(3, 32)
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].Clear()
        output.type.tensor_type.shape.dim[1].dim_param = "C"
    del model.graph.value_info[:]
    with pytest.raises(EngineError, match=r"not the graph that engine\.json describes"):
        open_engine(install_model(bundle, model))


def test_a_wrong_input_size_is_refused(bundle: EngineBundle) -> None:
    other = save_bundle(bundle.folder, replace(bundle.manifest, input=InputSpec(size_px=64)))
    with pytest.raises(EngineError, match=r"pixels is tensor.uint8. .* wanted"):
        open_engine(other)


def test_a_fixed_batch_is_refused(bundle: EngineBundle) -> None:
    model = tiny_graph(4, 32)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(EngineError, match="pixels is"):
        open_engine(install_model(bundle, model))


def test_a_graph_without_cams_is_refused(bundle: EngineBundle) -> None:
    model = tiny_graph(4, 32)
    del model.graph.output[2]
    with pytest.raises(EngineError, match=r"its tensors are pixels, probabilities, logits; wanted .*cams"):
        open_engine(install_model(bundle, model))


@pytest.mark.parametrize("content", [b"", b"no model", b"\x80\x02}q\x00."])
def test_a_file_that_is_no_model_is_refused(bundle: EngineBundle, content: bytes) -> None:
    with pytest.raises(EngineError, match=r"model\.onnx: .*cxrbatch build CHECKPOINT -n tiny"):
        open_engine(install_model(bundle, content))


def test_weights_in_another_file_are_refused(bundle: EngineBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_graph(4, 32)
    mask = next(tensor for tensor in model.graph.initializer if tensor.name == "mask")
    # Beside the model and in the working folder: ONNX Runtime would find it either way.
    (bundle.folder / "weights.bin").write_bytes(mask.raw_data)
    monkeypatch.chdir(bundle.folder)
    onnx.external_data_helper.set_external_data(mask, "weights.bin", 0, len(mask.raw_data))
    mask.ClearField("raw_data")
    with pytest.raises(EngineError, match="keeps weights in another file"):
        open_engine(install_model(bundle, model))


def test_external_data_is_found_in_a_constant_of_a_branch() -> None:
    hidden = numpy_helper.from_array(np.zeros(3, np.float32), "hidden")
    constant = helper.make_node("Constant", [], ["value"], value=hidden)
    branch = helper.make_graph(
        [constant], "branch", [], [helper.make_tensor_value_info("value", TensorProto.FLOAT, [3])]
    )
    chosen = helper.make_node("If", ["condition"], ["result"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph([chosen], "outer", [], [])
    assert not refers_to_other_files(helper.make_model(graph).SerializeToString())
    inner = graph.node[0].attribute[0].g.node[0].attribute[0].t
    onnx.external_data_helper.set_external_data(inner, "/etc/passwd")
    assert refers_to_other_files(helper.make_model(graph).SerializeToString())


def test_threads_that_wait_sleep(bundle: EngineBundle) -> None:
    engine = OnnxRuntimeEngine(bundle, threads=2)
    assert engine._session is not None
    assert engine._session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_onnx_runtime_prints_nothing(bundle: EngineBundle, capfd: pytest.CaptureFixture[str]) -> None:
    engine = open_engine(bundle)
    engine.infer(draw_noise(2))
    engine.close()
    broken = install_model(bundle, b"\x08\x08")
    with pytest.raises(EngineError):
        open_engine(broken)
    assert capfd.readouterr() == ("", "")
