"""Whether anybody has checked that a label's heatmaps point at the finding, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MapCheck:
    """What a check of one label's maps found, on `images` of `patients` on which the finding is marked.

    `hits` is the share of them whose peak lies in what is marked (the pointing game, Zhang et al. 2018); `chance` what
    a peak thrown anywhere would hit, `same_place` what always pointing where other patients' marks lie most would.
    `over_chance` and `over_same_place` are the lower ends of the 95 % intervals of the differences, over patients.
    `shuffled_hits` is what copies of the network with shuffled weights hit, `over_shuffled` the lower end of that
    difference; `likeness` is the mean rank correlation of their maps with the network's own, which says -1..1 and
    must not be above `likeness_limit` (Adebayo et al. 2018). None where that was not measured. `reason` says in words
    why the maps are not `validated`, `source` which images these were.
    """

    images: int
    patients: int
    hits: float
    chance: float
    validated: bool = False
    reason: str = ""
    source: str = ""
    over_chance: float | None = None
    same_place: float | None = None
    over_same_place: float | None = None
    shuffled_hits: float | None = None
    over_shuffled: float | None = None
    likeness: float | None = None
    likeness_limit: float | None = None

    @property
    def in_words(self) -> str:
        """Whether the maps are validated, and if not, why."""
        return "validated" if self.validated else f"not validated: {self.reason}"

    @property
    def numbers(self) -> tuple[float, ...]:
        """Every figure that is there."""
        found = (
            *(self.hits, self.chance, self.over_chance, self.same_place, self.over_same_place),
            *(self.shuffled_hits, self.over_shuffled, self.likeness, self.likeness_limit),
        )
        return tuple(number for number in found if number is not None)
