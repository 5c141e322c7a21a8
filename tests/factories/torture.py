"""Entries of the torture list: how to build a file, and what must become of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.uid import UID

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.discover import index_file, walk
from cxrbatch.intake.read import read_radiograph
from cxrbatch.records import Gray8
from tests.factories.intake import blobs, write_dicom

Levels = NDArray[Any]
NAME = "image.dcm"
PIXELS = blobs()
# Shows 12-bit pixels as they are: 0 is black and 4095 is white.
FULL_WINDOW: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12}
FULL_DISPLAY = PIXELS * (255 / 4095)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file: a reason, or a display image with flags."""

    reason: Reason | None
    flags: tuple[Flag, ...] = ()
    display: Gray8 | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the torture list. `shows` are the expected grey levels [H,W], within `tolerance`."""

    name: str
    build: Callable[[Path], object]
    reasons: tuple[Reason, ...] = ()
    flags: tuple[Flag, ...] = ()
    shows: Callable[[], Levels] | None = None
    tolerance: float = 0.51
    settings: Settings = Settings(pixel_check=False)  # noqa: RUF009 - frozen

    def check(self, folder: Path) -> None:
        """Build the file, index and read it, and assert its outcome; the file must not be touched."""
        self.build(folder / NAME)
        before = [(path, path.lstat().st_mtime_ns, path.lstat().st_size) for path in sorted(folder.iterdir())]
        found = [outcome(folder, file.path, self.settings) for file in walk(folder)]
        assert before == [(path, path.lstat().st_mtime_ns, path.lstat().st_size) for path in sorted(folder.iterdir())]
        [got] = found
        if self.reasons:
            assert got.reason in self.reasons
            return
        assert got.reason is None
        assert got.flags == self.flags
        assert got.display is not None
        assert self.shows is not None, "an entry that is processed says what it shows"
        assert np.abs(got.display - self.shows().astype(float)).max() <= self.tolerance


def processed(
    name: str, build: Callable[[Path], object], shows: Callable[[], Levels], *flags: Flag, **more: Any
) -> Any:
    """Return an entry that is scored, with flags or without any (P, F)."""
    return pytest.param(Entry(name, build, flags=flags, shows=shows, **more), id=name)


def refused(name: str, build: Callable[[Path], object], *reasons: Reason, **more: Any) -> Any:
    """Return an entry that is refused for one of these reasons (R)."""
    return pytest.param(Entry(name, build, reasons=reasons, **more), id=name)


def outcome(root: Path, path: str, settings: Settings) -> Outcome:
    """Index and read one file, as a run does; the index and the reading must not contradict each other."""
    file = next(file for file in walk(root) if file.path == path)
    indexed = index_file(root, file, settings)
    stated = indexed.rejection.reason if indexed.rejection else None
    if stated is Reason.UNSAFE_PATH:
        return Outcome(stated)
    try:
        radiograph = read_radiograph(root / path, settings)
    except ImageRejected as rejected:
        assert stated in (None, rejected.reason)
        return Outcome(rejected.reason)
    assert stated is None
    return Outcome(None, tuple(dict.fromkeys((*indexed.flags, *radiograph.flags))), radiograph.display)


def full(**keywords: Any) -> Callable[[Path], object]:
    """Return a builder of the image in its full window; `keywords` override its elements."""
    return lambda path: write_dicom(path, **({"pixels": PIXELS} | FULL_WINDOW | keywords))


def shown() -> Levels:
    """Return what the image in its full window looks like, [H,W] 0..255."""
    return FULL_DISPLAY


def inverted() -> Levels:
    """Return what the image looks like with black and white swapped."""
    levels: Levels = 255 - FULL_DISPLAY
    return levels


def content(data: bytes) -> Callable[[Path], object]:
    """Return a builder of a file of these bytes."""
    return lambda path: path.write_bytes(data)


def edited(edit: Callable[[bytes], bytes], **keywords: Any) -> Callable[[Path], object]:
    """Return a builder that writes the image and then changes its bytes."""

    def build(path: Path) -> None:
        full(**keywords)(path)
        changed = edit(path.read_bytes())
        assert changed != path.read_bytes(), "the edit must hit something"
        path.write_bytes(changed)

    return build


def swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Return an edit that replaces the first `old` by `new`."""
    return lambda data: data.replace(old, new, 1)


def relabelled(old: UID, new: UID) -> Callable[[bytes], bytes]:
    """Return an edit that names another transfer syntax, in the same number of bytes."""
    size = len(old) + len(old) % 2
    assert len(new) <= size
    return swap(old.encode().ljust(size, b"\0"), new.encode().ljust(size, b"\0"))


def before_patient(insertion: bytes) -> Callable[[bytes], bytes]:
    """Return an edit that inserts bytes before Patient's Name, between two elements."""
    at = b"\x10\x00\x10\x00PN"
    return swap(at, insertion + at)
