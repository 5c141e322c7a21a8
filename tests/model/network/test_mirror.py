"""The maps of an image and of its mirror image are averaged exactly, cell on cell, and drawn in the right place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cxrbatch.model.network.mirror import MirroredNetwork, average_with_mirrored, overlap
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.output.report.heatmap import activation_on_display, find_peak
from cxrbatch.records import CellGrid, Float32, Geometry, InputSpec


class Blurring(nn.Module):
    """Two channels, brightness and its negative, each cell looking at a triangle of a stride to either side."""

    def __init__(self, stride: int, first: int) -> None:
        super().__init__()
        self.stride, self.first = stride, first

    def forward(self, grey: Tensor) -> Tensor:
        reach = self.stride // 2
        for _ in range(2):
            grey = nn.functional.avg_pool2d(grey, (1, 2 * reach + 1), stride=1, padding=(0, reach))
            grey = nn.functional.avg_pool2d(grey, (2 * reach + 1, 1), stride=1, padding=(reach, 0))
        seen = grey[:, :, self.first :: self.stride, self.first :: self.stride]
        return torch.cat([seen, -seen], dim=1)


def network_on(cells: CellGrid, size_px: int) -> ChestNetwork:
    """A network whose cells truly lie on this grid, and whose label is brightness."""
    network = ChestNetwork("resnet18", 1, spec=InputSpec(size_px, mean=0.0, std=1.0))
    network.features = nn.Sequential(Blurring(int(cells.stride_x), int(cells.origin_x)))
    network.head = nn.Linear(2, 1)
    network._known_cells = cells
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([[3.0, 1.0]]))
        network.head.bias.fill_(0.25)
    return network.eval()


def peak_x(cam: Float32, cells: CellGrid, size_px: int) -> float:
    geometry = Geometry(size_px, size_px, size_px, 1.0, 1.0, 0.0, 0.0)
    _, column = find_peak(activation_on_display(cam, geometry, (size_px, size_px), cells))
    return column + 0.5


# A ResNet's margin at the far side; DenseNet's even one; Inception's rim; one that leaves half a cell; one beyond.
GRIDS = [
    (CellGrid(0.5, 0.5, 32, 32), 224, 8, 0.0),
    (CellGrid(0.5, 0.5, 16, 16), 128, 9, 0.0),
    (CellGrid(14.5, 14.5, 32, 32), 224, 7, 16.0),
    (CellGrid(16.0, 16.0, 32, 32), 224, 7, 16.0),
    (CellGrid(8.5, 8.5, 32, 32), 224, 7, 16.0),
]


@pytest.mark.parametrize(("cells", "size_px", "width", "origin"), GRIDS)
def test_the_two_grids_lie_on_each_other_around_the_middle(
    cells: CellGrid, size_px: int, width: int, origin: float
) -> None:
    columns = len(range(int(cells.origin_x), size_px, int(cells.stride_x)))
    laid = overlap(cells, columns, size_px)
    assert (laid.width, laid.cells.origin_x) == (width, origin)
    assert (laid.cells.origin_y, laid.cells.stride_x) == (cells.origin_y, cells.stride_x)
    assert laid.cells.origin_x + laid.cells.stride_x * (laid.width - 1) / 2 == size_px / 2


def test_a_grid_that_reaches_beyond_the_far_side_is_moved_the_other_way() -> None:
    laid = overlap(CellGrid(31.5, 0.5, 32, 32), 7, 224)
    assert (laid.shift, laid.width, laid.cells.origin_x) == (-1, 8, 0.0)


@pytest.mark.parametrize("shift", [-2, -1, 0, 1, 2])
def test_the_mean_of_an_average_is_the_average_of_the_means(shift: int) -> None:
    straight, mirrored = torch.randn(2, 3, 1, 4, 5).unbind(0)
    averaged = average_with_mirrored(straight, mirrored, shift)
    assert averaged.shape == (3, 1, 4, 5 + abs(shift))
    torch.testing.assert_close(averaged.mean((2, 3)), (straight.mean((2, 3)) + mirrored.mean((2, 3))) / 2)


@pytest.mark.parametrize(("cells", "size_px"), [(grid[0], grid[1]) for grid in GRIDS])
def test_a_blobs_peak_is_drawn_where_the_blob_is(cells: CellGrid, size_px: int) -> None:
    """Also left or right of the middle: maps laid on each other without the shift would be off by half a cell."""
    network, half = MirroredNetwork(network_on(cells, size_px)), size_px // 28
    places = range(size_px // 5, size_px - size_px // 5, 5)
    images = torch.zeros(len(places), 1, size_px, size_px, dtype=torch.uint8)
    for image, place in zip(images, places, strict=True):
        image[:, size_px // 2 - half : size_px // 2 + half, place - half : place + half] = 255
    with torch.no_grad():
        probabilities, logits, cams = network(images)
    torch.testing.assert_close(cams.mean((2, 3)) + 0.25, logits)
    torch.testing.assert_close(probabilities, logits.sigmoid())
    drawn = [peak_x(cam[0].numpy(), network.cells, size_px) for cam in cams]
    off = [(x - place) / cells.stride_x for x, place in zip(drawn, places, strict=True)]
    assert abs(sum(off) / len(off)) <= 0.05
    assert max(map(abs, off)) <= 0.55, "a peak lies on a cell"


@pytest.mark.parametrize(("cells", "size_px"), [(grid[0], grid[1]) for grid in GRIDS])
def test_an_image_and_its_mirror_image_have_mirrored_maps(cells: CellGrid, size_px: int) -> None:
    """So a symmetric image has a symmetric map, whose axis is the middle of the square."""
    network = MirroredNetwork(network_on(cells, size_px))
    image = torch.randint(0, 256, (1, 1, size_px, size_px), generator=torch.Generator().manual_seed(1)).byte()
    with torch.no_grad():
        _, logits, cams = network(image)
        _, turned_logits, turned = network(image.flip(3))
    torch.testing.assert_close(logits, turned_logits)
    torch.testing.assert_close(cams.flip(3), turned)


def test_its_calibration_is_that_of_its_network() -> None:
    network = MirroredNetwork(network_on(CellGrid(0.5, 0.5, 32, 32), 64))
    network.temperature.copy_(torch.tensor([2.0]))
    network.offset.copy_(torch.tensor([-1.0]))
    with torch.no_grad():
        probabilities, logits, _ = network(torch.full((1, 1, 64, 64), 200, dtype=torch.uint8))
    torch.testing.assert_close(probabilities, (logits / 2 - 1).sigmoid())
