"""A table that is brought up to date without writing every row anew: what did not change is copied, line by line.

Copying a line takes a hundredth of what making one does. A row is always one line, for its cells hold no line breaks,
and its first cell says what it is of. Start at `patch_table`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cxrbatch.pages.cells import write_rows
from cxrbatch.system.durable import replacing
from cxrbatch.system.faults import reach

_QUOTED = re.compile(rb'"(?:[^"]|"")*"')
AT_END = b""
"""What no row has as its first cell: what is put there comes last."""


class Unfit(ValueError):
    """The table is not the one that the changes are of: it is to be written anew."""


@dataclass(slots=True)
class TablePatch:
    """Lines that go, by their first cell, and lines that come, by the first cell of the one that they come before."""

    dropped: set[bytes] = field(default_factory=set)
    added: dict[bytes, list[bytes]] = field(default_factory=dict)

    def drop(self, name: str) -> None:
        """Let the line of this name go, where there is one."""
        self.dropped.add(first_cell(name))

    def add(self, row: Sequence[object], before: str | None) -> None:
        """Let a row come before the one of that name; None: behind all. What is added later comes later."""
        place = AT_END if before is None else first_cell(before)
        self.added.setdefault(place, []).append(_line(row))


def patch_table(target: Path, patch: TablePatch) -> None:
    """Bring a table up to date, whole or not at all.

    Raises:
        Unfit: it lacks a row beside which others are to come.
        OSError: it cannot be read or written.
    """
    with replacing(target) as temporary, target.open("rb") as former, temporary.open("wb") as stream:
        reach("table-patch")
        stream.write(next(former, b""))
        _copy(former, stream, patch)
        reach("table-patched")


def _copy(former: Iterable[bytes], stream: BinaryIO, patch: TablePatch) -> None:
    added, looked_for = dict(patch.added), patch.dropped | patch.added.keys()
    write = stream.write
    for line in former:
        cell = line.partition(b",")[0] if line[:1] != b'"' else _quoted_cell(line)
        if cell in looked_for:
            stream.writelines(added.pop(cell, ()))
            if cell in patch.dropped:
                continue
        write(line)
    stream.writelines(added.pop(AT_END, ()))
    if added:
        raise Unfit(f"{len(added)} rows are missing beside which others belong")


def first_cell(name: str) -> bytes:
    """Return the first cell of a row as it stands in the file."""
    return _line((name, 0)).removesuffix(b",0\n")


def _line(row: Sequence[object]) -> bytes:
    text = io.StringIO()
    write_rows(text, [row])
    return text.getvalue().encode()


def _quoted_cell(line: bytes) -> bytes:
    found = _QUOTED.match(line)
    return found[0] if found else line
