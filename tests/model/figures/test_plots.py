"""The plots of figures: few curves together with a legend, many of them each in a picture of its own."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

from cxrbatch.model.figures.figures import LabelledScores, make_calls, measure_labels
from cxrbatch.model.figures.plots import MOST_TOGETHER, write_plots
from cxrbatch.records import Label

KINDS = ("roc", "precision_recall", "calibration")


def make_scores(count: int, *, images: int = 60) -> LabelledScores:
    chance = np.random.default_rng(3)
    labels = tuple(Label(f"Finding {n}" if n else "<b>$x$", 0.5) for n in range(count))
    targets = (chance.random((images, count)) < 0.4).astype(np.float32)
    probabilities = np.clip(chance.normal(0.35 + 0.3 * targets, 0.2), 0, 1).astype(np.float32)
    calls = make_calls(labels, "multilabel", probabilities)
    return LabelledScores(
        labels, "multilabel", targets, probabilities, calls, np.empty(0, np.int64), np.ones((0, images), np.uint8)
    )


def test_few_labels_share_pictures_with_a_legend(tmp_path: Path) -> None:
    scores = make_scores(MOST_TOGETHER)
    plots = write_plots(tmp_path, measure_labels(scores), scores)
    assert [plot.file for plot in plots] == [f"{kind}.svg" for kind in KINDS]
    assert all(not plot.panels for plot in plots)
    drawn = (tmp_path / "roc.svg").read_text()
    assert all(f">{label.name}  0." in drawn for label in scores.labels[1:])


def test_many_labels_have_a_picture_each_and_their_figures_beside_it(tmp_path: Path) -> None:
    scores = make_scores(MOST_TOGETHER + 1)
    measured = measure_labels(scores)
    started = time.process_time()
    plots = write_plots(tmp_path, measured, scores)
    assert time.process_time() - started < 10
    assert len(list(tmp_path.iterdir())) == 3 * len(scores.labels)
    for kind, plot in zip(KINDS, plots, strict=True):
        assert [panel.file for panel in plot.panels] == [f"{kind}-{n}.svg" for n in range(1, len(scores.labels) + 1)]
        assert [panel.name for panel in plot.panels] == [label.name for label in scores.labels]
        assert "Across: " in plot.axes
        for panel in plot.panels:
            drawn = (tmp_path / panel.file).read_text()
            assert panel.name not in drawn
            assert sorted(set(re.findall(r">([\d.]+)</text>", drawn))) == ["0.0", "0.5", "1.0"]
    roc = {panel.name: panel.value for panel in plots[0].panels}
    for label in measured.labels:
        figures = {figure.value: estimate.value for figure, estimate in label.figures.items()}
        assert float(roc[label.label]) == pytest.approx(figures["auroc"], abs=5e-4)
