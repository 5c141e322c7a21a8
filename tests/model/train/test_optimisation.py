"""Learning rates over time, and what each optimiser and schedule makes of the options."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from cxrbatch.model.train.optimisation import make_optimizer, make_plateau, make_schedule, one_cycle
from cxrbatch.model.train.options import Optimizer, TrainingOptions, usual_learning_rate


def test_the_learning_rate_rises_peaks_once_and_ends_near_zero() -> None:
    rates = [one_cycle(step, 100, 0.25) for step in range(100)]
    peak = int(np.argmax(rates))
    assert peak == 25
    assert rates[peak] == 1.0
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert rates[0] == pytest.approx(1 / 26)
    assert rates[-1] < 0.001


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_trainings_have_a_learning_rate(steps: int) -> None:
    assert all(0 < one_cycle(step, steps, 0.25) <= 1 for step in range(steps))


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_every_optimizer_descends_and_decays_weights_only(name: Optimizer) -> None:
    layer, scale = nn.Linear(4, 1), nn.Parameter(torch.ones(1))
    options = TrainingOptions(optimizer=name, learning_rate=usual_learning_rate(name, pretrained=False))
    optimizer = make_optimizer(layer, [scale], options)
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert decays == {id(layer.weight): 0.02, id(layer.bias): 0.0, id(scale): 0.0}
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (layer(torch.ones(8, 4)) * scale - 3.0).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_pretrained_weights_are_changed_more_gently() -> None:
    assert usual_learning_rate("adamw", pretrained=True) == pytest.approx(
        0.3 * usual_learning_rate("adamw", pretrained=False)
    )


def rates_of(options: TrainingOptions, steps: int) -> list[float]:
    optimizer = make_optimizer(nn.Linear(2, 1), [], replace(options, learning_rate=1.0))
    scheduler = make_schedule(optimizer, options, steps)["scheduler"]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_warms_up_shortly_and_falls() -> None:
    rates = rates_of(TrainingOptions(schedule="cosine"), 100)
    assert int(np.argmax(rates)) == 5
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.01


def test_one_cycle_rises_for_the_part_that_is_asked_for() -> None:
    assert int(np.argmax(rates_of(TrainingOptions(warm_up=0.4), 100))) == 40


def test_on_a_plateau_the_rate_goes_down_and_a_later_start_knows_it() -> None:
    losses = (1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
    rates = []
    for known in range(len(losses) + 1):
        optimizer = make_optimizer(nn.Linear(2, 1), [], TrainingOptions(learning_rate=1.0))
        make_plateau(optimizer, losses[:known])
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0] * 6 + [0.3] * 2)
