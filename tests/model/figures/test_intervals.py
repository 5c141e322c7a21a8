"""Rates keep their intervals at the edge, and images of one patient count for less than images of many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.stats import binom, binomtest

from cxrbatch.model.figures.bootstrap import Estimate, draw_resamples, estimate_figures, resample_figures, resample_mean
from cxrbatch.model.figures.figures import number_patients
from cxrbatch.model.figures.intervals import auroc_at_edge, estimate_share, widen_figures, widen_mean, wilson
from cxrbatch.model.figures.metrics import Figure, measure_figures


def share_of(hits: list[bool], patients: list[int], resamples: int = 400) -> Estimate:
    weights = draw_resamples([str(patient) for patient in patients], count=resamples, seed=0)
    values = np.array(hits)
    return estimate_share(values, np.array(patients), resample_mean(values.astype(float), weights))


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_is_scipys(case: tuple[int, int]) -> None:
    hits, images = case
    expected = binomtest(hits, images).proportion_ci(0.95, method="wilson")
    assert wilson(hits / images, images) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_fifteen_of_fifteen_is_not_certain() -> None:
    found = share_of([True] * 15, [*range(15)])
    assert (round(found.low, 2), found.value, found.high) == (0.80, 1.0, 1.0)
    none = share_of([False] * 15, [*range(15)])
    assert (none.low, none.value, round(none.high, 2)) == (0.0, 0.0, 0.20)


def test_at_the_edge_patients_count_and_not_their_images() -> None:
    found = share_of([True] * 15, [at // 3 for at in range(15)])
    assert found.low == pytest.approx(wilson(1.0, 5)[0])
    one = share_of([True] * 15, [0] * 15)
    assert one.low == pytest.approx(wilson(1.0, 1)[0])


def test_off_the_edge_clustered_images_count_for_as_many_as_they_tell() -> None:
    patients = [at // 10 for at in range(300)]
    alike = share_of([patient % 3 > 0 for patient in patients], patients, 2000)
    mixed = share_of([at % 3 > 0 for at in range(300)], [*range(300)])
    # Ten images that always agree tell as much as one: 30 patients, and not 300 images.
    assert alike.low == pytest.approx(wilson(2 / 3, 30)[0], abs=0.03)
    assert mixed.low == pytest.approx(wilson(2 / 3, 300)[0])
    assert alike.high - alike.low > 2.5 * (mixed.high - mixed.low)


def test_an_interval_of_clustered_images_holds_the_bootstraps() -> None:
    generator = np.random.default_rng(1)
    patients = generator.integers(0, 8, 60)
    hits = generator.random(60) < 0.2 + 0.07 * patients
    weights = draw_resamples([*map(str, patients)], count=500, seed=0)
    resampled = resample_mean(hits.astype(float), weights)
    found = estimate_share(hits, patients, resampled)
    assert found.low <= np.quantile(resampled, 0.025)
    assert found.high >= np.quantile(resampled, 0.975)


@pytest.mark.parametrize("rate", [0.9, 0.97])
def test_the_interval_holds_the_truth_as_often_as_it_says_where_a_bootstrap_does_not(rate: float) -> None:
    # Exactly, over all that 15 patients can bring: each count of hits, weighed by how likely it is.
    held = sum(
        binom.pmf(hits, 15, rate) for hits in range(16) if wilson(hits / 15, 15)[0] <= rate <= wilson(hits / 15, 15)[1]
    )
    assert held > 0.92
    # Of 15 hits in 15 a bootstrap says 1.00 to 1.00, and is wrong whenever that happens.
    assert binom.pmf(15, 15, rate) > 0.2


def test_without_resamples_a_share_stands_alone() -> None:
    assert share_of([True] * 15, [*range(15)], resamples=0) == Estimate(1.0, 1.0, 1.0)


def measured(truths: list[bool], scores: list[float], patients: list[str]) -> dict[Figure, Estimate]:
    said, answered = np.array(truths), np.array(scores, np.float32)
    weights = draw_resamples(patients, count=300, seed=0)
    resampled = resample_figures(said, answered, answered >= 0.5, weights)
    estimates = estimate_figures(measure_figures(said, answered, answered >= 0.5), resampled)
    return widen_figures(estimates, said, answered >= 0.5, number_patients(patients), resampled)


def test_every_rate_of_a_perfect_label_has_a_lower_end() -> None:
    found = measured([True] * 15 + [False] * 20, [0.9] * 15 + [0.1] * 20, [*map(str, range(35))])
    for figure, images in {
        Figure.SENSITIVITY: 15,
        Figure.SPECIFICITY: 20,
        Figure.PPV: 15,
        Figure.NPV: 20,
    }.items():
        assert (found[figure].value, found[figure].low) == pytest.approx((1.0, wilson(1.0, images)[0]))
    share = wilson(1.0, 15)[0]
    assert found[Figure.F1].low == pytest.approx(2 * share / (1 + share))
    assert found[Figure.AUROC] == auroc_at_edge(1.0, 15, 20)
    assert 0.8 < found[Figure.AUROC].low < 0.95


def test_the_end_of_a_perfect_auroc_solves_newcombes_equation_and_is_mirrored() -> None:
    for positives, negatives in ((5, 5), (15, 15), (5, 400)):
        low = auroc_at_edge(1.0, positives, negatives).low
        halves = (positives + negatives) / 2 - 1
        variance = low * (1 - low) * (1 + halves * ((1 - low) / (2 - low) + low / (1 + low))) / (positives * negatives)
        assert 1 - low == pytest.approx(1.959964 * variance**0.5, abs=1e-5)
        assert auroc_at_edge(0.0, positives, negatives) == Estimate(0.0, 0.0, 1 - low)
    assert auroc_at_edge(1.0, 5, 5).low < auroc_at_edge(1.0, 15, 15).low < auroc_at_edge(1.0, 150, 150).low


def test_a_mean_is_as_wide_as_independent_labels_make_it() -> None:
    part = Estimate(1.0, 0.8, 1.0)
    assert widen_mean(Estimate(1.0, 1.0, 1.0), [part]) == part
    four = widen_mean(Estimate(1.0, 1.0, 1.0), [part] * 4)
    assert (four.low, four.value, four.high) == pytest.approx((0.9, 1.0, 1.0))
    wide = Estimate(0.7, 0.5, 0.9)
    assert widen_mean(wide, [Estimate(0.7, 0.69, 0.71)]) == wide
