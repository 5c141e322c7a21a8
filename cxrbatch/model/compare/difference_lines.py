"""What a pair of models comes to, as the lines and sentences that page and terminal show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cxrbatch.model.compare.paired_record import ACCURACY, OVERALL, Difference, PairedModels
from cxrbatch.model.figures.figure_lines import FIGURE_NAMES
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.pages import wording
from cxrbatch.pages.wording import counted


@dataclass(frozen=True, slots=True)
class DifferenceLine:
    """One difference in words; `verdict` is "first", "second", "none" or "too few", `words` says that of the models."""

    name: str
    figure: str
    count: str
    first: str
    second: str
    difference: str
    interval: str
    p: str
    verdict: str
    words: str
    overall: bool


def difference_lines(pair: PairedModels) -> list[DifferenceLine]:
    """Return a line per difference, those over all labels first."""
    return [_line(pair, each) for each in pair.differences]


def _line(pair: PairedModels, each: Difference) -> DifferenceLine:
    interval = each.interval
    has_width = interval is not None and interval.low < interval.high
    count = "" if each.patients_with is None else f"{each.patients_with} with it, {each.patients_without} without"
    return DifferenceLine(
        name=wording.plain(each.label) or "All labels",
        figure="Accuracy" if each.figure == ACCURACY else FIGURE_NAMES[Figure(each.figure)],
        count=count,
        first=f"{each.first:.3f}",
        second=f"{each.second:.3f}",
        difference=f"{each.first - each.second:+.3f}",
        interval=f"{interval.low:+.3f} to {interval.high:+.3f}" if interval is not None and has_width else "",
        p=wording.NO_VALUE if each.adjusted is None else _probability(each.adjusted),
        verdict=each.verdict,
        words=wording.plain(pair.verdict_in_words(each)),
        overall=each.label == OVERALL,
    )


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def pair_sentences(pair: PairedModels) -> Iterator[str]:
    """Yield on which images a pair was compared, how, and for how many tests p was adjusted."""
    yield pair.images_in_words()
    if not pair.differences:
        return
    if pair.clustered:
        yield (
            "Some patients have several images, which DeLong's test takes to be independent: here they are kept "
            "together (Obuchowski 1997)."
        )
    overall, of_labels = pair.tests_overall, pair.tests_of_labels
    if overall + of_labels > 1:
        yield (
            f"In all pairs together {counted(overall, 'figure')} over all labels and {of_labels} of single labels were "
            "tested: p is adjusted for either number (Holm 1979)."
        )
