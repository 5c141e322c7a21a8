"""What no pipeline around them can exceed, for `make bench`: the engine, the decoder and the PDF library, each alone.

Each has all cores to itself: `engine` is a session of ONNX Runtime with default options, `decode` our reading of a
file, `pages` WeasyPrint on the pages of reports that a run has printed; the last two in a process per core. Prints a
rate per second, and core-ms for each, as JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.config import Settings, available_cores
from scripts.bench_figures import Limit

BATCHES = (1, 4, 8)
_WARM_UP_CALLS = 3
_PATIENCE_S = 240.0

Work = Sequence[Callable[[], object]]


# --------------------------------------------------------------------------- the engine


def measure_engine(engine: Path, precision: str, seconds: float) -> Limit:
    """Return images per second at the best of `BATCHES`."""
    import onnxruntime as ort

    from cxrbatch.engine.bundle import load_bundle
    from cxrbatch.engine.contract import INPUT, OUTPUTS

    bundle = load_bundle(engine)
    options = ort.SessionOptions()
    options.intra_op_num_threads = available_cores()
    role = {"fp32": "onnx", "int8": "onnx_int8"}[precision]
    session = ort.InferenceSession(bundle.read_verified(role), options, providers=["CPUExecutionProvider"])
    noise, size = np.random.default_rng(1), bundle.input.size_px
    batches = [noise.integers(0, 256, (images, 1, size, size), np.uint8) for images in BATCHES]
    limits = [
        _time_calls(partial(session.run, list(OUTPUTS), {INPUT: batch}), seconds, len(batch)) for batch in batches
    ]
    return max(limits, key=lambda limit: limit.per_s)


def _time_calls(call: Callable[[], object], seconds: float, images: int) -> Limit:
    for _ in range(_WARM_UP_CALLS):
        call()
    times: list[float] = []
    cpu, end = time.process_time(), time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    cpu = time.process_time() - cpu
    return Limit(images / float(np.median(times)), 1e3 * cpu / (images * len(times)))


# --------------------------------------------------------------------------- a process per core


def prepare_decoding(share: Sequence[str], root: Path, size_px: int) -> Work:
    """Return what reads each file of a share and readies it for an engine, as a run's worker does."""
    from cxrbatch.intake.discover import index_file
    from cxrbatch.records import ImageFile, IndexedFile, InputSpec
    from cxrbatch.run.read import ReadJob, read_image

    def job(name: str) -> ReadJob:
        path = root / name
        status = path.stat()
        indexed = index_file(root, ImageFile(name, status.st_size, status.st_mtime_ns), Settings())
        assert isinstance(indexed, IndexedFile), name
        return ReadJob(indexed.study_key, indexed, path, InputSpec(size_px), Settings())

    return [partial(read_image, job(name)) for name in share]


def prepare_pages(share: Sequence[str], out: Path) -> Work:
    """Return what prints each page of a share of the reports in `out`, as its last printing handed it to WeasyPrint."""
    from cxrbatch.output.report import pdf
    from cxrbatch.output.report.manner import Manner
    from cxrbatch.output.report.report import reprint_study
    from cxrbatch.output.report.report_files import RESULT_JSON, report_folder
    from cxrbatch.records import StudyResult
    from cxrbatch.system.record_json import from_json

    pages: list[Callable[[], object]] = []
    render = pdf.render_pdf

    def keep(*arguments: Any, **named: Any) -> bytes:
        pages.append(partial(render, *arguments, **named))
        return render(*arguments, **named)

    pdf.render_pdf = keep
    try:
        for key in share:
            result = from_json((report_folder(out, key) / RESULT_JSON).read_text(), StudyResult)
            reprint_study(result, out, html=False, pdf=True, manner=Manner("all"))
    finally:
        pdf.render_pdf = render
    return pages


def on_all_cores(prepare: Callable[[Sequence[str]], Work], names: Sequence[str]) -> Limit:
    """Share the names out to a process per core, let each prepare, and time what all of them then do side by side."""
    context = multiprocessing.get_context("spawn")
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a core each, as in a run
    cores = available_cores()
    barrier, answers = context.Barrier(cores), context.Queue()
    processes = [
        context.Process(target=_work, args=(prepare, names[core::cores], barrier, answers)) for core in range(cores)
    ]
    for process in processes:
        process.start()
    done = [answers.get(timeout=2 * _PATIENCE_S) for _ in processes]
    for process in processes:
        process.join()
    count, wall_s = sum(each[2] for each in done), max(each[1] for each in done) - min(each[0] for each in done)
    return Limit(count / wall_s, 1e3 * sum(each[3] for each in done) / count)


def _work(prepare: Callable[[Sequence[str]], Work], share: Sequence[str], barrier: Barrier, answers: Any) -> None:
    import cv2

    cv2.setNumThreads(1)
    work = prepare(share)
    work[0]()
    barrier.wait(_PATIENCE_S)
    started, cpu = time.monotonic(), time.process_time()
    for step in work:
        step()
    answers.put((started, time.monotonic(), len(work), time.process_time() - cpu))


def main() -> None:
    """Measure what is named, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["engine", "decode", "pages"])
    parser.add_argument("place", type=Path, help="engine: its folder; decode: images; pages: an output folder")
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32")
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    if options.what == "engine":
        limit = measure_engine(options.place, options.precision, options.seconds)
    elif options.what == "decode":
        names = sorted(path.name for path in options.place.iterdir() if path.is_file())
        limit = on_all_cores(partial(prepare_decoding, root=options.place, size_px=224), names)
    else:
        keys = sorted(path.name for path in (options.place / "reports").iterdir())
        limit = on_all_cores(partial(prepare_pages, out=options.place), keys)
    print(json.dumps({"per_s": limit.per_s, "core_ms": limit.core_ms}))


if __name__ == "__main__":
    main()
