"""Drift: the index against its formula, alarms that chance hardly raises, and what cannot be told is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from cxrbatch.output.drift import DriftReport, StudyFacts
from cxrbatch.output.find_drift import FEWEST_STUDIES, find_drift
from cxrbatch.output.population_stability import chance_limit, population_stability_index
from cxrbatch.records import EngineDescription, Label, TrainingReference
from tests.factories.output import make_engine

REFERENCE = TrainingReference(
    images=500,
    grey=tuple(np.linspace(80, 160, 101).tolist()),
    views={"PA": 300, "AP": 200},
    ages={"18 to 39": 200, "40 to 59": 300},
)
EVEN = tuple(np.linspace(0, 1, 101).tolist())


def engine_of(*labels: Label) -> EngineDescription:
    return make_engine(labels or (Label("Mass", 0.5, reference=EVEN),))


def draw(count: int, seed: int, *, scores: float = 1.0, grey: float = 0.0, view: str = "") -> list[StudyFacts]:
    """Draw studies like those of the reference, with scores ** `scores`, grey levels + `grey`, all of one `view`."""
    chance = np.random.default_rng(seed)
    return [
        StudyFacts(
            probabilities=(float(chance.random() ** scores),),
            grey=float(chance.uniform(80, 160) + grey),
            view=view or ("PA" if chance.random() < 0.6 else "AP"),
            age=float(30 if chance.random() < 0.4 else 50),
        )
        for _ in range(count)
    ]


def find(
    now: Sequence[StudyFacts],
    recent: Sequence[StudyFacts] = (),
    *,
    engine: EngineDescription | None = None,
    reference: TrainingReference | None = REFERENCE,
) -> DriftReport:
    return find_drift(engine or engine_of(), reference, now, recent, limit=0.25, since="2026-01-01T00:00:00+00:00")


def alarms(report: DriftReport) -> set[tuple[str, str]]:
    return {(line.what, line.against) for line in report.alarms}


def test_the_index_is_that_of_the_formula() -> None:
    counts, reference = np.array([30.0, 70.0]), np.array([600.0, 400.0])
    p, q = np.array([30.5, 70.5]) / 101, np.array([600.5, 400.5]) / 1001
    assert population_stability_index(counts, reference) == pytest.approx(np.sum((p - q) * np.log(p / q)))
    assert population_stability_index(reference, reference) == 0
    assert np.isfinite(population_stability_index(np.array([0.0, 50.0]), reference))


@pytest.mark.parametrize("degrees", [1, 4, 9])
def test_the_chance_limit_is_a_quantile_of_chi_square(degrees: int) -> None:
    wanted = stats.chi2.ppf(0.99, degrees) * (1 / 80 + 1 / 500)
    assert chance_limit(degrees, 80, 500) == pytest.approx(wanted, rel=0.01)
    assert chance_limit(degrees, 80, 500, comparisons=10) > chance_limit(degrees, 80, 500)


def test_by_chance_the_index_stays_below_the_chance_limit() -> None:
    chance = np.random.default_rng(0)
    share = np.full(10, 0.1)
    beyond = [
        population_stability_index(*(chance.multinomial(count, share).astype(np.float64) for count in (60, 400)))
        > chance_limit(9, 60, 400)
        for _ in range(1000)
    ]
    assert np.mean(beyond) < 0.03


def test_studies_like_the_reference_raise_no_alarm() -> None:
    for seed in range(10):
        report = find(draw(60, seed), draw(400, 100 + seed))
        assert len(report.lines) == 10
        assert not report.alarms


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"scores": 4.0}, {"score", "positive"}),
        ({"grey": 40.0}, {"grey"}),
        ({"view": "AP"}, {"view"}),
        ({"view": "LL"}, {"view"}),
    ],
)
def test_what_changes_is_named_against_both_references(change: dict[str, float | str], changed: set[str]) -> None:
    report = find(draw(300, 1, **change), draw(400, 2))  # type: ignore[arg-type]
    assert alarms(report) == {(what, against) for what in changed for against in ("training", "recent")}


def test_few_studies_are_not_judged() -> None:
    report = find(draw(FEWEST_STUDIES - 1, 1, grey=60.0), draw(400, 2))
    assert (report.lines, report.studies) == ((), FEWEST_STUDIES - 1)
    assert report.left_out == ("49 studies are too few to tell: 50 are needed",)
    assert find(()).left_out == ()


def test_a_large_index_of_few_studies_may_be_chance() -> None:
    """Beyond 0.25, and yet no alarm: with 50 against 50, ten bins, chance reaches 0.87 once in a hundred."""
    assert chance_limit(9, 50, 50) == pytest.approx(0.87, abs=0.01)
    counts, reference = np.full(10, 5.0), np.array([9.0, 2, 8, 3, 7, 3, 8, 2, 6, 2])
    assert 0.25 < population_stability_index(counts, reference) < chance_limit(9, 50, 50)


def test_of_an_engine_without_a_reference_only_what_is_known_is_compared() -> None:
    older = replace(engine_of(), training={"images": {"val": 200}})
    report = find(draw(100, 1), draw(200, 2), engine=older, reference=None)
    compared = {(line.what, line.against) for line in report.lines}
    assert compared == {
        *((what, "training") for what in ("score", "positive")),
        *((what, "recent") for what in ("score", "positive", "grey", "view", "age")),
    }
    assert "grey against training: not known of the validation images" in report.left_out
    assert "view against training: not known" in report.left_out


def test_the_first_run_has_nothing_recent() -> None:
    report = find(draw(100, 1))
    assert {line.against for line in report.lines} == {"training"}
    assert "score Mass against recent: 100 and 0 known, 50 needed" in report.left_out


def test_a_label_without_an_operating_point_has_no_rate() -> None:
    report = find(draw(100, 1), engine=engine_of(Label("Mass", None, reference=EVEN)))
    assert {line.what for line in report.lines} == {"score", "grey", "view", "age"}


def test_scores_that_are_mostly_the_same_share_bins() -> None:
    """Ninety of a hundred validation images score 0.01: tenths fall together, and nothing is counted twice."""
    ties = (0.01,) * 91 + tuple(np.linspace(0.1, 0.9, 10).tolist())
    engine = engine_of(Label("Mass", 0.5, reference=ties))
    like = [
        replace(study, probabilities=((0.01,) if place % 10 else (0.5,))) for place, study in enumerate(draw(200, 1))
    ]
    (score,) = [line for line in find(like, engine=engine).lines if line.what == "score"]
    assert score.psi < 0.02
    unlike = [replace(study, probabilities=(0.02,)) for study in like]
    (score,) = [line for line in find(unlike, engine=engine).lines if line.what == "score"]
    assert score.alarm


def test_exclusive_classes_are_counted_by_the_likeliest() -> None:
    labels = (Label("normal", 0.5, normal=True), Label("Mass", 0.5))
    engine = replace(engine_of(*labels), task="multiclass")
    reference = TrainingReference(images=300, called={"normal": 0.9, "Mass": 0.1})
    studies = [StudyFacts((0.4, 0.6), None, "", None)] * 60 + [StudyFacts((0.7, 0.3), None, "", None)] * 60
    rates = {line.label: line for line in find(studies, engine=engine, reference=reference).lines}
    assert rates.keys() == {"normal", "Mass"}
    p, q = np.array([60.5, 60.5]) / 121, np.array([270.5, 30.5]) / 301
    assert rates["Mass"].psi == pytest.approx(np.sum((p - q) * np.log(p / q)), abs=1e-4)
    assert rates["Mass"].alarm


@pytest.mark.parametrize(
    "broken", [{"images": -1}, {"grey": (2.0, 1.0)}, {"grey": (float("nan"),)}, {"views": {"PA": -3}}]
)
def test_a_reference_that_makes_no_sense_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="reference"):
        TrainingReference(**broken)  # type: ignore[arg-type]


def test_a_scanner_that_changed_is_found_among_others_that_did_not() -> None:
    """Sixty darker images of one scanner among six hundred others move the whole little, and the scanner much."""
    others = [replace(study, scanner="A / one") for study in draw(600, 1)]
    changed = [replace(study, scanner="B / two") for study in draw(60, 2, grey=-50)]
    unknown = draw(40, 3)
    recent = [replace(study, scanner=name) for name in ("A / one", "B / two") for study in draw(500, 4)]
    report = find([*others, *changed, *unknown], recent)
    assert report.scanner_unknown == 40
    first, second = report.scanners
    assert (first.scanner, first.studies, first.recent_studies) == ("A / one", 600, 500)
    assert (second.scanner, second.studies, second.recent_studies) == ("B / two", 60, 500)
    assert not first.alarms
    assert {(line.what, line.against) for line in second.alarms} == {("grey", "training"), ("grey", "recent")}
    assert alarms(report) == set()


def test_scanners_with_few_studies_are_named_and_not_judged() -> None:
    named = [replace(study, scanner=f"S{n}") for n, study in enumerate(draw(30, 5))]
    report = find([*named, *draw(30, 6)], ())
    assert len(report.scanners) == 20
    assert all(not each.lines for each in report.scanners)


def test_scanners_together_raise_alarms_by_chance_as_rarely_as_a_run() -> None:
    raised = 0
    for seed in range(60):
        studies = [replace(study, scanner=f"S{n % 5}") for n, study in enumerate(draw(300, seed))]
        raised += any(each.alarms for each in find(studies).scanners)
    assert raised <= 3
