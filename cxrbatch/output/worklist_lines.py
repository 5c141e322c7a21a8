"""A study as the worklist shows it, and what comes before what. Nothing of who the patient is."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from cxrbatch.errors import Flag
from cxrbatch.output.ledger.standing import READING_ORDER, strength
from cxrbatch.output.report.findings import (
    contested_sentence,
    coverage,
    own_name,
    priority_name,
    rank_in_words,
)
from cxrbatch.pages import header_words, wording
from cxrbatch.pages.language import gettext as _
from cxrbatch.records import Label, Priority, StudyResult, StudyRow, StudyStatus, Verdict

__all__ = ["READING_ORDER"]

STATUS_ORDER: tuple[StudyStatus, ...] = ("reported", "failed", "unscored", "pending")

MARKS = ("caution", "refused", "unlike", "prior")
"""What a study is marked with, beside its priority; in the page's data, the powers of two in this order."""

# Told in the report; they say nothing against the scores.
_HARMLESS = frozenset(
    {
        *(Flag.LOSSY, Flag.NO_BODY_PART, Flag.NO_TRANSFER_SYNTAX, Flag.EXECUTABLE_PREAMBLE, Flag.CHARSET_REPLACED),
        *(Flag.DUPLICATE_UID, Flag.RESCORED_FP32, Flag.POLARITY_FROM_LUT),
        # Of every PNG and JPEG; what marks all marks none.
        Flag.NO_VIEW,
    }
)
# Behind everything that came at a time that is known.
_NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Chip:
    """One finding of a study: its name as the engine has it, its probability with a point, in every language."""

    name: str
    probability: str
    urgent: bool


@dataclass(frozen=True, slots=True)
class WorklistLine:
    """One study of the worklist.

    Sentences are in the language spoken; `date`, `images`, names and figures are not: the page sorts, finds and writes
    them, and programs read them.
    `arrived` is when it came, in seconds since 1970, 0 where nobody knows. `highest` is its strongest finding where
    none is positive, `rank` where that lies among the validation images if nobody may judge it; `coverage` says how
    many findings were judged where not all were; `strength` is the probability of what is shown first. `cautions` tell
    why its scores may be worth less; `refused`: some of its images got none; `has_prior`: there is an earlier study of
    the patient.
    """

    study_key: str
    revision: int
    arrived: int
    date: str
    accession: str
    priority: Priority
    badge: str
    status: StudyStatus
    images: str
    findings: tuple[Chip, ...]
    highest: Chip | None
    rank: str
    coverage: str
    unlike: str
    refused: bool
    has_prior: bool
    cautions: tuple[str, ...]
    remarks: tuple[str, ...]
    thumbnail: str
    report_html: str
    report_pdf: str
    strength: float


def marks_of(line: WorklistLine) -> Iterator[str]:
    """Yield those of `MARKS` that a study has."""
    has = {"caution": line.cautions, "refused": line.refused, "unlike": line.unlike, "prior": line.has_prior}
    return (mark for mark in MARKS if has[mark])


def worklist_line(row: StudyRow, with_prior: Container[str] = frozenset()) -> WorklistLine:
    """Reduce one study to what the worklist shows of it."""
    verdict = row.result.verdict if row.result else None
    scored = _ranked(row.result, verdict) if row.result and verdict else []
    first = scored[0] if scored and verdict and not verdict.findings else None
    return WorklistLine(
        study_key=row.study_key,
        revision=row.revision,
        arrived=_seconds(row.arrived_at),
        date=header_words.iso_day(row.header.study_date),
        accession=wording.plain(row.header.accession_number, longest=40),
        priority=verdict.priority if verdict else row.priority,
        badge=priority_name(row.result, verdict) if row.result and verdict else _(wording.PRIORITY_NAMES[row.priority]),
        status=row.status,
        images=f"{row.n_scored} of {row.n_images}",
        findings=tuple(_chip(each) for each in scored if each.called),
        highest=_chip(first) if first else None,
        rank=rank_in_words(first.label, first.probability) if first and first.call is None else "",
        coverage=coverage(verdict) if verdict else "",
        unlike=_unlike(row.result) if row.result else "",
        refused=bool(row.reasons),
        has_prior=row.study_key in with_prior,
        cautions=_cautions(row.result) if row.result else (),
        remarks=_remarks(row),
        thumbnail=quote(row.thumbnail),
        report_html=quote(row.report_html),
        report_pdf=quote(row.report_pdf),
        strength=strength(verdict, row.result.probabilities) if row.result and verdict else 0.0,
    )


def reading_order(line: WorklistLine) -> tuple[int, bool, float, int, str]:
    """Return what to sort by: priority; what failed before what could not be scored; strong before weak; arrival."""
    return (
        READING_ORDER.index(line.priority),
        line.status != "failed",
        -line.strength,
        line.arrived or _NEVER,
        line.study_key,
    )


def _seconds(moment: str) -> int:
    try:
        return int(datetime.fromisoformat(moment).timestamp())
    except ValueError:
        return 0


@dataclass(frozen=True, slots=True)
class _Scored:
    """What a study has of one label."""

    label: Label
    probability: float
    call: bool | None

    @property
    def called(self) -> bool:
        return self.call is True and not self.label.normal


def _ranked(result: StudyResult, verdict: Verdict) -> list[_Scored]:
    """Return the study's findings, those that are called first, of these the urgent ones; each by probability."""
    scored = list(map(_Scored, verdict.labels, result.probabilities, verdict.calls))
    findings = [each for each in scored if not each.label.normal] or scored
    return sorted(
        findings, key=lambda each: (not (each.called and each.label.urgent), not each.called, -each.probability)
    )


def _chip(scored: _Scored) -> Chip:
    label = scored.label
    return Chip(own_name(label), wording.plain_probability(scored.probability, label.operating_point), label.urgent)


def _unlike(result: StudyResult) -> str:
    unlike, images = len(result.unlike_training), len(result.images)
    if not unlike:
        return ""
    if images == 1:
        return _("Unlike the training images")
    return _("{unlike} of {images} unlike the training images").format(unlike=unlike, images=images)


def _cautions(result: StudyResult) -> tuple[str, ...]:
    """Return why the study's scores may be worth less than others, a sentence per reason."""
    flags = dict.fromkeys(flag for image in result.images for flag in image.flags if flag not in _HARMLESS)
    sentences = [wording.flag_sentence(flag) for flag in flags]
    return tuple(filter(None, (*sentences, contested_sentence(result))))


def _remarks(row: StudyRow) -> tuple[str, ...]:
    """Return, for a study without a score, one sentence per reason; a failed one is tried again."""
    if row.status == "failed":
        return (_("It could not be finished; the next run tries it again."), *_reason_sentences(row.reasons))
    return _reason_sentences(row.reasons) if row.result is None else ()


def _reason_sentences(reasons: Sequence[str]) -> tuple[str, ...]:
    return tuple(filter(None, map(wording.reason_sentence, dict.fromkeys(reasons))))
