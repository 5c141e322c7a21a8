"""What a pair of models comes to, as the lines and sentences that page and terminal show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cxrbatch.model.compare.paired_record import ACCURACY, OVERALL, Difference, PairedModels
from cxrbatch.model.figures.figure_lines import figure_name, interval as ends
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.pages import wording
from cxrbatch.pages.language import gettext as _, localised, ngettext
from cxrbatch.pages.retelling import retold


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
    count = _("{count} with it, {without} without").format(count=each.patients_with, without=each.patients_without)
    return DifferenceLine(
        name=wording.plain(each.label) or _("All labels"),
        figure=_("Accuracy") if each.figure == ACCURACY else figure_name(Figure(each.figure)),
        count="" if each.patients_with is None else count,
        first=localised(f"{each.first:.3f}"),
        second=localised(f"{each.second:.3f}"),
        difference=localised(f"{each.first - each.second:+.3f}"),
        interval=ends(f"{interval.low:+.3f}", f"{interval.high:+.3f}") if interval is not None and has_width else "",
        p=wording.NO_VALUE if each.adjusted is None else _probability(each.adjusted),
        verdict=each.verdict,
        words=wording.plain(retold(pair.verdict_in_words(each))),
        overall=each.label == OVERALL,
    )


def _probability(p: float) -> str:
    return localised("< 0.001" if p < 0.001 else f"{p:.3f}")


def pair_sentences(pair: PairedModels) -> Iterator[str]:
    """Yield on which images a pair was compared, how, and for how many tests p was adjusted."""
    yield retold(pair.images_in_words())
    if not pair.differences:
        return
    if pair.clustered:
        yield _(
            "Some patients have several images, which DeLong's test takes to be independent: here they are kept "
            "together (Obuchowski 1997)."
        )
    overall, of_labels = pair.tests_overall, pair.tests_of_labels
    if overall + of_labels > 1:
        yield ngettext(
            "In all pairs together {count} figure over all labels and {of_labels} of single labels were tested: p is "
            "adjusted for either number (Holm 1979).",
            "In all pairs together {count} figures over all labels and {of_labels} of single labels were tested: p is "
            "adjusted for either number (Holm 1979).",
            overall,
        ).format(count=overall, of_labels=of_labels)
