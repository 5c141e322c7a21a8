"""How well the demo engine finds and points at lesions of phantoms that it has never seen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from cxrbatch.demo.cases import Case, Drawing, draw_cases
from cxrbatch.demo.map_check import POINTING_TOLERANCE, Lesions, check_demo_maps, lesions_of
from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.contract import Engine
from cxrbatch.engine.open import open_engine
from cxrbatch.model.figures.metrics import average_over_labels, measure_auroc, sensitivity_and_specificity
from cxrbatch.output.report.heatmap import activation_on_display, peak_in_stored
from cxrbatch.records import CellGrid, Float32, Label, MapCheck, call_image, judge_study

# Far from the seeds of any training set.
HELD_OUT_SEED = 800_000_000

# Studies are many times finer than the engine's input; what it is measured on must be finer too.
_HELD_OUT_PX = 384


@dataclass(frozen=True, slots=True)
class DemoFigures:
    """What the demo engine reached on `images` phantoms.

    `auroc`, `sensitivity` and `specificity` are per finding, the latter two at the operating point; `with_finding`
    counts the phantoms that have it.
    `pointing_rate` is the share of the `true_positives` (findings called where there is one) whose
    heatmap peaks on the lesion or within 3 % of the image's width from it. `maps` says, per finding, what a check of
    its maps found on all phantoms that have it.
    """

    images: int
    macro_auroc: float
    auroc: dict[str, float]
    sensitivity: dict[str, float]
    specificity: dict[str, float]
    pointing_rate: float
    true_positives: int
    with_finding: dict[str, int]
    maps: dict[str, MapCheck] = field(default_factory=dict)

    def of_label(self, label: Label) -> Label:
        """Return the label with its figures, those of its verdicts with their 95 % intervals (Wilson 1927)."""
        found = self.with_finding[label.name]
        metrics = {"auroc": self.auroc[label.name]} if label.name in self.auroc else {}
        shares = (("sensitivity", self.sensitivity, found), ("specificity", self.specificity, self.images - found))
        for name, share, images in shares:
            if not images:
                continue
            value = share[label.name]
            interval = binomtest(round(value * images), images).proportion_ci(method="wilson")
            metrics |= {name: value, f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}
        maps = self.maps.get(label.name)
        return replace(label, metrics=metrics, images_with=found, images_without=self.images - found, maps=maps)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the engine said of one case: a probability per label, and hit or miss per true positive."""

    truths: tuple[bool, ...]
    probabilities: tuple[float, ...]
    hits: tuple[bool, ...]
    lesions: Lesions | None = None


def evaluate_demo_engine(bundle: EngineBundle, *, n: int = 240, seed: int = HELD_OUT_SEED) -> DemoFigures:
    """Draw `n` phantoms with seeds from `seed` on, score them like any study, and compare with the truth.

    The phantoms go the way of every study: a file, intake, the installed engine, the printed heatmap.
    """
    drawings = [Drawing(number, _HELD_OUT_PX, bundle.input) for number in range(seed, seed + n)]
    engine = open_engine(bundle)
    try:
        answers = [_answer(engine, case) for case in draw_cases(drawings)]
        cells = engine.description.cells
    finally:
        engine.close()
    lesions = [answer.lesions for answer in answers if answer.lesions is not None]
    return replace(_sum_up(bundle, answers), maps=check_demo_maps(bundle, lesions, cells))


def _answer(engine: Engine, case: Case) -> _Answer:
    scores = engine.infer(case.image.pixels[np.newaxis])
    calls = judge_study(engine.description, scores.probabilities.tolist()).calls
    hits = []
    for index, label in enumerate(engine.description.labels):
        if label.name in case.masks and calls[index]:
            hits.append(_hits(scores.cams[0, index], case, label.name, engine.description.cells))
    lesions = lesions_of(case, scores.cams[0]) if case.masks else None
    return _Answer(case.truths, tuple(scores.probabilities[0].tolist()), tuple(hits), lesions)


def _hits(cam: Float32, case: Case, finding: str, cells: CellGrid | None) -> bool:
    image = case.image
    activation = activation_on_display(cam, image.geometry, image.radiograph.display.shape, cells)
    return points_at(peak_in_stored(activation, image.geometry), case.masks[finding], tolerance=POINTING_TOLERANCE)


def points_at(peak: tuple[float, float], mask: NDArray[np.bool_], *, tolerance: float) -> bool:
    """Tell whether a peak hits a lesion: the pointing game (Zhang et al. 2018).

    Args:
        peak: (x, y) in the mask's pixels.
        mask: bool [H,W], the lesion.
        tolerance: how far outside still counts, as a part of the mask's longer side.
    """
    if not mask.any():
        return False
    radius = tolerance * max(mask.shape)
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    row = min(max(int(peak[1]), 0), mask.shape[0] - 1)
    column = min(max(int(peak[0]), 0), mask.shape[1] - 1)
    return bool(distance[row, column] <= radius)


def _sum_up(bundle: EngineBundle, answers: list[_Answer]) -> DemoFigures:
    truths = np.array([answer.truths for answer in answers], bool)
    scores = np.array([answer.probabilities for answer in answers], np.float32)
    auroc, sensitivity, specificity = {}, {}, {}
    for index, label in enumerate(bundle.labels):
        calls = np.array(
            [call_image(bundle.labels, "threshold", answer.probabilities)[index] for answer in answers], bool
        )
        auroc[label.name] = measure_auroc(truths[:, index], scores[:, index])
        sensitivity[label.name], specificity[label.name] = sensitivity_and_specificity(truths[:, index], calls)
    hits = [hit for answer in answers for hit in answer.hits]
    macro = average_over_labels(list(auroc.values()))
    return DemoFigures(
        images=len(answers),
        macro_auroc=0.0 if macro is None else macro,
        auroc={name: value for name, value in auroc.items() if value is not None},
        sensitivity=sensitivity,
        specificity=specificity,
        pointing_rate=float(np.mean(hits)) if hits else 0.0,
        true_positives=len(hits),
        with_finding={label.name: int(truths[:, index].sum()) for index, label in enumerate(bundle.labels)},
    )
