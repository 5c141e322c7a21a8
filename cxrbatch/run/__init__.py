"""The run: index, read, score, print, record. Start at `batch`, which shows the whole data flow.

`cxrbatch.run` is this room and also what a notebook calls to run a folder, so the module can be called.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxrbatch.run.api import Results


class _CallableRoom(ModuleType):
    """A module that runs a folder when it is called."""

    def __call__(self, input_path: str | Path, out: str | Path, **settings: Any) -> Results:
        """Score every study below INPUT, as `cxrbatch run` does; see `cxrbatch.run.api.run`."""
        from cxrbatch.run.api import run

        return run(input_path, out, **settings)


sys.modules[__name__].__class__ = _CallableRoom
