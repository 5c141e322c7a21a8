"""The records of models compared on the very same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cxrbatch.model.data.labelled import patients_in_words
from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.pages.retelling import kept
from cxrbatch.pages.wording import counted

Verdict = Literal["first", "second", "none", "too few"]
Test = Literal["", "delong", "swaps", "bootstrap"]

OVERALL = ""
"""The label of a figure that is over all of them."""
ACCURACY = "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One figure of two models on the same images, and first - second with its 95 % interval.

    `label` is OVERALL for means over the labels and for the accuracy of classes. `figure` is as in metrics.json.
    `interval` and `p` (two-sided, of no difference) are None where too few patients speak; `adjusted` is p adjusted
    for how many were tested, `test` says how. `patients_with` the finding and `patients_without` it are None of what
    is over all labels. `verdict`: "first" or "second" is better, "none" was shown to be, or "too few" to tell.
    """

    label: str
    figure: str
    first: float
    second: float
    patients_with: int | None = None
    patients_without: int | None = None
    interval: Estimate | None = None
    p: float | None = None
    adjusted: float | None = None
    test: Test = ""
    verdict: Verdict = "too few"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedModels:
    """Two models on the images that both scored: `images` of so many known `patients`, and `of_unknown` ones.

    `clusters` counts what is resampled as one: patients, publications, and images that stand for themselves.
    `only_first` and `only_second` count the images that only one of them scored, which are in no figure. `cautions`
    are reasons to doubt. `tests_overall` and `tests_of_labels` say for how many tests, of all pairs, p was adjusted.
    Intervals are over `resamples` drawn with `seed`, the same for both models.
    """

    first: str
    second: str
    images: int
    patients: int
    of_unknown: int
    clusters: int
    only_first: int
    only_second: int
    cautions: tuple[str, ...]
    differences: tuple[Difference, ...]
    resamples: int
    seed: int
    tests_overall: int = 0
    tests_of_labels: int = 0

    @property
    def clustered(self) -> bool:
        """Tell whether some patients, or publications, have several images."""
        return self.clusters < self.images

    def verdict_in_words(self, difference: Difference) -> str:
        """Say who is better, as far as that was shown."""
        better = kept("{name} is better")
        words = {"first": better.format(name=self.first), "second": better.format(name=self.second)}
        none = kept("too few") if difference.verdict == "too few" else kept("no difference shown")
        return words.get(difference.verdict, none)

    def images_in_words(self) -> str:
        """Say on which images the two were compared, and which were left out."""
        if not self.images:
            return kept("They share no image: nothing can be compared.")
        images, whose = counted(self.images, "image"), patients_in_words(self.patients, self.of_unknown)
        left_out = [
            (counted(count, "image"), name)
            for count, name in ((self.only_first, self.first), (self.only_second, self.second))
            if count
        ]
        if not left_out:
            return kept("On {images} of {patients} that both scored.").format(images=images, patients=whose)
        said = kept("On {images} of {patients} that both scored; left out: {left_out}.")
        return said.format(images=images, patients=whose, left_out=_in_words(left_out))


def _in_words(left_out: list[tuple[str, str]]) -> str:
    """Say which images, in words, only which model scored: one of them, or both."""
    (images, name), *other = left_out
    if not other:
        return kept("{images} that only {name} scored").format(images=images, name=name)
    both = kept("{images} that only {name} scored and {other_images} that only {name_of_other} scored")
    return both.format(images=images, name=name, other_images=other[0][0], name_of_other=other[0][1])
