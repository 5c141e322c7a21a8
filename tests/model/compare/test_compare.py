"""Checkpoints, engines and evaluations in, one row each out, and what keeps rows from being compared."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from cxrbatch.cli import run_command_line
from cxrbatch.cli.print_measured import print_comparison
from cxrbatch.engine.bundle import load_bundle, save_bundle
from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.errors import EngineError, ExitCode, UsageError
from cxrbatch.model.compare import throughput
from cxrbatch.model.compare.compare import compare_models
from cxrbatch.model.compare.compared_runs import find_accuracy
from cxrbatch.model.compare.record import Comparison
from cxrbatch.model.evaluate.evaluate import EvaluationOptions, evaluate_model
from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.model.figures.figures import LabelFigures, MeasuredLabels
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.model.network.checkpoint import Checkpoint, save_checkpoint
from cxrbatch.records import Label
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import four_greys, read_rows

FIGURES = {
    "macro_auroc": 0.9,
    "macro_auroc_low": 0.85,
    "macro_auroc_high": 0.94,
    "macro_sensitivity": 0.8,
    "macro_ppv": 0.6,
    "accuracy": 0.77,
}
TRAINED = TrainingFacts(
    data="nih256, nih layout: 779 images of 500 patients",
    images={"train": 600, "val": 131},
    seconds=125.0,
    figures=FIGURES,
    measured_on="val",
    data_sha256="ab" * 32,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "REPEATS", 2)
    monkeypatch.setattr(throughput, "REPEAT_S", 0.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten test images of ten patients; of the six with a bright top left quadrant all but one have the finding."""
    folder = tmp_path / "clinic"
    folder.mkdir()
    rows = ["image_index,patient_id,split,TopLeft"]
    greys = [*((grey, 1) for grey in (240, 230, 220, 210, 200)), *((grey, 0) for grey in (180, 50, 40, 30, 20))]
    for at, (grey, truth) in enumerate(greys):
        pixels = four_greys(grey, 128, 128, 128, size_px=128)
        pixels[-1, :] = np.random.default_rng(at).integers(0, 256, 128)
        assert cv2.imwrite(str(folder / f"{at}.png"), pixels)
        rows.append(f"{at}.png,p{at},test,{truth}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def write_checkpoint(path: Path, checkpoint: Checkpoint, training: TrainingFacts) -> str:
    save_checkpoint(path, replace(checkpoint, facts=replace(checkpoint.facts, training=training)))
    return str(path)


def write_engine(folder: Path, name: str = "tiny") -> Path:
    return write_tiny_bundle(folder, name=name, labels=(Label("TopLeft", 0.5),), notice="")


def evaluate(model: str, data: Path, out: Path) -> str:
    evaluate_model(model, data, out, EvaluationOptions(resamples=20))
    return str(out)


def texts(comparison: Comparison) -> str:
    return "\n".join(caution.text for caution in comparison.cautions)


def test_a_checkpoint_speaks_for_itself(checkpoint: Checkpoint, tmp_path: Path) -> None:
    run = write_checkpoint(tmp_path / "one.safetensors", checkpoint, TRAINED)
    (model,) = compare_models([run], tmp_path / "out", batch_size=2, threads=1).models
    assert (model.name, model.architecture, model.size_px) == ("one", "resnet18", 64)
    assert model.labels == ("A", "B", "C")
    assert model.figures[Figure.AUROC] == Estimate(0.9, 0.85, 0.94)
    assert Figure.SPECIFICITY not in model.figures
    assert model.measured_on is not None
    assert (model.measured_on.data, model.measured_on.part, model.measured_on.images) == ("nih256", "val", 131)
    assert model.parameters == sum(each.numel() for each in checkpoint.network.parameters())
    assert model.size_bytes == (tmp_path / "one.safetensors").stat().st_size
    assert model.throughput is not None
    assert (model.throughput.backend, model.throughput.batch_size, model.throughput.threads) == ("torch", 2, 1)
    assert model.throughput.images_per_s > 0
    row = read_rows(tmp_path / "out" / "compare.csv")[0]
    assert (row["auroc"], row["auroc_low"], row["sensitivity"], row["specificity"]) == ("0.9", "0.85", "0.8", "")
    assert (row["ppv"], row["accuracy"], row["trained_s"], row["labels"]) == ("0.6", "0.77", "125.0", "A|B|C")
    assert (row["measured_on"], row["part"], row["images"], row["chosen_by"]) == ("nih256", "val", "131", "1")
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "0.850 to 0.940" in page
    assert "2 min 5 s" in page
    assert "2 images at once on 1 core," in page


def test_rows_are_sorted_by_auroc_and_the_unmeasured_come_last(checkpoint: Checkpoint, tmp_path: Path) -> None:
    aurocs = {"bare": {}, "low": {"macro_auroc": 0.6}, "high": {"macro_auroc": 0.95}}
    runs = [
        write_checkpoint(tmp_path / f"{name}.safetensors", checkpoint, replace(TRAINED, figures=figures))
        for name, figures in aurocs.items()
    ]
    comparison = compare_models(runs, tmp_path / "out", measure=False)
    assert [model.name for model in comparison.models] == ["high", "low", "bare"]
    assert [model.throughput for model in comparison.models] == [None] * 3
    assert comparison.image_sets == 1
    assert "different images" not in texts(comparison)
    assert "Never measured: bare." in texts(comparison)
    assert "promise a little too much: high, low." in texts(comparison)
    rows = read_rows(tmp_path / "out" / "compare.csv")
    assert [row["image_set"] for row in rows] == ["1", "1", ""]
    assert rows[0]["images_per_s"] == ""
    assert "Images/s: measured now" not in (tmp_path / "out" / "compare.html").read_text()


def test_an_evaluation_and_its_engine_are_one_row(data: Path, tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "engines")
    evaluation = evaluate(str(engine), data, tmp_path / "evaluation")
    (model,) = compare_models([str(engine), evaluation], tmp_path / "out").models
    assert model.run == evaluation
    assert model.measured_on is not None
    assert (model.measured_on.data, model.measured_on.part, model.measured_on.images) == ("clinic", "test", 10)
    assert not model.measured_on.chosen_by
    assert model.figures[Figure.AUROC].value == 1.0
    assert model.figures[Figure.PPV].value == pytest.approx(5 / 6)
    # Nine of ten verdicts are right.
    assert model.accuracy is not None
    assert model.accuracy.value == pytest.approx(9 / 10)
    assert model.parameters is None
    assert model.size_bytes == (engine / "model.onnx").stat().st_size
    assert model.throughput is not None
    assert model.throughput.backend == "onnxruntime"


def test_an_evaluated_model_is_found_where_it_was_if_it_is_still_the_same(data: Path, tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "engines")
    evaluation = evaluate(str(engine), data, tmp_path / "evaluation")
    (found,) = compare_models([evaluation], tmp_path / "out", measure=False).models
    assert found.size_bytes == (engine / "model.onnx").stat().st_size
    manifest = load_bundle(engine).manifest
    save_bundle(engine, replace(manifest, labels=(Label("TopLeft", 0.9),)))
    changed = compare_models([evaluation], tmp_path / "out")
    assert (changed.models[0].size_bytes, changed.models[0].throughput) == (None, None)
    assert "Not where it was when it was evaluated" in texts(changed)
    (engine / "engine.json").unlink()
    assert compare_models([evaluation], tmp_path / "out").models[0].figures == found.figures


def test_figures_of_other_images_and_labels_are_said_not_to_compare(
    checkpoint: Checkpoint, data: Path, tmp_path: Path
) -> None:
    engine = write_engine(tmp_path / "engines")
    evaluation = evaluate(str(engine), data, tmp_path / "evaluation")
    own = write_checkpoint(tmp_path / "own.safetensors", checkpoint, TRAINED)
    unknown = write_checkpoint(
        tmp_path / "old.safetensors", checkpoint, replace(TRAINED, data_sha256="", measured_on="")
    )
    comparison = compare_models([own, unknown, evaluation], tmp_path / "out", measure=False)
    assert comparison.image_sets == 3
    assert {comparison.image_set(model) for model in comparison.models} == {1, 2, 3}
    assert "The figures were measured on different images" in texts(comparison)
    assert "The models know different labels" in texts(comparison)
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count('<span class="badge unscored">images ') == 3


def test_void_figures_stay_void(data: Path, tmp_path: Path) -> None:
    evaluation = Path(evaluate(str(write_engine(tmp_path / "engines")), data, tmp_path / "evaluation"))
    metrics = json.loads((evaluation / "metrics.json").read_text())
    metrics["cautions"].append({"severity": "void", "text": "The model learned from these very patients."})
    (evaluation / "metrics.json").write_text(json.dumps(metrics))
    comparison = compare_models([str(evaluation)], tmp_path / "out", measure=False)
    assert "tiny: The model learned from these very patients." in texts(comparison)
    assert "These figures are void." in (tmp_path / "out" / "compare.html").read_text()


def test_what_cannot_be_read_is_named_before_anything_is_measured(checkpoint: Checkpoint, tmp_path: Path) -> None:
    good = write_checkpoint(tmp_path / "good.safetensors", checkpoint, TRAINED)
    told: list[int] = []

    def compare_with(run: str) -> None:
        compare_models([good, run], tmp_path / "out", report=lambda done, _: told.append(done))

    with pytest.raises(EngineError, match=r"gone\.safetensors: no such checkpoint"):
        compare_with(str(tmp_path / "gone.safetensors"))
    with pytest.raises(EngineError, match="nobody: cannot be compared"):
        compare_with("nobody")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EngineError, match=r"empty: cannot be compared.*no metrics\.json"):
        compare_with(str(tmp_path / "empty"))
    for content in ("{", '{"model": 3}'):
        (tmp_path / "empty" / "metrics.json").write_text(content)
        with pytest.raises(UsageError, match=r"metrics\.json: damaged, or of another version"):
            compare_with(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="name at least one"):
        compare_models([], tmp_path / "out")
    assert told == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("load", "warned"), [(0.0, False), (64_000.0, True)])
def test_a_busy_machine_is_said_to_make_timings_worthless(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: float, warned: bool
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    run = write_checkpoint(tmp_path / "one.safetensors", checkpoint, TRAINED)
    timed = compare_models([run], tmp_path / "out", batch_size=1, threads=1)
    assert ("Other programs kept the machine busy (load 64000.0" in texts(timed)) == warned
    assert "busy" not in texts(compare_models([run], tmp_path / "out", measure=False))


def test_accuracy_of_one_label_follows_from_its_rates() -> None:
    figures = {Figure.SENSITIVITY: Estimate(0.5, 0.4, 0.6), Figure.SPECIFICITY: Estimate(0.9, 0.8, 1.0)}
    label = LabelFigures("A", 0.5, images=100, positives=20, figures=figures)
    found = find_accuracy(MeasuredLabels((label,), {}))
    assert found is not None
    assert found.value == pytest.approx((0.5 * 20 + 0.9 * 80) / 100)
    assert find_accuracy(MeasuredLabels((replace(label, operating_point=None),), {})) is None
    assert find_accuracy(MeasuredLabels((label, label), {})) is None
    only_sick = replace(label, positives=100, figures={Figure.SENSITIVITY: Estimate(0.5, 0.4, 0.6)})
    assert find_accuracy(MeasuredLabels((only_sick,), {})) == Estimate(0.5, 0.5, 0.5)


def test_the_terminal_shows_the_rows_and_where_the_page_is(checkpoint: Checkpoint, tmp_path: Path) -> None:
    run = write_checkpoint(tmp_path / "one.safetensors", checkpoint, TRAINED)
    comparison = compare_models([run], tmp_path / "out", measure=False)
    shown = io.StringIO()
    print_comparison(Console(file=shown, width=200), comparison, tmp_path / "out" / "compare.html")
    printed = " ".join(shown.getvalue().split())
    assert "nih256 val" in printed
    assert "0.900 0.850-0.940 0.770 0.800 0.600" in printed
    assert "acc. sens. prec. MB" in printed
    assert "img/s" not in printed
    assert str(tmp_path / "out" / "compare.html") in shown.getvalue().replace("\n", "")


def test_the_command_writes_the_tables_and_its_exit_codes_tell_what_is_wrong(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = write_checkpoint(tmp_path / "one.safetensors", checkpoint, TRAINED), tmp_path / "out"
    assert run_command_line(["compare", run, "-o", str(out), "--batch-size", "1", "--threads", "1"]) == ExitCode.DONE
    assert str(out / "compare.html") in capsys.readouterr().out.replace("\n", "")
    row = read_rows(out / "compare.csv")[0]
    assert (row["batch_size"], row["threads"], float(row["images_per_s"]) > 0) == ("1", "1", True)
    assert run_command_line(["compare", run, "-o", str(out), "--no-measure"]) == ExitCode.DONE
    assert read_rows(out / "compare.csv")[0]["images_per_s"] == ""
    assert run_command_line(["compare", "-o", str(out)]) == ExitCode.USAGE
    assert run_command_line(["compare", "nobody", "-o", str(out)]) == ExitCode.ENGINE
    assert "nobody: cannot be compared" in capsys.readouterr().err
    (tmp_path / "file").touch()
    blocked = ["compare", run, "-o", str(tmp_path / "file" / "out"), "--no-measure"]
    assert run_command_line(blocked) == ExitCode.OUTPUT_NOT_WRITABLE


def test_csv_cells_are_harmless(checkpoint: Checkpoint, tmp_path: Path) -> None:
    run = write_checkpoint(tmp_path / "=cmd.safetensors", checkpoint, replace(TRAINED, data="=cmd|x, csv"))
    compare_models([run], tmp_path / "out", measure=False)
    row = read_rows(tmp_path / "out" / "compare.csv")[0]
    assert (row["name"], row["measured_on"]) == ("'=cmd", "'=cmd|x")
