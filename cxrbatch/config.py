"""What a run can be asked to do: every setting with its default, what it takes and what it means."""

from __future__ import annotations

import os
import re
import reprlib
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Literal, TypeVar, get_type_hints

from cxrbatch.errors import ConfigurationError
from cxrbatch.locales import ENGLISH, check_locale

# What every output folder holds: its rooms write both, and intake, which must not score its pictures, knows them.
LOG_FILE, MARKER_FILE, METRICS_FILE, RUNS = "cxrbatch.log", ".cxrbatch.json", "metrics.prom", "runs"

Backend = Literal["auto", "onnxruntime", "tensorrt", "tensorrt-rtx", "torch"]
PrecisionChoice = Literal["auto", "fp32", "fp16", "int8"]
GroupBy = Literal["file", "folder"]
AcceptView = Literal["frontal", "any"]
RetryChoice = Literal["failed", "rejected"]
MissingTags = Literal["accept", "refuse"]
HeatmapChoice = Literal["validated", "all"]
PdfVariant = Literal["plain", "pdf/ua-1", "pdf/a-3b"]
PaperSize = Literal["a4", "letter"]
OBJECT_KINDS = ("sr", "sc", "pdf")
"""A structured report, overlays (Secondary Capture), the report as a document (Encapsulated PDF)."""
Jpeg2000Choice = Literal["half", "quarter"]


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that a setting takes, both ends included; never NaN."""

    least: float
    most: float

    def __str__(self) -> str:
        return f"{_number(self.least)} to {_number(self.most)}"

    def holds(self, value: float) -> bool:
        """Tell whether the number is one of them; written so that NaN, which is not smaller than anything, is not."""
        return self.least <= value <= self.most


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a setting does, for people to read; where it stands is the only place that says it."""

    text: str


Note = TypeVar("Note", Range, Meaning)


# Beyond these nobody has asked for anything on purpose, and libraries below begin to fail in ways of their own.
_MOST_PROCESSES = 1024
_DAY_S, _MONTH_S = 86_400.0, 31 * 86_400.0
_SECONDS = Range(0.001, _DAY_S)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is asked to do. Every field is a key of cxrbatch.toml and a CXRBATCH_ variable, most are an option.

    `make reference` makes docs/settings.md of the annotations, in this order.
    """

    engine: Annotated[str, Meaning("folder or name of an engine; empty takes the only one that is installed")] = ""
    backend: Annotated[Backend, Meaning("where the engine runs; `auto` takes the fastest that can run here")] = "auto"
    precision: Annotated[
        PrecisionChoice,
        Meaning("which of the engine's files runs; `auto` is INT8 on a CPU where that passed its gate, else FP32"),
    ] = "auto"
    batch_size: Annotated[int, Range(0, 1024), Meaning("images per engine call; 0 takes 4 on a CPU, 8 on a GPU")] = 0
    threads: Annotated[int, Range(0, _MOST_PROCESSES), Meaning("cores that a CPU engine may use; 0 is all")] = 0
    workers: Annotated[
        int, Range(0, _MOST_PROCESSES), Meaning("processes that read and print; 0 takes one per core")
    ] = 0
    limit: Annotated[int, Range(0, 1_000_000_000), Meaning("process at most so many studies now; 0 is all")] = 0
    input_emptied: Annotated[
        bool, Meaning("an INPUT that lost all its files at once was emptied, and is no share that is not mounted")
    ] = False
    walk_threads: Annotated[
        int,
        Range(1, 256),
        Meaning("looks at INPUT, and per worker headers, that wait at once where each takes long, as on a share"),
    ] = 16
    trust_folder_mtime: Annotated[
        bool, Meaning("pass over folders whose time is as it was; what is rewritten in place there is not noticed")
    ] = False
    html: Annotated[bool, Meaning("write `report.html` per study")] = True
    pdf: Annotated[bool, Meaning("write `report.pdf` per study")] = True
    sheet_pdf: Annotated[bool, Meaning("write the sheet of each run, `runs/<date>-<n>.html`, as PDF too")] = False
    pictures: Annotated[
        bool, Meaning("draw radiographs, thumbnails and heatmaps; without them there can be no reports")
    ] = True
    keep_maps: Annotated[
        bool, Meaning("keep the class activation maps of every image as numbers, for `export`; a few kB each")
    ] = False
    keep_embeddings: Annotated[
        bool, Meaning("keep the embedding of every image as numbers, for `export`, of an engine that gives one")
    ] = False
    heatmaps: Annotated[
        HeatmapChoice, Meaning("which heatmaps a report shows: those that were found to point at the finding, or all")
    ] = "validated"
    priors: Annotated[
        bool, Meaning("name earlier studies of the same patient in reports, and print these again when there are more")
    ] = True
    locale: Annotated[str, Meaning("language of the pages that people read: reports, worklist, sheets")] = ENGLISH
    pdf_variant: Annotated[
        PdfVariant, Meaning("what kind of PDF `report.pdf` is: `pdf/ua-1` for who listens to it, `pdf/a-3b` to archive")
    ] = "plain"
    paper: Annotated[PaperSize, Meaning("page size of `report.pdf`")] = "a4"
    templates: Annotated[str, Meaning("folder of templates and style sheets to use before the package's")] = ""
    dicom: Annotated[
        str,
        Meaning(
            "DICOM objects to write of studies that came as DICOM, with commas between them: `sr` (structured report), "
            "`sc` (overlays), `pdf` (the report as a document); empty writes none"
        ),
    ] = ""
    deidentify: Annotated[bool, Meaning("leave whatever names a patient out of all outputs")] = False
    deidentify_existing: Annotated[
        bool, Meaning("the same, and take it out of what the output folder holds already; not undone")
    ] = False
    group_by: Annotated[
        GroupBy, Meaning("a PNG or JPEG file is a study of its own, or all those of one folder are one")
    ] = "file"
    accept_modality: Annotated[str, Meaning("modalities to score, with commas between them")] = "CR,DX,RG"
    accept_body_part: Annotated[
        str, Meaning("words for body parts to score beside the chest, with commas between them")
    ] = ""
    accept_view: Annotated[AcceptView, Meaning("score PA and AP only, or any view, with the flag `other_view`")] = (
        "frontal"
    )
    missing_tags: Annotated[
        MissingTags, Meaning("what becomes of a file that says neither body part nor view, such as any PNG")
    ] = "accept"
    pixel_check: Annotated[bool, Meaning("compare what is seen with a chest")] = True
    max_display_px: Annotated[
        int, Range(256, 8192), Meaning("long side of the display image, in pixels; scores do not depend on it")
    ] = 1024
    jpeg2000: Annotated[
        Jpeg2000Choice,
        Meaning(
            "how small a JPEG 2000 radiograph is read: with at least 922 of 1,024 px, or with 615, which takes a third "
            "of the time where it has 2,464 px; its display is smaller then, and probabilities move a little"
        ),
    ] = "half"
    max_stored_px: Annotated[
        int, Range(1, 4_000_000_000), Meaning("rows x columns beyond which a file is refused unread")
    ] = 100_000_000
    min_stored_px: Annotated[int, Range(1, 65_535), Meaning("shorter sides than this are thumbnails, and refused")] = 64
    max_images_per_study: Annotated[
        int, Range(1, 10_000), Meaning("further ones are refused, for the images of a study are in memory together")
    ] = 100
    decode_timeout_s: Annotated[
        float,
        _SECONDS,
        Meaning("how long one file may compute, and how long it may wait; a stopped process's time does not count"),
    ] = 60.0
    print_timeout_s: Annotated[float, _SECONDS, Meaning("the same for the report of one study")] = 120.0
    decode_memory_mb: Annotated[
        int, Range(1, 1_048_576), Meaning("memory that one file may take in a worker, beyond what that starts with")
    ] = 1536
    infer_timeout_s: Annotated[float, _SECONDS, Meaning("how long the engine may take for a batch")] = 300.0
    drift_limit: Annotated[
        float,
        Range(0, 100),
        Meaning("population stability index beyond which drift is an alarm; 0: drift is not looked at"),
    ] = 0.25
    notify: Annotated[
        str,
        Meaning(
            "whom to tell of urgent studies, failures and drift, without any patient: an http or https address that "
            "gets JSON by POST, or a command that gets it on its standard input; run.json shows host or program alone"
        ),
    ] = ""
    send_to: Annotated[
        str, Meaning("`watch`: where to send DICOM objects: `[AET@]HOST:PORT`, or a DICOMweb address; empty: nowhere")
    ] = ""
    send_as: Annotated[str, Meaning("`watch`: our AE title for that")] = "CXRBATCH"
    newest_first: Annotated[bool, Meaning("begin with the studies that have the newest files")] = False
    settle_s: Annotated[
        float, Range(0, _MONTH_S), Meaning("`watch`: how long a file must stay the same to count as all there")
    ] = 60.0
    max_wait_s: Annotated[
        float, Range(0.001, _MONTH_S), Meaning("`watch`: after how long a study that still grows is taken as it is")
    ] = 1800.0
    interval_s: Annotated[
        float, _SECONDS, Meaning("`watch`: how long between two looks at INPUT where nothing tells of news")
    ] = 10.0
    retry_s: Annotated[float, Range(0.001, _MONTH_S), Meaning("`watch`: after how long what failed is tried again")] = (
        900.0
    )
    reload_engine: Annotated[bool, Meaning("`watch`: take up an engine that was replaced on disk")] = False
    state: Annotated[
        str, Meaning("folder for the ledger and its lock, on a local disk; empty is OUT, or where OUT says")
    ] = ""
    retry: Annotated[
        RetryChoice,
        Meaning("what a run tries again although it did not change: what failed (always), or refused files too"),
    ] = "failed"
    metrics_port: Annotated[
        int | None, Range(1, 65_535), Meaning("`watch`: answer on this port of 127.0.0.1; without it nowhere")
    ] = None
    log_max_mb: Annotated[int, Range(1, 1_048_576), Meaning("size at which `cxrbatch.log` begins anew")] = 20
    log_backups: Annotated[int, Range(1, 1000), Meaning("how many earlier logs are kept")] = 5

    def __post_init__(self) -> None:
        if self.deidentify_existing:
            object.__setattr__(self, "deidentify", True)
        for name, allowed in ranges().items():
            value = getattr(self, name)
            if value is not None and not allowed.holds(value):
                raise ConfigurationError(f"{name} = {shown(value)}: must be from {allowed}")
        for field in fields(self):
            if "\0" in str(getattr(self, field.name)):
                raise ConfigurationError(f"{field.name}: holds a NUL character")
        if unknown := sorted(set(_split(self.dicom)) - set(OBJECT_KINDS)):
            raise ConfigurationError(
                f"dicom = {shown(self.dicom)}: {shown(unknown[0])} is none of {', '.join(OBJECT_KINDS)}"
            )
        check_locale(self.locale)
        if not self.accepted_modalities:
            raise ConfigurationError("accept_modality: must name a modality")

    @property
    def accepted_modalities(self) -> tuple[str, ...]:
        """The modalities to score, in capitals."""
        return _split(self.accept_modality.upper())

    @property
    def further_body_parts(self) -> tuple[str, ...]:
        """Words for body parts that are scored beside the chest."""
        return _split(self.accept_body_part)

    @property
    def object_kinds(self) -> tuple[str, ...]:
        """The kinds of DICOM objects to write, in the order in which they are made."""
        return tuple(kind for kind in OBJECT_KINDS if kind in _split(self.dicom))

    @property
    def worker_count(self) -> int:
        """How many worker processes to start."""
        return self.workers or available_cores()


@cache
def ranges() -> dict[str, Range]:
    """Return which numbers each setting takes that is one, as its type says."""
    return notes(Range)


def notes(kind: type[Note]) -> dict[str, Note]:
    """Return the annotation of this kind, by setting."""
    hints = get_type_hints(Settings, include_extras=True)
    noted = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: note for name, notes in noted.items() for note in notes if isinstance(note, kind)}


def shown(value: object) -> str:
    """Return a value that somebody gave as a message quotes it, shortened."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"


def _number(value: float) -> str:
    return f"{value:,.0f}".replace(",", "") if float(value).is_integer() else f"{value:g}"


def available_cores() -> int:
    """Return how many cores this process may use, which in a container or a Slurm job is fewer than the machine has.

    A Slurm that binds no job to its cores says in the environment alone how many it has.
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allotted = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or ""
    return max(1, min(here, int(allotted))) if re.fullmatch(r"[0-9]{1,6}", allotted) else here


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
