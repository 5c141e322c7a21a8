"""A share whose headers answer late, in the worker that reads them; one of them ends it. For `read_headers`."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from cxrbatch.config import Settings
from cxrbatch.intake import discover
from cxrbatch.records import Header, ImageFile, IndexedFile
from cxrbatch.run.headers import Deferred, IndexJob, index_files

DEADLY = "deadly"


def index_late(job: IndexJob) -> list[IndexedFile | Deferred]:
    """Index what is not there: each file as of the study that is named after the thread that read it."""
    discover.index_file = _answer_late  # type: ignore[assignment]  # its arguments have no names
    return index_files(job)


def _answer_late(_: Path, file: ImageFile, __: Settings) -> IndexedFile:
    if file.path == DEADLY:
        os.abort()
    time.sleep(0.003)
    return IndexedFile(file, threading.current_thread().name, Header())
