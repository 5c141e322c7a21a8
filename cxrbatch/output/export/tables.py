"""Tables of one kind of row, a dataclass, as CSV or as Parquet: the same text in either, a row group at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any, get_type_hints

from cxrbatch.errors import ConfigurationError
from cxrbatch.pages.cells import harmless, write_rows
from cxrbatch.records import Float32
from cxrbatch.system.durable import replacing

Add = Callable[[Any], None]
OpenTable = Callable[[Path, type[Any]], AbstractContextManager[Add]]

ROWS_AT_ONCE = 20_000
"""Rows of a Parquet file that are held in memory, and that a reader takes at once."""

LISTS_AT_ONCE = 1000
"""The same of rows that hold arrays: of 2,048 numbers, 8 MB."""

_DECIMALS = {"probability": 6, "disagreement": 6, "distance": 3}


@contextmanager
def csv_table(target: Path, kind: type[Any]) -> Iterator[Add]:
    """Write a table as CSV: numbers as in images.csv, yes and no as 1 and 0, text as `harmless` makes it."""
    names = [field.name for field in fields(kind)]
    cells = _reader(names)
    with replacing(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        write_rows(stream, [names])

        def add(row: Any) -> None:
            write_rows(stream, [[_csv_cell(name, value) for name, value in zip(names, cells(row), strict=True)]])

        yield add


@contextmanager
def parquet_table(target: Path, kind: type[Any]) -> Iterator[Add]:
    """Write a table as Parquet, typed; its text is that of the CSV table, so that the two can be joined.

    Raises:
        ConfigurationError: pyarrow is not installed.
    """
    arrow, parquet = load_pyarrow()
    schema = arrow.schema([_arrow_field(arrow, name, hint) for name, hint in get_type_hints(kind).items()])
    cells, waiting = _reader(schema.names), list[tuple[Any, ...]]()
    at_once = LISTS_AT_ONCE if Float32 in get_type_hints(kind).values() else ROWS_AT_ONCE

    with replacing(target) as temporary, parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:

        def flush() -> None:
            columns = zip(*waiting, strict=True) if waiting else ([] for _ in schema.names)
            arrays = [arrow.array(list(column), type=field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            waiting.clear()

        def add(row: Any) -> None:
            waiting.append(tuple(harmless(cell) if isinstance(cell, str) else cell for cell in cells(row)))
            if len(waiting) >= at_once:
                flush()

        yield add
        if waiting:
            flush()


def load_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its part for Parquet.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigurationError(
            "--format parquet needs pyarrow: pip install 'cxrbatch[parquet]'. --format csv-long needs nothing more."
        ) from error
    return pa, parquet


def _reader(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what reads these members of a row, at least two."""
    return attrgetter(*names)


def _arrow_field(arrow: Any, name: str, hint: Any) -> Any:
    kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_()}
    optional = {kind | None: arrow_kind for kind, arrow_kind in kinds.items()}
    if hint == Float32:
        return arrow.field(name, arrow.list_(arrow.float32()), nullable=False)
    return arrow.field(name, (kinds | optional)[hint], nullable=hint in optional)


def _csv_cell(name: str, value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    return f"{value:.{_DECIMALS[name]}f}" if name in _DECIMALS else value
