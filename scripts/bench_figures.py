"""The arithmetic of `make bench`: what a sample is, which samples count and what is made of them; nothing runs here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

SETS = ("uncompressed", "mixed", "png")
MODES = ("csv", "html", "pdf")
PRECISIONS = ("fp32", "int8")
QUIET_SHARE = 0.05
"""A sample counts where others took no more than this share of the cores while it ran."""

MOST_GROWTH = 1.25
"""By how much core-ms a study may grow, beside the plain way's, before `--quick` fails."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One way to run: which images, what is written, at which precision."""

    images: str
    mode: str
    precision: str

    @property
    def name(self) -> str:
        """How JSON names it."""
        return f"{self.images}/{self.mode}/{self.precision}"


@dataclass(frozen=True, slots=True)
class Limit:
    """How often per second something can be done on all cores, and the CPU time of one."""

    per_s: float
    core_ms: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One command, run to its end on `cores` cores.

    `cpu_s` is user and system time of its whole process tree, `foreign_s` what everything else took meanwhile.
    `processing_s` is the wall time after start-up, `processing_cpu_s` the CPU time of it where that is known.
    `stage_s` is CPU time per stage, empty where it was not looked at.
    """

    studies: int
    wall_s: float
    cpu_s: float
    foreign_s: float
    cores: int
    peak_rss_mb: float = 0.0
    processing_s: float | None = None
    processing_cpu_s: float | None = None
    stage_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def foreign_share(self) -> float:
        """The share of all cores that others took, 0..1."""
        return self.foreign_s / (self.wall_s * self.cores)

    @property
    def core_ms(self) -> float:
        """CPU time of the whole command per study, start-up and all."""
        return 1e3 * self.cpu_s / max(1, self.studies)

    @property
    def studies_per_s(self) -> float:
        """Studies per second after start-up."""
        return self.studies / (self.processing_s or self.wall_s)

    @property
    def whole_studies_per_s(self) -> float:
        """Studies per second of the whole command."""
        return self.studies / self.wall_s


@dataclass(frozen=True, slots=True)
class Summary:
    """The medians of the samples that count: `quiet` of `samples`, or the least disturbed one where `quiet` is 0."""

    samples: int
    quiet: int
    foreign_share: float
    wall_s: float
    core_ms: float
    studies_per_s: float
    whole_studies_per_s: float
    peak_rss_mb: float
    processing_core_ms: float | None
    stage_ms: dict[str, float]

    @property
    def is_quiet(self) -> bool:
        """Tell whether nothing else took more of the machine than `QUIET_SHARE`."""
        return self.quiet > 0


def is_quiet(sample: Sample, limit: float = QUIET_SHARE) -> bool:
    """Tell whether a sample counts."""
    return sample.foreign_share <= limit


def counting(samples: Sequence[Sample], limit: float = QUIET_SHARE) -> list[Sample]:
    """Return the quiet samples; where there is none, the one that was disturbed least."""
    quiet = [sample for sample in samples if is_quiet(sample, limit)]
    return quiet or [min(samples, key=lambda sample: sample.foreign_share)]


def summarise(samples: Sequence[Sample], limit: float = QUIET_SHARE) -> Summary:
    """Return what is told of some samples of the same command."""
    used = counting(samples, limit)
    processing = [1e3 * sample.processing_cpu_s / sample.studies for sample in used if sample.processing_cpu_s]
    return Summary(
        samples=len(samples),
        quiet=sum(is_quiet(sample, limit) for sample in samples),
        foreign_share=max(sample.foreign_share for sample in used),
        wall_s=median(sample.wall_s for sample in used),
        core_ms=median(sample.core_ms for sample in used),
        studies_per_s=median(sample.studies_per_s for sample in used),
        whole_studies_per_s=median(sample.whole_studies_per_s for sample in used),
        peak_rss_mb=max(sample.peak_rss_mb for sample in used),
        processing_core_ms=median(processing) if processing else None,
        stage_ms=_stages(used),
    )


def _stages(samples: Sequence[Sample]) -> dict[str, float]:
    """Return core-ms per stage and study, with what is in no stage as "other": start-up, headers, pipes, ledger.

    Where the CPU time after start-up is known, as of the plain way, start-up is left out.
    """
    timed = [sample for sample in samples if sample.stage_s]
    names = dict.fromkeys(name for sample in timed for name in sample.stage_s)
    stages = {name: median(1e3 * each.stage_s.get(name, 0.0) / each.studies for each in timed) for name in names}
    if timed:
        whole = median(1e3 * (each.processing_cpu_s or each.cpu_s) / each.studies for each in timed)
        stages["other"] = max(0.0, whole - sum(stages.values()))
    return stages


def together(rates: Iterable[float]) -> float:
    """Return the rate of what does several things to each study one after another, each on all cores at its rate."""
    return 1 / sum(1 / rate for rate in rates)


@dataclass(frozen=True, slots=True)
class Cost:
    """Our core-ms a study, start-up and all, as a share of the plain way's, whose start-up does not count.

    `quiet` is False where others took much of the machine: then the plain way's threads spin, and it costs more.
    """

    ratio: float
    quiet: bool

    @classmethod
    def of(cls, ours: Summary, plain: Summary) -> Cost:
        """Compare two summaries of the same work."""
        return cls(ours.core_ms / (plain.processing_core_ms or plain.core_ms), ours.is_quiet and plain.is_quiet)

    def has_grown(self, recorded: Cost, most: float = MOST_GROWTH) -> bool:
        """Tell whether it is more than `most` times the recorded one, which says something if nothing disturbed it."""
        return recorded.quiet and self.ratio > recorded.ratio * most
