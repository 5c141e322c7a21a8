"""Of one engine another is made: what was asked for is different, all else the same, the old one untouched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from cxrbatch.cli import run_command_line
from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.deferred_gate import PARITY_FILE, PARITY_ROLE, DeferredGate, load_gate, save_gate
from cxrbatch.engine.manifest import EngineFile, ParityFigures
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.errors import EngineError, ExitCode, UsageError
from cxrbatch.model.build.adjust import AdjustOptions, adjust_engine
from cxrbatch.model.build.build import BuildOptions, build_engine
from cxrbatch.model.build.decision import Decision, carry_reference, parse_points
from cxrbatch.model.build.local_images import LocalData
from cxrbatch.model.build.onnx_calibration import read_calibration, write_calibration
from cxrbatch.model.network.checkpoint import load_checkpoint
from cxrbatch.model.train.calibration import Calibration
from cxrbatch.records import Gray8, Label
from tests.factories.engine import tiny_graph, write_tiny_bundle
from tests.factories.gpu import add_plan

LABELS = (
    Label("TopLeft", 0.5, urgent=True, metrics={"auroc": 0.9, "sensitivity": 0.8, "sensitivity_low": 0.7}),
    Label("TopRight", 0.6),
    Label("Rare", 0.5),
    Label("Silent", None),
)
N_IMAGES = 60


@pytest.fixture
def old(tmp_path: Path) -> EngineBundle:
    return load_bundle(write_tiny_bundle(tmp_path / "engines", name="old", labels=LABELS))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of which the truth begins at other greys than the engine believes, and a finding that is rare."""
    folder = tmp_path_factory.mktemp("hospital")
    random = np.random.default_rng(0)
    rows = ["path,patient,TopLeft,TopRight,Rare"]
    for number in range(N_IMAGES):
        greys = random.integers(20, 236, 4)
        image = np.kron(greys.reshape(2, 2), np.ones((64, 64))) + random.integers(-4, 5, (128, 128))
        cv2.imwrite(str(folder / f"{number}.png"), image.astype(np.uint8))
        noisy = greys + random.normal(0, 20, 4)
        rows.append(f"{number}.png,{number // 2},{int(noisy[0] > 90)},{int(noisy[1] > 160)},{int(number < 3)}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def adjust(old: EngineBundle, options: AdjustOptions, name: str = "new") -> EngineBundle:
    return adjust_engine(str(old.folder), name, engines_folder=old.folder.parent, options=options)


def contents(bundle: EngineBundle) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.folder.iterdir()}


def draw(n: int) -> Gray8:
    quadrants = np.random.default_rng(1).integers(0, 256, (n, 1, 2, 2), dtype=np.uint8)
    return quadrants.repeat(16, axis=2).repeat(16, axis=3)


def test_urgent_labels_make_another_engine_of_the_same_files(old: EngineBundle) -> None:
    before = contents(old)
    new = adjust(old, AdjustOptions(urgent=("Rare",)))
    assert contents(old) == before
    assert [label.name for label in new.labels if label.urgent] == ["Rare"]
    assert [replace(label, urgent=False) for label in new.labels] == [replace(each, urgent=False) for each in LABELS]
    assert new.describe("onnx", "x").sha256 != old.describe("onnx", "x").sha256
    assert (new.folder / "model.onnx").samefile(old.folder / "model.onnx")
    assert new.manifest.adjustments[0].sha256 == old.describe("onnx", "").sha256
    assert "- Urgent by request: Rare" in (new.folder / "MODEL_CARD.md").read_text()
    assert [path.name for path in old.folder.parent.iterdir() if path.name not in {"old", "new"}] == []
    assert not any(label.urgent for label in adjust(new, AdjustOptions(urgent=()), "none").labels)


def test_values_by_label_move_these_points_and_no_others(old: EngineBundle) -> None:
    new = adjust(old, AdjustOptions(points=parse_points("TopLeft=0.25, TopRight=none")))
    assert [label.operating_point for label in new.labels] == [0.25, None, 0.5, None]
    # What was measured at another point is true no more; what needs none still is.
    assert new.labels[0].metrics == {"auroc": 0.9}
    figures = new.manifest.parity["onnx"]
    assert isinstance(figures, ParityFigures)
    assert (figures.verdicts, figures.decision_flips) == (2 * 64, 0)
    every = adjust(old, AdjustOptions(points=parse_points("fixed=0.3")), "every")
    assert {label.operating_point for label in every.labels} == {0.3}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (AdjustOptions(), "nothing to adjust"),
        (AdjustOptions(urgent=("Mass",)), "urgent: Mass: no such finding. There are TopLeft, TopRight, Rare, Silent"),
        (AdjustOptions(points=parse_points("Mass=0.3")), "Mass: no such label. There is TopLeft"),
        (AdjustOptions(points=parse_points("youden")), "chosen on labelled images; name them with --data"),
        (AdjustOptions(data=LocalData(place=Path("x")), calibrate=False), "data without calibration"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    old: EngineBundle, options: AdjustOptions, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        adjust(old, options)
    assert [path.name for path in old.folder.parent.iterdir()] == ["old"]


@pytest.mark.parametrize("text", ["half", "A=1.5", "A=", "=0.4", "A=0.4,B"])
def test_what_is_no_operating_point_is_told_so(text: str) -> None:
    with pytest.raises(UsageError, match="not understood"):
        parse_points(text)


def test_the_old_engine_is_not_replaced(old: EngineBundle) -> None:
    with pytest.raises(UsageError, match="it stays as it is"):
        adjust(old, AdjustOptions(urgent=()), "old")


def test_a_changed_file_is_not_taken_along(old: EngineBundle) -> None:
    (old.folder / "extra.bin").write_bytes(b"other")
    files = old.manifest.files | {"extra": EngineFile("extra.bin", "0" * 64, "fp32")}
    save_bundle(old.folder, replace(old.manifest, files=files))
    with pytest.raises(EngineError, match="not the file this engine was built with"):
        adjust(old, AdjustOptions(urgent=()))
    assert not (old.folder.parent / "new").exists()


# --------------------------------------------------------------------------- local data


def test_a_local_calibration_is_in_the_graph_and_moves_no_verdict(old: EngineBundle, data: Path) -> None:
    new = adjust(old, AdjustOptions(data=LocalData(place=data)))
    pixels = draw(64)
    first, second = (OnnxRuntimeEngine(bundle).infer(pixels) for bundle in (old, new))
    calibration = read_calibration(new.read_verified("onnx"), 4)
    np.testing.assert_allclose(second.probabilities, calibration.probabilities(first.logits, "multilabel"), atol=1e-6)
    np.testing.assert_array_equal(second.logits, first.logits)
    np.testing.assert_array_equal(second.cams, first.cams)
    assert np.abs(second.probabilities - first.probabilities)[:, :2].max() > 0.1
    for column, (was, now) in enumerate(zip(old.labels, new.labels, strict=True)):
        if was.operating_point is not None and now.operating_point is not None:
            before, after = first.probabilities[:, column], second.probabilities[:, column]
            np.testing.assert_array_equal(before >= was.operating_point, after >= now.operating_point)
    # So what was measured at the points is still true of them.
    assert new.labels[0].metrics == old.labels[0].metrics
    told = new.manifest.adjustments[0]
    assert (told.calibrated, told.images, told.patients, told.data) == (True, N_IMAGES, N_IMAGES // 2, data.name)
    for name in ("TopLeft", "TopRight"):
        label = told.labels[name]
        assert label.after["calibration_error"] < label.before["calibration_error"]
        assert set(label.unseen) == {"calibration_error", "sensitivity", "specificity"}
        assert (label.after["sensitivity"], label.note) == (label.before["sensitivity"], "")


@pytest.mark.parametrize("old_calibration", [Calibration((1.0,) * 4, (0.0,) * 4), Calibration((2.0,) * 4, (0.5,) * 4)])
def test_a_probability_keeps_its_rank_under_another_calibration(old_calibration: Calibration) -> None:
    logits = np.linspace(-4, 4, 101)
    scores_of = old_calibration.probabilities(np.tile(logits[:, None], 4).astype(np.float32), "multilabel")[:, 1]
    labels = tuple(replace(label, reference=tuple(scores_of.astype(float).tolist())) for label in LABELS)
    before, new = Decision(labels, "multilabel", old_calibration), Calibration((1.5,) * 4, (-1.0,) * 4)
    moved = carry_reference(before, new, 1)
    expected = new.probabilities(np.tile(logits[:, None], 4).astype(np.float32), "multilabel")[:, 1]
    np.testing.assert_allclose(moved, expected, atol=1e-5)
    assert carry_reference(before, old_calibration, 1) == labels[1].reference
    # Between classes one label's scores do not tell what becomes of them.
    assert carry_reference(replace(before, task="multiclass"), new, 1) == ()


def test_too_few_images_leave_a_label_as_it_was(old: EngineBundle, data: Path) -> None:
    new = adjust(old, AdjustOptions(data=LocalData(place=data), points=parse_points("sensitivity=0.9")))
    calibration = read_calibration(new.read_verified("onnx"), 4)
    assert (calibration.temperature[2:], calibration.offset[2:]) == ((1.0, 1.0), (0.0, 0.0))
    assert new.labels[2:] == old.labels[2:]
    rare = new.manifest.adjustments[0].labels["Rare"]
    assert (
        rare.note == "calibration left as it was: 3 images with it and 57 without, where at least 10 of each are needed"
    )
    assert rare.before == rare.after
    card = (new.folder / "MODEL_CARD.md").read_text()
    assert "| Rare | 3 of 60 | sensitivity |" in card
    assert "The same images chose what is measured" in card
    # The rule holds on the images that it was applied to.
    assert new.manifest.adjustments[0].labels["TopLeft"].after["sensitivity"] >= 0.9


def test_points_alone_may_come_from_data(old: EngineBundle, data: Path) -> None:
    options = AdjustOptions(data=LocalData(place=data), points=parse_points("youden"), calibrate=False)
    new = adjust(old, options)
    assert new.file("onnx") == old.file("onnx")
    assert new.labels[0].operating_point != old.labels[0].operating_point
    assert new.labels[2].operating_point == 0.5
    assert not new.manifest.adjustments[0].calibrated


def test_plans_are_left_out_and_what_they_would_be_compared_with_is_calibrated(
    old: EngineBundle, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = add_plan(old.folder)
    reference = OnnxRuntimeEngine(old).infer(draw(64))
    save_gate(bundle.folder / PARITY_FILE, DeferredGate(draw(64), reference, "phantoms", 0.005))
    entry = EngineFile(PARITY_FILE, sha256_of_file(bundle.folder / PARITY_FILE), "fp32")
    bundle = save_bundle(bundle.folder, replace(bundle.manifest, files=bundle.manifest.files | {PARITY_ROLE: entry}))
    engines = str(old.folder.parent)
    arguments = ["adjust", str(old.folder), "-n", "ours", "--engines", engines, "--data", str(data)]
    assert run_command_line(arguments) == ExitCode.DONE
    new = load_bundle(old.folder.parent / "ours")
    assert (set(bundle.manifest.files) - set(new.manifest.files), new.manifest.adjustments[0].dropped) == (
        {"plan"}, ("plan",),
    )  # fmt: skip
    printed = " ".join(capsys.readouterr().out.split())
    assert "plan: left out, it holds the old calibration. Build it again here: cxrbatch build" in printed
    expected = OnnxRuntimeEngine(new).infer(draw(64)).probabilities
    np.testing.assert_allclose(load_gate(new).reference.probabilities, expected, atol=1e-6)
    # Nothing that decides over a plan is different where only the urgent labels are.
    kept = adjust(bundle, AdjustOptions(urgent=()), "kept")
    assert kept.file("plan") == bundle.file("plan")
    assert kept.manifest.parity == bundle.manifest.parity
    moved = adjust(bundle, AdjustOptions(points=parse_points("Rare=0.2")), "moved")
    assert moved.manifest.parity["plan"] == "pending"


def test_what_is_built_of_the_new_checkpoint_is_the_new_engine(
    tmp_path: Path, checkpoint_file: Path, noise: Gray8, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = tmp_path / "engines"
    old = build_engine(
        checkpoint_file, "old", engines_folder=engines, options=BuildOptions(precision="fp16", urgent=("C",))
    )
    assert [label.urgent for label in old.labels] == [False, False, True]
    assert load_checkpoint(old.verified_file("checkpoint")).facts.labels == old.labels
    calibration = Calibration((2.0, 1.5, 3.0), (0.5, -1.0, 0.0))
    monkeypatch.setattr(
        "cxrbatch.model.build.adjust.choose", lambda before, *_, **__: replace(before, calibration=calibration)
    )
    new = adjust(old, AdjustOptions(urgent=("A",)))
    logits = OnnxRuntimeEngine(old).infer(noise).logits
    for role in ("onnx", "onnx_fp16"):
        answered = OnnxRuntimeEngine(new, role=role).infer(noise).probabilities
        np.testing.assert_allclose(answered, calibration.probabilities(logits, "multilabel"), atol=3e-3)
    assert set(new.manifest.parity) == {"onnx", "onnx_fp16"}
    again = build_engine(new.verified_file("checkpoint"), "again", engines_folder=engines)
    assert (again.labels, again.manifest.adjustments) == (new.labels, new.manifest.adjustments)
    first, second = (OnnxRuntimeEngine(bundle).infer(noise).probabilities for bundle in (new, again))
    np.testing.assert_allclose(first, second, atol=1e-5)


# --------------------------------------------------------------------------- the graph


def with_chain(*nodes: tuple[str, list[str]], constants: dict[str, list[float]]) -> bytes:
    """Put nodes between the logits and the sigmoid of the tiny graph; each makes the tensor `s<number>`."""
    model = tiny_graph(2, 32)
    sigmoid = model.graph.node.pop()
    for number, (operator, inputs) in enumerate(nodes):
        model.graph.node.append(helper.make_node(operator, inputs, [f"s{number}"]))
    sigmoid.input[0] = f"s{len(nodes) - 1}"
    model.graph.node.append(sigmoid)
    for name, values in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32), name))
    content: bytes = model.SerializeToString()
    return content


def test_a_calibration_is_read_however_it_is_written() -> None:
    assert read_calibration(tiny_graph(2, 32).SerializeToString(), 2) == Calibration((1.0, 1.0), (0.0, 0.0))
    chain = with_chain(
        ("Mul", ["logits", "m"]), ("Identity", ["s0"]), ("Sub", ["s1", "b"]), ("Div", ["s2", "t"]),
        constants={"m": [4.0, 1.0], "b": [1.0, -2.0], "t": [2.0]},
    )  # fmt: skip
    read = read_calibration(chain, 2)
    assert read.temperature == pytest.approx((0.5, 2.0))
    assert read.offset == pytest.approx((-0.5, 1.0))
    written = write_calibration(chain, Calibration((3.0, 0.25), (1.0, 2.0)))
    assert read_calibration(written, 2) == Calibration((3.0, 0.25), (1.0, 2.0))
    graph = onnx.load_model_from_string(written).graph
    assert not {"m", "b", "t"} & {tensor.name for tensor in graph.initializer}
    assert write_calibration(written, Calibration((3.0, 0.25), (1.0, 2.0))) == written


@pytest.mark.parametrize(
    "chain",
    [
        with_chain(("Div", ["t", "logits"]), constants={"t": [2.0]}),
        with_chain(("Mul", ["logits", "t"]), constants={"t": [-1.0]}),
        with_chain(("Tanh", ["logits"]), constants={}),
        with_chain(("Add", ["logits", "mean"]), constants={}),
    ],
    ids=["turned around", "negative", "no line", "of something else"],
)
def test_what_is_no_calibration_is_refused(tmp_path: Path, chain: bytes) -> None:
    bundle = load_bundle(write_tiny_bundle(tmp_path, labels=("A", "B")))
    (bundle.folder / "model.onnx").write_bytes(chain)
    entry = EngineFile("model.onnx", sha256_of_file(bundle.folder / "model.onnx"), "fp32")
    bundle = save_bundle(bundle.folder, replace(bundle.manifest, files={"onnx": entry}))
    with pytest.raises(EngineError, match="cannot be adjusted"):
        adjust(bundle, AdjustOptions(urgent=("A",)))
