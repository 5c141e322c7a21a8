"""`make gpu-check`: what a machine with an NVIDIA GPU can show, and no other can.

Runs the tests marked `gpu`; builds a ResNet50 at 224 px from random weights, in FP32 and FP16, and compares each GPU
backend with ONNX Runtime; measures their images/s at batches of 1 to 512; and trains a ResNet50 on
shared/data/nih256 at 224 px. Prints a report, and writes it with versions to bench/gpu.md; ends with 1 where a
part failed. Meant to be pasted into docs/measurements.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.engine.backends import FASTEST_FIRST, look_at_backend
from cxrbatch.engine.bundle import EngineBundle, load_bundle
from cxrbatch.engine.cuda import probe_cuda
from cxrbatch.engine.open import EngineChoice, open_choice, runnable
from cxrbatch.errors import CxrBatchError
from cxrbatch.upkeep.bench import BenchOptions, BenchReport, measure_engine
from scripts import bench_inputs

ROOT = Path(__file__).parents[1]
WORK = ROOT / "bench"
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
COMPARED_IMAGES = 128
EPOCHS = 30

# Multiplications and additions, counted apart, of a ResNet50 at 224 px (He et al. 2016: 4.1 G of both together).
GFLOP_PER_IMAGE = 8.2


@dataclass(frozen=True)
class Part:
    """One part of the check: what it is called, what it found in Markdown, and whether that is as it should be."""

    title: str
    text: str
    passed: bool


def run_gpu_tests() -> Part:
    """Run pytest -m gpu; a test that was skipped on a machine with a GPU counts as not shown."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(ROOT / "tests")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout)
    return Part("Tests marked gpu", done.stdout.strip().splitlines()[-1], done.returncode == 0)


def compare_backends(bundle: EngineBundle) -> Part:
    """Score the same images on every backend, and give the largest change from ONNX Runtime's FP32."""
    size = bundle.input.size_px
    pixels = np.random.default_rng(3).integers(0, 256, (COMPARED_IMAGES, 1, size, size), np.uint8)
    reference = _score(bundle, EngineChoice("onnxruntime", "onnx", "fp32", ""), pixels)
    lines, passed = ["| backend | precision | largest change of a probability |", "| --- | --- | ---: |"], True
    for choice in runnable(bundle):
        if choice.backend == "onnxruntime":
            continue
        change = float(np.abs(_score(bundle, choice, pixels) - reference).max())
        # The limits of the build's own gate: FP32 1e-4, FP16 0.005.
        passed &= change <= (1e-4 if choice.precision == "fp32" else 5e-3)
        lines.append(f"| {choice.backend} | {choice.precision} | {change:.1e} |")
    return Part("Against ONNX Runtime on the CPU, FP32", "\n".join(lines), passed and len(lines) > 2)


def _score(bundle: EngineBundle, choice: EngineChoice, pixels: np.ndarray) -> np.ndarray:
    with closing(open_choice(bundle, choice)) as engine:
        return np.concatenate([engine.infer(part).probabilities for part in np.array_split(pixels, 8)])


def measure_throughput(bundle: EngineBundle) -> Part:
    """Measure each GPU backend that runs here; uint8 upload should reach 0.9 of the rate without copies."""
    rows = []
    for backend in ("tensorrt", "tensorrt-rtx", "torch"):
        if look_at_backend(backend).runs and any(choice.backend == backend for choice in runnable(bundle)):
            options = BenchOptions(backend=backend, batch_sizes=BATCH_SIZES, seconds=2.0)
            rows += list(_throughput_rows(measure_engine(bundle, options)))
    head = ["| backend | precision | batch | ms | images/s | without copies | ratio | TFLOP/s |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    # Not every backend can compute without copies; what it does not know is no ratio.
    best = max((ratio for _, ratio in rows if not math.isnan(ratio)), default=0.0)
    return Part("Throughput", "\n".join([*head, *(line for line, _ in rows)]), best >= 0.9)


def _throughput_rows(report: BenchReport) -> Iterator[tuple[str, float]]:
    for row in report.rows:
        alone = row.alone_images_per_s or float("nan")
        ratio = row.images_per_s / alone
        yield (
            (
                f"| {row.backend} | {row.precision} | {row.batch_size} | {row.latency_ms:.2f} | {row.images_per_s:.0f} "
                f"| {alone:.0f} | {ratio:.2f} | {alone * GFLOP_PER_IMAGE / 1e3:.1f} |"
            ),
            ratio,
        )


def train_nih256() -> Part:
    """Train on nih256 at 224 px on the GPU, and evaluate on its validation patients."""
    title = "Training nih256 at 224 px"
    data = Path(os.environ.get("CXRBATCH_SHARED_DATA", "")) / "nih256"
    if not (data / "labels.csv").is_file():
        return Part(title, f"not run: {data} is not there (set CXRBATCH_SHARED_DATA)", passed=False)
    checkpoint, evaluation = WORK / "nih256.safetensors", WORK / "nih256-evaluation"
    train = ["train", str(data), "-o", str(checkpoint), "--binary", "No Finding", "--image-size", "224",
             "--epochs", str(EPOCHS), "--init", "none", "--devices", "1"]  # fmt: skip
    started = time.perf_counter()
    code, printed = _cxrbatch(*train)
    seconds = time.perf_counter() - started
    if code:
        return Part(title, f"failed with exit code {code}:\n{printed[-2000:]}", passed=False)
    options = ["--split", "val", "--binary", "No Finding", "--bootstrap", "200"]
    code, printed = _cxrbatch("evaluate", str(checkpoint), str(data), "-o", str(evaluation), *options)
    if code:
        return Part(title, f"evaluation failed with exit code {code}:\n{printed[-2000:]}", passed=False)
    figures = json.loads((evaluation / "metrics.json").read_text())["measured"]["labels"][0]["figures"]
    images = EPOCHS * sum(",train," in line for line in (data / "labels.csv").read_text().splitlines())
    text = f"{seconds:.0f} s, start-up included; {images / seconds:.0f} images/s; AUROC {figures['auroc']:.3f}"
    return Part(title, text, passed=figures["auroc"] >= 0.80)


def _cxrbatch(*arguments: str) -> tuple[int, str]:
    print("cxrbatch", *arguments, flush=True)
    command = [sys.executable, "-m", "cxrbatch", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def build_bundle() -> EngineBundle:
    """Build the ResNet50 of `make bench` with an FP16 file, and with plans where TensorRT is installed."""
    checkpoint = bench_inputs.make_resnet50_engine(WORK / "engines").parent / "resnet50.safetensors"
    build = ["build", str(checkpoint), "-n", "gpu-check", "--engines", str(WORK / "engines"), "--precision", "fp16"]
    backends = [backend for backend in ("tensorrt", "tensorrt-rtx") if look_at_backend(backend).runs]
    plans = [word for backend in backends for word in ("--backend", backend)]
    # A plan that cannot be built must not keep the torch backend from being measured.
    for extra in (plans, []):
        code, printed = _cxrbatch(*build, *extra)
        if not code:
            break
        print(printed)
    folder = WORK / "engines" / "gpu-check"
    return load_bundle(folder if folder.is_dir() else WORK / "engines" / "resnet50")


def guarded(title: str, part: Callable[[], Part]) -> Part:
    """Run a part; one that fails is reported, and the others still run."""
    try:
        return part()
    except (CxrBatchError, RuntimeError, OSError, KeyError) as error:
        return Part(title, f"failed: {type(error).__name__}: {error}", passed=False)


def main() -> None:
    """Run every part and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skip-training", action="store_true")
    options = parser.parse_args()
    probe = probe_cuda()
    if not probe.gpus:
        sys.exit(f"make gpu-check needs an NVIDIA GPU: {probe.problem}")
    bundle = build_bundle()
    parts = [
        guarded("Tests marked gpu", run_gpu_tests),
        guarded("Against ONNX Runtime on the CPU, FP32", lambda: compare_backends(bundle)),
        guarded("Throughput", lambda: measure_throughput(bundle)),
    ]
    if not options.skip_training:
        parts.append(guarded("Training nih256 at 224 px", train_nih256))
    gpus = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in probe.gpus)
    states = [look_at_backend(backend) for backend in FASTEST_FIRST]
    lines = [f"`make gpu-check`, {datetime.now().astimezone().date()}, {gpus}", ""]
    lines += [f"- {state.backend}: {state.detail}" for state in states]
    for part in parts:
        lines += ["", f"## {part.title}: {'passed' if part.passed else 'NOT PASSED'}", "", part.text]
    text = "\n".join(lines) + "\n"
    WORK.mkdir(exist_ok=True)
    (WORK / "gpu.md").write_text(text)
    print(text)
    sys.exit(0 if all(part.passed for part in parts) else 1)


if __name__ == "__main__":
    main()
