"""Tidy rows (Wickham 2014): one per image and label, one per study and label, with what tells them apart.

A study's result says all of it, by the labels of the engine that scored it, whichever engine that was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cxrbatch.pages.cells import LIST_SEPARATOR
from cxrbatch.records import ImageResult, Label, StudyResult, StudyRow, call_image


@dataclass(frozen=True, slots=True)
class ImageScoreRow:
    """What an engine says of one label in one image; `positive` is None where nobody may judge.

    `image` counts the scored images of a study from 1. `disagreement` and `distance` are None where they are not told.
    """

    study_key: str
    image: int
    path: str
    study_uid: str
    series_uid: str
    sop_uid: str
    patient_id: str
    study_date: str
    view: str
    label: str
    probability: float
    positive: bool | None
    operating_point: float | None
    urgent: bool
    normal: bool
    disagreement: float | None
    distance: float | None
    flags: str
    engine: str
    engine_sha256: str
    precision: str
    revision: int
    study_status: str
    scored_at: str


@dataclass(frozen=True, slots=True)
class StudyScoreRow:
    """What an engine says of one label in one study, as studies.csv has it."""

    study_key: str
    study_uid: str
    patient_id: str
    accession_number: str
    study_date: str
    n_images: int
    n_scored: int
    priority: str
    label: str
    probability: float
    positive: bool | None
    operating_point: float | None
    urgent: bool
    normal: bool
    disagreement: float | None
    contested: bool
    distance: float | None
    engine: str
    engine_sha256: str
    precision: str
    revision: int
    study_status: str
    scored_at: str


def image_score_rows(study: StudyRow, result: StudyResult) -> Iterator[ImageScoreRow]:
    """Yield a row for every scored image and label of a study."""
    engine = result.engine
    for number, image in enumerate(result.images, start=1):
        header = image.header
        calls = call_image(engine.labels, engine.verdict_rule, image.probabilities)
        for place, label in enumerate(engine.labels):
            yield ImageScoreRow(
                study_key=result.study_key,
                image=number,
                path=image.path,
                study_uid=header.study_instance_uid,
                series_uid=header.series_instance_uid,
                sop_uid=header.sop_instance_uid,
                patient_id=header.patient_id,
                study_date=header.study_date,
                view=header.view,
                label=label.name,
                probability=image.probabilities[place],
                positive=calls[place],
                operating_point=label.operating_point,
                urgent=label.urgent,
                normal=label.normal,
                disagreement=image.disagreement[place] if image.disagreement else None,
                distance=image.distance,
                flags=LIST_SEPARATOR.join(flag.value for flag in image.flags),
                engine=engine.name,
                engine_sha256=engine.sha256,
                precision=engine.precision,
                revision=result.revision,
                study_status=study.status,
                scored_at=result.scored_at,
            )


def study_score_rows(study: StudyRow, result: StudyResult) -> Iterator[StudyScoreRow]:
    """Yield a row for every label of a study."""
    engine, header, verdict, contested = result.engine, result.header, result.verdict, result.contested
    probabilities, spreads = result.probabilities, result.disagreement
    for place, label in enumerate(engine.labels):
        yield StudyScoreRow(
            study_key=result.study_key,
            study_uid=header.study_instance_uid,
            patient_id=header.patient_id,
            accession_number=header.accession_number,
            study_date=header.study_date,
            n_images=study.n_images,
            n_scored=len(result.images),
            priority=verdict.priority,
            label=label.name,
            probability=probabilities[place],
            positive=verdict.calls[place],
            operating_point=label.operating_point,
            urgent=label.urgent,
            normal=label.normal,
            disagreement=spreads[place] if spreads else None,
            contested=contested[place],
            distance=result.distance,
            engine=engine.name,
            engine_sha256=engine.sha256,
            precision=engine.precision,
            revision=result.revision,
            study_status=study.status,
            scored_at=result.scored_at,
        )


def positive_findings(result: StudyResult, image: ImageResult) -> list[tuple[int, Label]]:
    """Return the findings that are called in one image, with their places among the engine's labels."""
    calls = call_image(result.engine.labels, result.engine.verdict_rule, image.probabilities)
    return [(place, label) for place, label in enumerate(result.engine.labels) if calls[place] and not label.normal]
