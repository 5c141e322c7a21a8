"""What fails in three runs in a row is refused: one file, or one report, is not to keep the exit code at 3 for ever.

What cannot be opened or read now is never counted: permissions are mended, and file servers come back.
"""

from __future__ import annotations

import errno

from cxrbatch.errors import Reason
from cxrbatch.records import RefusedImage

ATTEMPTS = 3
# What a file's content makes a library ask of the system; every other error of the system is about the moment.
_FROM_CONTENT = frozenset({None, errno.EINVAL, errno.EDOM, errno.ERANGE, errno.EOVERFLOW, errno.ENOMEM})


def may_pass(error: Exception) -> bool:
    """Tell whether an error says nothing about the file: it cannot be read now, or a library is not installed right."""
    if isinstance(error, OSError):
        return error.errno not in _FROM_CONTENT
    return isinstance(error, ImportError)


def failed_again(
    path: str, reason: Reason, message: str, *, failed_before: int, engine_sha256: str = ""
) -> RefusedImage:
    """Say of an image that it failed; after so many runs in a row, that it is refused.

    Args:
        path: which image.
        reason: why it is refused in the end.
        message: what went wrong.
        failed_before: in how many runs in a row that happened before this one.
        engine_sha256: the engine that failed, where it was no fault of the file.
    """
    times = failed_before + 1
    if times < ATTEMPTS:
        told = f"{message}; tried again in the next run ({times} of {ATTEMPTS} times)"
        return RefusedImage(path, "failed", "", told, counts=True, engine_sha256=engine_sha256)
    told = f"{message}, in {times} runs in a row; --retry rejected tries it again"
    return RefusedImage(path, "rejected", reason.value, told, counts=True, engine_sha256=engine_sha256)
