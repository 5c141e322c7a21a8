"""A planted confound is found, chance stays chance, and patients never speak for themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cxrbatch.model.data.labelled import Sample
from cxrbatch.model.evaluate.doubts import (
    TrivialPredictor,
    compare_with_model,
    predict_trivially,
    trivial_predictors,
)
from cxrbatch.model.figures.bootstrap import Estimate

N = 400
GENERATOR = np.random.default_rng(7)
TRUTHS = GENERATOR.random(N) < 0.3
PATIENTS = [str(image) for image in range(N)]


def predict(values: Sequence[str | float | None], *, ranked: bool = False, patients: list[str] = PATIENTS) -> float:
    found = predict_trivially(TrivialPredictor("column", tuple(values), ranked), TRUTHS, patients)
    assert found is not None
    return found


def test_a_category_that_goes_with_the_finding_is_found_whatever_it_is_called() -> None:
    assert predict(["AP" if truth else "PA" for truth in TRUTHS]) == 1.0
    assert predict(["PA" if truth else "AP" for truth in TRUTHS]) == 1.0
    half = ["AP" if truth == (GENERATOR.random() < 0.8) else "PA" for truth in TRUTHS]
    assert predict(half) == pytest.approx(0.8, abs=0.05)


def test_three_sizes_of_which_the_middle_one_is_sick_are_found() -> None:
    sizes = ["512 x 512" if truth else ("256 x 256", "1024 x 1024")[image % 2] for image, truth in enumerate(TRUTHS)]
    assert predict([*sizes]) == 1.0


def test_what_goes_with_nothing_is_at_chance() -> None:
    assert predict([("F", "M")[int(flip)] for flip in GENERATOR.random(N) < 0.5]) == pytest.approx(0.5, abs=0.08)
    assert predict([*map(str, range(N))]) == pytest.approx(0.5, abs=1e-9)
    assert predict([*GENERATOR.random(N).tolist()], ranked=True) == pytest.approx(0.5, abs=0.08)


def test_a_patient_does_not_speak_for_itself() -> None:
    # One folder per patient, five images each, all sick or all well: known only from the patient's own images.
    patients = [str(image // 5) for image in range(N)]
    truths = np.repeat(GENERATOR.random(N // 5) < 0.3, 5)
    folder = TrivialPredictor("source folder", tuple(patients))
    assert predict_trivially(folder, truths, patients) == pytest.approx(0.5, abs=1e-9)
    assert (predict_trivially(folder, truths, PATIENTS) or 0) > 0.9


def test_age_counts_in_either_direction_and_unknown_ages_are_left_out() -> None:
    ages: list[str | float | None] = [80.0 if truth else 20.0 for truth in TRUTHS]
    assert predict(ages, ranked=True) == 1.0
    assert predict([100.0 - float(age or 0) for age in ages], ranked=True) == 1.0
    assert predict([None, *ages[1:]], ranked=True) == 1.0


def test_one_class_or_one_value_cannot_be_predicted() -> None:
    views = TrivialPredictor("view", ("AP", "PA") * 5)
    assert predict_trivially(views, np.ones(10, bool), PATIENTS[:10]) is None
    ages = TrivialPredictor("age", (None, 30.0) * 5, ranked=True)
    assert predict_trivially(ages, np.arange(10) % 2 == 0, PATIENTS[:10]) is None


def test_only_columns_that_differ_are_candidates() -> None:
    samples = [
        Sample(Path(f"{image}.png"), "test", (0.0,), view=("AP", "PA")[image % 2], sex="F") for image in range(4)
    ]
    sizes = np.array([[100, 200], [100, 200], [100, 300], [100, 200]])
    found = {predictor.name: predictor.values for predictor in trivial_predictors(samples, sizes)}
    assert set(found) == {"view position", "image size", "image width"}
    assert found["image size"] == ("100 x 200", "100 x 200", "100 x 300", "100 x 200")


@pytest.mark.parametrize(
    ("auroc", "reaches", "near"), [(0.85, True, True), (0.8, True, True), (0.72, False, True), (0.69, False, False)]
)
def test_it_is_set_beside_the_model(auroc: float, reaches: bool, near: bool) -> None:
    found = compare_with_model("view position", "Mass", auroc, Estimate(0.8, 0.7, 0.9))
    assert (found.reaches, found.near) == (reaches, near)


def test_beside_a_useless_model_chance_is_no_shortcut() -> None:
    assert not compare_with_model("sex", "Mass", 0.52, Estimate(0.5, 0.4, 0.6)).near
