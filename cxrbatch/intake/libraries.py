"""The libraries that decode, as intake wants them: silent, strict, and whatever they raise turned into a reason.

pydicom's warnings and log lines are kept out of ours: they quote values of the file, a patient's name among them.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
from PIL import Image, ImageFile

from cxrbatch.errors import CxrBatchError, ImageRejected, Reason

# The limit on pixels is in the settings and checked before Pillow sees a file; its own would warn, or raise earlier.
Image.MAX_IMAGE_PIXELS = None
# cv2.Error.StsNoMem
_OPENCV_NO_MEMORY = -4

_lock = threading.Lock()
_inside = 0
_saved = warnings.catch_warnings()

# What intake has to say of a file it says with a reason code; nothing may reach the handlers of the run.
# A level would not do: pydicom sets its own when it is loaded, which is later.
logging.getLogger("pydicom").addHandler(logging.NullHandler())
logging.getLogger("pydicom").propagate = False


@contextmanager
def refusing_malformed(reason: Reason, message: str) -> Iterator[None]:
    """Turn whatever a library raises on bytes that it was not made for into `reason`.

    Nothing inside may read from a disk: the same bytes end the same way whenever they are read, so any exception is
    a verdict on them, even of a type that nobody thought of. Only a lack of memory says nothing about the file; it
    is let out, as MemoryError. The library's own words are left out: they quote values of the file.
    """
    with silent_libraries():
        try:
            yield
        except (CxrBatchError, MemoryError):
            raise
        except Exception as error:
            if isinstance(error, cv2.error) and error.code == _OPENCV_NO_MEMORY:
                raise MemoryError from error
            raise ImageRejected(reason, f"{message} ({type(error).__name__})") from error


def refuse_cut_images() -> None:
    """Let Pillow raise on images that are cut off or damaged: to be called before each that it decodes.

    WeasyPrint tells it, for the whole process, to take what it gets; the worker that prints a report is the
    one that decodes the next radiograph.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Ignore warnings inside the block, in any number of threads.

    `warnings.catch_warnings` alone is not thread-safe: two blocks that overlap restore each other's filters.
    So the first thread in saves the filters and the last one out restores them.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside, _saved  # noqa: PLW0603 - the warning filters it guards are global too
    with _lock:
        _inside += 1
        if _inside == 1:
            _saved = warnings.catch_warnings()
            _saved.__enter__()
            warnings.simplefilter("ignore")


def _leave() -> None:
    global _inside  # noqa: PLW0603
    with _lock:
        _inside -= 1
        if _inside == 0:
            _saved.__exit__(None, None, None)
