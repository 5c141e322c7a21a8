"""Showing what labelled data is: index.html with plots and mosaics, and tables as CSV. Start at `describe_data`."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from cxrbatch.config import Settings
from cxrbatch.errors import ImageRejected, UsageError
from cxrbatch.intake.read import inspect_file
from cxrbatch.locales import ENGLISH
from cxrbatch.model.data.labelled import LAYOUT_NAMES, TASK_NAMES, UNKNOWN, LabelledImages
from cxrbatch.model.data.layouts import read_data
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.pixel_cache import fill_cache
from cxrbatch.model.data.pixels import BadImage, ReportProgress
from cxrbatch.model.data.splits import check_patients, check_pixels, split_data
from cxrbatch.model.describe import plots
from cxrbatch.model.describe.summary import DataSummary, GroupLine, ImageSize, MeasuredImages, Share, summarise_data
from cxrbatch.pages import wording
from cxrbatch.pages.cells import write_rows
from cxrbatch.pages.language import gettext as _, localised, speaking, spoken
from cxrbatch.pages.page import render_page
from cxrbatch.pages.retelling import kept, retold
from cxrbatch.records import Gray8, InputSpec
from cxrbatch.system import durable

INDEX_HTML = "index.html"
# Large enough to recognise an image in a mosaic, and to tell any two images apart.
TILE_PX = 160
MOSAIC_IMAGES = 8
NONE_OF_THEM = kept("None of the labels")
# What is more stands in the CSV files.
MOST_LISTED = 40
SIZE_LINES = 12


@dataclass(frozen=True, slots=True)
class Mosaic:
    """A strip of images that show one label, drawn by chance."""

    name: str
    file: str
    shown: int
    images: int


def describe_data(
    data: Path, options: DataOptions, out: Path, *, workers: int = 0, report: ReportProgress | None = None
) -> DataSummary:
    """Write what one should know of labelled data before training on it.

    Images that cannot be read and leaks don't stop it: they are what one wants to see. Data that comes
    without a split is shown as training with these options would split it.

    Args:
        data: a folder or a table.
        options: layout, labels and split.
        out: the folder to write; created where missing.
        workers: processes that decode; 0 takes one per core.
        report: told (images read, images in all).

    Raises:
        UsageError: the data cannot be read at all.
        OutputNotWritable: the cache cannot be written to.
    """
    read = read_data(data, options)
    images = _split_if_possible(read, options)
    pixels, bad = fill_cache(
        [sample.path for sample in images.samples], InputSpec(TILE_PX), workers=workers, report=report
    )
    measured = MeasuredImages(images, pixels, _measure(images), bad)
    summary = _summarise(measured)
    durable.make_folder(out)
    mosaics, pictures = _draw_mosaics(measured, options.seed)
    drawings = _draw_plots(summary, images)
    durable.replace_files(out, pictures | drawings | tabulate(summary, measured))
    page = _render(summary, mosaics, drawings, _in_words(read, options))
    durable.replace_text(out / INDEX_HTML, page)
    return summary


def _split_if_possible(images: LabelledImages, options: DataOptions) -> LabelledImages:
    try:
        return split_data(images, options)
    except UsageError as error:
        return replace(
            images, notes=(*images.notes, kept("It cannot be split for training: {error}").format(error=error))
        )


def _in_words(read: LabelledImages, options: DataOptions) -> str:
    """Say where the parts come from."""
    given = {sample.split for sample in read.samples}
    if given == {""}:
        return kept("drawn by patient, stratified, seed {name}, as train would").format(name=options.seed)
    if "val" in given:
        return kept("given with the data")
    return kept("test given with the data, val drawn from train by patient")


def _measure(images: LabelledImages) -> tuple[ImageSize, ...]:
    """Read the size of each image from its header; threads, because waiting for the disk is all there is to it."""
    with ThreadPoolExecutor(8) as pool:
        return tuple(pool.map(_measure_image, [sample.path for sample in images.samples], chunksize=64))


def _measure_image(path: Path) -> ImageSize:
    try:
        header = inspect_file(path, Settings())[1].header
    except (ImageRejected, OSError):
        return ImageSize(0, 0)
    return ImageSize(header.rows, header.columns)


def _summarise(images: MeasuredImages) -> DataSummary:
    digests = images.digests()
    split = any(sample.split for sample in images.images.samples)
    checked = check_patients(images.images, allow_leak=True) if split else images.images
    readable = [row for row, digest in enumerate(digests) if digest]
    seen = replace(checked, samples=tuple(checked.samples[row] for row in readable))
    leaks = check_pixels(seen, [digests[row] for row in readable], allow_leak=True).leaks if split else ()
    return summarise_data(replace(images, images=replace(checked, leaks=leaks)))


# --------------------------------------------------------------------------- pictures


def _draw_mosaics(images: MeasuredImages, seed: int) -> tuple[list[Mosaic], dict[str, bytes]]:
    """Return a strip of images per label, and the JPEG file of each by name."""
    targets = np.array([sample.targets for sample in images.images.samples])
    readable = np.array([bool(digest) for digest in images.digests()])
    chosen = [(name, targets[:, index] == 1.0) for index, name in enumerate(images.images.labels)]
    chosen.append((NONE_OF_THEM, (targets == 0.0).all(axis=1)))
    chance = np.random.default_rng(seed)
    mosaics: list[Mosaic] = []
    files: dict[str, bytes] = {}
    for number, (name, shows) in enumerate(chosen, start=1):
        rows = np.flatnonzero(shows & readable)
        if rows.size:
            drawn = np.sort(chance.permutation(rows)[:MOSAIC_IMAGES])
            mosaics.append(Mosaic(name, f"mosaic-{number}.jpg", len(drawn), int(shows.sum())))
            files[mosaics[-1].file] = _encode_strip(images.pixels[drawn])
    return mosaics, files


def _encode_strip(pixels: Gray8) -> bytes:
    """Lay images side by side, two pixels apart, and encode them as JPEG; room for all that fit stays black."""
    strip = np.zeros((TILE_PX, MOSAIC_IMAGES * (TILE_PX + 2) - 2), np.uint8)
    for place, image in enumerate(pixels):
        left = place * (TILE_PX + 2)
        strip[:, left : left + TILE_PX] = image[0]
    encoded, content = cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert encoded
    return content.tobytes()


@speaking()
def _draw_plots(summary: DataSummary, images: LabelledImages) -> dict[str, bytes]:
    drawings = {"labels.svg": plots.draw_counts(summary)}
    if len(summary.parts) > 1:
        drawings["prevalence.svg"] = plots.draw_prevalence(summary)
    if summary.task == "multilabel" and len(summary.labels) > 1:
        drawings["together.svg"] = plots.draw_together(summary)
    if any(sample.age is not None for sample in images.samples):
        drawings["ages.svg"] = plots.draw_ages(images.samples)
    if summary.sizes:
        drawings["sizes.svg"] = plots.draw_sizes(summary)
    return drawings


# --------------------------------------------------------------------------- page


@speaking()
def _render(summary: DataSummary, mosaics: Sequence[Mosaic], drawings: Iterable[str], split_source: str) -> str:
    return render_page(
        "describe.html.j2",
        styles=("look.css", "describe.css"),
        summary=summary,
        layout=_(LAYOUT_NAMES[summary.layout]),
        task=_(TASK_NAMES[summary.task]),
        split_source=retold(split_source),
        mosaics=mosaics,
        drawn=set(drawings),
        most_listed=MOST_LISTED,
        size_lines=SIZE_LINES,
        groups=_columns_of_groups(summary),
        percent=_percent,
        tables=TABLES,
        retold=retold,
        listed=wording.listed,
        group_name=_group_name,
        why_unread=_why_unread,
    )


def _columns_of_groups(summary: DataSummary) -> list[str]:
    return list(dict.fromkeys(line.column for line in summary.groups))


def _percent(share: Share) -> str:
    """Write a share: 0.123 is 12.3 %; a dash where nothing is known."""
    return "\N{EN DASH}" if share is None else localised(f"{100 * share:.1f}\N{NO-BREAK SPACE}%")


def _group_name(line: GroupLine) -> str:
    """Name a group; that nobody knows it is said in the language that is spoken."""
    return _(line.value) if line.value == UNKNOWN else line.value


def _why_unread(image: BadImage) -> str:
    """Say why an image cannot be read: in English with what was found in the file, else by its reason alone."""
    return image.reason if spoken().locale == ENGLISH else wording.reason_sentence(image.code) or image.reason


TABLES = (
    *("label_counts.csv", "together.csv", "groups.csv", "sizes.csv", "duplicates.csv", "unreadable.csv"),
    "images.csv",
)
"""The tables beside the page, as it names them."""


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
