"""The frozen records that the stages exchange; they know how to derive, never how to read or write."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cxrbatch.errors import Flag, Reason

Gray8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]

Task = Literal["multilabel", "binary", "multiclass"]
Fit = Literal["pad", "crop", "stretch"]
Priority = Literal["urgent", "abnormal", "normal", "unscored"]
FileStatus = Literal["scored", "rejected", "duplicate", "failed", "pending"]
StudyStatus = Literal["pending", "reported", "failed", "unscored"]

# What every output folder holds: its rooms write both, and intake, which must not score its pictures, knows them.
LOG_FILE, MARKER_FILE = "cxrbatch.log", ".cxrbatch.json"


# --------------------------------------------------------------------------- what a file says of itself


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One regular file that the walk met.

    `path` is relative to the input folder, `/`-separated, as `os.fsdecode` gives it (it may hold
    surrogates for bytes that are not UTF-8).
    """

    path: str
    size_bytes: int
    mtime_ns: int


# Beyond this, up or down, a time is folded; in nanoseconds since 1970, the years 2116 and 1823.
_PLAIN_NS = 2**62


def storable_ns(mtime_ns: int) -> int:
    """Return a file's modification time as a whole number that ledger, JSON and arrays of 64 bits can hold.

    A file system may say any year at all. What lies far off is folded into the ends of the range: it stays older or
    newer than every other time, and two different times hardly ever become one. -1 is kept free: it means "not known".
    """
    if mtime_ns >= _PLAIN_NS:
        return _PLAIN_NS + mtime_ns % _PLAIN_NS
    if mtime_ns < -_PLAIN_NS:
        return -2 * _PLAIN_NS + mtime_ns % _PLAIN_NS
    return -2 if mtime_ns == -1 else mtime_ns


@dataclass(frozen=True, slots=True)
class PatientIdentity:
    """Who a header says the patient is, in a form that can be compared (`patient`); empty where it does not say.

    `name` are family, given, middle name, prefix, suffix, and given and middle name together, or one text that is
    not taken apart; `spellings` are the ways in which such a text can spell it. Of a de-identified header each text
    is a keyed hash.
    """

    patient_id: str = ""
    issuer: str = ""
    universal_issuer: str = ""
    name: tuple[str, ...] = ()
    spellings: tuple[str, ...] = ()
    birth_date: str = ""
    sex: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """Identity and facts of one image, as text; empty where the file does not say.

    `identity` is there where the header was de-identified, and only hashes of who the patient is are left.
    `is_name_certain`: the name was read in the character set that it was written in, as far as can be told.
    """

    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    sop_class_uid: str = ""
    patient_id: str = ""
    patient_id_issuer: str = ""
    patient_id_universal_issuer: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    patient_age: str = ""
    accession_number: str = ""
    study_date: str = ""
    study_description: str = ""
    modality: str = ""
    body_part: str = ""
    view: str = ""
    rows: int = 0
    columns: int = 0
    photometric: str = ""
    transfer_syntax: str = ""
    identity: PatientIdentity | None = None
    is_name_certain: bool = True

    def deidentified(self) -> Header:
        """Return the same header without who the patient is, when the study was made, and free text about it."""
        return replace(
            self,
            patient_id="",
            patient_id_issuer="",
            patient_id_universal_issuer="",
            patient_name="",
            patient_birth_date="",
            patient_sex="",
            patient_age="",
            accession_number="",
            study_date="",
            study_description="",
            is_name_certain=True,
        )


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one file gets no score."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """What the header alone tells: which study the file belongs to, and whether it is refused already.

    `study_key` is empty for a file that belongs to no study (it is no image).
    """

    file: ImageFile
    study_key: str
    header: Header
    flags: tuple[Flag, ...] = ()
    rejection: Rejection | None = None


# --------------------------------------------------------------------------- pixels


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One decoded radiograph, ready to look at.

    `display` is uint8 [H,W], 0..255, air black and bone white, its long side at most the display limit.
    `rows` and `columns` are those of the stored pixels, before any reduction.
    `stored_sha256` identifies the stored pixel values, `display_sha256` what is shown of them.
    `coloured_share` is how much of it, 0..1, was in colour before it was made grey.
    """

    header: Header
    display: Gray8
    rows: int
    columns: int
    flags: tuple[Flag, ...]
    stored_sha256: str
    display_sha256: str
    coloured_share: float = 0.0


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What an engine wants to see: a square of `size_px`, and how a radiograph is fitted into it."""

    size_px: int
    fit: Fit = "pad"
    mean: float = 0.5
    std: float = 0.25
    preprocess_version: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """What one image is as an array: [1,S,S]."""
        return 1, self.size_px, self.size_px


@dataclass(frozen=True, slots=True)
class Geometry:
    """The affine map between stored pixels and the engine's square input.

    A point (x, y) in stored pixels, measured from the top left corner of the top left pixel, lies at
    (x * scale_x + offset_x, y * scale_y + offset_y) in the input square, also in pixels.
    """

    rows: int
    columns: int
    size_px: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A radiograph and what the engine eats of it: `pixels` is uint8 [1,S,S], 0..255, display polarity."""

    radiograph: Radiograph
    pixels: Gray8
    geometry: Geometry


@dataclass(frozen=True, slots=True)
class Scores:
    """What an engine says of N images (docs/design.md), all float32.

    `probabilities` [N,C] in 0..1, calibrated; `logits` [N,C] before calibration; `cams` [N,C,h,w],
    whose mean over h and w plus the head's bias equals the logits.
    """

    probabilities: Float32
    logits: Float32
    cams: Float32


# --------------------------------------------------------------------------- engines


@dataclass(frozen=True, slots=True)
class Label:
    """One finding that an engine scores.

    `operating_point` is the probability from which on the finding is called positive; None: no verdict.
    `normal` marks a class that means "nothing found" (binary and multi-class tasks).
    `metrics` holds what the evaluation measured, e.g. {"auroc": 0.91}.
    """

    name: str
    operating_point: float | None = 0.5
    urgent: bool = False
    normal: bool = False
    metrics: dict[str, float] = field(default_factory=dict)

    def is_positive(self, probability: float) -> bool:
        """Tell whether this probability calls the finding; never without an operating point."""
        return self.operating_point is not None and probability >= self.operating_point


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """Which engine scored, where it ran and what it knows; printed in every report."""

    name: str
    sha256: str
    backend: str
    precision: str
    architecture: str
    task: Task
    labels: tuple[Label, ...]
    input: InputSpec
    created: str = ""
    notice: str = ""
    training: dict[str, Any] = field(default_factory=dict)


# --------------------------------------------------------------------------- results


@dataclass(frozen=True, slots=True)
class Heatmap:
    """One heatmap picture beside the report; the peak is in stored pixels of the radiograph.

    `faint`: no part of the radiograph speaks for the finding; nothing is coloured and the peak means nothing.
    """

    label: str
    file: str
    peak_x: float
    peak_y: float
    faint: bool = False


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One scored image. `probabilities` follows the order of the engine's labels.

    `image_file`, `thumbnail_file` and `heatmaps` name files in the study's report folder; they are
    empty until the pictures are written.
    """

    path: str
    header: Header
    flags: tuple[Flag, ...]
    probabilities: tuple[float, ...]
    stored_sha256: str
    image_file: str = ""
    thumbnail_file: str = ""
    heatmaps: tuple[Heatmap, ...] = ()


@dataclass(frozen=True, slots=True)
class RefusedImage:
    """One image of the study that got no score of its own, and why.

    `counts`: it failed in a way that is refused when it comes back, see `attempts`; with `engine_sha256`, the engine
    did, and another one may not.
    """

    path: str
    status: Literal["rejected", "duplicate", "failed"]
    reason: str
    message: str
    counts: bool = False
    engine_sha256: str = ""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a study as it was indexed, by which a later run tells that it did not change.

    `header` is None for a scored image, whose `ImageResult` has it.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    refused_by_header: bool = False
    flags: tuple[Flag, ...] = ()
    header: Header | None = None


@dataclass(frozen=True, slots=True)
class StudyResult:
    """Everything a report says about one study; no pixels, so it is kept as JSON and printed again.

    A `deidentified` result is printed without input paths, which may be named after patients. `files` are all
    files of the study, scored or not; empty in results of earlier versions.
    """

    study_key: str
    revision: int
    engine: EngineDescription
    images: tuple[ImageResult, ...]
    refused: tuple[RefusedImage, ...]
    scored_at: str
    cxrbatch_version: str
    deidentified: bool = False
    files: tuple[SourceFile, ...] = ()

    @property
    def header(self) -> Header:
        """The header that speaks for the study: that of its first scored image."""
        return self.images[0].header

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Per label the maximum over the study's scored images."""
        return tuple(max(column) for column in zip(*(image.probabilities for image in self.images), strict=True))

    @property
    def positives(self) -> tuple[Label, ...]:
        """The labels called positive, in the engine's order."""
        return positive_labels(self.engine.labels, self.probabilities)

    @property
    def priority(self) -> Priority:
        """How soon somebody should look at this study."""
        return priority_of(self.engine.labels, self.probabilities)


@dataclass(frozen=True, slots=True)
class ImagePixels:
    """The arrays that belong to one `ImageResult`: needed once, to draw its pictures.

    `display` is uint8 [H,W], 0..255; `cams` is float32 [C,h,w] over the engine's input square.
    """

    display: Gray8
    cams: Float32
    geometry: Geometry


@dataclass(frozen=True, slots=True)
class PrintedStudy:
    """What printing left in the report folder: file names relative to OUT, empty where not asked for.

    `failure` says which report could not be made although the pictures and the result were.
    """

    result: StudyResult
    report_html: str = ""
    report_pdf: str = ""
    stage_ms: dict[str, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def is_printed(self) -> bool:
        """Tell whether any report was written."""
        return bool(self.report_html or self.report_pdf)


# --------------------------------------------------------------------------- rows of the ledger


@dataclass(frozen=True, slots=True)
class FileRow:
    """What the ledger knows of one file; `probabilities` is empty unless it is scored."""

    path: str
    status: FileStatus
    reason: str
    message: str
    study_key: str
    header: Header
    flags: tuple[Flag, ...]
    engine: str = ""
    engine_sha256: str = ""
    backend: str = ""
    precision: str = ""
    probabilities: tuple[float, ...] = ()
    scored_at: str = ""


@dataclass(frozen=True, slots=True)
class StudyRow:
    """What the ledger knows of one study. `report_html`, `report_pdf`, `thumbnail` are relative to OUT.

    `result` is there once the study was reported; `reasons` are those of its files without a score.
    """

    study_key: str
    header: Header
    revision: int
    status: StudyStatus
    n_images: int
    n_scored: int
    reasons: tuple[str, ...] = ()
    message: str = ""
    report_html: str = ""
    report_pdf: str = ""
    thumbnail: str = ""
    reported_at: str = ""
    result: StudyResult | None = None

    @property
    def priority(self) -> Priority:
        """How soon somebody should look at this study."""
        return self.result.priority if self.result else "unscored"


def positive_labels(labels: tuple[Label, ...], probabilities: tuple[float, ...]) -> tuple[Label, ...]:
    """Return the labels whose probability reaches their operating point, in the engine's order."""
    return tuple(
        label for label, probability in zip(labels, probabilities, strict=True) if label.is_positive(probability)
    )


def priority_of(labels: tuple[Label, ...], probabilities: tuple[float, ...]) -> Priority:
    """Return the priority that these probabilities give a scored study.

    An engine without any operating point gives no verdict, so nothing that it scores is called normal.
    """
    if all(label.operating_point is None for label in labels):
        return "unscored"
    findings = [label for label in positive_labels(labels, probabilities) if not label.normal]
    if any(label.urgent for label in findings):
        return "urgent"
    return "abnormal" if findings else "normal"


def now_text() -> str:
    """Return the time as every record and table writes it: UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
