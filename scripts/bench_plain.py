"""The plain way to do the same work, for `make bench`: one file after the other, full resolution, autograd Grad-CAM.

What a researcher would write in an afternoon with pydicom, torchvision and WeasyPrint. Prints its times as JSON.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pydicom
import torch
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from torchvision.transforms.v2 import functional as transforms
from weasyprint import HTML

from cxrbatch.model.network.checkpoint import load_checkpoint

SPENT: dict[str, float] = defaultdict(float)


def read(path: Path) -> np.ndarray:
    """Return the windowed image, uint8 [H,W], at full resolution."""
    dataset = pydicom.dcmread(path)
    pixels = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(np.float32)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = pixels.max() - pixels
    return (255 * (pixels - pixels.min()) / np.ptp(pixels)).astype(np.uint8)


def grad_cam(features: torch.Tensor, logit: torch.Tensor) -> np.ndarray:
    """Return ReLU of the feature map weighed by its mean gradient (Selvaraju et al. 2017), float32 [h,w]."""
    (gradient,) = torch.autograd.grad(logit, features, retain_graph=True)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return torch.relu((weights * features).sum(dim=1))[0].detach().numpy()


def overlay(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """Lay a heatmap over an image."""
    scaled = cv2.resize(cam / max(float(cam.max()), 1e-6), image.shape[::-1], interpolation=cv2.INTER_CUBIC)
    colours = cv2.applyColorMap((255 * scaled.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_JET)
    return cv2.addWeighted(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), 0.6, colours, 0.4, 0)


def data_uri(picture: np.ndarray) -> str:
    """Return a picture as a data: URI."""
    encoded = cv2.imencode(".jpg", picture)[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"


def main() -> None:
    """Do all studies, one after the other."""
    studies, engine, out = (Path(argument) for argument in sys.argv[1:])
    checkpoint = load_checkpoint(engine / "checkpoint.safetensors")
    network, labels = checkpoint.network, checkpoint.facts.labels
    out.mkdir(parents=True)
    started = time.perf_counter()
    for path in sorted(studies.glob("*.dcm")):
        clock = time.perf_counter()
        image = read(path)
        SPENT["read"] += -clock + (clock := time.perf_counter())
        pixels = transforms.resize(torch.from_numpy(image)[None, None], [224, 224], antialias=True)
        SPENT["preprocess"] += -clock + (clock := time.perf_counter())
        features = network.feature_map(pixels)
        logits = network.class_activation_maps(features).mean(dim=(2, 3)) + network.head.bias
        probabilities = logits.sigmoid()[0].tolist()
        cams = [grad_cam(features, logits[0, label]) for label in (0, 1)]
        SPENT["infer"] += -clock + (clock := time.perf_counter())
        shown = cv2.resize(
            image, None, fx=1024 / max(image.shape), fy=1024 / max(image.shape), interpolation=cv2.INTER_AREA
        )
        pictures = [data_uri(shown), *(data_uri(overlay(shown, cam)) for cam in cams)]
        SPENT["pictures"] += -clock + (clock := time.perf_counter())
        rows = "".join(
            f"<tr><td>{label.name}<td>{value:.3f}" for label, value in zip(labels, probabilities, strict=True)
        )
        html = "".join(f'<img width=300 src="{picture}">' for picture in pictures) + f"<table>{rows}</table>"
        (out / f"{path.stem}.html").write_text(html)
        SPENT["html"] += -clock + (clock := time.perf_counter())
        HTML(string=html).write_pdf(out / f"{path.stem}.pdf")
        SPENT["pdf"] += time.perf_counter() - clock
    print(json.dumps({"processing_s": time.perf_counter() - started, "stage_s": SPENT}))


if __name__ == "__main__":
    main()
