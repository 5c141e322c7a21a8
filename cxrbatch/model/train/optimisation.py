"""The optimiser and the learning rate's schedule of a training, as they were asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from cxrbatch.model.train.options import TrainingOptions

# For how many epochs without a lower validation loss a plateau is waited on, and how far the rate goes down then.
PLATEAU_PATIENCE, _PLATEAU_FACTOR = 3, 0.3
# Plain cosine warms up for this part of the training: Adam's first steps know little of the gradients' scale.
_COSINE_WARM_UP = 0.05


def make_optimizer(network: nn.Module, others: Iterable[nn.Parameter], options: TrainingOptions) -> Any:
    """Make the optimiser of a network; `others` are parameters of the loss, learned without decay."""
    groups = _parameter_groups(network, others, options.weight_decay)
    rate = options.learning_rate
    match options.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=rate, fused=True)
        case "adam":
            return torch.optim.Adam(groups, lr=rate, fused=True)
        case "adamax":
            return torch.optim.Adamax(groups, lr=rate)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate, momentum=0.9)
        case "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)


def make_plateau(optimizer: Any, losses: Sequence[float]) -> ReduceLROnPlateau:
    """Make the schedule that goes down where the loss does not, in the state that it has after these losses.

    Lightning would take its step after a state is written, and a resumed training would miss one.
    """
    plateau = ReduceLROnPlateau(optimizer, factor=_PLATEAU_FACTOR, patience=PLATEAU_PATIENCE)
    for loss in losses:
        plateau.step(loss)
    return plateau


def make_schedule(optimizer: Any, options: TrainingOptions, steps: int) -> dict[str, Any]:
    """Make a schedule over so many optimiser steps, as Lightning takes it."""
    warm_up = options.warm_up if options.schedule == "one-cycle" else _COSINE_WARM_UP
    return {"scheduler": LambdaLR(optimizer, lambda step: one_cycle(step, steps, warm_up)), "interval": "step"}


def one_cycle(step: int, steps: int, warm_up: float) -> float:
    """Return the learning rate at a step, as a part of its peak: up in a line, down in half a cosine (Smith 2018)."""
    rising = max(1.0, warm_up * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    falling = min(1.0, (step - rising) / max(1.0, steps - rising))
    return 0.5 * (1.0 + math.cos(math.pi * falling))


def _parameter_groups(network: nn.Module, others: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Decay the weights of convolutions and of the head; not biases, nor scales of normalisation layers."""
    parameters = list(network.parameters())
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    rest = [parameter for parameter in parameters if parameter.ndim <= 1] + list(others)
    return [{"params": weights, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
