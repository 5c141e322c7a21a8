"""What a run makes of a file that its decoder cannot survive, through real worker processes."""

from collections.abc import Iterator
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
