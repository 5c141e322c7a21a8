"""A network that looks at every image and at its mirror image, and averages: test-time averaging inside the graph.

Start at `MirroredNetwork`; `overlap` works out where the mirrored map's cells lie.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # everyone's name for it

from cxrbatch.model.network.network import ChestNetwork, ScoringNetwork
from cxrbatch.records import CellGrid, ExtraOutput


@dataclass(frozen=True, slots=True)
class Overlap:
    """How a map and the one of the mirror image, turned back, lie on each other.

    The turned map's column j lies on the other's column j + `shift`; both are `columns` wide. Together they cover the
    grid `cells`, which is `columns` + |shift| wide. What is left of a column lies half on either side of its centre.
    """

    shift: int
    columns: int
    cells: CellGrid

    @property
    def width(self) -> int:
        """Columns that both cover together."""
        return self.columns + abs(self.shift)


def overlap(cells: CellGrid, columns: int, size_px: int) -> Overlap:
    """Lay a map and its mirror image on each other.

    Column j is centred at origin + stride j; turned back, the mirror image's is at size - origin - stride (n - 1 - j).
    A ResNet's cells begin at 0.5 and leave a margin at the far side, so the two lie almost one whole column apart:
    at 224 px 0.5 ... 192.5 and 31.5 ... 223.5.

    Args:
        cells: the grid of one map.
        columns: n, how many columns it has.
        size_px: side S of the input.
    """
    apart = (size_px - 2 * cells.origin_x) / cells.stride_x - (columns - 1)
    shift = round(apart)
    first = min(shift, 0) + (apart - shift) / 2
    return Overlap(shift, columns, replace(cells, origin_x=cells.origin_x + first * cells.stride_x))


def average_with_mirrored(maps: Tensor, mirrored: Tensor, shift: int) -> Tensor:
    """Average the maps of images and those of their mirror images, both [N,C,h,n] -> [N,C,h,n+|shift|].

    Where only one of the two has a column the other counts as 0, and all is scaled by (n+|shift|)/n: so the mean over
    the map is the mean of both means, and with the bias still the logit.
    """
    columns, extra = maps.shape[-1], abs(shift)
    turned = mirrored.flip(3)
    here, there = (maps, turned) if shift >= 0 else (turned, maps)
    if extra:
        here, there = F.pad(here, (0, extra)), F.pad(there, (extra, 0))
    return (here + there) * ((columns + extra) / (2 * columns))


class MirroredNetwork(ScoringNetwork):
    """A network asked twice, about the image and about its mirror image; logits and maps are the means of both."""

    def __init__(self, network: ChestNetwork) -> None:
        """Wrap a network, whose calibration becomes that of the mean logits."""
        super().__init__()
        self.network = network
        self.task, self.spec = network.task, network.spec
        self._overlap = overlap(network.cells, map_shape(network)[-1], network.spec.size_px)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Score [N,1,S,S], 0..255: probabilities, logits, maps, and the extra outputs of the network."""
        image = pixels.float()
        straight, mirrored = self.network.answers(image), self.network.answers(image.flip(3))
        logits = (straight["logits"] + mirrored["logits"]) * 0.5
        cams = average_with_mirrored(straight["cams"], mirrored["cams"], self._overlap.shift)
        more = ((straight[name] + mirrored[name]) * 0.5 for name in self.extra_outputs)
        return (self.calibrate(logits), logits, cams, *more)

    @property
    def temperature(self) -> Tensor:  # type: ignore[override]  # the one of the network
        """The calibration's scale, float32 [C]."""
        return self.network.temperature

    @property
    def offset(self) -> Tensor:  # type: ignore[override]
        """The calibration's offset, float32 [C]."""
        return self.network.offset

    @property
    def extra_outputs(self) -> tuple[ExtraOutput, ...]:
        """Those of the network, each the mean of both answers."""
        return self.network.extra_outputs

    @property
    def cells(self) -> CellGrid:
        """Where the cells of the averaged maps lie: as a rule one column more than those of the network."""
        return self._overlap.cells


@torch.no_grad()
def map_shape(network: ScoringNetwork) -> tuple[int, ...]:
    """Return the shape of the network's maps for one image, [1,C,h,w]; its statistics stay as they are."""
    was_training = network.training
    answered = network.eval()(torch.zeros(1, *network.spec.shape, dtype=torch.uint8))
    network.train(was_training)
    return tuple(answered[2].shape)
