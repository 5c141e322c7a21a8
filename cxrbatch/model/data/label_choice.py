"""Choosing labels: those that were asked for, in their order, of all that a layout holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cxrbatch.errors import UsageError
from cxrbatch.model.data.labelled import LabelledImages
from cxrbatch.model.data.options import DataOptions
from cxrbatch.records import Float32, Task

ABNORMAL = "Abnormal"
NO_FINDING = "No Finding"
SEPARATOR = "|"

_NORMAL_NAMES = frozenset({"normal", "nofinding", "nofindings", "healthy", "negative"})


def is_normal_name(name: str) -> bool:
    """Tell whether a label's or class's name means that nothing was found."""
    return "".join(sign for sign in name.casefold() if sign.isalnum()) in _NORMAL_NAMES


def join_findings(cells: Sequence[str]) -> tuple[tuple[str, ...], Float32]:
    """Read cells such as `Effusion|Mass` or `No Finding`.

    Returns:
        The findings' names, sorted, and float32 [N,C] of 0 and 1; nan in the row of an empty cell.
    """
    found = [[part.strip() for part in cell.split(SEPARATOR) if part.strip()] for cell in cells]
    names = tuple(sorted({name for row in found for name in row if not is_normal_name(name)}))
    column = {name: index for index, name in enumerate(names)}
    targets = np.zeros((len(cells), len(names)), np.float32)
    for target, row in zip(targets, found, strict=True):
        target[[column[name] for name in row if name in column]] = 1.0
        if not row:
            target[:] = np.nan
    return names, targets


def one_hot(classes: Sequence[str]) -> tuple[tuple[str, ...], Float32]:
    """Return the classes' names, sorted, and float32 [N,C] with one 1 a row."""
    names, indices = np.unique(np.array(classes, dtype=object).astype(str), return_inverse=True)
    return tuple(names.tolist()), np.eye(len(names), dtype=np.float32)[indices]


def choose_labels(images: LabelledImages, options: DataOptions) -> LabelledImages:
    """Pick and order the labels, or make them normal against abnormal; leave out images of which nothing is known.

    Without a wish, findings are all but "No Finding", and two classes of which one is normal become one
    label: the other. A "No Finding" that no column holds is what has no finding.

    Raises:
        UsageError: a label is unknown.
    """
    targets = np.array([sample.targets for sample in images.samples], np.float32).reshape(len(images.samples), -1)
    if options.binary:
        normal = _column(images, targets, options.binary)
        return _with_targets(images, (ABNORMAL,), 1.0 - normal[:, np.newaxis], "binary")
    names = options.labels or _usual_labels(images)
    chosen = np.stack([_column(images, targets, name) for name in names], axis=1)
    if images.task == "multiclass" and len(names) > 1:
        # An image of a class that was not asked for has no 1 left.
        chosen[chosen.sum(axis=1) == 0.0] = np.nan
        return _with_targets(images, names, chosen, "multiclass")
    return _with_targets(images, names, chosen, "binary" if len(names) == 1 else "multilabel")


def _usual_labels(images: LabelledImages) -> tuple[str, ...]:
    findings = tuple(name for name in images.labels if name != images.normal_label)
    if images.task == "multiclass" and len(findings) > 1:
        return images.labels
    return findings or images.labels


def _column(images: LabelledImages, targets: Float32, name: str) -> Float32:
    """Return one label's targets, float32 [N]."""
    if name in images.labels:
        column: Float32 = targets[:, images.labels.index(name)]
        return column
    if images.task == "multilabel" and is_normal_name(name):
        return _without_finding(targets)
    known = [*images.labels, *([NO_FINDING] if images.task == "multilabel" and not images.normal_label else [])]
    raise UsageError(f"{images.root}: there is no label {name}; there are {', '.join(known)}.")


def _without_finding(targets: Float32) -> Float32:
    """Return 1 where every finding is absent, 0 where one is present, nan where that is not known."""
    some, unclear = (targets == 1.0).any(axis=1), np.isnan(targets).any(axis=1)
    return np.where(some, 0.0, np.where(unclear, np.nan, 1.0)).astype(np.float32)


def _with_targets(images: LabelledImages, names: tuple[str, ...], targets: Float32, task: Task) -> LabelledImages:
    known = [not all(map(math.isnan, row)) for row in targets.tolist()]
    samples = tuple(
        replace(sample, targets=tuple(row))
        for sample, row, kept in zip(images.samples, targets.tolist(), known, strict=True)
        if kept
    )
    left_out = len(known) - len(samples)
    note = (f"{left_out} images left out: nothing is known of them on {', '.join(names)}.",) if left_out else ()
    normal = next((name for name in names if is_normal_name(name)), "")
    return replace(images, labels=names, samples=samples, task=task, normal_label=normal, notes=images.notes + note)
