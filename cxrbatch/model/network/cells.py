"""Measuring where the cells of a feature map look: the centroid of the gradient that one cell sends to the input."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cxrbatch.records import CellGrid

# Large enough that what the middle cells look at lies inside; 14 cells a side at a stride of 32.
_SIDE_PX = 448
_CELLS = 4


def measure_cells(extractor: nn.Module, *, draws: int = 2, side_px: int = _SIDE_PX) -> CellGrid:
    """Measure the grid of an extractor's last feature map, with the weights that it has.

    One cell's channels, weighed at random, are propagated back to an image of noise. Where the absolute gradient has
    its centroid, the cell's effective receptive field (Luo et al. 2016) is centred. Only cells around the middle are
    asked: the border cuts off the fields of the others. What is pooled over the whole map, as the gates of
    EfficientNets, has no place and is left out. Strides are whole pixels, so the fit over the cells is rounded.

    Args:
        extractor: grey float32 [N,1,S,S] -> [N,channels,h,w]; its parameters and statistics stay as they are.
        draws: images of noise to average over.
        side_px: side S of these images; the grid does not depend on it.
    """
    probe = copy.deepcopy(extractor).cpu().float().eval().requires_grad_(False)
    for module in probe.modules():
        if isinstance(module, nn.AdaptiveAvgPool2d):
            module.register_forward_hook(lambda _module, _inputs, pooled: pooled.detach())
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        measured = [_centroids(probe, side_px) for _ in range(draws)]
    cells = measured[0][0]
    x, y = torch.stack([centroids for _, centroids in measured]).mean(dim=0)
    (origin_x, stride_x), (origin_y, stride_y) = _fit(cells, x), _fit(cells, y)
    return CellGrid(origin_x, origin_y, stride_x, stride_y)


def _centroids(probe: nn.Module, side_px: int) -> tuple[Tensor, Tensor]:
    """Return places of cells on the diagonal, [k], and their centroids in x and in y, in input pixels [2,k]."""
    image = torch.randn(1, 1, side_px, side_px)
    with torch.no_grad():
        side = probe(image).shape[-1]
    first = max(0.0, (side - 1) / 2 - side / 6)
    places = torch.linspace(first, side - 1 - first, _CELLS).tolist()
    cells = torch.tensor(sorted({round(place) for place in places}))
    images = image.repeat(len(cells), 1, 1, 1).requires_grad_()
    features = probe(images)
    weights = torch.randn(features.shape[1])
    asked = features[torch.arange(len(cells)), :, cells, cells] @ weights
    (gradient,) = torch.autograd.grad(asked.sum(), images)
    share = gradient[:, 0].abs()
    share = share / share.sum(dim=(1, 2), keepdim=True)
    pixels = torch.arange(side_px) + 0.5
    return cells, torch.stack([share.sum(dim=1) @ pixels, share.sum(dim=2) @ pixels])


def _fit(cells: Tensor, centroids: Tensor) -> tuple[float, float]:
    """Return origin and stride of cells [k] at these centroids [k], by least squares."""
    places = cells.to(centroids.dtype)
    away = places - places.mean()
    stride = max(1.0, float((away * centroids).sum() / (away * away).sum().clamp_min(1e-6)))
    stride = float(round(stride))
    return round(float((centroids - stride * places).mean()), 2), stride
