"""The plain way to do the same work, for `make bench`: one file after the other, full resolution, autograd Grad-CAM.

What a researcher would write in an afternoon with pydicom, torchvision, Jinja2 and WeasyPrint, in default settings. It
is spared what it can be: Grad-CAM is computed by hand, both maps from one forward pass and without hooks, where
pytorch-grad-cam makes a pass for each; JPEG Lossless, for which pydicom has no decoder of a free licence, is decoded by
imagecodecs, the fastest at hand; with --mode csv no map is computed. Prints its times as JSON.
"""

from __future__ import annotations

import argparse
import base64
import csv
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pydicom
import torch
from jinja2 import Environment
from pydicom.encaps import get_frame
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEGLosslessSV1
from torchvision.transforms.v2 import functional as transforms
from weasyprint import HTML

from cxrbatch.model.network.checkpoint import load_checkpoint
from cxrbatch.model.network.network import ChestNetwork

CPU_S: dict[str, float] = defaultdict(float)
PAGE = Environment(autoescape=True).from_string("""<!doctype html><html><head><title>{{ name }}</title><style>
body { font-family: sans-serif } td { padding: 2px 12px; border-bottom: 1px solid #ccc }</style></head><body>
<h1>{{ name }}</h1>{% for picture in pictures %}<img width="300" src="{{ picture }}">{% endfor %}
<table>{% for label, value in rows %}
<tr><td>{{ label }}</td><td>{{ "%.3f"|format(value) }}</td></tr>{% endfor %}</table>
</body></html>""")


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Count the CPU time of a stage, all threads together."""
    started = time.process_time()
    yield
    CPU_S[stage] += time.process_time() - started


def read(path: Path) -> np.ndarray:
    """Return the windowed image, uint8 [H,W], at full resolution."""
    if path.suffix == ".png":
        return np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8)
    dataset = pydicom.dcmread(path)
    stored = apply_modality_lut(_stored(dataset), dataset)
    pixels: np.ndarray = apply_voi_lut(stored, dataset).astype(np.float32)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = pixels.max() - pixels
    return np.asarray(255 * (pixels - pixels.min()) / np.ptp(pixels), np.uint8)


def _stored(dataset: pydicom.Dataset) -> np.ndarray:
    if dataset.file_meta.TransferSyntaxUID == JPEGLosslessSV1:
        return np.asarray(imagecodecs.jpeg_decode(get_frame(dataset.PixelData, 0, number_of_frames=1)))
    return dataset.pixel_array


def grad_cam(features: torch.Tensor, logit: torch.Tensor) -> np.ndarray:
    """Return ReLU of the feature map weighed by its mean gradient (Selvaraju et al. 2017), float32 [h,w]."""
    (gradient,) = torch.autograd.grad(logit, features, retain_graph=True)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return torch.relu((weights * features).sum(dim=1))[0].detach().numpy()


def score(network: ChestNetwork, image: np.ndarray, *, maps: bool) -> tuple[list[float], list[np.ndarray]]:
    """Return the probabilities of all labels, and the heatmaps of the first two where they are asked for."""
    with timed("preprocess"):
        pixels = transforms.resize(torch.from_numpy(image)[None, None], [224, 224], antialias=True)
    with timed("infer"), torch.set_grad_enabled(maps):
        features = network.feature_map(pixels)
        logits = network.class_activation_maps(features).mean(dim=(2, 3)) + network.head.bias
        cams = [grad_cam(features, logits[0, label]) for label in (0, 1)] if maps else []
        return logits.sigmoid()[0].tolist(), cams


def overlay(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """Lay a heatmap over an image."""
    scaled = cv2.resize(cam / max(float(cam.max()), 1e-6), image.shape[::-1], interpolation=cv2.INTER_CUBIC)
    colours = cv2.applyColorMap((255 * scaled.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_JET)
    return cv2.addWeighted(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), 0.6, colours, 0.4, 0)


def data_uri(picture: np.ndarray) -> str:
    """Return a picture as a data: URI."""
    encoded = cv2.imencode(".jpg", picture)[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"


def draw(image: np.ndarray, cams: list[np.ndarray]) -> list[str]:
    """Return the image at 1,024 px, alone and under each heatmap."""
    with timed("pictures"):
        factor = 1024 / max(image.shape)
        shown = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return [data_uri(shown), *(data_uri(overlay(shown, cam)) for cam in cams)]


def main() -> None:
    """Do all studies, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    for place in ("studies", "engine", "out"):
        parser.add_argument(place, type=Path)
    parser.add_argument("--mode", choices=["csv", "html", "pdf"], default="pdf")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.engine / "checkpoint.safetensors")
    network, labels = checkpoint.network, [label.name for label in checkpoint.facts.labels]
    if not isinstance(network, ChestNetwork):
        sys.exit(f"{options.engine}: an ensemble or mirrored; the plain way knows single networks")
    options.out.mkdir(parents=True)
    paths = sorted(path for path in options.studies.iterdir() if path.is_file())[: options.limit]
    started, cpu_started = time.perf_counter(), time.process_time()
    with (options.out / "scores.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", *labels])
        for path in paths:
            with timed("read"):
                image = read(path)
            probabilities, cams = score(network, image, maps=options.mode != "csv")
            table.writerow([path.name, *probabilities])
            if options.mode == "csv":
                continue
            pictures = draw(image, cams)
            with timed("html"):
                rows = zip(labels, probabilities, strict=True)
                html = PAGE.render(name=path.stem, pictures=pictures, rows=rows)
                (options.out / f"{path.stem}.html").write_text(html)
            if options.mode == "pdf":
                with timed("pdf"):
                    HTML(string=html).write_pdf(options.out / f"{path.stem}.pdf")
    spent = {"processing_s": time.perf_counter() - started, "processing_cpu_s": time.process_time() - cpu_started}
    print(json.dumps({"studies": len(paths), **spent, "stage_s": CPU_S}))


if __name__ == "__main__":
    main()
