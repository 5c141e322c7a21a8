"""Measure where heatmaps are drawn: networks learn from labels alone that a blob is there, and are asked where.

Usage: python scripts/registration.py [-a ARCHITECTURE ...] [--size 160] [--steps 120] [--lr 0.001] [--seed 0]

Prints a table, and the file of docs/measurements that holds it: per architecture the mean offset of the drawn peak from
the blob's centre, in cells, with even cells (the square divided among them) and with the cells of the architecture.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812  # everyone's name for it

from cxrbatch.model.network.architectures import architectures, build_features
from cxrbatch.model.network.network import ChestNetwork, build_seeded
from cxrbatch.output.report.heatmap import activation_on_display, peak_in_stored
from cxrbatch.records import CellGrid, Float32, Geometry, Gray8, InputSpec

BATCH, LEARNING_RATE = 16, 1e-3
ASKED, MARGIN = 128, 0.3


@dataclass(frozen=True, slots=True)
class Blobs:
    """Images uint8 [N,1,S,S] of smooth noise, float32 [N,1] whether a blob is on them, and where: [N,2], x and y."""

    pixels: Gray8
    present: Float32
    centres: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Registration:
    """Offsets of the drawn peaks from the blobs, in cells: [n,2], x and y, with even cells and with the true ones."""

    architecture: str
    output_stride: int
    accuracy: float
    even: NDArray[np.float64]
    registered: NDArray[np.float64]
    seconds: float


def draw_blobs(count: int, size_px: int, rng: np.random.Generator) -> Blobs:
    """Draw images of which every other one has a bright blob, anywhere but near the rim of the square.

    Near the rim no answer is right: the outermost cell may be centred a cell away from the border. And where a
    ResNet's last cell has to find what lies beyond it, its weights, shared by all cells, come to look that way.
    """
    coarse = -(-size_px // 8)
    grain = rng.normal(0, 1, (count, 1, coarse, coarse)).repeat(8, axis=2).repeat(8, axis=3)
    centres = rng.uniform(MARGIN * size_px, (1 - MARGIN) * size_px, (count, 2))
    present = (np.arange(count) % 2 == 0).astype(np.float32)[:, np.newaxis]
    places = np.arange(size_px) + 0.5
    radius = size_px / 20
    away_x = (places[np.newaxis, :] - centres[:, :1]) / radius
    away_y = (places[np.newaxis, :] - centres[:, 1:]) / radius
    bump = np.exp(-0.5 * (away_y[:, :, np.newaxis] ** 2 + away_x[:, np.newaxis, :] ** 2))
    image = 90 + 12 * grain[:, :, :size_px, :size_px] + 130 * (present[:, :, np.newaxis] * bump)[:, np.newaxis]
    return Blobs(np.clip(image, 0, 255).astype(np.uint8), present, centres)


def train_on_labels(
    network: ChestNetwork, steps: int, size_px: int, *, rate: float = LEARNING_RATE, seed: int = 0
) -> None:
    """Teach the network whether there is a blob, and nothing of where."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    network.train().to(memory_format=torch.channels_last)
    for _ in range(steps):
        blobs = draw_blobs(BATCH, size_px, rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(torch.from_numpy(blobs.pixels)).logits
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(logits.float(), torch.from_numpy(blobs.present))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves this one untyped
        optimizer.step()
        schedule.step()
    network.eval()


def measure_offsets(network: ChestNetwork, cells: CellGrid | None, blobs: Blobs) -> tuple[NDArray[np.float64], float]:
    """Return the offsets of the peaks drawn on blobs that the network finds, in cells [n,2], and its accuracy."""
    size_px = blobs.pixels.shape[-1]
    geometry = Geometry(size_px, size_px, size_px, 1.0, 1.0, 0.0, 0.0)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        scores = network(torch.from_numpy(blobs.pixels))
    logits = scores.logits[:, 0].float().numpy()
    stride = np.array([network.cells.stride_x, network.cells.stride_y])
    found = (blobs.present[:, 0] == 1) & (logits > 0)
    offsets = []
    for image in np.flatnonzero(found):
        activation = activation_on_display(scores.cams[image, 0].float().numpy(), geometry, (size_px, size_px), cells)
        offsets.append((np.array(peak_in_stored(activation, geometry)) - blobs.centres[image]) / stride)
    accuracy = float(((logits > 0) == (blobs.present[:, 0] == 1)).mean())
    return np.array(offsets).reshape(-1, 2), accuracy


def register(architecture: str, options: argparse.Namespace) -> Registration:
    """Train one architecture, and measure its maps with both grids."""
    started = time.monotonic()
    stride, seed = options.output_stride, options.seed
    spec = InputSpec(options.size)
    network = build_seeded(lambda: ChestNetwork(architecture, 1, spec=spec, output_stride=stride), seed)
    train_on_labels(network, options.steps, options.size, rate=options.lr, seed=seed)
    blobs = draw_blobs(ASKED, options.size, np.random.default_rng(seed + 1))
    even, accuracy = measure_offsets(network, None, blobs)
    registered, _ = measure_offsets(network, network.cells, blobs)
    return Registration(architecture, stride, accuracy, even, registered, time.monotonic() - started)


def rows(measured: Registration) -> Iterator[str]:
    """Yield the cells of a line of the table."""
    yield f"{measured.architecture}, stride {measured.output_stride}"
    yield f"{measured.accuracy:.3f}"
    yield str(len(measured.even))
    for offsets in (measured.even, measured.registered):
        if not len(offsets):
            yield from ("", "")
            continue
        x, y = offsets.mean(axis=0)
        yield f"{x:+.2f}, {y:+.2f}"
        yield f"{np.hypot(*offsets.mean(axis=0)):.2f}"
    yield f"{measured.seconds:.0f}"


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-a", "--architecture", action="append", choices=architectures())
    parser.add_argument("--size", type=int, default=160, help="side of the images in pixels")
    parser.add_argument("--steps", type=int, default=120, help=f"steps of {BATCH} images")
    parser.add_argument("--lr", type=float, default=LEARNING_RATE, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=1, help="cores; more help only where nobody else computes")
    parser.add_argument("--output-stride", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the images")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    training = f"{options.steps} steps of {BATCH} images, learning rate {options.lr:g}, seed {options.seed}"
    print(f"{datetime.now(timezone.utc):%Y-%m-%d}, {options.size} px, {training}.\n")
    columns = ["network", "accuracy", "blobs found", "even cells: x, y", "length", "its cells: x, y", "length", "s"]
    print("| " + " | ".join(columns) + " |")
    print("|" + " --- |" * len(columns))
    for architecture in options.architecture or architectures():
        build_features(architecture, options.output_stride)  # refuses before anything is trained
        measured = register(architecture, options)
        print("| " + " | ".join(rows(measured)) + " |", flush=True)


if __name__ == "__main__":
    main()
