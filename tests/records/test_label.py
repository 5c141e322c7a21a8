"""What a label knows of itself: where a score lies among those of the validation images, and which figures stand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from cxrbatch.records import Label


def test_a_rank_is_the_share_of_scores_below() -> None:
    label = Label("L", None, reference=(0.1, 0.2, 0.2, 0.2, 0.6))
    ranks = [label.rank(value) for value in (0.05, 0.1, 0.15, 0.2, 0.4, 0.6, 0.61)]
    assert ranks == pytest.approx([0.0, 0.0, 0.125, 0.25, 0.875, 1.0, 1.0])
    assert Label("L", None).rank(0.5) is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_score_never_ranks_lower(values: list[float], first: float, second: float) -> None:
    reference = tuple(float(value) for value in np.quantile(values, np.linspace(0, 1, 101)))
    label = Label("L", None, reference=tuple(sorted(reference)))
    low, high = label.rank(min(first, second)), label.rank(max(first, second))
    assert low is not None
    assert high is not None
    assert 0.0 <= low <= high <= 1.0


def test_an_auroc_of_too_few_images_is_no_figure() -> None:
    metrics = {"auroc": 0.93, "auroc_low": 0.9, "sensitivity": 1.0}
    few = Label("L", 0.5, metrics=metrics, images_with=9, images_without=200)
    assert few.has_too_few_images
    assert (few.figure("auroc", "threshold"), few.figure("auroc_low", "threshold")) == (None, None)
    assert few.figure("sensitivity", "threshold") == 1.0
    assert Label("L", 0.5, metrics=metrics, images_with=200, images_without=9).has_too_few_images
    assert Label("L", 0.5, metrics=metrics, images_with=10, images_without=10).figure("auroc", "threshold") == 0.93
    assert Label("L", 0.5, metrics=metrics).figure("auroc", "threshold") == 0.93, "nobody knows of how many"


def test_figures_at_operating_points_say_nothing_of_the_likeliest_class() -> None:
    earlier = Label("L", 0.5, metrics={"auroc": 0.9, "sensitivity": 1.0})
    assert (earlier.figure("auroc", "argmax"), earlier.figure("sensitivity", "argmax")) == (0.9, None)
