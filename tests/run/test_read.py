"""What a run makes of a file that its decoder cannot survive, through real worker processes."""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from cxrbatch.config import Settings
from cxrbatch.errors import Flag
from cxrbatch.output.ledger.queue import StudyTask
from cxrbatch.phantom.draw import draw_phantom
from cxrbatch.records import Header, ImageFile, IndexedFile, InputSpec
from cxrbatch.run.read import Reading, ReadJob, _refusal, read_image
from cxrbatch.system.workers import WorkerPool
from tests.factories import worker_tasks
from tests.factories.intake import write_dicom


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1, memory_mb=1024) as workers:
        yield workers


@pytest.mark.parametrize(
    ("what", "status", "reason"),
    [
        ("segfault", "rejected", "decoder_crashed"),
        ("spin", "rejected", "decode_timeout"),
        ("wait", "failed", ""),
        ("memory", "rejected", "too_large"),
    ],
)
def test_a_decoder_that_goes_wrong_costs_one_file(pool: WorkerPool, what: str, status: str, reason: str) -> None:
    before, bad, after = pool.run_ahead(
        worker_tasks.decode_like_bad_native_code, ["before", what, "after"], timeout_s=2
    )
    with pytest.raises(Exception) as caught:
        bad.value()
    task = StudyTask("0" * 16, 1, (), ())
    refused = _refusal("a.dcm", caught.value, task, Reading(Path(), InputSpec(64), Settings()))
    assert (refused.status, refused.reason) == (status, reason)
    assert (before.value(), after.value()) == ("before", "after")


def test_a_run_compares_pixels_with_a_chest(tmp_path: Path) -> None:
    phantom = draw_phantom(3, rows=256)
    look = {"WindowCenter": phantom.window_center, "WindowWidth": phantom.window_width, "BitsStored": 12}
    path = write_dicom(
        tmp_path / "a", pixels=phantom.stored, PhotometricInterpretation="MONOCHROME1", StudyInstanceUID="1.2.3", **look
    )
    status = path.stat()
    file = ImageFile("a", status.st_size, status.st_mtime_ns)
    job = ReadJob("key", IndexedFile(file, "key", Header(study_instance_uid="1.2.3")), path, InputSpec(64), Settings())
    read = read_image(job)
    assert read.image.radiograph.flags == (Flag.POLARITY_SUSPECT,)
    assert read.image.pixels.shape == (1, 64, 64)


# In nanoseconds: what the machine that indexed the file saw, what the one that reads it sees, whether that is one time.
@pytest.mark.parametrize(
    ("indexed", "seen", "is_same"),
    [
        (1_700_000_000_123_456_789, 1_700_000_000_000_000_000, True),  # SFTP
        (1_700_000_000_000_000_000, 1_700_000_000_123_456_789, True),  # indexed over SFTP, read on the server
        (1_700_000_000_123_456_789, 1_700_000_000_123_456_700, True),  # SMB
        (-123_456_789, -1_000_000_000, True),
        (1_700_000_000_123_456_789, 1_700_000_001_000_000_000, False),
        (1_700_000_000_123_456_789, 1_700_000_000_123_456_790, False),
        (1_700_000_000_123_456_789, 1_700_000_000_987_654_321, False),
        (1_700_000_000_000_000_000, 1_700_000_001_000_000_000, False),
    ],
)
def test_a_share_that_cuts_times_off_makes_no_file_another_one(
    tmp_path: Path, indexed: int, seen: int, is_same: bool
) -> None:
    path = write_dicom(tmp_path / "a", pixels=draw_phantom(3, rows=256).stored, BitsStored=12, StudyInstanceUID="1.2.3")
    os.utime(path, ns=(seen, seen))
    file = ImageFile("a", path.stat().st_size, indexed)
    settings = Settings(pixel_check=False)
    job = ReadJob("key", IndexedFile(file, "key", Header(study_instance_uid="1.2.3")), path, InputSpec(64), settings)
    with nullcontext() if is_same else pytest.raises(OSError, match="changed since it was indexed"):
        read_image(job)
