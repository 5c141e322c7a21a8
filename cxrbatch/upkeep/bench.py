"""How fast an engine scores on each backend of this machine, beside the backend on its own."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from cxrbatch import __version__
from cxrbatch.config import Backend, PrecisionChoice, available_cores
from cxrbatch.engine.backends import installed_version, look_at_backend
from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.contract import INPUT, ComputesAlone, Engine, output_names
from cxrbatch.engine.open import EngineChoice, choose_engine, open_choice, runnable
from cxrbatch.errors import UsageError
from cxrbatch.pages.terminal_text import TITLE, literal
from cxrbatch.records import Gray8, now_text
from cxrbatch.system import durable
from cxrbatch.system.record_json import to_json

REPORTED_LIBRARIES = ("numpy", "onnxruntime", "torch", "tensorrt", "tensorrt-rtx-cu13", "pycuda")

# Stretches of calls are apart from each other: the threads of a session with default options go on waiting busily
# after its last call, and would take a core from whoever is measured next.
_STRETCHES = 5
_SETTLE_S = 0.3
_SEED = 1

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What is measured: each of `batch_sizes` for about `seconds`, once whole and once alone."""

    backend: Backend = "auto"
    precision: PrecisionChoice = "auto"
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    seconds: float = 3.0
    threads: int = 0

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UsageError("batch-sizes: name at least one size, all greater than 0, such as 1,8,32.")
        if self.seconds <= 0 or self.threads < 0:
            raise UsageError("seconds must be greater than 0, and threads not negative.")


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One batch size on one backend. Times are those of a batch in milliseconds, rates images per second.

    `images_per_s` is that of `Engine.infer`, copies and checks and all, from the median time; `latency_ms` that
    median, `latency_p95_ms` the time that 95 % of the calls kept. `alone_images_per_s` is that of the backend by
    itself: a bare ONNX Runtime session with default options, or a GPU without any copy; None where unknown.
    """

    backend: str
    precision: str
    batch_size: int
    calls: int
    latency_ms: float
    latency_p95_ms: float
    images_per_s: float
    alone_images_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """What `cxrbatch bench --json` writes."""

    cxrbatch_version: str
    measured_at: str
    engine: str
    architecture: str
    size_px: int
    cores: int
    threads: int
    processor: str
    backends: dict[str, str]
    libraries: dict[str, str]
    rows: tuple[BenchRow, ...]


def measure_engine(bundle: EngineBundle, options: BenchOptions, *, report: Report = lambda _: None) -> BenchReport:
    """Measure every file of the bundle that runs here, on every backend that runs it, or what `options` names.

    Raises:
        EngineError: nothing of what is asked for can run here.
    """
    rows: list[BenchRow] = []
    choices = _choices(bundle, options)
    for choice in choices:
        report(f"measuring {choice.backend} {choice.precision}")
        rows += _measure_choice(bundle, choice, options)
    return BenchReport(
        cxrbatch_version=__version__,
        measured_at=now_text(),
        engine=bundle.name,
        architecture=bundle.manifest.architecture,
        size_px=bundle.input.size_px,
        cores=available_cores(),
        threads=options.threads or available_cores(),
        processor=_processor(),
        backends={choice.backend: look_at_backend(choice.backend).detail for choice in choices},
        libraries={name: version for name in REPORTED_LIBRARIES if (version := installed_version(name))},
        rows=tuple(rows),
    )


def print_bench(console: Console, report: BenchReport) -> None:
    """Print the report as a table: milliseconds per batch, and `ratio` to the rate alone."""
    title = f"{report.engine}: {report.architecture}, {report.size_px} px, {report.threads} threads"
    table = Table("on", title=literal(title, TITLE))
    for head in ("batch", "ms", "95 % in", "images/s", "alone", "ratio"):
        table.add_column(head, justify="right")
    for row in report.rows:
        alone = row.alone_images_per_s
        table.add_row(
            f"{row.backend} {row.precision}",
            str(row.batch_size),
            f"{row.latency_ms:.2f}",
            f"{row.latency_p95_ms:.2f}",
            f"{row.images_per_s:.1f}",
            "" if alone is None else f"{alone:.1f}",
            "" if alone is None else f"{row.images_per_s / alone:.2f}",
        )
    console.print(table)
    for sentence in _compare_precisions(report.rows):
        console.print(sentence, highlight=False)


def write_bench(path: Path, report: BenchReport) -> None:
    """Write the report as JSON."""
    durable.replace_text(path, to_json(report, indent=2) + "\n")


def _choices(bundle: EngineBundle, options: BenchOptions) -> tuple[EngineChoice, ...]:
    wanted = tuple(
        choice
        for choice in runnable(bundle)
        if options.backend in {"auto", choice.backend} and options.precision in {"auto", choice.precision}
    )
    # Nothing: then the choice of a run tells why.
    return wanted or (choose_engine(bundle, backend=options.backend, precision=options.precision),)


def _measure_choice(bundle: EngineBundle, choice: EngineChoice, options: BenchOptions) -> Iterator[BenchRow]:
    noise = np.random.default_rng(_SEED)
    size = bundle.input.size_px
    with closing(open_choice(bundle, choice, threads=options.threads)) as engine:
        prepare_alone = _alone(bundle, choice, engine, options.threads)
        for batch_size in options.batch_sizes:
            pixels = noise.integers(0, 256, (batch_size, 1, size, size), np.uint8)
            alone = prepare_alone(pixels) if prepare_alone else None
            whole_s, alone_s = time_in_turns(lambda: engine.infer(pixels), alone, options.seconds)  # noqa: B023
            latency = float(np.median(whole_s))
            yield BenchRow(
                backend=choice.backend,
                precision=choice.precision,
                batch_size=batch_size,
                calls=len(whole_s),
                latency_ms=round(1e3 * latency, 6),
                latency_p95_ms=round(1e3 * float(np.percentile(whole_s, 95)), 6),
                images_per_s=round(batch_size / latency, 1),
                alone_images_per_s=round(batch_size / float(np.median(alone_s)), 1) if alone_s else None,
            )


def time_in_turns(
    whole: Callable[[], object], alone: Callable[[], object] | None, seconds: float
) -> tuple[list[float], list[float]]:
    """Call both in turns, a stretch at a time, so that what else the machine does falls on both alike.

    Each is called for about `seconds` in all, and at least once in each stretch, whose first call is not counted.

    Returns:
        The seconds that each call took, of both.
    """
    functions = [whole] if alone is None else [whole, alone]
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(_STRETCHES):
        for function, spent in zip(functions, times, strict=True):
            time.sleep(_SETTLE_S)
            function()
            spent.extend(_time_calls(function, seconds / _STRETCHES))
    return times[0], times[1] if alone else []


def _time_calls(function: Callable[[], object], seconds: float) -> Iterator[float]:
    end = time.perf_counter() + seconds
    while True:
        started = time.perf_counter()
        function()
        finished = time.perf_counter()
        yield finished - started
        if finished >= end:
            return


def _alone(
    bundle: EngineBundle, choice: EngineChoice, engine: Engine, threads: int
) -> Callable[[Gray8], Callable[[], object]] | None:
    """Return what makes, of a batch, the function that lets the backend compute it by itself."""
    if isinstance(engine, ComputesAlone):
        return engine.prepare_alone
    if choice.backend != "onnxruntime":
        return None
    session = _open_bare_session(bundle, choice.role, threads)
    outputs = list(output_names(bundle.manifest.extra_outputs))
    return lambda pixels: lambda: session.run(outputs, {INPUT: pixels})


def _open_bare_session(bundle: EngineBundle, role: str, threads: int) -> ort.InferenceSession:
    """Open the same file as anyone would: ONNX Runtime's defaults, but for the number of threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.log_severity_level = 4
    return ort.InferenceSession(bundle.read_verified(role), options, providers=["CPUExecutionProvider"])


def _compare_precisions(rows: Sequence[BenchRow]) -> Iterator[str]:
    """Say how much faster each precision is than FP32 on the same backend, each at its best batch size."""
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        key = (row.backend, row.precision)
        best[key] = max(best.get(key, 0.0), row.images_per_s)
    for (backend, precision), rate in best.items():
        if precision != "fp32" and (fp32 := best.get((backend, "fp32"))):
            yield f"{backend}: {precision} scores {rate / fp32:.2f} times as many images per second as fp32."


def _processor() -> str:
    """Return the processor's name; Linux tells it in /proc/cpuinfo only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
