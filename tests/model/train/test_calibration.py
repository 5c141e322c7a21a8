"""Calibration makes probabilities honest, keeps the order of images, and leaves tiny data alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from cxrbatch.model.figures.metrics import measure_auroc, measure_calibration_error
from cxrbatch.model.network.checkpoint import CheckpointFacts, build_network
from cxrbatch.model.train.calibration import MIN_CASES, Calibration, fit_calibration
from cxrbatch.records import Float32, Gray8


def draw(honest: Float32, seed: int = 0) -> Float32:
    """Draw targets whose true log-odds are given: float32 [N,C] -> float32 [N,C]."""
    chance = np.random.default_rng(seed).random(honest.shape)
    return (chance < 1 / (1 + np.exp(-honest))).astype(np.float32)


def test_it_finds_the_temperature_and_the_offset_that_spoilt_the_logits() -> None:
    honest = np.random.default_rng(1).normal(-1, 2, (20_000, 2)).astype(np.float32)
    # An overconfident first label, shifted by class weights, and an honest second one.
    logits = honest * np.array([3.0, 1.0], np.float32) + np.array([1.5, 0.0], np.float32)
    found = fit_calibration(logits, draw(honest), "multilabel")
    assert found.temperature == pytest.approx((3.0, 1.0), rel=0.05)
    assert found.offset == pytest.approx((-0.5, 0.0), abs=0.06)


def test_probabilities_become_honest_and_auroc_stays() -> None:
    honest = np.random.default_rng(2).normal(-1, 1.5, (4000, 1)).astype(np.float32)
    targets, logits = draw(honest), honest * 4 + 2
    before = (1 / (1 + np.exp(-logits))).astype(np.float32)
    after = fit_calibration(logits, targets, "binary").probabilities(logits, "binary")
    truths = targets[:, 0] > 0.5
    assert measure_calibration_error(truths, before[:, 0]) > 0.1
    assert measure_calibration_error(truths, after[:, 0]) < 0.03
    assert measure_auroc(truths, after[:, 0]) == pytest.approx(measure_auroc(truths, logits[:, 0]), abs=1e-6)


def test_classes_share_one_temperature_and_have_no_offset() -> None:
    generator = np.random.default_rng(3)
    honest = generator.normal(0, 1.5, (20_000, 3)).astype(np.float32)
    answers = (honest + generator.gumbel(size=honest.shape)).argmax(axis=1)
    targets = np.eye(3, dtype=np.float32)[answers]
    found = fit_calibration(honest * 2.5, targets, "multiclass")
    assert found.temperature == pytest.approx((2.5,) * 3, rel=0.05)
    assert found.offset == (0.0,) * 3


def test_tiny_data_changes_nothing() -> None:
    logits = np.linspace(-3, 3, 40, dtype=np.float32)[:, np.newaxis]
    targets = (np.arange(40) < MIN_CASES - 1).astype(np.float32)[:, np.newaxis]
    assert fit_calibration(logits, targets, "multilabel") == Calibration((1.0,), (0.0,))
    assert fit_calibration(logits, 1 - targets, "binary") == Calibration((1.0,), (0.0,))
    assert fit_calibration(
        np.zeros((5, 2), np.float32), np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 0]], "multiclass"
    ) == (Calibration((1.0, 1.0), (0.0, 0.0)))


def test_unknown_targets_are_left_out() -> None:
    honest = np.random.default_rng(4).normal(0, 2, (500, 1)).astype(np.float32)
    targets = draw(honest)
    hidden = np.concatenate([targets, np.full((500, 1), np.nan, np.float32)])
    doubled = np.concatenate([honest, 50 + honest])
    assert fit_calibration(doubled, hidden, "binary") == fit_calibration(honest, targets, "binary")


@given(st.lists(st.tuples(st.booleans(), st.floats(-30, 30, width=32)), min_size=2, max_size=60))
@settings(max_examples=40)
def test_whatever_the_data_the_temperature_is_positive_and_the_order_stays(cases: list[tuple[bool, float]]) -> None:
    targets = np.array([[float(truth)] for truth, _ in cases], np.float32)
    logits = np.array([[logit] for _, logit in cases], np.float32)
    found = fit_calibration(logits, targets, "multilabel")
    assert 0.04 < found.temperature[0] < 21
    assert np.isfinite(found.offset[0])
    probabilities = found.probabilities(logits, "multilabel")[np.argsort(logits[:, 0], kind="stable"), 0]
    assert (np.diff(probabilities) >= 0).all()


@pytest.mark.parametrize("separated", [True, False])
def test_images_that_are_all_right_or_all_wrong_leave_finite_numbers(separated: bool) -> None:
    logits = np.linspace(-5, 5, 60, dtype=np.float32)[:, np.newaxis]
    targets = ((logits > 0) if separated else (logits < 0)).astype(np.float32)
    found = fit_calibration(logits, targets, "binary")
    assert (found.temperature[0] < 1.0) is separated
    assert np.isfinite(found.temperature[0])


def test_the_network_answers_what_the_calibration_says(facts: CheckpointFacts, noise: Gray8) -> None:
    network = build_network(facts).eval()
    calibration = Calibration((2.0, 0.5, 1.0), (0.3, -1.0, 0.0))
    calibration.apply_to(network)
    with torch.inference_mode():
        answered = network(torch.from_numpy(noise))
    np.testing.assert_allclose(
        calibration.probabilities(answered.logits.numpy(), "multilabel"), answered.probabilities.numpy(), atol=1e-7
    )
