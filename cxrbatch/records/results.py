"""What came of a study: its scores, its refused images, its report, and its rows in the tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal

from cxrbatch.errors import Flag
from cxrbatch.records.engines import EngineDescription, Geometry, Priority
from cxrbatch.records.images import Float32, Gray8, Header
from cxrbatch.records.verdicts import Verdict, call_is_contested, judge_study

OUTSIDE_LUNGS = "outside_lungs"
"""The place of a peak that lies neither in the lungs nor between them, nor near to them."""

FileStatus = Literal["scored", "rejected", "duplicate", "failed", "pending"]
StudyStatus = Literal["pending", "reported", "failed", "unscored"]


@dataclass(frozen=True, slots=True)
class Heatmap:
    """One heatmap picture beside the report; the peak is in stored pixels of the radiograph.

    `faint`: no part of the radiograph speaks for the finding; nothing is coloured and the peak means nothing.
    `place`: where the peak lies in the patient (`wording.PLACES`); '' where that is not known, and of earlier versions.
    """

    label: str
    file: str
    peak_x: float
    peak_y: float
    faint: bool = False
    place: str = ""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One scored image. `probabilities` follows the order of the engine's labels.

    So does `disagreement`, how far the members of an ensemble lie apart; () of other engines.
    `distance` is how far it lies from the engine's training images, 1 at the threshold; None where that is not told.
    `grey` is the mean, 0..255, of what the engine saw of it; None in results of earlier versions.
    `image_file`, `thumbnail_file` and `heatmaps` name files in the study's report folder; they are
    empty until the pictures are written. So does `maps_file`, where the activation maps are kept as numbers; `geometry`
    says then where the stored pixels lie in the square that they cover. `embedding_file` is where its embedding is.
    """

    path: str
    header: Header
    flags: tuple[Flag, ...]
    probabilities: tuple[float, ...]
    stored_sha256: str
    image_file: str = ""
    thumbnail_file: str = ""
    heatmaps: tuple[Heatmap, ...] = ()
    disagreement: tuple[float, ...] = ()
    distance: float | None = None
    grey: float | None = None
    maps_file: str = ""
    embedding_file: str = ""
    geometry: Geometry | None = None

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """Label and place of each heatmap whose peak's place is known."""
        return tuple((heatmap.label, heatmap.place) for heatmap in self.heatmaps if heatmap.place)

    @property
    def is_unlike_training(self) -> bool:
        """Tell whether it lies beyond the threshold, as was said when it was scored."""
        return Flag.OUT_OF_DISTRIBUTION in self.flags


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
    files of the study, scored or not; empty in results of earlier versions. Without `pictures` none were asked for,
    and its images name none. With `keeps_maps` the activation maps of each image are kept as numbers,
    with `keeps_embeddings` its embedding.
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
    pictures: bool = True
    keeps_maps: bool = False
    keeps_embeddings: bool = False

    @property
    def keeps_arrays(self) -> bool:
        """Tell whether anything that the engine said is kept as numbers."""
        return self.keeps_maps or self.keeps_embeddings

    @property
    def header(self) -> Header:
        """The header that speaks for the study: that of its first scored image."""
        return self.images[0].header

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Per label the maximum over the study's scored images."""
        return tuple(max(column) for column in zip(*(image.probabilities for image in self.images), strict=True))

    @property
    def disagreement(self) -> tuple[float, ...]:
        """Per label how far an ensemble's members disagree about the image that the study's probability is of."""
        if not all(image.disagreement for image in self.images):
            return ()
        return tuple(image.disagreement[label] for label, image in enumerate(self._deciding))

    @property
    def contested(self) -> tuple[bool, ...]:
        """Per label whether the members of an ensemble disagree about its call, in that image."""
        labels, rule = self.engine.labels, self.engine.verdict_rule
        return tuple(
            call_is_contested(labels, rule, image.probabilities, image.disagreement)[label]
            for label, image in enumerate(self._deciding)
        )

    @property
    def _deciding(self) -> tuple[ImageResult, ...]:
        """Per label the image with the study's probability, the first of several."""
        return tuple(
            max(self.images, key=lambda image: image.probabilities[label]) for label in range(len(self.engine.labels))
        )

    @property
    def distance(self) -> float | None:
        """The largest distance of its scored images from the engine's training images; None where none is told."""
        return max((image.distance for image in self.images if image.distance is not None), default=None)

    @property
    def unlike_training(self) -> tuple[int, ...]:
        """Which of its images, counted from 1, lie beyond the threshold of that distance."""
        return tuple(number for number, image in enumerate(self.images, start=1) if image.is_unlike_training)

    @property
    def verdict(self) -> Verdict:
        """What the study is called; worked out anew each time."""
        unlike_training = bool(self.unlike_training)
        return judge_study(self.engine, [image.probabilities for image in self.images], unlike_training=unlike_training)

    @property
    def priority(self) -> Priority:
        """How soon somebody should look at this study."""
        return self.verdict.priority


@dataclass(frozen=True, slots=True)
class ImagePixels:
    """The arrays that belong to one `ImageResult`: needed once, to draw its pictures.

    `display` is uint8 [H,W], 0..255; `cams` is float32 [C,h,w] over the engine's input square. `embedding` is float32
    [D], None where the engine gives none, or nobody wants it.
    """

    display: Gray8
    cams: Float32
    geometry: Geometry
    embedding: Float32 | None = None


@dataclass(frozen=True, slots=True)
class PriorStudy:
    """What a report says of an earlier study of its patient.

    `study_date` is empty of de-identified ones. `probabilities` are those of its own engine's labels, `findings` what
    was called. `report` is the name of a file in its report folder, empty where there is none.
    """

    study_key: str
    study_date: str
    priority: Priority
    engine: str
    engine_sha256: str
    probabilities: tuple[float, ...]
    findings: tuple[str, ...]
    report: str


@dataclass(frozen=True, slots=True)
class PrintedStudy:
    """What printing left in the report folder: file names relative to OUT, empty where not asked for.

    `failure` says which report could not be made although the pictures and the result were. `priors` are the earlier
    studies that the reports name.
    `dicom` are the objects beside the reports, by name in their own folder.
    """

    result: StudyResult
    report_html: str = ""
    report_pdf: str = ""
    stage_ms: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    priors: tuple[PriorStudy, ...] = ()
    dicom: tuple[str, ...] = ()

    @property
    def is_printed(self) -> bool:
        """Tell whether any report was written."""
        return bool(self.report_html or self.report_pdf)


@dataclass(frozen=True, slots=True)
class FileRow:
    """What the ledger knows of one file; `probabilities` is empty unless it is scored, and `distance` None.

    `disagreement` is empty also of an engine that is no ensemble. `places`: label and place of the peaks of heatmaps.
    """

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
    disagreement: tuple[float, ...] = ()
    distance: float | None = None
    places: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StudyRow:
    """What the ledger knows of one study. `report_html`, `report_pdf`, `thumbnail` are relative to OUT.

    `result` is there once the study was reported; `reasons` are those of its files without a score. `arrived_at` is
    when its first file was met, empty where nobody knows.
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
    arrived_at: str = ""

    @property
    def priority(self) -> Priority:
        """How soon somebody should look at this study."""
        return self.result.priority if self.result else "unscored"


def now_text() -> str:
    """Return the time as every record and table writes it: UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
