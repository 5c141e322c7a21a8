"""Reading as a run does it, in a worker, and what that takes; loads no more than a worker does."""

from __future__ import annotations

from pathlib import Path

from cxrbatch.config import Settings
from cxrbatch.errors import ImageRejected
from cxrbatch.records import ImageFile, IndexedFile, InputSpec
from cxrbatch.run.headers import IndexJob, index_files
from cxrbatch.run.read import ReadJob, read_image

SETTINGS = Settings(pixel_check=False)


def read_and_measure(job: tuple[Path, ImageFile]) -> tuple[str, float]:
    """Index and read one file as a run does; return its end and the peak memory of this worker so far, in MB."""
    root, file = job
    [indexed] = index_files(IndexJob(root, (file,), SETTINGS))
    assert isinstance(indexed, IndexedFile), "nothing here is unreadable"
    if indexed.rejection is not None:
        return indexed.rejection.reason.value, peak_rss_mb()
    try:
        read_image(ReadJob(indexed.study_key, indexed, root / file.path, InputSpec(224), SETTINGS))
    except ImageRejected as rejected:
        return rejected.reason.value, peak_rss_mb()
    return "scored", peak_rss_mb()


def peak_rss_mb() -> float:
    """Return VmHWM of this process. (`ru_maxrss` would count what the parent took before it started this one.)"""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6
