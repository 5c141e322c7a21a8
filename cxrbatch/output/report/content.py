"""What the report of a study says, worded and formatted, in the order in which it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxrbatch.config import HeatmapChoice
from cxrbatch.output.report.cautions import Remark, cautions, image_name, quality
from cxrbatch.output.report.findings import (
    FindingLine,
    coverage,
    finding_lines,
    label_name,
    named_score,
    priority_name,
    summary,
)
from cxrbatch.output.report.maps import NOT_VALIDATED, map_notes, shown_heatmaps
from cxrbatch.output.report.places import outside_remarks, place_in_words
from cxrbatch.output.report.priors import PriorsTable, priors_table
from cxrbatch.output.report.trust import spread_note, trust_note
from cxrbatch.output.report.verdict_lines import VerdictLine, misses_sentence, verdict_lines
from cxrbatch.pages import header_words, wording
from cxrbatch.pages.language import day_text, gettext as _
from cxrbatch.pages.retelling import retold
from cxrbatch.records import (
    EngineDescription,
    Header,
    Heatmap,
    ImageResult,
    Label,
    Priority,
    PriorStudy,
    RefusedImage,
    StudyResult,
    judge_study,
)

SHORT_HASH = 12
_LONGEST_HEADING = 100


@dataclass(frozen=True, slots=True)
class Fact:
    """One name and value of a list of facts; `value` is never empty."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class ReportPicture:
    """One picture with its caption; `alt` says what a reader who cannot see it should know."""

    file: str
    title: str
    detail: str
    alt: str
    heatmap: bool


@dataclass(frozen=True, slots=True)
class ImageSection:
    """One radiograph of the study and its pictures."""

    title: str
    source: str
    figures: tuple[ReportPicture, ...]


@dataclass(frozen=True, slots=True)
class ReportContent:
    """Everything that the report template shows, in the order of the page."""

    study_key: str
    heading: str
    patient: tuple[Fact, ...]
    priority: Priority
    priority_name: str
    coverage: str
    verdict: tuple[VerdictLine, ...]
    summary: str
    notice: str
    cautions: tuple[Remark, ...]
    images: tuple[ImageSection, ...]
    map_notes: tuple[str, ...]
    findings: tuple[FindingLine, ...]
    trust: str
    spread: str
    priors: PriorsTable | None
    quality: tuple[Remark, ...]
    refused: tuple[Remark, ...]
    engine: tuple[Fact, ...]
    origin: tuple[Fact, ...]

    @property
    def has_heatmaps(self) -> bool:
        """Tell whether any heatmap is shown."""
        return any(figure.heatmap for image in self.images for figure in image.figures)

    @property
    def has_points(self) -> bool:
        """Tell whether any finding is called from an operating point on."""
        return any(line.operating_percent for line in self.findings)

    @property
    def has_verdicts_measured(self) -> bool:
        """Tell whether any finding comes with a measured sensitivity or specificity."""
        return any(line.trust.has_verdicts for line in self.findings)

    @property
    def has_auroc(self) -> bool:
        """Tell whether any finding comes with a measured AUROC."""
        return any(line.trust.auroc for line in self.findings)

    @property
    def has_images_counted(self) -> bool:
        """Tell whether it is known of any finding on how many images it was measured."""
        return any(line.trust.images for line in self.findings)


def report_content(
    result: StudyResult, heatmaps: HeatmapChoice = "validated", priors: Sequence[PriorStudy] = ()
) -> ReportContent:
    """Word everything that the report of this result says, with heatmaps of validated labels or with all.

    Args:
        result: the study.
        heatmaps: which of its heatmaps are shown.
        priors: earlier studies of its patient, the latest first.
    """
    verdict = result.verdict
    findings = finding_lines(result, verdict)
    return ReportContent(
        study_key=result.study_key,
        heading=study_heading(result),
        patient=_patient_facts(result.header),
        priority=verdict.priority,
        priority_name=priority_name(result, verdict),
        coverage=coverage(verdict),
        verdict=verdict_lines(result, verdict, heatmaps),
        summary=" ".join(filter(None, (summary(result, verdict), misses_sentence(result, verdict)))),
        notice=retold(wording.plain(result.engine.notice, longest=600)),
        cautions=cautions(result, verdict, outside_remarks(result, heatmaps)),
        images=tuple(_image_section(result, number, heatmaps) for number in range(1, len(result.images) + 1)),
        map_notes=map_notes(result, heatmaps),
        findings=findings,
        trust=trust_note(result.engine, tuple(line.trust for line in findings)),
        spread=spread_note(result.engine, (line.spread for line in findings)),
        priors=priors_table(result, verdict, priors),
        quality=quality(result),
        refused=tuple(Remark(_source(result, image), wording.refused_sentence(image)) for image in result.refused),
        engine=_engine_facts(result.engine),
        origin=_facts(
            (_("Revision"), str(result.revision)),
            (_("Scored at"), wording.moment(result.scored_at)),
            (_("Program"), f"cxrbatch {result.cxrbatch_version}"),
        ),
    )


def _image_section(result: StudyResult, number: int, heatmaps: HeatmapChoice) -> ImageSection:
    image = result.images[number - 1]
    view, total = wording.plain(image.header.view), len(result.images)
    place = _("image {number} of {total}").format(number=number, total=total) if total > 1 else ""
    alt = (_("Chest radiograph"), view, place, _("as scored"))
    radiograph = ReportPicture(
        file=image.image_file,
        title=_("Radiograph"),
        detail=" · ".join(filter(None, (view, _size(image.header)))),
        alt=", ".join(filter(None, alt)),
        heatmap=False,
    )
    return ImageSection(
        title=image_name(number),
        source=_source(result, image),
        figures=(radiograph, *_heatmap_figures(image, result.engine, heatmaps)),
    )


def study_heading(result: StudyResult) -> str:
    """Return what the study is called: the patient's name, of a PNG or JPEG its path, else the study's key.

    Several files of one folder that are one study are called by the folder. Paths may name patients, so a de-identified
    study has its key.
    """
    header = result.header
    name = header_words.person_name(header.patient_name)
    if name or result.deidentified or header.modality or header.sop_class_uid or header.study_instance_uid:
        return name or _("Study {key}").format(key=result.study_key)
    first = result.images[0].path
    path = first if len(result.images) == 1 else first.rpartition("/")[0] or first
    return wording.input_path(path, longest=_LONGEST_HEADING) or _("Study {key}").format(key=result.study_key)


def _source(result: StudyResult, image: ImageResult | RefusedImage) -> str:
    return "" if result.deidentified else wording.input_path(image.path)


def _heatmap_figures(image: ImageResult, engine: EngineDescription, choice: HeatmapChoice) -> list[ReportPicture]:
    calls = judge_study(engine, [image.probabilities]).calls
    scored = {
        label.name: (label, value, call)
        for label, value, call in zip(engine.labels, image.probabilities, calls, strict=True)
    }
    figures = []
    for heatmap in shown_heatmaps(image, engine.labels, choice):
        label, value, call = scored[heatmap.label]
        detail = _("no part of the radiograph speaks for it") if heatmap.faint else place_in_words(heatmap)
        if not (call and not label.normal) and not heatmap.faint:
            why = _uncalled_detail(label, call, exclusive=engine.verdict_rule == "argmax")
            detail = f"{why}; {detail}" if detail else why
        if not label.has_validated_maps:
            detail = f"{_(NOT_VALIDATED)}; {detail}" if detail else _(NOT_VALIDATED)
        title, alt = named_score(label, value), _heatmap_alt(label, heatmap)
        figures.append(ReportPicture(heatmap.file, title, detail, alt, heatmap=True))
    return figures


def _heatmap_alt(label: Label, heatmap: Heatmap) -> str:
    """Say what a heatmap shows to who cannot see it."""
    said = _("Heatmap of {label} over the radiograph").format(label=label_name(label))
    if heatmap.faint:
        return said
    peak = _("its peak is at column {column}, row {row} of the stored image")
    said += f"; {peak.format(column=f'{heatmap.peak_x:.0f}', row=f'{heatmap.peak_y:.0f}')}"
    place = wording.place_name(heatmap.place)
    return f"{said}, {place}" if place else said


def _uncalled_detail(label: Label, call: bool | None, *, exclusive: bool) -> str:
    """Say why there is a heatmap of what was not called."""
    if call is None:
        return _("highest score, not judged")
    if exclusive:
        return _("highest score of a finding, not the likeliest class")
    point = wording.operating_point(label.operating_point)
    return _("highest score, below {threshold}").format(threshold=point)


def _patient_facts(header: Header) -> tuple[Fact, ...]:
    return _facts(
        (_("Patient ID"), wording.plain(header.patient_id)),
        (_("Birth date"), header_words.day(header.patient_birth_date)),
        (_("Sex"), header_words.sex(header.patient_sex)),
        (_("Age"), header_words.age(header.patient_age)),
        (_("Study date"), header_words.day(header.study_date)),
        (_("Accession number"), wording.plain(header.accession_number)),
        (_("Description"), wording.plain(header.study_description)),
    )


def _engine_facts(engine: EngineDescription) -> tuple[Fact, ...]:
    return _facts(
        (_("Engine"), f"{wording.plain(engine.name)} ({engine.sha256[:SHORT_HASH]})"),
        (_("Network"), f"{wording.plain(engine.architecture)}, {engine.task}"),
        (_("Input"), f"{engine.input.size_px} {wording.TIMES} {engine.input.size_px} px, {engine.input.fit}"),
        (_("Ran on"), f"{engine.backend}, {engine.precision}"),
        (_("Gate of INT8"), retold(wording.plain(engine.gate))),
        (_("Built"), day_text(engine.created[:10])),
    )


def _size(header: Header) -> str:
    return f"{header.columns} {wording.TIMES} {header.rows} px" if header.rows and header.columns else ""


def _facts(*pairs: tuple[str, str]) -> tuple[Fact, ...]:
    return tuple(Fact(name, value) for name, value in pairs if value)
