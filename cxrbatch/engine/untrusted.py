"""What anybody may have put into an engine's folder or a checkpoint: files read, names and numbers checked.

A file gives its bytes or an error, never a hang. What is a name and what is not is no question here: markup, escape
codes or a formula in a name are shown as letters wherever they are shown. Whatever would end a run later, or mean
nothing, is refused before anything is loaded.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from cxrbatch.errors import EngineError
from cxrbatch.records import InputSpec, Label, Task, VerdictRule, usual_rule

LARGEST_MANIFEST = 16 * 2**20
LARGEST_FILE = 8 * 2**30
_BLOCK = 2**20
MOST_LABELS = 1000
MOST_QUANTILES = 1001
LONGEST_NAME = 1000
LONGEST_PATH = 1000
LONGEST_REASON = 1000
LARGEST_INPUT_PX = 8192
_SHA256 = re.compile("[0-9a-f]{64}")
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_file(path: Path, *, largest: int = LARGEST_FILE) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: not there, not readable, no regular file (a pipe would be waited for), or larger than `largest`.
    """
    with opened(path, largest) as stream:
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, _too_large(largest), str(path))
    return content


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hex digits.

    Raises:
        OSError: as `read_file`.
    """
    with opened(path, LARGEST_FILE) as stream:
        return sha256_of_stream(stream)


def sha256_of_stream(stream: BinaryIO) -> str:
    """Return the SHA-256 of all bytes of an open file, as 64 hex digits.

    Raises:
        OSError: it cannot be read.
    """
    # hashlib.file_digest needs Python 3.11; 1 MiB blocks keep the interpreter out of the way.
    digest = hashlib.sha256()
    stream.seek(0)
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


@contextmanager
def opened(path: Path, largest: int = LARGEST_FILE) -> Iterator[BinaryIO]:
    """Open a file for reading.

    Raises:
        OSError: as `read_file`.
    """
    # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > largest:
            raise OSError(errno.EFBIG, _too_large(largest), str(path))
        yield stream


def _too_large(largest: int) -> str:
    return f"larger than {largest // 2**20} MiB"


def require_schema(path: Path, schema: int, known: int) -> None:
    """Make sure that this version of cxrbatch can read what the file says.

    Raises:
        EngineError: a newer one wrote it.
    """
    if schema > known:
        raise EngineError(f"{path}: written by a newer cxrbatch (schema {schema}, this one reads {known}). Upgrade.")


def require_labels(labels: Sequence[Label]) -> None:
    """Check the labels of an engine or a checkpoint.

    Raises:
        ValueError: none, too many, without a name or with one twice, or an operating point that no score can meet.
    """
    names = [label.name for label in labels]
    if not names or len(set(names)) != len(names) or not all(name.strip() for name in names):
        raise ValueError("labels must be at least one, named, and each once")
    if len(names) > MOST_LABELS:
        raise ValueError(f"there are {len(names)} labels; at most {MOST_LABELS} are possible")
    for label in labels:
        require_name("a label", label.name)
        point = label.operating_point
        if point is not None and not 0 <= point <= 1:
            raise ValueError(f"an operating point must be from 0 to 1, not {point:g}")
        require_finite("a label's metrics", label.metrics.values())
        _require_reference(label)
        _require_maps(label)


def _require_reference(label: Label) -> None:
    reference = label.reference
    require_finite("a label's reference", reference)
    if len(reference) == 1 or len(reference) > MOST_QUANTILES or list(reference) != sorted(reference):
        raise ValueError(f"a label's reference must be 2 to {MOST_QUANTILES} rising numbers, or none")
    if min(label.images_with or 0, label.images_without or 0) < 0:
        raise ValueError("a label's images_with and images_without must be 0 or more")


def _require_maps(label: Label) -> None:
    maps = label.maps
    if maps is None:
        return
    require_finite("what a check of a label's maps found", maps.numbers)
    if min(maps.images, maps.patients) < 0 or not all(0 <= share <= 1 for share in (maps.hits, maps.chance)):
        raise ValueError("a check of a label's maps must have counts of 0 or more, and shares from 0 to 1")
    if max(len(maps.reason), len(maps.source)) > LONGEST_REASON:
        raise ValueError(f"what a check of a label's maps says must have at most {LONGEST_REASON} characters")


def require_verdict(verdict: VerdictRule | None, task: Task, labels: Sequence[Label]) -> None:
    """Check that a rule of verdict fits its task: `argmax` is for classes that exclude each other, and only for them.

    Raises:
        ValueError: it does not.
    """
    if verdict not in {None, usual_rule(task, labels)}:
        raise ValueError(f"verdict {verdict} does not fit a {task} engine with {len(labels)} labels")


def require_input(spec: InputSpec) -> None:
    """Check what an engine wants to see.

    Raises:
        ValueError: no square, one that fits in no memory, or a scaling that gives no numbers.
    """
    if spec.size_px <= 0:
        raise ValueError("input size_px must be greater than 0")
    if spec.size_px > LARGEST_INPUT_PX:
        raise ValueError(f"input size_px must be at most {LARGEST_INPUT_PX}")
    require_finite("input mean and std", (spec.mean, spec.std))
    if spec.std <= 0:
        raise ValueError("input std must be greater than 0")


def require_file(path: str, sha256: str) -> None:
    """Check the entry of a file; that it lies in the bundle is checked where it is opened.

    Raises:
        ValueError: no path, one that no file can have, or no SHA-256.
    """
    if not path or "\0" in path or len(path) > LONGEST_PATH or _SURROGATE.search(path):
        raise ValueError("a file's path must be a file's name")
    if not _SHA256.fullmatch(sha256):
        raise ValueError("a file's sha256 must be 64 hex digits")


def require_name(what: str, name: str) -> None:
    """Check that a name is text, and not endless.

    Raises:
        ValueError: empty, too long, or no Unicode text.
    """
    if not name.strip() or len(name) > LONGEST_NAME:
        raise ValueError(f"the name of {what} must have 1 to {LONGEST_NAME} characters")
    if _SURROGATE.search(name):
        raise ValueError(f"the name of {what} is no Unicode text")


def require_finite(what: str, numbers: Iterable[float]) -> None:
    """Check that all numbers are finite.

    Raises:
        ValueError: one is NaN or infinite.
    """
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{what} must be finite numbers")
