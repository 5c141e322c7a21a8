"""Where Lightning writes the figures of a training: TensorBoard's files always, MLflow where that is asked for.

MLflow is no dependency: it is looked for where --log names it, and Lightning's logger talks to it. A tracking server
that fails once the training is under way costs its figures, not the training; epochs.csv has them all the same.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.loggers.logger import Logger

from cxrbatch.errors import ConfigurationError, UsageError
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.model.train.states import Journal

MLFLOW = "mlflow"
EXPERIMENT = "cxrbatch"
_TOLD = logging.getLogger("cxrbatch.training")


class ForgivingLogger(Logger):
    """A logger whose errors are told once and end nothing."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger, self._has_failed = logger, False

    @property
    def name(self) -> str | None:
        """Of the experiment."""
        return MLFLOW

    @property
    def version(self) -> int | str | None:
        """None: nothing is written beside the training on its account."""
        return None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Hand on figures."""
        self._try(lambda: self._logger.log_metrics(dict(metrics), step))

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Hand on what the training was asked for."""
        self._try(lambda: self._logger.log_hyperparams(params))

    def finalize(self, status: str) -> None:
        """Say how the training ended."""
        self._try(lambda: self._logger.finalize(status))

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001  # whatever a server on another machine does
            if not self._has_failed:
                _TOLD.warning("MLflow: figures are not logged (%s); the training goes on", type(error).__name__)
            self._has_failed = True


def tracking_uri(log: str) -> str | None:
    """Return where --log mlflow[=URI] says that figures go; None for MLflow's own choice (MLFLOW_TRACKING_URI).

    Raises:
        UsageError: it says something else.
    """
    kind, _, uri = log.partition("=")
    if kind != MLFLOW or log == f"{MLFLOW}=":
        raise UsageError(f"--log {kind}: only mlflow and mlflow=URI are known. TensorBoard's files are always written.")
    return uri or None


def check_log(log: str) -> None:
    """Check before anything is read that figures can be logged as is asked for.

    Raises:
        UsageError: that is not known.
        ConfigurationError: MLflow is not installed.
    """
    if not log:
        return
    tracking_uri(log)
    try:
        import mlflow  # noqa: F401  # no dependency
    except ImportError as error:
        raise ConfigurationError("--log mlflow needs MLflow: pip install mlflow") from error


def make_loggers(journal: Journal | None, options: TrainingOptions) -> list[Logger]:
    """Return the loggers of a training; none without a journal."""
    if journal is None:
        return []
    made: list[Logger] = [loggers.TensorBoardLogger(journal.folder, name="tensorboard", version="")]
    if journal.log:
        made.append(_open_mlflow(journal, options))
    return made


def _open_mlflow(journal: Journal, options: TrainingOptions) -> Logger:
    logger = loggers.MLFlowLogger(
        EXPERIMENT,
        run_name=journal.folder.name.removesuffix("-training"),
        # Looked up now: what Lightning takes by default is what the variable was when Lightning was loaded.
        tracking_uri=tracking_uri(journal.log) or os.environ.get("MLFLOW_TRACKING_URI"),
        tags={"recipe": journal.recipe},
    )
    opened = ForgivingLogger(logger)
    opened.log_hyperparams(asdict(options) | {"resume": journal.resume})
    return opened
