"""The CSV tables beside the page of a data summary, whole where the page is shortened."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from cxrbatch.model.describe.summary import DataSummary, MeasuredImages, Share
from cxrbatch.pages.cells import write_rows
from cxrbatch.system import durable


def tabulate(summary: DataSummary, images: MeasuredImages) -> dict[str, bytes]:
    """Return the CSV files, by name."""
    parts = [part.name or "all" for part in summary.parts]
    labels = summary.labels
    return {
        "label_counts.csv": _to_csv(
            ["label", "positive", "negative", "not_known", "patients", "share", *(f"share_{part}" for part in parts)],
            (
                [line.name, line.positive, line.negative, line.unknown, line.patients]
                + [_number(share) for share in (line.share, *line.prevalence)]
                for line in summary.lines
            ),
        ),
        "together.csv": _to_csv(
            ["label", *labels],
            ([name, *row] for name, row in zip(labels, summary.together.tolist(), strict=True)),
        ),
        "groups.csv": _to_csv(
            ["column", "value", "images", *(f"share_{name}" for name in labels)],
            ([line.column, line.value, line.images, *map(_number, line.prevalence)] for line in summary.groups),
        ),
        "sizes.csv": _to_csv(
            ["rows", "columns", "images"], ([size.rows, size.columns, count] for size, count in summary.sizes)
        ),
        "duplicates.csv": _to_csv(
            ["group", "path", "labels_differ"],
            (
                [number, name, int(double.differ)]
                for number, double in enumerate(summary.doubles, start=1)
                for name in double.names
            ),
        ),
        "unreadable.csv": _to_csv(["path", "reason"], ([str(image.path), image.reason] for image in summary.bad)),
        "images.csv": _to_csv(["path", "split", "age", "sex", "view", "rows", "columns", *labels], _image_rows(images)),
    }


def _image_rows(images: MeasuredImages) -> Iterator[Sequence[object]]:
    """Yield a row per image. Who the patient is stays where it is."""
    for sample, size in zip(images.images.samples, images.sizes, strict=True):
        yield [
            images.images.name_of(sample),
            sample.split,
            "" if sample.age is None else f"{sample.age:g}",
            sample.sex,
            sample.view,
            size.rows or "",
            size.columns or "",
            *("" if np.isnan(target) else int(target) for target in sample.targets),
        ]


def _to_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    table = io.StringIO()
    write_rows(table, [columns])
    write_rows(table, rows)
    return durable.encode(table.getvalue())


def _number(share: Share) -> str:
    return "" if share is None else f"{share:.4f}"
