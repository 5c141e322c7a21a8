"""What the stages of a run hand on, and the clock that they share.

read -> score -> print: each is a generator that draws from the one before it, with a bounded number in flight. What
comes out at the end is a `FinishedStudy`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cxrbatch.output.ledger.queue import StudyTask
from cxrbatch.records import ImagePixels, PreparedImage, PrintedStudy, RefusedImage, StudyResult


@dataclass(slots=True)
class StageClock:
    """Seconds spent per stage, summed over processes: more than the wall clock where they run side by side."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, seconds: float) -> None:
        """Count `seconds` for `stage`."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time that the context takes for `stage`."""
        started = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - started)


@dataclass(frozen=True, slots=True)
class DecodedStudy:
    """A study whose images are ready for the engine, each with its input-relative path."""

    task: StudyTask
    images: tuple[tuple[str, PreparedImage], ...]
    refused: tuple[RefusedImage, ...]


@dataclass(frozen=True, slots=True)
class ScoredStudy:
    """A study with its scores; `result` is None where no image of it got any."""

    task: StudyTask
    refused: tuple[RefusedImage, ...]
    result: StudyResult | None
    pixels: tuple[ImagePixels, ...]


@dataclass(frozen=True, slots=True)
class FinishedStudy:
    """What became of a study, for whoever writes the ledger: a few kB, no pixels, the same from whatever machine.

    `refused`: its images without a score. `printed`: the result of the others, where its report lies, and what went
    wrong with that; None where no image got a score.
    """

    study_key: str
    refused: tuple[RefusedImage, ...]
    printed: PrintedStudy | None = None

    @property
    def unread(self) -> str:
        """Return what failed of its images and may come right in the next run; '' where nothing did."""
        return "; ".join(sorted({image.message for image in self.refused if image.status == "failed"}))

    @property
    def unprinted(self) -> str:
        """Return why its report could not be printed; '' where it was, or where there is none to print."""
        return self.printed.failure if self.printed else ""
