"""Calibration: the scaling of logits, fitted on the validation part, that makes probabilities honest.

Temperature scaling (Guo et al. 2017, section 4.2): logits are divided by one positive number. Each label of a
multi-label or binary task also gets an offset (Platt 1999), for a network trained with class weights is off by
one. The order of the images by such a label never changes, so neither does its AUROC; between classes it may.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # everyone's name for it

from cxrbatch.model.network.network import ScoringNetwork
from cxrbatch.records import Float32, Task

MIN_CASES = 10
"""Fewer images than this with a finding, or without it, leave the label's logits as they are."""

# How strongly the temperature is drawn towards 1 and the offset towards 0, against a mean loss per image times N:
# an opinion worth about one image, so it decides only where there are few.
_PRIOR = 0.5
_LARGEST_SCALE = 20.0
_STEPS = 60


@dataclass(frozen=True, slots=True)
class Calibration:
    """Per label: probabilities come from logits / temperature + offset; every temperature is greater than 0."""

    temperature: tuple[float, ...]
    offset: tuple[float, ...]

    def probabilities(self, logits: Float32, task: Task) -> Float32:
        """Return what a network so calibrated answers: float32 [N,C] -> float32 [N,C], 0..1."""
        scaled = torch.from_numpy(logits) / torch.tensor(self.temperature) + torch.tensor(self.offset)
        answered: Float32 = (scaled.softmax(dim=1) if task == "multiclass" else scaled.sigmoid()).numpy()
        return answered

    def apply_to(self, network: ScoringNetwork) -> None:
        """Build the calibration into the network's graph."""
        network.temperature.copy_(torch.tensor(self.temperature))
        network.offset.copy_(torch.tensor(self.offset))


def fit_calibration(logits: Float32, targets: Float32, task: Task) -> Calibration:
    """Fit the calibration that makes the truths likeliest.

    Args:
        logits: float32 [N,C], of images that the network did not learn from.
        targets: float32 [N,C], 0 or 1; nan where unknown, which is left out. One 1 per row where multi-class.
        task: one temperature for all classes where multi-class, else a temperature and an offset per label.
    """
    if task == "multiclass":
        return _fit_classes(logits, targets)
    fitted = [_fit_label(logits[:, label], targets[:, label]) for label in range(logits.shape[1])]
    return Calibration(tuple(temperature for temperature, _ in fitted), tuple(offset for _, offset in fitted))


def _fit_label(logits: Float32, targets: Float32) -> tuple[float, float]:
    known = ~np.isnan(targets) & np.isfinite(logits)
    scores, truths = torch.from_numpy(logits[known]).double(), torch.from_numpy(targets[known]).double()
    positives = float(truths.sum())
    negatives = len(truths) - positives
    if min(positives, negatives) < MIN_CASES:
        return 1.0, 0.0
    # Platt's targets: without them, images that a label separates perfectly would ask for an infinite scale.
    softened = torch.where(truths > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: Tensor) -> Tensor:
        scaled = scores * parameters[0].exp() + parameters[1]
        return F.binary_cross_entropy_with_logits(scaled, softened, reduction="sum")

    log_scale, offset = _minimise(loss, torch.zeros(2, dtype=torch.float64))
    return float(np.exp(-log_scale)), offset


def _fit_classes(logits: Float32, targets: Float32) -> Calibration:
    known = np.isfinite(logits).all(axis=1) & (np.nan_to_num(targets).sum(axis=1) == 1)
    n_classes = logits.shape[1]
    temperature = 1.0
    if int(known.sum()) >= MIN_CASES * n_classes:
        scores, truths = torch.from_numpy(logits[known]).double(), torch.from_numpy(targets[known]).double()
        smoothing = 1 / (len(scores) + n_classes)

        def loss(parameters: Tensor) -> Tensor:
            return F.cross_entropy(
                scores * parameters[0].exp(), truths.argmax(dim=1), reduction="sum", label_smoothing=smoothing
            )

        temperature = float(np.exp(-_minimise(loss, torch.zeros(1, dtype=torch.float64))[0]))
    return Calibration((temperature,) * n_classes, (0.0,) * n_classes)


def _minimise(loss: Callable[[Tensor], Tensor], start: Tensor) -> list[float]:
    """Return the parameters with the least loss; the first is the logarithm of the scale, so the scale stays > 0.

    A temperature beyond 1/20..20 says that the logits tell nothing, or everything, about so few images: it is
    held there.
    """
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([parameters], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(parameters) + _PRIOR * parameters.square().sum()
        value.backward()  # type: ignore[no-untyped-call]  # torch leaves this one untyped
        return value

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]  # the same
    found = parameters.detach()
    found[0].clamp_(-float(np.log(_LARGEST_SCALE)), float(np.log(_LARGEST_SCALE)))
    return [float(value) for value in found]
