"""What `make bench` measures on: made once, kept below bench/."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1

from cxrbatch.engine.bundle import ENGINE_FILE
from cxrbatch.intake.preprocess import fit_image
from cxrbatch.model.build.build import BuildOptions, build_engine
from cxrbatch.model.build.images import Int8Images
from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, build_network, save_checkpoint
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.phantom import draw_phantom, windowed
from cxrbatch.records import Gray8, InputSpec, Label, now_text
from tests.factories.encoded import encode_frame
from tests.factories.engine import write_tiny_bundle
from tests.factories.intake import dataset, with_frame

ROWS, COLUMNS = 2464, 2022
PNG_ROWS = 1024
DISTINCT = 24
"""So many phantoms are drawn and encoded; further studies show the same ones under identifiers of their own."""
FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
            "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax")  # fmt: skip
# By the number of the study: a quarter JPEG 2000, an eighth JPEG Lossless (process 14, selection value 1).
_MIXED = {1: JPEGLosslessSV1, 3: JPEG2000Lossless, 7: JPEG2000Lossless}
_MAP_PEAK = 2.0
"""Logits: what the strongest place of a map adds where a network has learned; below 0.1 nothing is drawn."""


def fresh(folder: Path) -> Path:
    """Return `folder`, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def make_set(work: Path, name: str, n_studies: int) -> Path:
    """Write a set of studies of one image each: "uncompressed", "mixed" or "png"; return its folder."""
    folder = work / f"{name}-{n_studies}"
    marker = work / f".{folder.name}"
    if not marker.exists():
        fresh(folder).mkdir(parents=True)
        for number in range(n_studies):
            _write_png(folder, number) if name == "png" else _write_dicom(folder, number, mixed=name == "mixed")
        marker.touch()
        _encoded.cache_clear()
        _phantom.cache_clear()
    return folder


def _write_dicom(folder: Path, number: int, *, mixed: bool) -> None:
    phantom = _phantom(number % DISTINCT)
    syntax = _MIXED.get(number % 8, ExplicitVRLittleEndian) if mixed else ExplicitVRLittleEndian
    header = dataset(
        np.zeros((1, 1), np.uint16),
        Rows=ROWS,
        Columns=COLUMNS,
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        WindowCenter=16 * phantom.window_center,
        WindowWidth=16 * phantom.window_width,
        StudyInstanceUID=f"1.2.826.0.1.3680043.10.1.{number + 1}",
        SOPInstanceUID=f"1.2.826.0.1.3680043.10.2.{number + 1}",
        PatientID=f"BENCH{number + 1:05}",
        PixelData=None,
    )
    header.file_meta.TransferSyntaxUID = syntax
    (folder / f"{number:05}.dcm").write_bytes(with_frame(header, _encoded(number % DISTINCT, syntax)))


def _write_png(folder: Path, number: int) -> None:
    image = windowed(_phantom(number % DISTINCT, PNG_ROWS))
    cv2.imwrite(str(folder / f"{number:05}.png"), image)


@cache
def _encoded(seed: int, syntax: Any) -> bytes:
    return encode_frame((_phantom(seed).stored << 4).astype(np.uint16), syntax)


@cache
def _phantom(seed: int, rows: int = ROWS) -> Any:
    return draw_phantom(seed, rows=rows, columns=round(COLUMNS * rows / ROWS))


def make_resnet50_engine(folder: Path) -> Path:
    """Build a 14-label ResNet50 at 224 px, in FP32 and INT8, that calls the first two labels positive.

    Its weights are random, but its maps are as strong as those of a network that has learned: faint ones would not be
    drawn, and cost less than a user's.
    """
    engine = folder / "resnet50-strong"
    if not (engine / ENGINE_FILE).exists():
        torch.manual_seed(0)
        labels = tuple(Label(name, operating_point=0.0 if n < 2 else 1.0) for n, name in enumerate(FINDINGS))
        facts = CheckpointFacts(
            created=now_text(), architecture="resnet50", task="multilabel", labels=labels, input=InputSpec(size_px=224)
        )
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / "resnet50.safetensors"
        pixels = _pixels(facts.input)
        network = strengthen(build_network(facts), torch.from_numpy(pixels))
        save_checkpoint(checkpoint, Checkpoint(network, facts))
        options = BuildOptions(
            precision="int8",
            choose_int8_images=lambda _: _int8_images(pixels, len(labels)),
        )
        build_engine(checkpoint, engine.name, options=options, engines_folder=folder)
    return engine


@torch.no_grad()
def strengthen(network: ChestNetwork, pixels: torch.Tensor) -> ChestNetwork:
    """Give a network of random weights the statistics of these images, and maps whose peaks are `_MAP_PEAK` logits.

    Args:
        network: its layers are changed.
        pixels: uint8 [N,1,S,S].
    """
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0  # one pass says all
    network.train()
    network.feature_map(pixels)
    network.eval()
    features = network.feature_map(pixels)
    # What all places have in common says nothing: without it every label's map is above 0 somewhere, and below.
    common = features.mean(dim=(0, 2, 3))
    weight = network.head.weight
    weight -= (weight @ common / (common @ common))[:, None] * common
    peaks = network.class_activation_maps(features).amax(dim=(2, 3))
    weight *= (_MAP_PEAK / peaks.median(dim=0).values)[:, None]
    network.head.bias.zero_()
    return network


def _pixels(spec: InputSpec) -> Gray8:
    images = (windowed(_phantom(seed, PNG_ROWS)) for seed in range(DISTINCT))
    return np.stack([fit_image(image, spec, *image.shape)[0] for image in images])


def _int8_images(pixels: Gray8, n_labels: int) -> Int8Images:
    """Return the images to calibrate and compare INT8 on: of random weights nobody can ask what they know."""
    return Int8Images(pixels, PixelSet(pixels, np.full((len(pixels), n_labels), np.nan, np.float32)), "phantoms")


def make_small_engine(folder: Path) -> Path:
    """Write an engine that costs nothing, for measuring everything around it."""
    engine = folder / "tiny"
    return engine if (engine / ENGINE_FILE).exists() else write_tiny_bundle(folder)


def make_many_files(folder: Path, n_files: int) -> Path:
    """Write small images, a hundred to a folder."""
    if (folder / ".complete").exists():
        return folder
    noise = np.random.default_rng(0)
    for number in range(n_files):
        path = folder / f"{number // 100:03}" / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), noise.integers(0, 255, (64, 64), np.uint8))
    (folder / ".complete").touch()
    return folder
