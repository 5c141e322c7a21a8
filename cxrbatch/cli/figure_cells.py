"""How figures stand in the tables on the terminal: with three decimals, and their intervals beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxrbatch.model.figures.bootstrap import Estimate

NO_FIGURE, TOO_FEW = "-", "too few"


def estimated(estimate: Estimate | None) -> str:
    """Return an estimate with its interval."""
    return NO_FIGURE if estimate is None else _with_interval(estimate.value, estimate.low, estimate.high)


def measured(metrics: dict[str, float], name: str) -> str:
    """Return a figure that a label was stored with, and its interval."""
    if name not in metrics:
        return NO_FIGURE
    return _with_interval(metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"])


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
