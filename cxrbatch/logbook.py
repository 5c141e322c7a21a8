"""The run's log: events in, one JSON object per line in OUT/cxrbatch.log out.

Never a patient's name, id or dates, and no input path (PACS exports name folders after patients): an event
names its study by study_key, which images.csv and studies.csv resolve.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

LOG_FILE = "cxrbatch.log"
events = logging.getLogger("cxrbatch.events")


def log_event(event: str, *, level: int = logging.INFO, **facts: str | float | None) -> None:
    """Write one event with its facts to the log."""
    events.log(level, event, extra={"facts": facts})


@contextmanager
def logging_to(folder: Path) -> Iterator[None]:
    """Append what the package logs to the log file of `folder` while the context lasts."""
    handler = logging.FileHandler(folder / LOG_FILE, encoding="utf-8", errors="backslashreplace")
    (folder / LOG_FILE).chmod(0o640)
    handler.setFormatter(_JsonLines())
    package = logging.getLogger("cxrbatch")
    former_level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(former_level)
        handler.close()


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        facts |= getattr(record, "facts", {})
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return json.dumps(facts)
