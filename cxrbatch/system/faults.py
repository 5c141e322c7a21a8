"""Fault points: named places where a test lets this process die, stop or run out of disk; else they do nothing.

For tests only: CXRBATCH_FAULT=NAME[:N]=FAULT, read once as this module is imported, lets each process that has it do
FAULT when it comes to the point NAME for the N-th time (the first, if N is left out). FAULT is `kill` or `term`, a
signal to itself, or `enospc`, `edquot`, `eio`, `erofs`, the OSError that a failing disk would raise there.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

VARIABLE = "CXRBATCH_FAULT"
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}
ERRORS = {name: getattr(errno, name.upper()) for name in ("enospc", "edquot", "eio", "erofs")}
_ORDER = re.compile(rf"(?P<name>[a-z-]+)(:(?P<n>[1-9]\d*))?=(?P<fault>{'|'.join((*SIGNALS, *ERRORS))})")


@dataclass(slots=True)
class Fault:
    """What happens at one fault point, and how often each point was reached so far; call it with a point's name."""

    name: str
    n: int
    fault: str
    reached: Counter[str] = field(default_factory=Counter)

    def __call__(self, name: str) -> None:
        """Count that `name` was reached, and do the fault if it is its turn."""
        self.reached[name] += 1
        if (name, self.reached[name]) != (self.name, self.n):
            return
        if self.fault in SIGNALS:
            os.kill(os.getpid(), SIGNALS[self.fault])
        else:
            number = ERRORS[self.fault]
            raise OSError(number, os.strerror(number))


def read_fault(order: str) -> Fault:
    """Read NAME[:N]=FAULT.

    Raises:
        ValueError: it says something else.
    """
    found = _ORDER.fullmatch(order)
    if not found:
        raise ValueError(f"{VARIABLE}={order!r} is not NAME[:N]={'|'.join((*SIGNALS, *ERRORS))}")
    return Fault(found["name"], int(found["n"] or 1), found["fault"])


_at_point: Callable[[str], None] | None = read_fault(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None


def reach(name: str) -> None:
    """Mark a fault point. `name` is a literal that stands in the sources once: tests read it there."""
    if _at_point is not None:
        _at_point(name)


def arm(at_point: Callable[[str], None] | None) -> None:
    """Let this function be called with the name of every point that is reached; None for nothing again."""
    global _at_point  # noqa: PLW0603  # one process, one fault
    _at_point = at_point
