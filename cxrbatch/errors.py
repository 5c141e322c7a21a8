"""Every error cxrbatch raises on purpose, the reasons for which it refuses a file, and its exit codes.

CxrBatchError
├── ImageRejected          one file is refused, with a reason code; the run goes on
├── StudyFailed            one study could not be finished; it is retried in the next run
└── RunError               the run cannot go on; carries the exit code
    ├── LedgerDamaged          1
    ├── UsageError             2
    ├── ConfigurationError     4
    ├── EngineError            5
    ├── OutputNotWritable      6
    └── OutputLocked           7
"""

from __future__ import annotations

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
    UNSAFE_PATH = "unsafe_path"
    TOO_MANY_IMAGES = "too_many_images"
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
    WINDOW_IGNORED = "window_ignored"
    LOSSY = "lossy"
    EXECUTABLE_PREAMBLE = "executable_preamble"
    PAEDIATRIC = "paediatric"
    VETERINARY = "veterinary"
    CHARSET_REPLACED = "charset_replaced"
    DUPLICATE_UID = "duplicate_uid"
    RESCORED_FP32 = "rescored_fp32"


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
