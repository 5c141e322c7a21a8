"""What the report of a study says, worded and formatted, in the order in which it is read."""

from __future__ import annotations

from dataclasses import dataclass

from cxrbatch.pages import wording
from cxrbatch.records import EngineDescription, Header, ImageResult, Label, Priority, RefusedImage, StudyResult

SHORT_HASH = 12


@dataclass(frozen=True, slots=True)
class Fact:
    """One name and value of a list of facts; `value` is never empty."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FindingLine:
    """One line of the table of findings; `percent` and `operating_percent` place the bar and its tick."""

    name: str
    probability: str
    percent: str
    operating_point: str
    operating_percent: str
    verdict: str
    positive: bool
    urgent: bool
    image: str
    auroc: str


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
class Remark:
    """One sentence about one or more images, and which; `source` is empty where there is no choice."""

    source: str
    sentence: str


@dataclass(frozen=True, slots=True)
class ReportContent:
    """Everything that the report template shows, in the order of the page."""

    study_key: str
    heading: str
    patient: tuple[Fact, ...]
    priority: Priority
    priority_name: str
    summary: str
    notice: str
    images: tuple[ImageSection, ...]
    findings: tuple[FindingLine, ...]
    quality: tuple[Remark, ...]
    refused: tuple[Remark, ...]
    engine: tuple[Fact, ...]
    origin: tuple[Fact, ...]

    @property
    def has_auroc(self) -> bool:
        """Tell whether any finding comes with a measured AUROC."""
        return any(line.auroc for line in self.findings)


def report_content(result: StudyResult) -> ReportContent:
    """Word everything that the report of this result says."""
    return ReportContent(
        study_key=result.study_key,
        heading=wording.person_name(result.header.patient_name) or f"Study {result.study_key}",
        patient=_patient_facts(result.header),
        priority=result.priority,
        priority_name=priority_name(result),
        summary=summary(result),
        notice=wording.plain(result.engine.notice, longest=600),
        images=tuple(_image_section(result, number) for number in range(1, len(result.images) + 1)),
        findings=finding_lines(result),
        quality=_quality(result),
        refused=tuple(Remark(_source(result, image), wording.refused_sentence(image)) for image in result.refused),
        engine=_engine_facts(result.engine),
        origin=_facts(
            ("Revision", str(result.revision)),
            ("Scored at", wording.moment(result.scored_at)),
            ("Program", f"cxrbatch {result.cxrbatch_version}"),
        ),
    )


def priority_name(result: StudyResult) -> str:
    """Return the study's priority in words; an engine without operating points calls nothing normal."""
    if all(label.operating_point is None for label in result.engine.labels):
        return "No verdict"
    return wording.PRIORITY_NAMES[result.priority]


def summary(result: StudyResult) -> str:
    """Return the one sentence that tells what the table of findings says."""
    scored = list(zip(result.engine.labels, result.probabilities, strict=True))
    findings = [(label, value) for label, value in scored if not label.normal] or scored
    called = [(label, value) for label, value in findings if label.is_positive(value)]
    positive = sorted(called, key=lambda item: (not item[0].urgent, -item[1]))
    if positive:
        named = ", ".join(_named(label, value) for label, value in positive)
        reach = "reaches its" if len(positive) == 1 else "reach their"
        return f"{len(positive)} of {len(findings)} findings {reach} operating point: {named}."
    highest = _named(*max(findings, key=lambda item: item[1]))
    if all(label.operating_point is None for label, _ in findings):
        return f"This engine gives probabilities without a verdict. The highest is {highest}."
    return f"No finding reaches its operating point. The highest is {highest}."


def finding_lines(result: StudyResult) -> tuple[FindingLine, ...]:
    """Return a line per label: urgent positives, other positives, the rest, each by falling probability."""
    lines = []
    for n, label in enumerate(result.engine.labels):
        values = [image.probabilities[n] for image in result.images]
        highest = max(values)
        source = f"image {values.index(highest) + 1}" if len(values) > 1 else ""
        called = label.is_positive(highest) and not label.normal
        rank = (not (called and label.urgent), not called, -highest, n)
        lines.append((rank, _finding_line(label, highest, source)))
    return tuple(line for _, line in sorted(lines, key=lambda item: item[0]))


def _finding_line(label: Label, value: float, source: str) -> FindingLine:
    point = label.operating_point
    return FindingLine(
        name=label_name(label),
        probability=wording.probability(value, point),
        percent=f"{100 * value:.1f}",
        operating_point=wording.operating_point(point),
        operating_percent="" if point is None else f"{100 * min(max(point, 0.0), 1.0):.1f}",
        verdict=_verdict(label, value),
        positive=label.is_positive(value) and not label.normal,
        urgent=label.urgent,
        image=source,
        auroc=f"{label.metrics['auroc']:.2f}" if "auroc" in label.metrics else "",
    )


def _verdict(label: Label, value: float) -> str:
    if label.operating_point is None:
        return "No verdict"
    if label.normal:
        return "Nothing found" if label.is_positive(value) else wording.NO_VALUE
    if label.is_positive(value):
        return "Positive, urgent" if label.urgent else "Positive"
    return "Negative"


def label_name(label: Label) -> str:
    """Return a label as people write it: NIH's Pleural_Thickening is Pleural Thickening."""
    return wording.plain(label.name.replace("_", " "), longest=80)


def _named(label: Label, value: float) -> str:
    return f"{label_name(label)} {wording.probability(value, label.operating_point)}"


def _image_section(result: StudyResult, number: int) -> ImageSection:
    image = result.images[number - 1]
    facts = [wording.plain(image.header.view), _size(image.header)]
    radiograph = ReportPicture(
        file=image.image_file,
        title="Radiograph",
        detail=" · ".join(filter(None, facts)),
        alt="Chest radiograph as scored",
        heatmap=False,
    )
    return ImageSection(
        title=f"Image {number}",
        source=_source(result, image),
        figures=(radiograph, *_heatmap_figures(image, result.engine.labels)),
    )


def _source(result: StudyResult, image: ImageResult | RefusedImage) -> str:
    return "" if result.deidentified else wording.plain(image.path)


def _heatmap_figures(image: ImageResult, labels: tuple[Label, ...]) -> list[ReportPicture]:
    scored = {label.name: (label, value) for label, value in zip(labels, image.probabilities, strict=True)}
    figures = []
    for heatmap in image.heatmaps:
        label, value = scored[heatmap.label]
        positive = label.is_positive(value) and not label.normal
        point = wording.operating_point(label.operating_point)
        detail = "no part of the radiograph speaks for it" if heatmap.faint else ""
        if not positive and not heatmap.faint:
            detail = "highest score" if label.operating_point is None else f"highest score, below {point}"
        alt = f"Heatmap of {label_name(label)} over the radiograph"
        if not heatmap.faint:
            alt += f"; its peak is at column {heatmap.peak_x:.0f}, row {heatmap.peak_y:.0f} of the stored image"
        figures.append(ReportPicture(heatmap.file, _named(label, value), detail, alt, heatmap=True))
    return figures


def _quality(result: StudyResult) -> tuple[Remark, ...]:
    """Return a remark per flag of the study, naming its images where there are several."""
    flagged = dict.fromkeys(flag for image in result.images for flag in image.flags)
    remarks = []
    for flag in flagged:
        numbers = [str(n) for n, image in enumerate(result.images, start=1) if flag in image.flags]
        source = f"Image{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}" if len(result.images) > 1 else ""
        remarks.append(Remark(source, wording.FLAG_SENTENCES[flag]))
    return tuple(remarks)


def _patient_facts(header: Header) -> tuple[Fact, ...]:
    return _facts(
        ("Patient ID", wording.plain(header.patient_id)),
        ("Birth date", wording.day(header.patient_birth_date)),
        ("Sex", wording.sex(header.patient_sex)),
        ("Age", wording.age(header.patient_age)),
        ("Study date", wording.day(header.study_date)),
        ("Accession number", wording.plain(header.accession_number)),
        ("Description", wording.plain(header.study_description)),
    )


def _engine_facts(engine: EngineDescription) -> tuple[Fact, ...]:
    return _facts(
        ("Engine", f"{wording.plain(engine.name)} ({engine.sha256[:SHORT_HASH]})"),
        ("Network", f"{wording.plain(engine.architecture)}, {engine.task}"),
        ("Input", f"{engine.input.size_px} {wording.TIMES} {engine.input.size_px} px, {engine.input.fit}"),
        ("Ran on", f"{engine.backend}, {engine.precision}"),
        ("Built", engine.created[:10]),
    )


def _size(header: Header) -> str:
    return f"{header.columns} {wording.TIMES} {header.rows} px" if header.rows and header.columns else ""


def _facts(*pairs: tuple[str, str]) -> tuple[Fact, ...]:
    return tuple(Fact(name, value) for name, value in pairs if value)
