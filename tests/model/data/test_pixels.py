"""An image that ends the process that reads it is named alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.model.data import pixels
from cxrbatch.model.data.pixels import ImageChunk, PreparedChunk, prepare_chunk, prepare_images
from cxrbatch.records import InputSpec
from cxrbatch.system.workers import Outcome, WorkerCrashed
from tests.factories.labelled import write_images

DEADLY = "005.png"


class FragilePool:
    """Stands in for WorkerPool: runs tasks here, and dies of any chunk that holds the deadly image."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.tasks: list[ImageChunk] = []

    def __enter__(self) -> FragilePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run_ahead(
        self, _function: object, tasks: Iterable[ImageChunk], *, timeout_s: float
    ) -> Iterator[Outcome[ImageChunk, PreparedChunk]]:
        for task in tasks:
            future: Future[PreparedChunk] = Future()
            if any(path.name == DEADLY for path in task.paths):
                future.set_exception(WorkerCrashed(-11))
            else:
                future.set_result(prepare_chunk(task))
            yield Outcome(task, future, timeout_s)


def test_an_image_that_ends_its_worker_is_named_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "WorkerPool", FragilePool)
    paths = [tmp_path / name for name in write_images(tmp_path, 40)]
    chunks = list(prepare_images(paths, range(40), InputSpec(64), workers=2))
    assert sorted(row for chunk in chunks for row in chunk.rows) == [row for row in range(40) if row != 5]
    (bad,) = (image for chunk in chunks for image in chunk.bad)
    assert (bad.path.name, bad.reason) == (DEADLY, "its worker process died (SIGSEGV)")
