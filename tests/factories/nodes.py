"""What nodes of a cluster may do to those who count on them: functions that run there instead of `process_chunk`."""

from __future__ import annotations

import os
import signal
import threading
import time

from cxrbatch.cluster.feed import Chunk
from cxrbatch.cluster.node import ChunkDone, process_chunk
from cxrbatch.errors import RunError

_one_at_a_time = threading.Lock()


def die_of_deadly(token: str, chunk: Chunk) -> ChunkDone:
    """Die, as of a fault in a driver, of the study of deadly.png."""
    if any(file.file.path == "deadly.png" for task in chunk for file in task.files):
        os.kill(os.getpid(), signal.SIGKILL)
    return process_chunk(token, chunk)


def be_slow(process: int, each_s: float, token: str, chunk: Chunk) -> ChunkDone:
    """Take so long for each study in that process."""
    return sleep_first(each_s if os.getpid() == process else 0.0, token, chunk)


def sleep_first(each_s: float, token: str, chunk: Chunk) -> ChunkDone:
    """Take so much longer for each study, one chunk after the other."""
    with _one_at_a_time:
        time.sleep(each_s * len(chunk))
    return process_chunk(token, chunk)


def lack_something(process: int, error: RunError, token: str, chunk: Chunk) -> ChunkDone:
    """Say in that process what is missing there."""
    if os.getpid() == process:
        raise error
    return process_chunk(token, chunk)
