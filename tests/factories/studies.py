"""Input folders for whole runs: grey images whose tiny-engine scores can be told beforehand."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from cxrbatch.config import Settings
from cxrbatch.intake import discover
from cxrbatch.output.run_json import RunReport
from cxrbatch.records import Gray8, ImageFile, IndexedFile
from cxrbatch.run.batch import run_batch
from cxrbatch.system.progress import RunProgress


def four_greys(*quadrants: int, size_px: int = 128) -> Gray8:
    """Return uint8 [S,S] whose quadrants (top left, top right, bottom left, bottom right) have these grey values.

    At least 16 levels apart, or it counts as blank.
    """
    half = size_px // 2
    return np.kron(np.array(quadrants, np.uint8).reshape(2, 2), np.ones((half, half), np.uint8))


def write_image(path: Path, *quadrants: int) -> Path:
    """Write such an image as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), four_greys(*quadrants))
    return path


def run_quietly(root: Path, out: Path, **settings: Any) -> RunReport:
    """Run the batch with few, small workers and no terminal, and let grey quadrants pass for images."""
    defaults: dict[str, Any] = {"workers": 1, "pdf": False, "pixel_check": False}
    with RunProgress(Console(quiet=True)) as progress:
        return run_batch(root, out, Settings(**(defaults | settings)), progress)


def read_headers_here(
    root: Path, files: Iterable[ImageFile], _workers: object, settings: Settings
) -> Iterator[list[IndexedFile]]:
    """Stand in for the processes that read headers: a test can change what happens in this one."""
    for file in files:
        yield [discover.index_file(root, file, settings)]


def read_rows(table: Path) -> list[dict[str, str]]:
    """Return a CSV table as written, every cell as text."""
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    """Return content hash and mtime of every file below a folder."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
