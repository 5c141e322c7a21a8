"""Drift: how far the studies of a run are from those the engine was validated on, and from those of the last 30 days.

The population stability index (Siddiqi 2006, chapter 6) of two distributions over the same bins is
sum((p - q) * ln(p / q)); its usual limits are 0.1 (look) and 0.25 (act). Of few studies it is large by chance alone:
with equal distributions it is about (1/n + 1/m) times a chi-square of bins - 1 degrees (Yurdakul and Naranjo 2020). So
an alarm takes both: more than the limit, and more than chance would give in one run out of a hundred, however many
distributions are compared. Start at `find_drift`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cxrbatch.pages.retelling import kept
from cxrbatch.records import EngineDescription, TrainingReference, call_image
from cxrbatch.records.reference import age_band, view_of

What = Literal["score", "positive", "grey", "view", "age"]
Against = Literal["training", "recent"]

BINS = 10
"""Bins of a distribution of numbers: tenths of the reference."""

FEWEST_STUDIES = 50
"""With fewer studies nothing is said: a bin would be expected to hold fewer than 5."""

MOST_SCANNERS = 20
"""Scanners that are looked at one by one."""

BY_CHANCE = 0.01
"""How often a run may raise an alarm although nothing changed."""

# Added to the count of every bin, so that an empty one has a logarithm (Krichevsky and Trofimov 1981).
_SMOOTHING = 0.5

Counts = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """What is compared of one study: its first scored image. `grey` 0..255; empty or None where not known."""

    probabilities: tuple[float, ...]
    grey: float | None
    view: str
    age: float | None
    scanner: str = ""


Sides = tuple[Sequence[StudyFacts], Sequence[StudyFacts]]
"""The studies of a run, and those of the 30 days before."""


@dataclass(frozen=True, slots=True)
class DriftLine:
    """How far one distribution is from its reference: `psi`, over `studies` and `reference` studies or images.

    `chance`: what `psi` stays below by chance alone, in all but one run out of a hundred.
    """

    what: What
    label: str
    against: Against
    psi: float
    chance: float
    studies: int
    reference: int
    alarm: bool = False


@dataclass(frozen=True, slots=True)
class ScannerDrift:
    """How far the studies of one scanner are from the validation images, and from its own of the 30 days before."""

    scanner: str
    studies: int
    recent_studies: int
    lines: tuple[DriftLine, ...] = ()

    @property
    def alarms(self) -> tuple[DriftLine, ...]:
        """Those that changed by more than the limit, and than chance."""
        return tuple(line for line in self.lines if line.alarm)


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What run.json says of drift: the `studies` scored `since`, and the `recent_studies` of the 30 days before.

    `limit` is that of an alarm; `left_out` says what could not be compared, and why. `scanners` are those with most
    studies; `scanner_unknown` counts the studies of which nobody knows theirs.
    """

    since: str
    studies: int
    recent_studies: int
    limit: float
    lines: tuple[DriftLine, ...] = ()
    left_out: tuple[str, ...] = ()
    scanners: tuple[ScannerDrift, ...] = ()
    scanner_unknown: int = 0

    @property
    def alarms(self) -> tuple[DriftLine, ...]:
        """Those that changed by more than the limit, and than chance."""
        return tuple(line for line in self.lines if line.alarm)


@dataclass(slots=True)
class _Comparisons:
    """What is compared so far, and what cannot be."""

    lines: list[tuple[DriftLine, int]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, what: What, label: str, against: Against, counts: tuple[Counts, Counts]) -> None:
        """Compare the counts of a run, float64 [bins], with those of a reference."""
        studies, reference = (round(float(each.sum())) for each in counts)
        if min(studies, reference) < FEWEST_STUDIES:
            told = f"{what} {label}".strip()
            self.left_out.append(f"{told} against {against}: {studies} and {reference} known, {FEWEST_STUDIES} needed")
            return
        psi = population_stability_index(*counts)
        line = DriftLine(what, label, against, round(psi, 4), 0.0, studies, reference)
        self.lines.append((line, len(counts[0]) - 1))


def find_drift(
    engine: EngineDescription,
    reference: TrainingReference | None,
    now: Sequence[StudyFacts],
    recent: Sequence[StudyFacts],
    *,
    limit: float,
    since: str,
) -> DriftReport:
    """Compare the studies of a run with the engine's validation images and with recent studies.

    Args:
        engine: its labels say how the validation images scored.
        reference: what else is known of these; None for engines of earlier versions.
        now: the studies of the run.
        recent: those of the 30 days before, scored by the same engine.
        limit: of an alarm.
        since: when the run's studies begin, ISO 8601.
    """
    found = _compare(engine, reference, (now, recent))
    if now and len(now) < FEWEST_STUDIES:
        few = kept("{studies} studies are too few to tell: {needed} are needed")
        found.left_out.append(few.format(studies=len(now), needed=FEWEST_STUDIES))
    lines = tuple(_judged(line, degrees, limit, len(found.lines)) for line, degrees in found.lines)
    scanners = _find_scanners(engine, reference, (now, recent), limit)
    unknown = sum(not study.scanner for study in now)
    return DriftReport(since, len(now), len(recent), limit, lines, tuple(found.left_out), scanners, unknown)


def _compare(engine: EngineDescription, reference: TrainingReference | None, sides: Sides) -> _Comparisons:
    found, (now, recent) = _Comparisons(), sides
    if len(now) >= FEWEST_STUDIES:
        for place, label in enumerate(engine.labels):
            _compare_scores(found, engine, reference, sides, place)
            _compare_calls(found, engine, reference, sides, label.name, place)
        _compare_greys(found, reference, now, recent)
        _compare_kinds(found, reference, now, recent)
    return found


def _find_scanners(
    engine: EngineDescription, reference: TrainingReference | None, sides: Sides, limit: float
) -> tuple[ScannerDrift, ...]:
    """Compare the studies of each scanner by themselves; an alarm of any of them by chance is as rare as of a run."""
    by_scanner = tuple(_by_scanner(side) for side in sides)
    most = sorted(by_scanner[0], key=lambda name: (-len(by_scanner[0][name]), name))[:MOST_SCANNERS]
    compared = {name: _compare(engine, reference, (by_scanner[0][name], by_scanner[1].get(name, []))) for name in most}
    comparisons = sum(len(found.lines) for found in compared.values())
    return tuple(
        ScannerDrift(
            name,
            len(by_scanner[0][name]),
            len(by_scanner[1].get(name, [])),
            tuple(_judged(line, degrees, limit, comparisons) for line, degrees in found.lines),
        )
        for name, found in compared.items()
    )


def _by_scanner(studies: Sequence[StudyFacts]) -> dict[str, list[StudyFacts]]:
    found: dict[str, list[StudyFacts]] = {}
    for study in studies:
        if study.scanner:
            found.setdefault(study.scanner, []).append(study)
    return found


def population_stability_index(counts: Counts, reference: Counts) -> float:
    """Return the index of two lots of counts over the same bins, float64 [bins]; half a count is added to each bin."""
    shares, expected = ((each + _SMOOTHING) / (each.sum() + _SMOOTHING * len(each)) for each in (counts, reference))
    return float(((shares - expected) * np.log(shares / expected)).sum())


def chance_limit(degrees: int, studies: int, reference: int, comparisons: int = 1) -> float:
    """Return what the index stays below by chance, over all comparisons together, in 99 runs out of 100.

    The quantile of chi-square is Wilson and Hilferty's (1931), within 1 % of the exact one.
    """
    z = NormalDist().inv_cdf(1 - BY_CHANCE / max(1, comparisons))
    part = 2 / (9 * degrees)
    return degrees * float((1 - part + z * part**0.5) ** 3) * (1 / studies + 1 / reference)


def _judged(line: DriftLine, degrees: int, limit: float, comparisons: int) -> DriftLine:
    chance = chance_limit(degrees, line.studies, line.reference, comparisons)
    return replace(line, chance=round(chance, 4), alarm=line.psi > max(limit, chance))


# --------------------------------------------------------------------------- distributions


def _compare_scores(
    found: _Comparisons, engine: EngineDescription, reference: TrainingReference | None, sides: Sides, place: int
) -> None:
    label = engine.labels[place]
    now, recent = (np.array([study.probabilities[place] for study in side]) for side in sides)
    _compare_numbers(found, ("score", label.name), (now, recent), label.reference, _images(engine, reference))


def _compare_greys(
    found: _Comparisons,
    reference: TrainingReference | None,
    now: Sequence[StudyFacts],
    recent: Sequence[StudyFacts],
) -> None:
    numbers = [np.array([study.grey for study in side if study.grey is not None]) for side in (now, recent)]
    percentiles = reference.grey if reference else ()
    _compare_numbers(found, ("grey", ""), (numbers[0], numbers[1]), percentiles, reference.images if reference else 0)


def _compare_numbers(
    found: _Comparisons,
    named: tuple[What, str],
    numbers: tuple[Counts, Counts],
    percentiles: Sequence[float],
    images: int,
) -> None:
    """Compare numbers over tenths of the validation images, where these are known, else of the recent ones."""
    now, recent = numbers
    training = np.array(percentiles)
    known = training if len(training) else recent
    if not len(known):
        found.left_out.append(f"{' '.join(named).strip()}: not known of the validation images")
        return
    edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]))
    if len(training):
        # The percentiles stand for the images: what lies between two of them, ties included, is as many hundredths.
        counts = _binned(training, edges)
        found.add(*named, "training", (_binned(now, edges), counts / counts.sum() * images))
    else:
        found.left_out.append(f"{' '.join(named).strip()} against training: not known of the validation images")
    found.add(*named, "recent", (_binned(now, edges), _binned(recent, edges)))


def _binned(numbers: Counts, edges: Counts) -> Counts:
    places = np.searchsorted(edges, numbers, side="left")
    return np.bincount(places, minlength=len(edges) + 1).astype(np.float64)


def _compare_calls(
    found: _Comparisons,
    engine: EngineDescription,
    reference: TrainingReference | None,
    sides: Sides,
    name: str,
    place: int,
) -> None:
    """Compare how often a label is called; one without an operating point never is."""
    if engine.labels[place].operating_point is None:
        return
    now, recent = (_called(engine, side, place) for side in sides)
    share = _expected_share(engine, reference, place)
    if share is None:
        found.left_out.append(f"positive {name} against training: not known of the validation images")
    else:
        images = _images(engine, reference)
        found.add("positive", name, "training", (now, np.array([images * (1 - share), images * share])))
    found.add("positive", name, "recent", (now, recent))


def _called(engine: EngineDescription, studies: Sequence[StudyFacts], place: int) -> Counts:
    point = engine.labels[place].operating_point
    if engine.verdict_rule == "threshold" and point is not None:
        called = sum(study.probabilities[place] >= point for study in studies)
    else:
        calls = (call_image(engine.labels, "argmax", study.probabilities)[place] for study in studies)
        called = sum(call is True for call in calls)
    return np.array([len(studies) - called, called], np.float64)


def _expected_share(engine: EngineDescription, reference: TrainingReference | None, place: int) -> float | None:
    """Return the share of validation images that a label is called in; of thresholds at the one that it has now."""
    label = engine.labels[place]
    if engine.verdict_rule == "argmax":
        return reference.called.get(label.name) if reference else None
    if label.operating_point is None or (rank := label.rank(label.operating_point)) is None:
        return None
    return 1 - rank


def _images(engine: EngineDescription, reference: TrainingReference | None) -> int:
    """Return how many validation images there were; earlier engines say so among their training facts."""
    if reference is not None:
        return reference.images
    counted = engine.training.get("images")
    images = counted.get("val", 0) if isinstance(counted, dict) else 0
    return images if isinstance(images, int) else 0


def _compare_kinds(
    found: _Comparisons,
    reference: TrainingReference | None,
    now: Sequence[StudyFacts],
    recent: Sequence[StudyFacts],
) -> None:
    views = [Counter(filter(None, (view_of(study.view) for study in side))) for side in (now, recent)]
    ages = [Counter(filter(None, (age_band(study.age) for study in side))) for side in (now, recent)]
    known = reference or TrainingReference()
    for what, (current, former), training in (("view", views, known.views), ("age", ages, known.ages)):
        for against, other in (("training", training), ("recent", former)):
            if not other:
                found.left_out.append(f"{what} against {against}: not known")
                continue
            found.add(what, "", against, _side_by_side(current, other))  # type: ignore[arg-type]  # literals in a loop


def _side_by_side(counts: Mapping[str, int], reference: Mapping[str, int]) -> tuple[Counts, Counts]:
    names = sorted({*counts, *reference})
    # One kind alone is no distribution: a second, empty one makes it the share of all others.
    names += [""] * (len(names) < 2)
    return tuple(np.array([each.get(name, 0) for name in names], np.float64) for each in (counts, reference))  # type: ignore[return-value]  # two of them


def drift_in_words(line: DriftLine) -> str:
    """Say what changed, against what, and by how much."""
    names = {"score": "scores of", "positive": "rate of", "grey": "grey levels", "view": "views", "age": "ages"}
    against = "the validation images" if line.against == "training" else "the last 30 days"
    return f"{names[line.what]} {line.label}".strip() + f" against {against}, {line.psi:.2f}"
