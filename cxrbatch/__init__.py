"""cxrbatch scores folders of chest radiographs: studies in, tables and reports with heatmaps out.

In a notebook: `open_engine`, `run` and `read_results`, which live in `cxrbatch.run.api` and are loaded when they are
first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxrbatch.run.api import Results, ScoringEngine, open_engine, read_results, run

__version__ = "0.1.0"

__all__ = ["Results", "ScoringEngine", "__version__", "open_engine", "read_results", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The room of that name, which can be called.
    return import_module("cxrbatch.run") if name == "run" else getattr(import_module("cxrbatch.run.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
