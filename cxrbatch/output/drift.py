"""What is compared of studies to find drift (`find_drift`), and what is told of it in run.json, pages and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

What = Literal["score", "positive", "grey", "view", "age"]
Against = Literal["training", "recent"]


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """What is compared of one study: its first scored image. `grey` 0..255; empty or None where not known."""

    probabilities: tuple[float, ...]
    grey: float | None
    view: str
    age: float | None
    scanner: str = ""


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


def drift_in_words(line: DriftLine) -> str:
    """Say what changed, against what, and by how much."""
    names = {"score": "scores of", "positive": "rate of", "grey": "grey levels", "view": "views", "age": "ages"}
    against = "the validation images" if line.against == "training" else "the last 30 days"
    return f"{names[line.what]} {line.label}".strip() + f" against {against}, {line.psi:.2f}"
