"""`cxrbatch export`: an output folder as tables and files that researchers work with. Start at `export_output`.

The ledger is copied first, so that everything is of one moment, also while a run is at work; then one study after
another goes through all the writers, and memory does not grow with their number. Nothing in OUT is changed. What OUT
has of patients the export has, too: of a de-identified OUT it names nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from cxrbatch import __version__
from cxrbatch.config import HeatmapChoice
from cxrbatch.errors import UsageError
from cxrbatch.output.export.embeddings import EMBEDDINGS, INDEX, embedding_writer
from cxrbatch.output.export.rows import ImageScoreRow, StudyScoreRow, image_score_rows, study_score_rows
from cxrbatch.output.export.tables import OpenTable, csv_table, load_pyarrow, parquet_table
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.output.folder.state import find_state
from cxrbatch.output.ledger.ledger import CONVERTING, DEIDENTIFIED, INPUT, LEDGER_FILE, Ledger
from cxrbatch.output.ledger.view import copy_ledger
from cxrbatch.output.report.report_files import report_folder
from cxrbatch.records import StudyResult, StudyRow, now_text
from cxrbatch.system.durable import make_folder, remove_temporaries, replace_text
from cxrbatch.system.record_json import to_json

Format = Literal["parquet", "csv-long", "coco", "npy"]

EXPORT_FILE = "export.json"

_TABLES: dict[str, tuple[OpenTable, str]] = {"csv-long": (csv_table, "csv"), "parquet": (parquet_table, "parquet")}

Writer = Callable[[StudyRow, StudyResult], None]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported; export.json says it beside the files.

    `left_without_result` are studies that no file is about, for nothing of them was scored. `regions` and `peaks` are
    annotations; `maps_not_validated` those that were left out. `images_without_maps`: none were kept. None of what was
    not asked for. `embeddings` counts the images whose embedding was kept, `embeddings_damaged` those of which it is no
    longer as it was.
    """

    cxrbatch_version: str
    made_at: str
    formats: tuple[Format, ...]
    deidentified: bool
    studies: int
    images: int
    left_without_result: int
    regions: int | None = None
    peaks: int | None = None
    maps_not_validated: int | None = None
    maps: int | None = None
    images_without_maps: int | None = None
    embeddings: int | None = None
    embeddings_damaged: int | None = None


def export_output(
    out: Path, target: Path, formats: tuple[Format, ...], *, state: str = "", heatmaps: HeatmapChoice = "validated"
) -> Exported:
    """Write what the studies of `out` came to into the folder `target`, in every format that is asked for.

    Args:
        out: the output folder; a run may be at work on it.
        target: a new or empty folder, or one of an earlier export, which is replaced.
        formats: which.
        state: where the ledger lies, if not where `out` says.
        heatmaps: of which labels COCO has annotations.

    Raises:
        UsageError: `out` is no output folder, or its names are being taken out; or `target` is none to write to.
        ConfigurationError: a library that a format needs is not installed.
        OutputNotWritable: `target` cannot be written.
    """
    if "parquet" in formats:
        load_pyarrow()
    with _copied_ledger(out, state) as ledger:
        if ledger.fact(DEIDENTIFIED) == CONVERTING:
            raise UsageError(f"{out}: its names are being taken out. Let `cxrbatch run --deidentify-existing` finish.")
        _refuse_folder(target, out, ledger.fact(INPUT))
        with output_errors_explained(target):
            make_folder(target)
            (target / EXPORT_FILE).unlink(missing_ok=True)
            remove_temporaries(target)
            exported = _export(ledger, out, target, formats, heatmaps)
            replace_text(target / EXPORT_FILE, to_json(exported, indent=2) + "\n")
    return exported


def _export(ledger: Ledger, out: Path, target: Path, formats: tuple[Format, ...], heatmaps: HeatmapChoice) -> Exported:
    made_at, studies, images, without = now_text(), 0, 0, 0
    counts: dict[str, int] = {}
    with ExitStack() as stack:
        writers = [_open_tables(stack, target, name) for name in formats if name in _TABLES]
        if "coco" in formats:
            writers.append(_open_coco(stack, out, target, heatmaps, counts))
        if "npy" in formats:
            writers.append(_open_maps(stack, out, target, counts))
        kept = [embedding_writer(stack, target, name, _TABLES) for name in formats if name != "coco"]
        for row in ledger.results.study_rows():
            if row.result is None:
                without += 1
                continue
            studies, images = studies + 1, images + len(row.result.images)
            for write in writers:
                write(row, row.result)
            for each in kept:
                each.write(row.result, report_folder(out, row.result.study_key))
        counts.update(embeddings=kept[0].written, embeddings_damaged=kept[0].damaged) if kept else None
    is_deidentified = bool(ledger.fact(DEIDENTIFIED))
    return Exported(__version__, made_at, formats, is_deidentified, studies, images, without, **counts)


def _open_tables(stack: ExitStack, target: Path, name: str) -> Writer:
    open_table, suffix = _TABLES[name]
    add_image = stack.enter_context(open_table(target / f"image_scores.{suffix}", ImageScoreRow))
    add_study = stack.enter_context(open_table(target / f"study_scores.{suffix}", StudyScoreRow))

    def write(row: StudyRow, result: StudyResult) -> None:
        for image in image_score_rows(row, result):
            add_image(image)
        for study in study_score_rows(row, result):
            add_study(study)

    return write


def _open_coco(stack: ExitStack, out: Path, target: Path, heatmaps: HeatmapChoice, counts: dict[str, int]) -> Writer:
    from cxrbatch.output.export.coco import coco_file

    made = stack.enter_context(coco_file(target / "coco.json", heatmaps, now_text()))

    def write(_: StudyRow, result: StudyResult) -> None:
        made.add(result, report_folder(out, result.study_key))
        counts.update(regions=made.count.regions, peaks=made.count.peaks, maps_not_validated=made.count.left_out)

    counts.update(regions=0, peaks=0, maps_not_validated=0)
    return write


def _open_maps(stack: ExitStack, out: Path, target: Path, counts: dict[str, int]) -> Writer:
    from cxrbatch.output.export.maps import maps_folder

    made = stack.enter_context(maps_folder(target))

    def write(_: StudyRow, result: StudyResult) -> None:
        made.add(result, report_folder(out, result.study_key))
        counts.update(maps=len(made.written), images_without_maps=made.without)

    counts.update(maps=0, images_without_maps=0)
    return write


@contextmanager
def _copied_ledger(out: Path, state: str) -> Iterator[Ledger]:
    """Open a copy of the ledger of `out`, as of one moment; one of an earlier version is migrated there."""
    with TemporaryDirectory(prefix="cxrbatch-") as scratch:
        copy_ledger(find_state(out, state) / LEDGER_FILE, Path(scratch) / LEDGER_FILE)
        with Ledger(Path(scratch)) as ledger:
            yield ledger


def _refuse_folder(target: Path, out: Path, input_path: str) -> None:
    """Refuse a folder in which an export would be lost, met as input, or mixed with what is somebody else's."""
    place = target.resolve()
    for holder, what in ((out, "the output folder"), (Path(input_path), "the input")):
        if holder.parts and place.is_relative_to(holder.resolve()):
            raise UsageError(f"{target}: lies in {what}, {holder}. Name a folder of its own for the export.")
    if place.is_dir() and any(place.iterdir()) and not _is_of_export(place):
        raise UsageError(f"{target}: holds something that no export left. Name a new or empty folder.")


def _is_of_export(folder: Path) -> bool:
    """Tell whether an export was made here, or begun: there is nothing that none writes."""
    known = {EXPORT_FILE, "coco.json", "maps", "maps.csv"}
    known |= {EMBEDDINGS, INDEX, *(f"{EMBEDDINGS}.{suffix}" for suffix in ("csv", "parquet"))}
    known |= {f"{kind}_scores.{suffix}" for kind in ("image", "study") for suffix in ("csv", "parquet")}
    return all(path.name in known or path.name.startswith(".cxrbatch-tmp-") for path in folder.iterdir())
