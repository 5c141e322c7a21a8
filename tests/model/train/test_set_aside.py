"""A part kept aside chooses calibration and operating points: the validation images measure what others chose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.errors import ExitCode
from cxrbatch.model.data.dataset import load_data, prepare_folds
from cxrbatch.model.data.known_images import recognise_patients
from cxrbatch.model.data.labelled import patients_sha256
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.evaluate.evaluate import EvaluationOptions, evaluate_model
from cxrbatch.model.figures.alarms import Alarms
from cxrbatch.model.figures.operating_points import parse_operating_point
from cxrbatch.model.network.checkpoint import load_checkpoint
from cxrbatch.model.train.calibration import fit_calibration
from cxrbatch.model.train.fit import predict_logits
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.model.train.record import TrainingPlan, TrainingRun
from cxrbatch.model.train.train_model import train_model
from cxrbatch.output.report.trust import measured_on
from cxrbatch.records import EngineDescription, InputSpec
from tests.factories.trainable import write_csv_data

ASIDE = DataOptions(val_fraction=0.3, set_aside=0.3)
PLAN = TrainingPlan(
    data=ASIDE,
    training=TrainingOptions(epochs=2, batch_size=8, precision="fp32", keep="auto"),
    learning_rate=2e-3,
    small_epochs=0,
    architecture="tiny",
    size_px=64,
    workers=1,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv_data(tmp_path_factory.mktemp("aside") / "data")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXRBATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    (run,) = train_model(data, tmp_path_factory.mktemp("trained") / "model.safetensors", PLAN).runs
    return run


def test_the_images_set_aside_choose_and_the_others_measure(data: Path, trained: TrainingRun) -> None:
    images = load_data(data, ASIDE)
    (prepared,) = prepare_folds((images,), InputSpec(64))
    network = load_checkpoint(Path(trained.checkpoint)).network
    part = prepared.part("calibration")
    expected = fit_calibration(predict_logits(network, part), part.targets, images.task)
    assert trained.calibration.temperature == pytest.approx(expected.temperature, rel=1e-4)
    assert trained.calibration.offset == pytest.approx(expected.offset, abs=1e-4)
    counts = {part.name: part.images for part in trained.parts}
    assert list(counts) == ["train", "val", "calibration"]
    assert {label.images for label in trained.measured.labels} == {counts["val"]}


def test_nobody_promises_too_much(trained: TrainingRun) -> None:
    training = trained.facts.training
    assert training.chosen_on == {"calibration": "calibration", "operating points": "calibration"}
    assert (training.measured_on, training.figures_promise_too_much) == ("val", False)
    page = (Path(trained.checkpoint).parent / "model-training" / "training.html").read_text()
    assert "chose neither epoch, calibration nor operating points" in page
    assert "promise a little too much" not in page.partition("</style>")[2]


def test_evaluate_knows_these_patients_and_what_they_chose(data: Path, trained: TrainingRun, tmp_path: Path) -> None:
    images = load_data(data, ASIDE)
    (known,) = load_checkpoint(Path(trained.checkpoint)).known
    assert known.chose == ("calibration",)
    assert recognise_patients(known, "calibration", images.part("calibration")).all()
    assert trained.facts.training.patients["calibration"] == patients_sha256(images.part("calibration"))
    said = {}
    for part in ("val", "calibration"):
        options = EvaluationOptions(split=part, data=ASIDE, resamples=0)
        evaluation = evaluate_model(trained.checkpoint, data, tmp_path / part, options)
        said[part] = evaluation.data.chosen_by, any("chose the epoch" in each.text for each in evaluation.cautions)
        assert not [each for each in evaluation.cautions if each.severity == "void"]
    assert said == {"val": (False, False), "calibration": (True, True)}
    # Who cuts the data without setting anything aside finds the same validation images.
    without = evaluate_model(
        trained.checkpoint, data, tmp_path / "plain", EvaluationOptions(split="val", data=DataOptions(val_fraction=0.3))
    )
    assert (without.data.images, without.data.chosen_by) == (len(images.part("val")), False)


def test_the_best_epoch_is_still_chosen_by_the_validation_images(data: Path, tmp_path: Path) -> None:
    training = replace(PLAN.training, keep="best", epochs=1)
    plan = replace(PLAN, training=training, operating_point=parse_operating_point("alarms=30%"))
    (run,) = train_model(data, tmp_path / "model.safetensors", plan).runs
    facts = run.facts.training
    assert facts.chosen_by_the_measured == ("epoch",)
    assert facts.figures_promise_too_much
    assert load_checkpoint(tmp_path / "model.safetensors").known[0].chose == ("val", "calibration")
    page = (tmp_path / "model-training" / "training.html").read_text()
    assert "validation images chose the epoch, so the figures below promise a little too much" in page
    # A rate of alarms is told of those who did not choose it.
    assert isinstance(run.alarms, Alarms)
    normal = [not any(sample.targets) for sample in load_data(data, ASIDE).part("val")]
    assert run.alarms.normal_studies == sum(normal)
    assert facts.figures["alarm_rate"] == run.alarms.rate.value


def test_another_share_is_another_recipe(data: Path) -> None:
    # The digest of the data, with the part of every image, is a part of the recipe.
    assert len({load_data(data, replace(ASIDE, set_aside=share)).sha256 for share in (0.0, 0.2, 0.3)}) == 3


def test_the_command_takes_the_share_and_a_part_of_the_table(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cxrbatch.cli.training_options.ARCHITECTURES", ("tiny",))
    arguments = ["train", str(data), "-o", str(tmp_path / "m.safetensors"), "--set-aside", "0.9"]
    assert run_command_line(arguments) == ExitCode.USAGE
    assert "leave none to train on" in capsys.readouterr().err
    assert run_command_line([*arguments[:-1], "0.2", "--folds", "2"]) == ExitCode.USAGE
    assert "folds calibrate on the images of all folds" in capsys.readouterr().err
    head, *lines = (data / "labels.csv").read_text().splitlines()
    parts = ["train"] * 4 + ["val", "val", "Calibration", "Calibration"]
    table = data / "parts.csv"
    table.write_text("\n".join([f"{head},split", *(f"{line},{parts[at % 8]}" for at, line in enumerate(lines))]) + "\n")
    images = load_data(table, DataOptions(allow_leak=True))
    again = load_data(table, DataOptions(allow_leak=True, set_aside=0.4))
    assert {part: len(images.part(part)) for part in ("train", "val", "calibration")} == {
        "train": 32,
        "val": 16,
        "calibration": 16,
    }
    assert images.sha256 == again.sha256


def test_what_earlier_versions_wrote_is_read_as_it_was_meant() -> None:
    old = TrainingFacts(figures={"macro_auroc": 0.9}, measured_on="val")
    assert old.figures_promise_too_much
    assert old.choices_in_words == "the epoch, the calibration and the operating points"
    assert old.choosing_parts == ("val",)
    assert not TrainingFacts(figures={"macro_auroc": 0.9}, measured_on="test").figures_promise_too_much
    assert TrainingFacts(measured_on="val").figures_promise_too_much is False


def test_a_report_says_what_the_measured_images_chose() -> None:
    def said(chosen_on: dict[str, str]) -> str:
        training = {"measured_on": "val", "images": {"val": 50}, "chosen_on": chosen_on}
        engine = EngineDescription("x", "0" * 64, "torch", "fp32", "tiny", "binary", (), InputSpec(64))
        return measured_on(replace(engine, training=training))

    assert "They also chose the thresholds, so expect" in said({})
    assert "They also chose the epoch, so expect" in said({"epoch": "val", "operating points": "calibration"})
    assert "Expect somewhat less" in said({"operating points": "calibration"})
