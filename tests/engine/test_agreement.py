"""The arithmetic of the gate, on numbers that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cxrbatch.engine.agreement import Agreement, Limits, compare_scores, correlate_maps, refuse_disagreement
from cxrbatch.errors import EngineError, ExitCode
from cxrbatch.records import Float32, Label, Scores

LABELS = (Label("A", 0.5), Label("B", None))


def scores(probabilities: list[list[float]], cams: Float32 | None = None) -> Scores:
    values = np.array(probabilities, np.float32)
    if cams is None:
        cams = np.random.default_rng(0).normal(size=(*values.shape, 2, 2)).astype(np.float32)
    return Scores(values, values, cams)


def compared(answered: list[list[float]], reference: list[list[float]]) -> Agreement:
    return compare_scores(scores(answered), scores(reference), LABELS, "threshold")


def gate(agreement: Agreement, limits: Limits | float) -> None:
    refuse_disagreement(
        agreement,
        agreement.figures("images", limits if isinstance(limits, Limits) else Limits(limits)),
        "engine x",
        "it is not used",
    )


def test_changes_and_flips_are_counted() -> None:
    figures = compared([[0.502, 0.1], [0.2, 0.9]], [[0.498, 0.1], [0.2, 0.901]]).figures(
        "images", Limits(0.005), "a GPU"
    )
    assert (figures.images, figures.source, figures.limit, figures.device) == (2, "images", 0.005, "a GPU")
    assert figures.max_probability_change == pytest.approx(0.004, abs=1e-6)
    assert figures.mean_probability_change == pytest.approx(0.005 / 4, abs=1e-6)
    assert figures.decision_flips == 1
    assert figures.farthest_flip == pytest.approx(0.002, abs=1e-6)
    assert figures.heatmap_correlation == pytest.approx(1.0)


def test_a_label_without_an_operating_point_cannot_flip() -> None:
    figures = compared([[0.1, 0.9]], [[0.1, 0.1]]).figures("images", Limits(1.0))
    assert (figures.decision_flips, figures.farthest_flip) == (0, 0.0)


def test_of_exclusive_classes_the_likeliest_one_is_the_verdict() -> None:
    classes = (Label("covid", 0.5), Label("normal", 0.5, normal=True), Label("other", None))
    reference = [[0.42, 0.40, 0.18], [0.05, 0.9, 0.05], [0.1, 0.2, 0.7]]
    answered = [[0.40, 0.42, 0.18], [0.45, 0.5, 0.05], [0.1, 0.7, 0.2]]
    agreement = compare_scores(scores(answered), scores(reference), classes, "argmax")
    # By thresholds the first image would be called nothing by both, and the second the same.
    assert agreement.flipped.tolist() == [[True, True, False], [False, False, False], [False, True, False]]
    figures = agreement.figures("images", Limits(1.0))
    assert (figures.decision_flips, figures.verdicts) == (3, 6)
    # "other" was ahead of "normal" by 0.5: both move by half of that.
    assert figures.farthest_flip == pytest.approx(0.25, abs=1e-6)


def test_within_the_limit_it_passes() -> None:
    gate(compared([[0.5049, 0.3]], [[0.5, 0.3]]), 0.005)


def test_beyond_the_limit_the_worst_images_are_listed() -> None:
    agreement = compared([[0.51, 0.3], [0.2, 0.3], [0.2, 0.25]], [[0.49, 0.3], [0.2, 0.3], [0.2, 0.3]])
    with pytest.raises(
        EngineError, match=r"engine x: its probabilities differ .* by up to 0.05 \(limit 0.005"
    ) as refusal:
        gate(agreement, 0.005)
    assert refusal.value.exit_code is ExitCode.ENGINE
    head, worst, second, *_ = str(refusal.value).splitlines()[1:]
    assert head.split() == ["image", "finding", "reference", "engine", "change", "verdict"]
    assert worst.split() == ["2", "B", "0.3000", "0.2500", "0.0500", "same"]
    assert second.split() == ["0", "A", "0.4900", "0.5100", "0.0200", "differs"]
    assert str(refusal.value).splitlines()[0].endswith("it is not used.")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_never_passes_and_is_listed_first(value: float) -> None:
    agreement = compared([[0.5, 0.3], [0.2, value]], [[0.5, 0.4], [0.2, 0.3]])
    with pytest.raises(EngineError, match="NaN or Inf in its scores") as refusal:
        gate(agreement, 1.0)
    assert str(refusal.value).splitlines()[2].split()[:2] == ["1", "B"]


def test_another_number_of_labels_is_no_comparison() -> None:
    with pytest.raises(EngineError, match=r"answers \[1, 3\] probabilities"):
        compare_scores(scores([[0.1, 0.2, 0.3]]), scores([[0.1, 0.2]]), LABELS, "threshold")


def test_correlation_is_that_of_the_worst_map() -> None:
    reference = np.random.default_rng(1).normal(size=(2, 3, 4, 4)).astype(np.float32)
    answered = reference * 2 + 5
    assert correlate_maps(answered, reference).min() == pytest.approx(1.0)
    answered[1, 2] = -reference[1, 2]
    assert correlate_maps(answered, reference).min() == pytest.approx(-1.0)
    answered[1, 2] = 7.0
    assert correlate_maps(answered, reference).min() == 0.0


def test_flat_maps_have_nothing_to_correlate() -> None:
    flat = np.full((1, 2, 3, 3), 0.25, np.float32)
    assert correlate_maps(flat, flat).size == 0
    shaped = flat.copy()
    shaped[0, 0] += np.arange(9).reshape(3, 3)
    assert correlate_maps(shaped + 1e-6, shaped).min() == pytest.approx(1.0)


# --------------------------------------------------------------------------- what single numbers don't tell


def many(change: float, share: float) -> Agreement:
    """Compare 100 images of two labels, of which a share is off by `change`."""
    reference = np.full((100, 2), 0.3, np.float32)
    answered = reference.copy()
    answered.reshape(-1)[: round(200 * share)] += change
    return compared(answered.tolist(), reference.tolist())


def test_many_small_changes_are_refused_where_few_pass() -> None:
    limits = Limits(0.005, p99=0.002)
    gate(many(0.004, 0.005), limits)
    with pytest.raises(EngineError, match=r"one probability in a hundred differs .* by 0.004 or more \(limit 0.002,"):
        gate(many(0.004, 0.05), limits)


def test_more_flips_than_their_share_are_refused_and_one_always_may() -> None:
    reference = [[0.499, 0.3]] * 100
    limits = Limits(0.005, flips=0.02)
    for flips, passes in ((0, True), (1, True), (2, True), (3, False)):
        agreement = compared([[0.501, 0.3]] * flips + reference[flips:], reference)
        assert agreement.figures("images", limits).decision_flips == flips
        # Only label A has an operating point.
        assert agreement.verdicts == 100
        if passes:
            gate(agreement, limits)
        else:
            with pytest.raises(EngineError, match=r"3 of 100 verdicts differ .* \(limit 0.02,"):
                gate(agreement, limits)
    gate(compared([[0.501, 0.3]], [[0.499, 0.3]]), limits)


def test_heatmaps_that_point_elsewhere_are_refused_though_no_probability_moves() -> None:
    cams = np.random.default_rng(2).normal(size=(50, 2, 4, 4)).astype(np.float32)
    turned = cams.copy()
    turned[:2] = -turned[:2]
    probabilities = [[0.2, 0.3]] * 50
    agreement = compare_scores(scores(probabilities, turned), scores(probabilities, cams), LABELS, "threshold")
    gate(agreement, Limits(0.005))
    with pytest.raises(EngineError, match=r"one heatmap in a hundred correlates .* by -1.000 or less \(limit 0.99,"):
        gate(agreement, Limits(0.005, heatmap=0.99))


def told_apart(distances: list[float], reference: list[float]) -> Agreement:
    probabilities = [[0.2, 0.3]] * len(distances)
    answered, wanted = (
        replace(scores(probabilities), distance=np.array(values, np.float32)) for values in (distances, reference)
    )
    return compare_scores(answered, wanted, LABELS, "threshold")


def test_images_that_change_sides_of_their_distance_s_threshold_are_counted_and_limited() -> None:
    reference = [0.99] * 100
    for flips, passes in ((0, True), (1, True), (2, True), (3, False)):
        agreement = told_apart([1.01] * flips + reference[flips:], reference)
        assert agreement.unlike_flips == flips
        if passes:
            gate(agreement, 0.005)
        else:
            with pytest.raises(EngineError, match=r"3 images are unlike the training images for only one .*limit 0.02"):
                gate(agreement, 0.005)
    assert told_apart([0.5, 3.0], [0.4, 2.0]).distance_change == pytest.approx(1.0)


def test_a_distance_that_is_no_number_or_missing_passes_nothing() -> None:
    with pytest.raises(EngineError, match="NaN or Inf in its distances"):
        gate(told_apart([float("nan"), 0.5], [0.4, 0.5]), 0.005)
    told = replace(scores([[0.2, 0.3]]), distance=np.array([0.5], np.float32))
    with pytest.raises(EngineError, match="the engine gives no distance"):
        compare_scores(scores([[0.2, 0.3]]), told, LABELS, "threshold")
    assert compare_scores(told, scores([[0.2, 0.3]]), LABELS, "threshold").distance_change is None
