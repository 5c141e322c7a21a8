"""Whole runs and real workers over files that nobody chose: one row each, no exception, bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from cxrbatch.errors import ExitCode, Reason
from cxrbatch.intake.discover import walk
from cxrbatch.system.workers import WorkerPool
from tests.factories.engine import write_tiny_bundle
from tests.factories.intake import write_dicom
from tests.factories.measured_reading import SETTINGS, read_and_measure
from tests.factories.studies import read_rows, run_quietly
from tests.factories.torture import full
from tests.intake.raster.test_torture_raster import bomb, text_bomb
from tests.intake.test_torture_structure import deflate_bomb

# All that its wheel brings: test files, character sets, palettes, and the modules between them.
PYDICOM_DATA = Path(pydicom.data.__file__).parent
WORKER_LIMIT_MB = 1500
# What a worker that decodes small images comes to.
WORKER_AT_REST_MB = 400


@pytest.fixture
def worker() -> Iterator[WorkerPool]:
    with WorkerPool(1, memory_mb=SETTINGS.decode_memory_mb) as pool:
        yield pool


def test_a_run_over_the_files_of_pydicom_gives_each_one_row_with_a_reason(tmp_path: Path) -> None:
    engine = str(write_tiny_bundle(tmp_path / "engines"))
    report = run_quietly(PYDICOM_DATA, tmp_path / "out", engine=engine, pixel_check=True)
    rows = read_rows(tmp_path / "out" / "images.csv")
    assert Counter(row["path"] for row in rows) == Counter(file.path for file in walk(PYDICOM_DATA))
    assert len(rows) > 100
    assert {row["status"] for row in rows} <= {"scored", "rejected", "duplicate"}
    assert all((row["reason"] in set(Reason)) == (row["status"] == "rejected") for row in rows)
    assert all(row["message"] for row in rows if row["status"] != "scored")
    assert report.exit_code == ExitCode.DONE


def test_a_worker_stays_small_over_the_files_of_pydicom(worker: WorkerPool) -> None:
    jobs = [(PYDICOM_DATA, file) for file in walk(PYDICOM_DATA)]
    ends = [outcome.value() for outcome in worker.run_ahead(read_and_measure, jobs, timeout_s=60)]
    assert len(ends) == len(jobs)
    assert ends[-1][1] < WORKER_AT_REST_MB


@pytest.mark.parametrize("kind", ["deflate bomb", "zTXt bomb", "169-megapixel bomb", "65535 x 65535", "4 GB element"])
def test_a_bomb_is_refused_before_it_takes_memory(worker: WorkerPool, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bomb"
    if kind == "deflate bomb":
        full(transfer_syntax=DeflatedExplicitVRLittleEndian)(path)
        path.write_bytes(deflate_bomb(path.read_bytes(), 2_000_000_000))
    elif kind == "zTXt bomb":
        text_bomb()(path)
    elif kind == "169-megapixel bomb":
        bomb()(path)
    elif kind == "65535 x 65535":
        full(Rows=65535, Columns=65535)(path)
    else:
        full()(path)
        content = path.read_bytes()
        at = content.index(b"\x10\x00\x10\x00PN")
        path.write_bytes(content[:at] + b"\x09\x00\x01\x10OB\0\0\xf0\xff\xff\xff" + content[at:])
    [outcome] = worker.run_ahead(read_and_measure, [(tmp_path, next(walk(tmp_path)))], timeout_s=60)
    end, peak = outcome.value()
    assert end in {"too_large", "unreadable_pixels", "unreadable_header"}
    # A deflated data set may inflate to 4 bytes per pixel of the limit before it is called a bomb.
    assert peak < (WORKER_LIMIT_MB if kind == "deflate bomb" else WORKER_AT_REST_MB)


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless], ids=lambda uid: uid.keyword)
def test_the_largest_image_that_the_limit_lets_pass_fits_into_a_worker(
    worker: WorkerPool, tmp_path: Path, syntax: UID
) -> None:
    side = int(SETTINGS.max_stored_px**0.5)
    steps = np.arange(side, dtype=np.uint16)
    pixels = np.add.outer(3 * steps, 5 * steps) % np.uint16(4096)
    look = {"WindowCenter": 2048, "WindowWidth": 4096, "PixelPaddingValue": 0}
    write_dicom(tmp_path / "large", pixels=pixels, BitsStored=12, transfer_syntax=syntax, **look)
    [outcome] = worker.run_ahead(read_and_measure, [(tmp_path, next(walk(tmp_path)))], timeout_s=120)
    end, peak = outcome.value()
    assert end == "scored"
    assert peak < WORKER_LIMIT_MB
