"""The losses: how wrong the network was, over labels and over regions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # everyone's name for it

from cxrbatch.errors import UsageError
from cxrbatch.model.train.options import CLASS_LOSSES, LABEL_LOSSES, Loss
from cxrbatch.records import CellGrid, Float32, Task, even_cells

# Lin et al. 2017, section 4: the value that worked best there.
FOCAL_GAMMA = 2.0
# A label of one image in ten thousand would otherwise outweigh all others together.
_LARGEST_WEIGHT = 50.0
# A lesion fills few cells of the map; without more weight they would drown in the empty ones.
_COVERED_CELL_WEIGHT = 8.0


def usual_loss(task: Task) -> Loss:
    """Return the loss that fits a task: one decision per label, or one among the classes."""
    return "ce" if task == "multiclass" else "bce"


def check_loss(loss: Loss, task: Task) -> None:
    """Refuse a loss that does not fit the task.

    Raises:
        UsageError: it decides between classes where labels are independent, or the other way round.
    """
    fitting = CLASS_LOSSES if task == "multiclass" else LABEL_LOSSES
    if loss not in fitting:
        raise UsageError(f"loss {loss}: does not fit a {task} task. Use {', '.join(fitting)}.")


class LabelLoss(nn.Module):
    """The loss of one decision per label, or of one among the classes; what is not known does not count.

    bce and ce are cross-entropies. weighted-bce weighs the images that have a finding by how many have it not
    (as Wang et al. 2017 do against rare findings), weighted-ce each class by the inverse of its share. focal
    scales the cross-entropy by (1 - p)^2, p being what the network gave the truth (Lin et al. 2017).
    """

    weights: Tensor

    def __init__(self, loss: Loss, targets: Float32) -> None:
        """Make the loss.

        Args:
            loss: which one.
            targets: of the training images, float32 [N,C], nan where unknown; weights come from them.
        """
        super().__init__()
        self.loss = loss
        self.register_buffer("weights", torch.from_numpy(_weights(loss, targets)), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor, *, classes: bool) -> Tensor:
        """Return the mean loss, a scalar; logits float32 [N,C], targets [N,C] with nan where unknown."""
        return self._of_classes(logits, targets) if classes else self._of_labels(logits, targets)

    def _of_labels(self, logits: Tensor, targets: Tensor) -> Tensor:
        known = ~targets.isnan()
        truths = targets.nan_to_num()
        each = F.binary_cross_entropy_with_logits(
            logits, truths, reduction="none", pos_weight=self.weights if self.loss == "weighted-bce" else None
        )
        if self.loss == "focal":
            each = each * (1.0 - (-each).exp()) ** FOCAL_GAMMA
        return (each * known).sum() / known.sum().clamp_min(1)

    def _of_classes(self, logits: Tensor, targets: Tensor) -> Tensor:
        known = targets.nan_to_num().sum(dim=1) == 1
        truths = targets.nan_to_num().argmax(dim=1)
        each = F.cross_entropy(logits, truths, reduction="none")
        if self.loss == "focal":
            each = each * (1.0 - (-each).exp()) ** FOCAL_GAMMA
        weight = self.weights[truths] * known if self.loss == "weighted-ce" else known.float()
        return (each * weight).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)


def _weights(loss: Loss, targets: Float32) -> Float32:
    """Return a weight per label or class, float32 [C]."""
    positives = np.nansum(targets, axis=0)
    negatives = np.nansum(1.0 - targets, axis=0)
    weights = np.ones(targets.shape[1])
    if loss == "weighted-bce":
        weights = negatives / np.maximum(positives, 1.0)
    elif loss == "weighted-ce":
        weights = positives.sum() / (len(positives) * np.maximum(positives, 1.0))
    return np.minimum(weights, _LARGEST_WEIGHT).astype(np.float32)


class RegionLoss(nn.Module):
    """Ask of each cell of a class activation map whether the finding lies there (cf. Li et al. 2018).

    A cell's logit is scale * cam + offset, both learned per label and thrown away after training: the
    network keeps its one linear head, and its maps learn to show places where the data know them.
    """

    def __init__(self, n_labels: int, cells: CellGrid | None = None) -> None:
        """Make the loss; `cells` says where the maps' cells lie in the input square, None: they divide it evenly."""
        super().__init__()
        self.scale = nn.Parameter(torch.full((n_labels, 1, 1), 0.1))
        self.offset = nn.Parameter(torch.full((n_labels, 1, 1), -2.0))
        self._cells = cells

    def forward(self, cams: Tensor, coverage: Tensor, located: Tensor, side_px: int) -> Tensor:
        """Return the mean loss over the cells of all maps whose finding has a known place, or is known to be absent.

        Args:
            cams: float32 [N,C,h,w].
            coverage: float32 [N,C,r,r], >= 0: how much of each place of the square the finding covers. It is
                averaged over what each cell is nearest to; only its proportions within a map count, so that small
                lesions weigh as much as large ones.
            located: bool [N,C], whose place is known; the others don't count.
            side_px: side of the square that the network saw, in pixels.
        """
        covered = pool_around_cells(coverage, (cams.shape[2], cams.shape[3]), side_px, self._cells)
        wanted = covered / covered.amax(dim=(2, 3), keepdim=True).clamp_min(torch.finfo(covered.dtype).tiny)
        weight = torch.tensor(_COVERED_CELL_WEIGHT, device=cams.device)
        each = F.binary_cross_entropy_with_logits(
            cams * self.scale + self.offset, wanted, pos_weight=weight, reduction="none"
        ).mean(dim=(2, 3))
        return (each * located).sum() / located.sum().clamp_min(1)


def pool_around_cells(coverage: Tensor, shape: tuple[int, int], side_px: int, cells: CellGrid | None) -> Tensor:
    """Average what lies over a square over the part of it that each cell of a map is nearest to.

    Args:
        coverage: float32 [N,C,r,r], over a square of `side_px`.
        shape: (h, w) of the map.
        side_px: side of that square, in the pixels that `cells` counts in.
        cells: where the cells are centred; None: they divide the square evenly.

    Returns:
        float32 [N,C,h,w].
    """
    grid = even_cells(shape, side_px) if cells is None else cells
    places = coverage.shape[-2] / side_px, coverage.shape[-1] / side_px
    down = _nearest_shares(grid.origin_y * places[0], grid.stride_y * places[0], shape[0], coverage.shape[-2])
    across = _nearest_shares(grid.origin_x * places[1], grid.stride_x * places[1], shape[1], coverage.shape[-1])
    return down.to(coverage) @ coverage @ across.to(coverage).T


def _nearest_shares(origin: float, stride: float, n_cells: int, length: int) -> Tensor:
    """Return how much each place counts in the mean of each cell, float64 [n_cells,length]; rows add up to 1.

    A cell reaches half way to its neighbours, an outermost one to the border.
    """
    between = origin + stride * (torch.arange(1, n_cells, dtype=torch.float64) - 0.5)
    edges = torch.cat([torch.zeros(1), between.clamp(0, length), torch.full((1,), length)]).double()
    places = torch.arange(length, dtype=torch.float64)
    shared = torch.minimum(edges[1:, None], places + 1) - torch.maximum(edges[:-1, None], places)
    # A cell of which nothing lies in the square has no share of anything.
    return shared.clamp_min(0) / (edges[1:] - edges[:-1])[:, None].clamp_min(1e-9)
