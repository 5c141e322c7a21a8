"""The run's log, OUT/cxrbatch.log: one JSON object per line; it begins anew when it is long.

Never a patient's name, id or dates, and no input path (PACS exports name folders after patients): an event
names its study by study_key, which images.csv and studies.csv resolve.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

from cxrbatch.config import LOG_FILE, Settings
from cxrbatch.system import durable

LINES_MISSING = "lines missing: the log could not be written"
events = logging.getLogger("cxrbatch.events")


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How long the log may grow, and how many earlier ones are kept beside it: cxrbatch.log.1 is the youngest."""

    max_mb: float = 20
    backups: int = 5


def log_limits(settings: Settings) -> LogLimits:
    """Return what the settings say of the log."""
    return LogLimits(settings.log_max_mb, settings.log_backups)


def log_event(event: str, *, level: int = logging.INFO, **facts: str | float | None) -> None:
    """Write one event with its facts to the log."""
    events.log(level, event, extra={"facts": facts})


@contextmanager
def logging_to(folder: Path, limits: LogLimits | None = None) -> Iterator[None]:
    """Append what the package logs to the log file of `folder` while the context lasts.

    A log that cannot be written ends no run: that is said once on stderr, and how much is missing as soon as
    there is room again.
    """
    log = _RotatingLog(folder / LOG_FILE, limits or LogLimits())
    package = logging.getLogger("cxrbatch")
    former_level = package.level
    package.addHandler(log)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(log)
        package.setLevel(former_level)
        log.close()


class _RotatingLog(logging.Handler):
    """Appends whole lines to one file; the only one who does, for the output folder is locked.

    The standard library's RotatingFileHandler loses the line at which it cannot rotate, takes the file's mode from
    the umask, and has a moment without a file, in which the output folder would not be known for one.
    """

    def __init__(self, path: Path, limits: LogLimits) -> None:
        super().__init__()
        self.setFormatter(_JsonLines())
        self._path, self._limits = path, limits
        self._descriptor = self._folder = -1
        self._lines_lost = 0
        # That there is a log tells what the folder is, also before the first event.
        with suppress(OSError):
            self._open()
            if self._is_half_rotated():
                self._rotate()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except (TypeError, ValueError):
            self.handleError(record)
            return
        try:
            self._open()
            self._append(line)
        except OSError as error:
            self._lose_a_line(error)

    def close(self) -> None:
        self._close_file()
        if self._folder >= 0:
            durable.close_for_good(self._folder)
            self._folder = -1
        super().close()

    def _open(self) -> None:
        """Open the file, or what now lies under its name: somebody may have moved the log away."""
        if self._descriptor >= 0 and not self._is_elsewhere():
            return
        self._close_file()
        if self._folder < 0:
            # The folder itself, wherever it is moved to: another one that takes its place is not ours to write to.
            self._folder = os.open(self._path.parent, os.O_PATH)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        self._descriptor = os.open(LOG_FILE, flags, durable.FILE_MODE, dir_fd=self._folder)
        with suppress(PermissionError):  # another user's file, which may be written all the same
            os.fchmod(self._descriptor, durable.FILE_MODE)

    def _is_elsewhere(self) -> bool:
        try:
            return not os.path.samestat(os.stat(LOG_FILE, dir_fd=self._folder), os.fstat(self._descriptor))
        except FileNotFoundError:
            return True

    def _close_file(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            durable.close_for_good(descriptor)

    def _append(self, line: str) -> None:
        """Write a line, after what is missing before it was owned up to; all of it or nothing."""
        if self._lines_lost:
            missing = _entry("warning", LINES_MISSING, {"lines": self._lines_lost})
            line = f"{missing}\n{line}"
        content = f"{line}\n".encode()
        size = os.fstat(self._descriptor).st_size
        if size and size + len(content) > self._limits.max_mb * 2**20:
            size = self._rotate_if_possible(size)
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":  # the power went in the middle of a line
            content = b"\n" + content
        try:
            while content:
                content = content[os.write(self._descriptor, content) :]
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise
        self._lines_lost = 0

    def _rotate_if_possible(self, size: int) -> int:
        """Begin a new file; where that cannot be, go on with the old one. Return its size.

        The disk may have no room for it, or the folder may be elsewhere by now.
        """
        try:
            if not os.path.samestat(self._path.parent.stat(), os.fstat(self._folder)):
                return size
            self._rotate()
        except OSError:
            return size
        self._open()
        return os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        """Keep the file under another name and put an empty one in its place, with no moment without one.

        A file system without hard links (some shares) has such a moment, between two renames.
        """
        backups = [self._path.with_name(f"{LOG_FILE}.{number}") for number in range(1, self._limits.backups + 1)]
        if not self._is_half_rotated():
            for younger, older in reversed(list(pairwise(backups))):
                if younger.exists():
                    younger.replace(older)
            backups[0].unlink(missing_ok=True)
            try:
                backups[0].hardlink_to(self._path)
            except OSError:
                self._path.replace(backups[0])
        durable.replace_bytes(self._path, b"")

    def _is_half_rotated(self) -> bool:
        """Tell whether a rotation was killed after it gave the file its second name."""
        youngest = self._path.with_name(f"{LOG_FILE}.1")
        return youngest.exists() and youngest.samefile(self._path)

    def _lose_a_line(self, error: OSError) -> None:
        self._lines_lost += 1
        if self._lines_lost == 1:
            told = f"cxrbatch: {self._path}: cannot be written ({error.strerror}); going on without it.\n"
            with suppress(OSError, ValueError, AttributeError):  # nobody listens there, either
                sys.stderr.write(told)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, object] = dict(getattr(record, "facts", {}))
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return _entry(record.levelname.lower(), record.getMessage(), facts, record.created)


def _entry(level: str, event: str, facts: dict[str, object], created: float | None = None) -> str:
    """Return one line of the log; `created` is unix time, by default now."""
    when = datetime.now(timezone.utc) if created is None else datetime.fromtimestamp(created, timezone.utc)
    entry = {"time": when.isoformat(timespec="milliseconds"), "level": level, "event": event} | facts
    # The one control character that JSON does not ask to be escaped.
    return json.dumps(entry).replace("\x7f", r"\u007f")
