"""Made-up studies and runs, with which templates are tried before a run begins: all there can be, and nearly nothing.

What they hold is what any page can show: whoever adds something to a page adds it here, or a template's mistake there
is found by the first study that has it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cxrbatch.config import Settings
from cxrbatch.errors import Flag
from cxrbatch.output.drift import DriftLine, DriftReport, ScannerDrift
from cxrbatch.output.run_json import RunReport
from cxrbatch.output.sheets.facts import RunSheet, UrgentStudy
from cxrbatch.records import (
    EngineDescription,
    Header,
    Heatmap,
    ImageResult,
    InputSpec,
    Label,
    MapCheck,
    PriorStudy,
    RefusedImage,
    StudyResult,
    StudyRow,
)

_KEY, _EARLIER_KEY = "5bec1be05bec1be0", "5bec1be05bec1be1"
_AT = "2024-02-01T03:04:05+00:00"
_HASH = "5bec1be0" * 8
_METRICS = {
    name + end: value
    for name, value in (("auroc", 0.91), ("sensitivity", 0.88), ("specificity", 0.93))
    for end in ("", "_low", "_high")
}


@dataclass(frozen=True, slots=True)
class SpecimenStudy:
    """A made-up study, and the earlier ones of its patient."""

    result: StudyResult
    priors: tuple[PriorStudy, ...] = ()


@dataclass(frozen=True, slots=True)
class SpecimenRun:
    """What the sheet of a made-up run is made of."""

    sheet: RunSheet
    report: RunReport
    most_urgent: tuple[UrgentStudy, ...] = ()
    earlier: tuple[RunSheet, ...] = ()


def specimen_studies() -> tuple[SpecimenStudy, ...]:
    """Return studies of every kind: full, two radiographs without heatmaps, nothing known, nothing found."""
    full = replace(
        _study((0.97, 0.62, 0.55, 0.31), (0.11, 0.2, 0.3, 0.1), engine=_engine()),
        refused=(
            RefusedImage("specimen/lateral.dcm", "rejected", "not_frontal", "made up"),
            RefusedImage("specimen/again.dcm", "duplicate", "", "made up"),
        ),
    )
    bare = _study((0.4, 0.2), engine=_engine(("Specimen A", "Specimen B"), is_bare=True))
    priors = (
        PriorStudy(_EARLIER_KEY, "20230102", "abnormal", "specimen", _HASH, (0.3, 0.6, 0.5, 0.2), ("Specimen B",), "a"),
        PriorStudy(_EARLIER_KEY, "", "normal", "another", "0" * 64, (), (), ""),
    )
    return (
        SpecimenStudy(full, priors),
        SpecimenStudy(_without_heatmaps(full)),
        SpecimenStudy(replace(_anonymous(bare), deidentified=True)),
        SpecimenStudy(_anonymous(_study((0.1, 0.2, 0.3, 0.1), engine=_engine()))),
    )


def specimen_rows() -> tuple[StudyRow, ...]:
    """Return what the worklist shows of such studies, and of some that wait, failed or were refused."""
    rows = [
        StudyRow(
            study.result.study_key, study.result.header, 1, "reported", 2, 1, ("not_frontal",),
            report_html=f"reports/{_KEY}/report.html", report_pdf=f"reports/{_KEY}/report.pdf",
            thumbnail=f"reports/{_KEY}/thumbnail-1.jpg", reported_at=_AT, result=study.result, arrived_at=_AT,
        )
        for study in specimen_studies()
    ]  # fmt: skip
    header = Header(accession_number="SPECIMEN-2", study_date="20240131")
    waiting = StudyRow(_EARLIER_KEY, header, 1, "pending", 1, 0)
    failed = replace(waiting, status="failed", message="made up", reasons=("unreadable_pixels",))
    return (*rows, waiting, failed, replace(failed, status="unscored"))


def specimen_engine() -> EngineDescription:
    """Return the engine of the full study."""
    return _engine()


def specimen_runs() -> tuple[SpecimenRun, ...]:
    """Return a run about which there is everything to say, and one that did nothing."""
    drift_line = DriftLine("score", "Specimen A", "training", 0.61, 0.2, 80, 240, alarm=True)
    lines = (drift_line, replace(drift_line, against="recent", alarm=False), replace(drift_line, what="view", label=""))
    scanner = ScannerDrift("Specimen\\Scanner\\1", 80, 90, lines)
    drift = DriftReport("2024-01-01", 80, 90, 0.25, lines, ("ages are not known",), (scanner,), 3)
    stages = {"read": 40.0, "infer": 30.0, "pdf": 60.0}
    sheet = RunSheet(
        "2024-02-01-1", "run", _AT, _AT, wall_s=75.0, engine="specimen", engine_sha256=_HASH, studies_done=80,
        files={"scored": 80, "rejected": 9}, reasons={"not_frontal": 9}, studies={"reported": 79, "failed": 1},
        new_files={"scored": 80, "rejected": 9}, new_reasons={"not_frontal": 9}, images_scored=80,
        priorities={"urgent": 2, "normal": 78}, positives={"Specimen A": 2}, scored_until=_AT, ms_per_study=stages,
        deferred=1, unlistable=1, alarms=2,
    )  # fmt: skip
    report = RunReport(
        "0", _AT, _AT, True, Settings(), _engine(), sheet.files, 1, 1, sheet.studies, sheet.reasons, {_KEY: "made up"},
        80, 80, 75.0, {}, {}, folders_hidden=1, drift=drift,
    )  # fmt: skip
    labels = _engine().labels
    urgent = UrgentStudy(_KEY, "urgent", ((labels[0], 0.97), (labels[1], 0.62)), f"reports/{_KEY}/report.html", _AT)
    idle = RunSheet("2024-02-02-1", started_at=_AT, finished_at=_AT)
    nothing = replace(report, files={}, studies={}, reasons={}, failures={}, drift=None, files_deferred=0)
    compared_none = replace(nothing, drift=replace(drift, lines=(), scanners=()))
    return (
        SpecimenRun(sheet, report, (urgent, replace(urgent, report_html="")), (idle, sheet)),
        SpecimenRun(idle, nothing),
        SpecimenRun(idle, compared_none),
    )


def _engine(
    names: tuple[str, ...] = ("Specimen A", "Specimen B", "Specimen C", "Specimen D"), *, is_bare: bool = False
) -> EngineDescription:
    checked = MapCheck(40, 30, 0.8, 0.1, validated=True, source="made up")
    labels = tuple(
        Label(name) if is_bare
        else Label(name, 0.5 if name != "Specimen D" else None, name == "Specimen A", metrics=_METRICS,
                   images_with=120, images_without=900, reference=tuple(n / 100 for n in range(101)),
                   maps=checked if name != "Specimen C" else replace(checked, validated=False, reason="made up"))
        for name in names
    )  # fmt: skip
    described = EngineDescription(
        "specimen", _HASH, "onnxruntime", "int8", "resnet50", "multilabel", labels, InputSpec(size_px=224), created=_AT
    )
    if is_bare:
        return described
    return replace(
        described, notice="A made-up engine.", training={"dataset": "made up", "images": 1000},
        extra_outputs=("disagreement", "distance"), gate="made up",
    )  # fmt: skip


def _study(*probabilities: tuple[float, ...], engine: EngineDescription) -> StudyResult:
    images = tuple(_image(number, row, engine) for number, row in enumerate(probabilities, start=1))
    return StudyResult(_KEY, 1, engine, images, (), _AT, "0")


def _image(number: int, probabilities: tuple[float, ...], engine: EngineDescription) -> ImageResult:
    header = Header(
        study_instance_uid="1.2.3", sop_instance_uid=f"1.2.3.{number}", patient_id="SPECIMEN", modality="DX",
        patient_name="Specimen^Template", patient_birth_date="19620228", patient_sex="F", patient_age="062Y",
        accession_number="SPECIMEN-1", study_date="20240131", study_description="Specimen of a chest radiograph",
        body_part="CHEST", view="PA", rows=2048, columns=2048,
    )  # fmt: skip
    places = ("outside_lungs", "left_lower", "right_upper", "between_lungs")
    heatmaps = tuple(
        Heatmap(label.name, f"heatmap-{number}-{index}.jpg", 900, 700, index == 3, places[index % 4])
        for index, label in enumerate(engine.labels)
    )
    flags = (Flag.POLARITY_SUSPECT, Flag.LOSSY, Flag.OUT_OF_DISTRIBUTION) if engine.notice else ()
    disagreement = (0.2,) * len(probabilities) if engine.extra_outputs else ()
    distance = 1.4 if engine.extra_outputs else None
    return ImageResult(
        f"specimen/{number}.dcm", header, flags, probabilities, _HASH, f"image-{number}.jpg", "thumbnail-1.jpg",
        heatmaps, disagreement, distance, 120.0,
    )  # fmt: skip


def _without_heatmaps(result: StudyResult) -> StudyResult:
    return replace(result, images=tuple(replace(image, heatmaps=()) for image in result.images))


def _anonymous(result: StudyResult) -> StudyResult:
    images = tuple(replace(image, header=Header(), flags=(), distance=0.4) for image in result.images)
    return _without_heatmaps(replace(result, images=images))
