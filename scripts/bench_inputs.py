"""What `make bench` measures on: made once, kept below bench/."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from pydicom.uid import JPEG2000Lossless

from cxrbatch.engine.bundle import ENGINE_FILE
from cxrbatch.model.build.build import build_engine
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, build_network, save_checkpoint
from cxrbatch.phantom import draw_phantom
from cxrbatch.records import InputSpec, Label, now_text

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.factories.engine import write_tiny_bundle
from tests.factories.intake import write_dicom

ROWS, COLUMNS = 2464, 2022
FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
            "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax")  # fmt: skip


def fresh(folder: Path) -> Path:
    """Return `folder`, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def make_studies(folder: Path, n_studies: int) -> Path:
    """Write studies of one 16-bit image each, every fourth of them JPEG 2000 lossless."""
    marker = folder / f".complete-{n_studies}"
    if marker.exists():
        return folder
    fresh(folder).mkdir(parents=True)
    for number in range(n_studies):
        phantom = draw_phantom(number, rows=ROWS, columns=COLUMNS)
        encoding = {"transfer_syntax": JPEG2000Lossless} if number % 4 == 3 else {}
        write_dicom(
            folder / f"{number:03}.dcm",
            pixels=(phantom.stored << 4).astype(np.uint16),
            BitsStored=16,
            HighBit=15,
            WindowCenter=16 * phantom.window_center,
            WindowWidth=16 * phantom.window_width,
            StudyInstanceUID=f"1.2.826.0.1.3680043.10.1.{number + 1}",
            SOPInstanceUID=f"1.2.826.0.1.3680043.10.2.{number + 1}",
            **encoding,
        )
    marker.touch()
    return folder


def make_resnet50_engine(folder: Path) -> Path:
    """Build a 14-label ResNet50 at 224 px with random weights that calls the first two labels positive."""
    engine = folder / "resnet50"
    if not (engine / ENGINE_FILE).exists():
        torch.manual_seed(0)
        labels = tuple(Label(name, operating_point=0.0 if n < 2 else 1.0) for n, name in enumerate(FINDINGS))
        facts = CheckpointFacts(
            created=now_text(), architecture="resnet50", task="multilabel", labels=labels, input=InputSpec(size_px=224)
        )
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / "resnet50.safetensors"
        save_checkpoint(checkpoint, Checkpoint(build_network(facts).eval(), facts))
        build_engine(checkpoint, "resnet50", engines_folder=folder)
    return engine


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
