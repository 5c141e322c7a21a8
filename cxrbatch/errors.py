"""Every error cxrbatch raises on purpose, the reasons for which it refuses a file, and its exit codes.

CxrBatchError
├── ImageRejected          one file is refused, with a reason code; the run goes on
├── StudyFailed            one study could not be finished; it is retried in the next run
├── WorkerTimedOut         a task took longer in a worker process than it may
├── WorkerCrashed          the process that ran a task died
├── TaskFailed             a task raised what cannot be raised anew in the main process
└── RunError               the run cannot go on; carries the exit code
    ├── LedgerDamaged          1
    ├── UsageError             2
    ├── ConfigurationError     4
    ├── EngineError            5
    ├── OutputNotWritable      6
    └── OutputLocked           7
"""

from __future__ import annotations

import signal
from enum import Enum, IntEnum


class ExitCode(IntEnum):
    """What the process tells the shell."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    SOME_STUDIES_FAILED = 3
    CONFIGURATION = 4
    ENGINE = 5
    OUTPUT_NOT_WRITABLE = 6
    OUTPUT_LOCKED = 7


class Reason(str, Enum):
    """Why a file got no score. Stable: written to the `reason` column, never reused for another meaning."""

    NOT_AN_IMAGE = "not_an_image"
    UNREADABLE_HEADER = "unreadable_header"
    NO_PIXEL_DATA = "no_pixel_data"
    UNREADABLE_PIXELS = "unreadable_pixels"
    TRUNCATED_PIXELS = "truncated_pixels"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    UNSUPPORTED_PHOTOMETRIC = "unsupported_photometric"
    TOO_LARGE = "too_large"
    TOO_SMALL = "too_small"
    DECODE_TIMEOUT = "decode_timeout"
    DECODER_CRASHED = "decoder_crashed"
    INCONSISTENT_HEADER = "inconsistent_header"
    NOT_RADIOGRAPH = "not_radiograph"
    NOT_CHEST = "not_chest"
    NOT_FRONTAL = "not_frontal"
    NOT_FOR_PRESENTATION = "not_for_presentation"
    MULTI_FRAME = "multi_frame"
    OWN_OUTPUT = "own_output"
    BLANK = "blank"
    CONFLICTING_DUPLICATE = "conflicting_duplicate"
    PATIENT_CONFLICT = "patient_conflict"
    BURNED_IN_ANNOTATION = "burned_in_annotation"
    UNSAFE_PATH = "unsafe_path"
    TOO_MANY_IMAGES = "too_many_images"
    UNEXPECTED_ERROR = "unexpected_error"
    VANISHED = "vanished"


class Flag(str, Enum):
    """What a reader of the score must know about its image. Stable: written to the `flags` column."""

    NO_VIEW = "no_view"
    NO_BODY_PART = "no_body_part"
    OTHER_VIEW = "other_view"
    ANATOMY_SUSPECT = "anatomy_suspect"
    NO_TRANSFER_SYNTAX = "no_transfer_syntax"
    POLARITY_FROM_LUT = "polarity_from_lut"
    POLARITY_SUSPECT = "polarity_suspect"
    DAMAGE_SUSPECT = "damage_suspect"
    WINDOW_IGNORED = "window_ignored"
    LOSSY = "lossy"
    EXECUTABLE_PREAMBLE = "executable_preamble"
    PAEDIATRIC = "paediatric"
    BURNED_IN_ANNOTATION = "burned_in_annotation"
    VETERINARY = "veterinary"
    CHARSET_REPLACED = "charset_replaced"
    MISSING_GLYPHS = "missing_glyphs"
    DUPLICATE_UID = "duplicate_uid"
    RESCORED_FP32 = "rescored_fp32"
    OUT_OF_DISTRIBUTION = "out_of_distribution"


class CxrBatchError(Exception):
    """Root of every error raised on purpose. The message says what, which file and how to fix it."""


class ImageRejected(CxrBatchError):
    """This file gets no score; the rest of the work goes on.

    The message never holds a patient's name, id or dates: it is written to logs.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.message}"


class StudyFailed(CxrBatchError):
    """This study could not be finished now; the next run tries it again."""


class WorkerTimedOut(CxrBatchError):
    """The task took longer than its time limit; its process was ended.

    `waiting` tells that it did not compute all the time, but waited, for example for a file server: that says little
    about the task.
    """

    def __init__(self, limit_s: float, *, waiting: bool = False) -> None:
        super().__init__(f"waited for longer than {limit_s:g} s" if waiting else f"took longer than {limit_s:g} s")
        self.waiting = waiting


# What a process does to itself; every other signal was sent by somebody.
_OWN_FAULTS = (
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE),
    *(signal.SIGILL, signal.SIGSYS, signal.SIGTRAP),
)


class WorkerCrashed(CxrBatchError):
    """The process that ran the task died, for example in a decoder's native code.

    `was_killed` tells that somebody else ended it, such as the kernel when memory is short: that says nothing
    about the task.
    """

    def __init__(self, exit_code: int, cause: str = "") -> None:
        super().__init__(f"its worker process died ({cause or _cause_of_death(exit_code)})")
        self.was_killed = exit_code < 0 and -exit_code not in _OWN_FAULTS


class TaskFailed(CxrBatchError):
    """The task raised something that cannot be raised anew in the main process; `type_name` says what it was."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)
        self.type_name = type_name

    def __str__(self) -> str:
        return f"{self.type_name}: {self.args[1]}"


class RunError(CxrBatchError):
    """The run cannot go on."""

    exit_code = ExitCode.UNEXPECTED


class LedgerDamaged(RunError):
    """The ledger cannot be read, or is none; `cxrbatch repair` makes it anew. `what` is wrong with it."""

    def __init__(self, message: str, what: str = "") -> None:
        super().__init__(message)
        self.what = what or message


class UsageError(RunError):
    """The command line asks for something that makes no sense."""

    exit_code = ExitCode.USAGE


class ConfigurationError(RunError):
    """cxrbatch.toml, an environment variable or an option has a value that cannot be used."""

    exit_code = ExitCode.CONFIGURATION


class EngineError(RunError):
    """The engine is missing, damaged, not the one that was verified, or cannot run here."""

    exit_code = ExitCode.ENGINE


class OutputNotWritable(RunError):
    """The output folder cannot be written to."""

    exit_code = ExitCode.OUTPUT_NOT_WRITABLE


class OutputLocked(RunError):
    """Another run holds the output folder."""

    exit_code = ExitCode.OUTPUT_LOCKED


def error_name(error: BaseException) -> str:
    """Return the name of an error's type, as it was where it was raised."""
    return error.type_name if isinstance(error, TaskFailed) else type(error).__name__


def _cause_of_death(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-exit_code}"
