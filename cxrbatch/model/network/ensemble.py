"""Several networks of the same findings as one: logits and maps are averaged, their disagreement is an output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cxrbatch.model.network.mirror import MirroredNetwork
from cxrbatch.model.network.network import ChestNetwork, ScoringNetwork
from cxrbatch.records import CellGrid, ExtraOutput

Member = ChestNetwork | MirroredNetwork


class EnsembleNetwork(ScoringNetwork):
    """The mean of its members (deep ensembles, Lakshminarayanan et al. 2017, here over logits).

    Each member's calibration is part of its head, so what is averaged are calibrated logits and their maps, and the
    mean of a map plus the mean of the biases is the logit, as of one network. `temperature` and `offset` calibrate
    the mean. The disagreement is the standard deviation, over the members, of the probabilities that each of them
    gives under that calibration.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """Take members of one task and input, whose maps have the same grid, as `fold_calibration` left them."""
        super().__init__()
        first = members[0]
        self.task, self.spec = first.task, first.spec
        self.members = nn.ModuleList(members)
        n_labels = len(first.temperature)
        self.register_buffer("temperature", torch.ones(n_labels))
        self.register_buffer("offset", torch.zeros(n_labels))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Score [N,1,S,S], 0..255: probabilities, logits, maps, disagreement, and distance if all members give it."""
        answers = [member.answers(pixels) for member in self._members]
        logits, cams = (_mean([each[name] for each in answers]) for name in ("logits", "cams"))
        disagreement = _deviation([self.calibrate(each["logits"]) for each in answers])
        more = (_mean([each[name] for each in answers]) for name in self.extra_outputs if name != "disagreement")
        return (self.calibrate(logits), logits, cams, disagreement, *more)

    @property
    def extra_outputs(self) -> tuple[ExtraOutput, ...]:
        """The disagreement; also the mean distance, where every member gives one."""
        has_distance = all("distance" in member.extra_outputs for member in self._members)
        return ("disagreement", "distance") if has_distance else ("disagreement",)

    @property
    def cells(self) -> CellGrid:
        """Where the cells of its maps lie: those of every member."""
        return self._members[0].cells

    @property
    def _members(self) -> list[Member]:
        return [member for member in self.members if isinstance(member, (ChestNetwork, MirroredNetwork))]


@torch.no_grad()
def fold_calibration(network: ChestNetwork) -> None:
    """Make the network's calibration part of its head: its logits, and its maps, are calibrated from now on."""
    network.head.weight.div_(network.temperature[:, None])
    network.head.bias.copy_(network.head.bias / network.temperature + network.offset)
    network.temperature.fill_(1.0)
    network.offset.fill_(0.0)


# Written out instead of stack, mean and std: every backend knows these operators.


def _mean(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total * (1 / len(parts))


def _deviation(parts: Sequence[Tensor]) -> Tensor:
    middle = _mean(parts)
    squares = [(part - middle) * (part - middle) for part in parts]
    return _mean(squares).sqrt()
