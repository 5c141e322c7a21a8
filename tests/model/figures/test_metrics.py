"""Figures have the values that pencil and paper give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from cxrbatch.model.figures.metrics import (
    Figure,
    average_over_labels,
    count_confusions,
    measure_auroc,
    measure_calibration_error,
    measure_figures,
    sensitivity_and_specificity,
)
from cxrbatch.model.figures.operating_points import choose_operating_point


def test_auroc_is_the_share_of_pairs_in_order_and_ties_count_half() -> None:
    truths = np.array([True, True, False, False, False])
    scores = np.array([0.9, 0.4, 0.4, 0.5, 0.1], np.float32)
    # Pairs: 0.9 beats all three; 0.4 ties once and beats once, of six.
    assert measure_auroc(truths, scores) == pytest.approx((3 + 0.5 + 1) / 6)


@pytest.mark.parametrize("truth", [True, False])
def test_one_class_has_neither_auroc_nor_operating_point(truth: bool) -> None:
    truths, scores = np.full(4, truth), np.linspace(0, 1, 4, dtype=np.float32)
    assert measure_auroc(truths, scores) is None
    assert choose_operating_point(truths, scores) is None


def test_macro_average_leaves_out_what_could_not_be_measured() -> None:
    assert average_over_labels([0.5, None, 1.0]) == 0.75
    assert average_over_labels([None]) is None


def test_operating_point_lies_in_the_gap_that_separates_best() -> None:
    truths = np.array([False, False, True, False, True, True, True])
    scores = np.array([0.1, 0.2, 0.15, 0.4, 0.6, 0.8, 0.5], np.float32)
    # Sensitivity + specificity: 3/4 + 1 down to 0.5, 3/4 + 2/3 down to 0.4, 1 + 1/3 down to 0.15.
    assert choose_operating_point(truths, scores) == pytest.approx((0.4 + 0.5) / 2)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=2, max_size=40))
def test_no_threshold_beats_the_operating_point(cases: list[tuple[bool, float]]) -> None:
    truths = np.array([truth for truth, _ in cases])
    scores = np.array([score for _, score in cases], np.float32)
    point = choose_operating_point(truths, scores)
    if point is None:
        return
    chosen = sum(sensitivity_and_specificity(truths, scores >= point))
    assert all(chosen >= sum(sensitivity_and_specificity(truths, scores >= cut)) - 1e-6 for cut in {*scores, 2.0})


def test_sensitivity_and_specificity() -> None:
    truths = np.array([True, True, True, False, False])
    calls = np.array([True, False, True, False, True])
    assert sensitivity_and_specificity(truths, calls) == pytest.approx((2 / 3, 0.5))


def test_figures_of_one_label_by_hand() -> None:
    truths = np.array([True, True, True, False, False])
    probabilities = np.array([0.9, 0.8, 0.3, 0.6, 0.1], np.float32)
    figures = measure_figures(truths, probabilities, probabilities >= 0.5)
    assert figures == pytest.approx(
        {
            Figure.AUROC: 5 / 6,
            # From the top: found 1 of 1, 2 of 2, then 3 of 4.
            Figure.AVERAGE_PRECISION: (1 + 1 + 3 / 4) / 3,
            Figure.SENSITIVITY: 2 / 3,
            Figure.SPECIFICITY: 1 / 2,
            Figure.PPV: 2 / 3,
            Figure.NPV: 1 / 2,
            Figure.F1: 2 / 3,
            Figure.BRIER: (0.01 + 0.04 + 0.49 + 0.36 + 0.01) / 5,
            # Five bins of one image each; their gaps add up.
            Figure.CALIBRATION_ERROR: (0.1 + 0.2 + 0.7 + 0.6 + 0.1) / 5,
        },
        abs=1e-6,
    )


def test_figures_that_the_images_cannot_tell_are_missing() -> None:
    only_sick = measure_figures(np.array([True, True]), np.array([0.2, 0.9], np.float32), np.array([False, False]))
    assert set(only_sick) == {
        *(Figure.BRIER, Figure.CALIBRATION_ERROR, Figure.SENSITIVITY, Figure.F1, Figure.NPV),
    }
    assert (only_sick[Figure.SENSITIVITY], only_sick[Figure.NPV]) == (0.0, 0.0)
    without_verdict = measure_figures(np.array([True, False]), np.array([0.9, 0.2], np.float32), None)
    assert Figure.SENSITIVITY not in without_verdict
    assert without_verdict[Figure.AUROC] == 1.0


def test_honest_probabilities_have_no_calibration_error_and_certain_mistakes_all_of_it() -> None:
    probabilities = np.full(1000, 0.25, np.float32)
    assert measure_calibration_error(np.arange(1000) % 4 == 0, probabilities) == pytest.approx(0.0, abs=1e-6)
    assert measure_calibration_error(np.array([True, False]), np.array([0.0, 1.0], np.float32)) == pytest.approx(1.0)


def test_confusions_are_counted_by_true_class_and_answer() -> None:
    found = count_confusions(np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1]), 3)
    np.testing.assert_array_equal(found, [[1, 0, 1], [0, 2, 0], [0, 0, 0]])


def test_a_label_worse_than_chance_has_no_operating_point() -> None:
    truths = np.array([True, True, False, False])
    assert choose_operating_point(truths, np.array([0.1, 0.2, 0.8, 0.9], np.float32)) is None
