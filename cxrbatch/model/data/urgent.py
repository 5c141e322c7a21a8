"""Which findings are urgent: a person says so, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cxrbatch.errors import UsageError
from cxrbatch.records import Label


def mark_urgent(labels: Sequence[Label], urgent: Sequence[str] | None) -> tuple[Label, ...]:
    """Return the labels, those that are named urgent and no others; None leaves all as they are.

    Raises:
        UsageError: there is no such label, or it means that nothing was found.
    """
    if urgent is None:
        return tuple(labels)
    findings = [label.name for label in labels if not label.normal]
    if unknown := [name for name in urgent if name not in findings]:
        raise UsageError(
            f"urgent: {', '.join(unknown)}: no such finding. There {'are' if len(findings) > 1 else 'is'} "
            f"{', '.join(findings) or 'none'}."
        )
    return tuple(replace(label, urgent=label.name in urgent) for label in labels)
