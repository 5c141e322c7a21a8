"""How one file would be read: its facts, and the verdict on it."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from stat import S_ISREG
from typing import Literal

import cv2
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cxrbatch.config import Settings
from cxrbatch.engine.installed import find_bundle
from cxrbatch.errors import Flag, ImageRejected, UsageError
from cxrbatch.intake.account import PixelAccount, account_for_pixels
from cxrbatch.intake.anatomy import (
    COLOURED_SHARE,
    RESEMBLANCE_IN_DOUBT,
    RESEMBLANCE_OF_A_CHEST,
    Anatomy,
    check_anatomy,
    measure_anatomy,
)
from cxrbatch.intake.discover import index_file
from cxrbatch.intake.preprocess import prepare, reading_for, source_side
from cxrbatch.intake.read import read_radiograph
from cxrbatch.pages.terminal_text import TITLE, literal
from cxrbatch.records import Gray8, Header, ImageFile, IndexedFile, InputSpec, Radiograph, storable_ns
from cxrbatch.system import durable
from cxrbatch.system.record_json import to_json

# What is shown as the engine's input where the settings name no engine.
USUAL_INPUT = InputSpec(size_px=224)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would become of a file. `display_rows` x `display_columns` is what a report would show.

    `study_key` is empty for PNG and JPEG: theirs depends on where INPUT begins. `pixels` and `anatomy` are there
    once the pixels were decoded. `coloured_share` is the part of the pixels, 0..1, that is in colour.
    """

    file: str
    verdict: Literal["scored", "rejected"]
    reason: str
    message: str
    study_key: str
    header: Header
    flags: tuple[Flag, ...]
    header_ms: float
    read_ms: float = 0.0
    display_rows: int = 0
    display_columns: int = 0
    display_mean: float = 0.0
    pixels: PixelAccount | None = None
    anatomy: Anatomy | None = None
    coloured_share: float = 0.0


def explain_file(named: Path, settings: Settings, *, picture: Path | None = None) -> Explanation:
    """Read a file as a run would.

    With `picture`, its display image is written there as PNG, and the engine's input beside it, as
    `<stem>.input.png`: also of an image that the pixel check refuses.

    Raises:
        UsageError: the file cannot be opened, or is none.
    """
    try:
        path = named.resolve(strict=True)
        status = path.stat()
        if not S_ISREG(status.st_mode):
            raise UsageError(f"{named}: not a regular file; a run would pass it over.")
        started = time.perf_counter()
        met = ImageFile(path.name, status.st_size, storable_ns(status.st_mtime_ns))
        indexed = index_file(path.parent, met, settings)
        header_ms = _ms_since(started)
        if indexed.rejection is not None:
            refusal = ImageRejected(indexed.rejection.reason, indexed.rejection.message)
            return _refused(named, indexed, refusal, header_ms)
        try:
            return _inspect_pixels(named, path, indexed, header_ms, settings, picture)
        except ImageRejected as rejected:
            return _refused(named, indexed, rejected, header_ms)
    except OSError as error:
        raise UsageError(f"{named}: cannot be opened: {error.strerror}") from error


def _inspect_pixels(
    named: Path, path: Path, indexed: IndexedFile, header_ms: float, settings: Settings, picture: Path | None
) -> Explanation:
    started = time.perf_counter()
    spec = find_bundle(settings.engine).input if settings.engine and picture is not None else USUAL_INPUT
    radiograph = read_radiograph(path, reading_for(settings, spec), source_px=source_side(spec))
    read_ms = _ms_since(started)
    if picture is not None:
        _write_png(picture, radiograph.display)
        _write_png(picture.with_suffix(".input.png"), prepare(radiograph, spec).pixels[0])
    decoded = replace(
        _accepted(named, indexed, radiograph, header_ms, read_ms),
        pixels=account_for_pixels(path, settings),
        anatomy=measure_anatomy(radiograph.judged),
    )
    try:
        checked = check_anatomy(radiograph, settings)
    except ImageRejected as rejected:
        return replace(decoded, verdict="rejected", reason=rejected.reason.value, message=rejected.message)
    return replace(decoded, flags=tuple(dict.fromkeys((*decoded.flags, *checked.flags))))


def print_inspection(console: Console, inspection: Explanation, *, as_json: bool) -> None:
    """Print an inspection as a table, or as one line of JSON."""
    if as_json:
        console.print(to_json(inspection), markup=False, highlight=False)
        return
    table = Table(title=literal(inspection.file, TITLE), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    colour = "green" if inspection.verdict == "scored" else "red"
    verdict = Text.assemble((f"would be {inspection.verdict}", colour), " ", literal(_why(inspection)))
    table.add_row("verdict", verdict)
    table.add_row("flags", ", ".join(flag.value for flag in inspection.flags) or "none")
    table.add_row("study key", inspection.study_key or "none, or (PNG, JPEG) as the path below INPUT is")
    for field in fields(Header):
        if value := getattr(inspection.header, field.name):
            table.add_row(field.name.replace("_", " "), literal(str(value)))
    table.add_row("time", f"header {inspection.header_ms:.1f} ms, pixels {inspection.read_ms:.1f} ms")
    _add_pixel_rows(table, inspection)
    console.print(table)


def _add_pixel_rows(table: Table, inspection: Explanation) -> None:
    if inspection.pixels is not None:
        for field in fields(PixelAccount):
            table.add_row(field.name.replace("_", " "), literal(str(getattr(inspection.pixels, field.name))))
    if inspection.anatomy is not None:
        size = f"{inspection.display_columns} x {inspection.display_rows}"
        table.add_row("display image", f"{size}, mean grey value {inspection.display_mean:.0f} of 255")
        table.add_row(
            "pixel check",
            f"resemblance to a chest {inspection.anatomy.resemblance:.1f}; a chest from {RESEMBLANCE_OF_A_CHEST} on, "
            f"in doubt from {RESEMBLANCE_IN_DOUBT} on; likeness to a chest {inspection.anatomy.likeness:.2f}, negative "
            f"where black and white are swapped; lung valley {inspection.anatomy.valley:.2f}; in colour "
            f"{inspection.coloured_share:.1%} of it, too much from {COLOURED_SHARE:.0%} on",
        )


def _why(inspection: Explanation) -> str:
    return f"({inspection.reason}: {inspection.message})" if inspection.reason else ""


def _refused(path: Path, indexed: IndexedFile, rejected: ImageRejected, header_ms: float) -> Explanation:
    return Explanation(
        file=str(path),
        verdict="rejected",
        reason=rejected.reason.value,
        message=rejected.message,
        study_key=_study_key(indexed),
        header=indexed.header,
        flags=indexed.flags,
        header_ms=header_ms,
    )


def _accepted(
    path: Path, indexed: IndexedFile, radiograph: Radiograph, header_ms: float, read_ms: float
) -> Explanation:
    return Explanation(
        file=str(path),
        verdict="scored",
        reason="",
        message="",
        study_key=_study_key(indexed),
        header=radiograph.header,
        flags=tuple(dict.fromkeys((*indexed.flags, *radiograph.flags))),
        header_ms=header_ms,
        read_ms=read_ms,
        display_rows=radiograph.display.shape[0],
        display_columns=radiograph.display.shape[1],
        display_mean=float(radiograph.display.mean()),
        coloured_share=radiograph.coloured_share,
    )


def _study_key(indexed: IndexedFile) -> str:
    return indexed.study_key if indexed.header.study_instance_uid else ""


def _write_png(target: Path, pixels: Gray8) -> None:
    durable.make_folder(target.parent)
    durable.replace_bytes(target, cv2.imencode(".png", pixels)[1].tobytes())


def _ms_since(started: float) -> float:
    return round(1e3 * (time.perf_counter() - started), 2)
