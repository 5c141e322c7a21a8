"""Figures to MLflow: what Lightning's logger is told, by a stand-in of its class; MLflow itself is no dependency."""

from __future__ import annotations

import inspect
import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from lightning.pytorch import loggers as pytorch_loggers

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.model.train.loggers import make_loggers, tracking_uri
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.model.train.record import TrainingPlan
from cxrbatch.model.train.states import Journal
from cxrbatch.model.train.train_model import train_model
from tests.factories.studies import read_rows
from tests.factories.trainable import write_csv_data

PLAN = TrainingPlan(
    training=TrainingOptions(epochs=2, batch_size=8, precision="fp32"),
    learning_rate=2e-3,
    small_epochs=0,
    architecture="tiny",
    size_px=64,
    workers=1,
)


class StandIn:
    """What Lightning's MLFlowLogger is to this code: its arguments and calls, as lightning 2.6 declares them."""

    made: ClassVar[list[StandIn]] = []

    def __init__(
        self,
        experiment_name: str = "lightning_logs",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        tags: dict[str, Any] | None = None,
    ) -> None:
        self.arguments = (experiment_name, run_name, tracking_uri, tags)
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.params: dict[str, Any] = {}
        self.ended = ""
        StandIn.made.append(self)

    def log_metrics(self, metrics: dict[str, float], step: int | None) -> None:
        self.metrics.append((step, metrics))

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self.params = params

    def finalize(self, status: str) -> None:
        self.ended = status


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[StandIn]:
    monkeypatch.setenv("CXRBATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setattr(pytorch_loggers, "MLFlowLogger", StandIn)
    StandIn.made.clear()
    return StandIn


def test_the_stand_in_is_called_as_lightning_declares_its_own() -> None:
    real = inspect.signature(pytorch_loggers.MLFlowLogger.__init__).parameters
    assert set(inspect.signature(StandIn.__init__).parameters) <= set(real)
    for method in ("log_metrics", "log_hyperparams", "finalize"):
        assert callable(getattr(pytorch_loggers.MLFlowLogger, method))


def test_every_epoch_is_logged_with_its_figures(tmp_path: Path, stand_in: type[StandIn]) -> None:
    data, checkpoint = write_csv_data(tmp_path / "data"), tmp_path / "model.safetensors"
    train_model(data, checkpoint, replace(PLAN, log="mlflow=http://tracking.example:5000"))
    (made,) = stand_in.made
    experiment, name, uri, tags = made.arguments
    assert (experiment, name, uri) == ("cxrbatch", "model", "http://tracking.example:5000")
    assert tags is not None
    assert len(tags["recipe"]) == 64
    assert (made.params["epochs"], made.params["batch_size"], made.params["resume"]) == (2, 8, False)
    rows = read_rows(tmp_path / "model-training" / "epochs.csv")
    logged = {step: metrics for step, metrics in made.metrics if "train_loss" in str(metrics) or len(metrics) > 2}
    assert list(logged) == [int(row["epoch"]) for row in rows] == [1, 2]
    assert made.ended == "success"
    assert list((tmp_path / "model-training" / "tensorboard").glob("events.out.tfevents.*"))
    # What it is logged to decides no weight, and stands in no checkpoint.
    written = [*tmp_path.glob("model*/*.json"), checkpoint]
    assert not any(b"tracking.example" in path.read_bytes() for path in written)


def test_a_server_that_fails_costs_its_figures_and_not_the_training(
    tmp_path: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionError("http://user:sekret@tracking.example is gone")

    monkeypatch.setattr(stand_in, "log_metrics", refuse)
    with caplog.at_level(logging.WARNING):
        train_model(write_csv_data(tmp_path / "data"), tmp_path / "model.safetensors", replace(PLAN, log="mlflow"))
    assert (tmp_path / "model.safetensors").exists()
    told = [record.getMessage() for record in caplog.records if "MLflow" in record.getMessage()]
    assert told == ["MLflow: figures are not logged (ConnectionError); the training goes on"]


def test_without_mlflow_it_is_said_what_to_install_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    (tmp_path / "data").mkdir()
    arguments = ["train", str(tmp_path / "data"), "-o", str(tmp_path / "m.safetensors"), "--log", "mlflow"]
    assert run_command_line(arguments) == ExitCode.CONFIGURATION
    assert "pip install mlflow" in capsys.readouterr().err
    assert not (tmp_path / "m-training").exists()


@pytest.mark.parametrize("log", ["wandb", "mlflow=", "=x", "MLflow"])
def test_what_is_not_known_is_refused(log: str) -> None:
    with pytest.raises(UsageError, match="--log"):
        tracking_uri(log)


def test_without_a_journal_nothing_is_logged(tmp_path: Path, stand_in: type[StandIn]) -> None:
    assert make_loggers(None, TrainingOptions()) == []
    assert len(make_loggers(Journal(tmp_path, "recipe"), TrainingOptions())) == 1
    assert stand_in.made == []
