"""`make fuzz`: thousands of damaged files through the real index and the real readers, in worker processes.

Seeds are phantoms in every transfer syntax, PNG and JPEG of them, the files that pydicom tests itself with, and where
CXRBATCH_SHARED_DATA is set real radiographs. Every file gets one to eight of the damages below, or of those to its
structure (structured_damage.py). What is scored is drawn, too. It is a failure when a file has no outcome, when a study
fails unexpectedly, when a worker takes more than the memory it may, or when the main process raises. Files that kill or
hang a worker are refused with `decoder_crashed` or `decode_timeout`, and kept in bench/fuzz for whoever mends them.

The same --seed damages the same files in the same way. One JSON object is printed; run slices with several seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pydicom.data
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.config import Settings
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.report.pictures import draw_study
from cxrbatch.phantom.dicom import TRANSFER_SYNTAXES, PhantomIdentity, write_phantom_dicom
from cxrbatch.phantom.draw import draw_phantom
from cxrbatch.records import (
    EngineDescription,
    ImagePixels,
    ImageResult,
    InputSpec,
    Label,
    PreparedImage,
    StudyResult,
)
from cxrbatch.run.index import Index, index_input
from cxrbatch.run.read import Reading, decode_studies
from cxrbatch.run.source import Order, Source
from cxrbatch.run.stages import StageClock
from cxrbatch.system.progress import RunProgress
from cxrbatch.system.workers import WorkerPool
from scripts.structured_damage import damage_structure

KEPT = Path(__file__).parents[1] / "bench" / "fuzz"
SEED_ROWS = 200
LARGEST_SEED_BYTES = 400_000
REAL_OF_A_KIND, LARGEST_REAL_BYTES = 30, 1_500_000
WORKER_RSS_LIMIT_MB = 1536
# Where the structure of a file is: damage there does more than in its pixels.
HEAD_BYTES = 2000
STUDY_STEM = "2.25.1000"
IDENTITY = PhantomIdentity(
    patient_name="FUZZ^SEED",
    patient_id="1",
    patient_birth_date="19700101",
    accession_number="1",
    study_date="20260101",
    study_time="120000",
    study_instance_uid=f"{STUDY_STEM}00000000",
    series_instance_uid="2.25.2000",
    sop_instance_uid="2.25.3000",
)
EXTREMES = (0, 1, 0x7FFF, 0x8000, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFF0, 0x80000000)

SPEC = InputSpec(size_px=224)
LABELS = (Label("One"), Label("Other"))
ENGINE = EngineDescription("fuzz", "0" * 64, "none", "fp32", "none", "multilabel", LABELS, SPEC)

Damage = Callable[[random.Random, bytearray, list[bytes]], bytearray]


def flip_bytes(dice: random.Random, data: bytearray, _: list[bytes]) -> bytearray:
    """Replace a few bytes anywhere."""
    for _count in range(dice.randint(1, 12)):
        data[dice.randrange(len(data))] = dice.randrange(256)
    return data


def flip_head(dice: random.Random, data: bytearray, _: list[bytes]) -> bytearray:
    """Replace a few bytes of the structure."""
    for _count in range(dice.randint(1, 6)):
        data[dice.randrange(min(HEAD_BYTES, len(data)))] = dice.randrange(256)
    return data


def lie_about_a_number(dice: random.Random, data: bytearray, _: list[bytes]) -> bytearray:
    """Write an extreme number where a length, a count or a size may be."""
    at = dice.randrange(min(HEAD_BYTES, max(1, len(data) - 4)))
    value, size = dice.choice(EXTREMES), dice.choice((2, 4))
    data[at : at + size] = struct.pack("<L", value)[:size] if dice.random() < 0.7 else struct.pack(">L", value)[-size:]
    return data


def cut(dice: random.Random, data: bytearray, _: list[bytes]) -> bytearray:
    """Cut the end off."""
    return data[: dice.randrange(1, len(data))]


def drop_middle(dice: random.Random, data: bytearray, _: list[bytes]) -> bytearray:
    """Take some bytes out, so that everything after them moves."""
    at = dice.randrange(len(data))
    del data[at : at + dice.choice((1, 2, 8, 200))]
    return data


def repeat_middle(dice: random.Random, data: bytearray, _: list[bytes]) -> bytearray:
    """Write a piece twice."""
    at, length = dice.randrange(len(data)), dice.choice((2, 8, 64, 3000))
    data[at:at] = data[at : at + length]
    return data


def splice(dice: random.Random, data: bytearray, seeds: list[bytes]) -> bytearray:
    """Go on with another file."""
    other = dice.choice(seeds)
    return data[: dice.randrange(1, len(data))] + other[dice.randrange(len(other)) :]


DAMAGES: tuple[Damage, ...] = (
    *(flip_bytes, flip_bytes, flip_head, flip_head, flip_head, lie_about_a_number, lie_about_a_number),
    *(cut, drop_middle, repeat_middle, splice),
    *[damage_structure] * 11,
)


def collect_seeds(folder: Path) -> list[bytes]:
    """Return small valid files: of every kind that intake reads, each as often as all the odd ones together."""
    phantom = draw_phantom(5, rows=SEED_ROWS)
    made = []
    for syntax in TRANSFER_SYNTAXES:
        write_phantom_dicom(folder / "seed.dcm", phantom, IDENTITY, transfer_syntax=syntax)
        made.append((folder / "seed.dcm").read_bytes())
    gray = (phantom.stored >> 4).astype(np.uint8)
    colour = cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR)
    pngs = ((".png", pixels) for pixels in (gray, phantom.stored, colour))
    for suffix, pixels in (*pngs, (".jpg", gray), (".jpg", colour)):
        made.append(cv2.imencode(suffix, pixels)[1].tobytes())
    paths = sorted((Path(pydicom.data.__file__).parent / "test_files").rglob("*.dcm"))
    shipped = [path.read_bytes() for path in paths if 0 < path.stat().st_size < LARGEST_SEED_BYTES]
    return made * (len(shipped) // len(made)) + shipped + collect_real()


def collect_real() -> list[bytes]:
    """Return some real radiographs of every kind, where the machine has them."""
    root = Path(os.environ.get("CXRBATCH_SHARED_DATA") or "/nowhere")
    kinds = [sorted(root.glob(pattern)) for pattern in ("dicom/*/*", "nih256/**/*.png", "fourclass384/**/*.*")]
    found = [paths[:: max(1, len(paths) // REAL_OF_A_KIND)] for paths in kinds]
    return [path.read_bytes() for paths in found for path in paths if path.stat().st_size < LARGEST_REAL_BYTES]


def write_damaged(folder: Path, seeds: list[bytes], count: int, seed: int) -> None:
    """Write `count` damaged files, each a study of its own unless the damage says otherwise."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    for number in range(count):
        own_study = f"{STUDY_STEM}{number:08}".encode()
        data = bytearray(dice.choice(seeds).replace(IDENTITY.study_instance_uid.encode(), own_study))
        for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
            if len(data) > 1:
                data = dice.choice(DAMAGES)(dice, data, seeds)
        (folder / f"{number:06}").write_bytes(data)


def run_slice(folder: Path, out: Path, settings: Settings) -> Counter[str]:
    """Index and read every file of `folder`; return how many files came to which end.

    Raises:
        SystemExit: an end that no file may come to.
    """
    ends: Counter[str] = Counter()
    with (
        open_output(out) as ledger,
        WorkerPool(settings.worker_count, memory_mb=settings.decode_memory_mb) as workers,
        RunProgress(Console(quiet=True)) as progress,
    ):
        index_input(Index(Order(Source(folder), out, settings)), ledger, workers, progress)
        ends.update(row.reason for row in ledger.results.file_rows() if row.status == "rejected")
        pending = ledger.queue.take(ledger.queue.pending_keys())
        for study in decode_studies(pending, Reading(folder, SPEC, settings), workers, StageClock()):
            indexed = {refused.path for refused in study.task.refused}
            ends["scored"] += len(study.images)
            for path, image in study.images:
                _draw(folder / path, image, ends)
            for refused in study.refused:
                if refused.path not in indexed:
                    ends[refused.reason or refused.status] += 1
                if refused.status == "failed" or refused.reason in ("decoder_crashed", "decode_timeout"):
                    _keep(folder / refused.path, refused.message)
    return ends


def _draw(path: Path, image: PreparedImage, ends: Counter[str]) -> None:
    """Draw the pictures of a report, as a worker would."""
    radiograph = image.radiograph
    scored = ImageResult(path.name, radiograph.header, radiograph.flags, (0.9, 0.1), radiograph.stored_sha256)
    result = StudyResult("0" * 16, 1, ENGINE, (scored,), (), "", "")
    cams = np.random.default_rng(0).random((2, 7, 7), np.float32)
    try:
        draw_study(result, (ImagePixels(radiograph.display, cams, image.geometry),))
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a find
        ends["failed"] += 1
        _keep(path, f"drawing: {error!r}")


def _keep(path: Path, message: str) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, KEPT / path.name)
    print(f"{path.name}: {message}", file=sys.stderr)


def main() -> None:
    """Damage, read, count; leave with 1 where something came to an end that no file may come to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "in")
        folder.mkdir()
        write_damaged(folder, collect_seeds(Path(work)), options.files, options.seed)
        ends = run_slice(folder, Path(work, "out"), Settings(workers=2, decode_timeout_s=10.0))
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak_mb = children.ru_maxrss / 1024
    print(
        json.dumps(
            {
                "seed": options.seed,
                "files": options.files,
                "ends": dict(sorted(ends.items())),
                "worker_peak_rss_mb": round(peak_mb),
                "cpu_s": round(children.ru_utime + children.ru_stime, 1),
                "wall_s": round(time.perf_counter() - started, 1),
            }
        )
    )
    if sum(ends.values()) != options.files or ends["failed"] or peak_mb > WORKER_RSS_LIMIT_MB:
        sys.exit("failed: a file without an outcome, a file that failed, or a worker beyond its memory")


if __name__ == "__main__":
    main()
