"""Where the cells of the class activation maps of known architectures lie in the input square.

A cell's centre is not (i + 1/2) * stride: a convolution of kernel 3, stride 2 and padding 1 looks at pixel 2 i, and so
does a ResNet's cell i at pixel 32 i. The values are those that gradients show (`cxrbatch.model.network.cells`
measures them, a test compares); bundles and checkpoints that don't tell theirs get them from here.

EfficientNets are the exception: nothing leads past their strided convolutions, whose kernels learn where to look.
Each trained network looks somewhere else, around the middles of even cells (docs/measurements/registration.md).
"""

from __future__ import annotations

from cxrbatch.records import CellGrid

# Centre of the first cell in input pixels, from the upper left corner of the square, by architecture. A pixel's own
# centre is at 1/2, so 0.5 is what symmetric padding everywhere gives. Pooling over 2x2, unpadded, moves DenseNet's and
# VGG's by half a pixel of their resolution each time; Inception's convolutions without padding eat the rim.
_ORIGINS = {
    "densenet121": 14.5,
    "efficientnet_b0": 16.0,
    "efficientnet_b4": 16.0,
    "inception_v3": 37.5,
    "resnet18": 0.5,
    "resnet50": 0.5,
    "vgg16_bn": 16.0,
}


# What the training facts of an engine say whose maps learned from masks; only earlier versions left the cells out.
_TAUGHT = "their masks taught the heatmaps"


def known_cells(architecture: str, output_stride: int) -> CellGrid | None:
    """Return the grid of an architecture's maps; None where the architecture is not known."""
    origin = _ORIGINS.get(architecture)
    return None if origin is None else CellGrid(origin, origin, output_stride, output_stride)


def earlier_cells(architecture: str, output_stride: int, data: str) -> CellGrid | None:
    """Return the grid of an engine or a checkpoint of an earlier version, which does not tell it.

    Maps that learned from masks learned to answer for an even part of the square each, half a cell from where they
    look: drawn anywhere else, their peaks miss (0.53 instead of 0.89 of the demo's true positives).

    Args:
        architecture: the network's name.
        output_stride: input pixels per cell.
        data: what its training facts say of the data.
    """
    if data.endswith(_TAUGHT):
        return CellGrid(output_stride / 2, output_stride / 2, output_stride, output_stride)
    return known_cells(architecture, output_stride)
