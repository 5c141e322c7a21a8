"""Resampled figures are those of scikit-learn on the resampled images, and patients stay together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from cxrbatch.model.figures.bootstrap import (
    average_resampled,
    draw_resamples,
    estimate,
    estimate_figures,
    resample_figures,
    resample_mean,
)
from cxrbatch.model.figures.metrics import Figure, measure_figures

IMAGES = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.35, 0.5, 0.5001, 0.9, 1.0]), st.integers(0, 3)),
    min_size=1,
    max_size=30,
)


@given(IMAGES)
def test_a_resample_measures_what_scikit_learn_measures_on_its_images(images: list[tuple[bool, float, int]]) -> None:
    truths = np.array([truth for truth, _, _ in images])
    scores = np.array([score for _, score, _ in images], np.float32)
    times = np.array([count for _, _, count in images], np.uint8)
    calls = scores >= 0.5
    resampled = resample_figures(truths, scores, calls, times[np.newaxis])
    if not times.any():
        assert all(np.isnan(values).all() for values in resampled.values())
        return
    copies = np.repeat(np.arange(len(images)), times)
    wanted = measure_figures(truths[copies], scores[copies], calls[copies])
    told = {figure: float(values[0]) for figure, values in resampled.items() if np.isfinite(values[0])}
    assert told == pytest.approx(wanted, abs=1e-6)


def test_images_of_a_patient_stay_together_and_patients_are_drawn_as_often_as_there_are() -> None:
    patients = ["b", "a", "b", "c", "a", "b"]
    weights = draw_resamples(patients, count=500, seed=3)
    assert weights.shape == (500, 6)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] == weights[:, 5]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(weights, axis=0)) == 10  # every way to draw 3 of 3
    np.testing.assert_array_equal(weights, draw_resamples(patients, count=500, seed=3))
    assert (weights != draw_resamples(patients, count=500, seed=4)).any()


def test_many_images_of_few_patients_give_wide_intervals() -> None:
    generator = np.random.default_rng(0)
    truths = np.repeat(generator.random(30) < 0.5, 20)
    scores = np.repeat(generator.random(30) * 0.7 + 0.3 * truths[::20], 20).astype(np.float32)
    widths = []
    for patients in (np.repeat(np.arange(30), 20), np.arange(600)):
        weights = draw_resamples([str(patient) for patient in patients], count=400, seed=0)
        auroc = estimate(
            measure_figures(truths, scores, None)[Figure.AUROC],
            resample_figures(truths, scores, None, weights)[Figure.AUROC],
        )
        widths.append(auroc.high - auroc.low)
    # 20 copies of an image tell as much as one: sqrt(20) = 4.5 times the width of 600 images of their own.
    assert widths[0] > 3.5 * widths[1]


def test_the_interval_of_a_share_is_that_of_the_binomial() -> None:
    calls = np.arange(400) < 100
    weights = draw_resamples([str(image) for image in range(400)], count=4000, seed=1)
    found = estimate(0.25, resample_mean(calls.astype(float), weights))
    deviation = np.sqrt(0.25 * 0.75 / 400)
    assert found.low == pytest.approx(0.25 - 1.96 * deviation, abs=0.004)
    assert found.high == pytest.approx(0.25 + 1.96 * deviation, abs=0.004)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=3, max_size=25), st.integers(0, 5))
@settings(max_examples=30)
def test_every_interval_holds_its_figure(cases: list[tuple[bool, float]], seed: int) -> None:
    truths, scores = np.array([truth for truth, _ in cases]), np.array([score for _, score in cases], np.float32)
    weights = draw_resamples([str(image) for image in range(len(cases))], count=50, seed=seed)
    figures = measure_figures(truths, scores, scores >= 0.5)
    for found in estimate_figures(figures, resample_figures(truths, scores, scores >= 0.5, weights)).values():
        assert found.low <= found.value <= found.high


def test_without_resamples_a_figure_stands_alone() -> None:
    weights = draw_resamples(["a", "b"], count=0, seed=0)
    assert resample_figures(np.array([True, False]), np.array([0.9, 0.1], np.float32), None, weights) == {}
    found = estimate_figures({Figure.AUROC: 0.8}, {})[Figure.AUROC]
    assert (found.low, found.value, found.high) == (0.8, 0.8, 0.8)


def test_the_mean_over_labels_leaves_out_who_cannot_tell() -> None:
    mean = average_resampled([np.array([0.5, np.nan, np.nan]), np.array([1.0, 0.7, np.nan])])
    np.testing.assert_array_equal(mean, [0.75, 0.7, np.nan])
