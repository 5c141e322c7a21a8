"""Drift: how far the studies of a run are from those the engine was validated on, and from those of the last 30 days.

An alarm takes both: a population stability index (`population_stability`) of more than the limit, and of more than
chance would give in one run out of a hundred, however many distributions are compared. Start at `find_drift`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cxrbatch.output.drift import Against, DriftLine, DriftReport, ScannerDrift, StudyFacts, What
from cxrbatch.output.population_stability import Counts, chance_limit, population_stability_index
from cxrbatch.pages.retelling import kept
from cxrbatch.records import EngineDescription, TrainingReference, call_image
from cxrbatch.records.reference import age_band, view_of

BINS = 10
"""Bins of a distribution of numbers: tenths of the reference."""

FEWEST_STUDIES = 50
"""With fewer studies nothing is said: a bin would be expected to hold fewer than 5."""

MOST_SCANNERS = 20
"""Scanners that are looked at one by one."""

Sides = tuple[Sequence[StudyFacts], Sequence[StudyFacts]]
"""The studies of a run, and those of the 30 days before."""


@dataclass(slots=True)
class _Comparisons:
    """What is compared with what: so far, `lines`; what cannot be, `left_out`."""

    engine: EngineDescription
    reference: TrainingReference | None
    sides: Sides
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
    found = _Comparisons(engine, reference, sides)
    if len(sides[0]) >= FEWEST_STUDIES:
        for place in range(len(engine.labels)):
            _compare_scores(found, place)
            _compare_calls(found, place)
        _compare_greys(found)
        _compare_kinds(found)
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


def _judged(line: DriftLine, degrees: int, limit: float, comparisons: int) -> DriftLine:
    chance = chance_limit(degrees, line.studies, line.reference, comparisons)
    return replace(line, chance=round(chance, 4), alarm=line.psi > max(limit, chance))


# --------------------------------------------------------------------------- distributions


def _compare_scores(found: _Comparisons, place: int) -> None:
    label = found.engine.labels[place]
    now, recent = (np.array([study.probabilities[place] for study in side]) for side in found.sides)
    _compare_numbers(found, ("score", label.name), (now, recent), label.reference, _images(found))


def _compare_greys(found: _Comparisons) -> None:
    now, recent = (np.array([study.grey for study in side if study.grey is not None]) for side in found.sides)
    known = found.reference or TrainingReference()
    _compare_numbers(found, ("grey", ""), (now, recent), known.grey, known.images)


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


def _compare_calls(found: _Comparisons, place: int) -> None:
    """Compare how often a label is called; one without an operating point never is."""
    label = found.engine.labels[place]
    if label.operating_point is None:
        return
    now, recent = (_called(found.engine, side, place) for side in found.sides)
    share = _expected_share(found, place)
    if share is None:
        found.left_out.append(f"positive {label.name} against training: not known of the validation images")
    else:
        images = _images(found)
        found.add("positive", label.name, "training", (now, np.array([images * (1 - share), images * share])))
    found.add("positive", label.name, "recent", (now, recent))


def _called(engine: EngineDescription, studies: Sequence[StudyFacts], place: int) -> Counts:
    point = engine.labels[place].operating_point
    if engine.verdict_rule == "threshold" and point is not None:
        called = sum(study.probabilities[place] >= point for study in studies)
    else:
        calls = (call_image(engine.labels, "argmax", study.probabilities)[place] for study in studies)
        called = sum(call is True for call in calls)
    return np.array([len(studies) - called, called], np.float64)


def _expected_share(found: _Comparisons, place: int) -> float | None:
    """Return the share of validation images that a label is called in; of thresholds at the one that it has now."""
    label = found.engine.labels[place]
    if found.engine.verdict_rule == "argmax":
        return found.reference.called.get(label.name) if found.reference else None
    if label.operating_point is None or (rank := label.rank(label.operating_point)) is None:
        return None
    return 1 - rank


def _images(found: _Comparisons) -> int:
    """Return how many validation images there were; earlier engines say so among their training facts."""
    if found.reference is not None:
        return found.reference.images
    counted = found.engine.training.get("images")
    images = counted.get("val", 0) if isinstance(counted, dict) else 0
    return images if isinstance(images, int) else 0


def _compare_kinds(found: _Comparisons) -> None:
    views = [Counter(filter(None, (view_of(study.view) for study in side))) for side in found.sides]
    ages = [Counter(filter(None, (age_band(study.age) for study in side))) for side in found.sides]
    known = found.reference or TrainingReference()
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
