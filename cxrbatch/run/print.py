"""The stage that prints reports, in worker processes."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from cxrbatch.config import Settings
from cxrbatch.errors import OutputNotWritable, RunError, UsageError
from cxrbatch.output.folder.place import Place
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.report.manner import Manner
from cxrbatch.output.report.report_files import COULD_NOT_PRINT, report_folder
from cxrbatch.output.report.write_folder import write_result
from cxrbatch.pages.own_templates import in_use, printing_with
from cxrbatch.records import ImagePixels, PrintedStudy, PriorStudy, RefusedImage, StudyResult
from cxrbatch.run.stages import FinishedStudy, ScoredStudy, StageClock
from cxrbatch.system.durable import remove_temporaries
from cxrbatch.system.logbook import log_event
from cxrbatch.system.workers import Outcome, WorkerPool

PRINTED = "reports printed"
# Where these come from, every further report would end the same way.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@dataclass(frozen=True, slots=True)
class PrintJob:
    """One report for a worker to print, below `place`; a study without a `result` has none."""

    study_key: str
    result: StudyResult | None
    place: Place
    html: bool
    pdf: bool
    pixels: tuple[ImagePixels, ...] = ()
    manner: Manner = field(default_factory=Manner)
    refused: tuple[RefusedImage, ...] = ()


def print_reports(
    studies: Iterable[ScoredStudy], place: Place, settings: Settings, workers: WorkerPool, clock: StageClock
) -> Iterator[FinishedStudy]:
    """Print the reports in worker processes; studies without a score pass by those that are being printed.

    A result whose images name no pictures did not come to be drawn.
    """
    jobs = (
        replace(
            _job(study.task.study_key, study.result, place, settings, study.task.priors),
            pixels=study.pixels,
            refused=study.refused,
        )
        for study in studies
    )
    outcomes = workers.run_ahead(print_report, jobs, timeout_s=settings.print_timeout_s, passes=_has_no_scores)
    for outcome in outcomes:
        job = outcome.task
        if job.result is None:
            yield FinishedStudy(job.study_key, job.refused)
            continue
        printed = _printed(outcome, job.result)
        for stage, milliseconds in printed.stage_ms.items():
            clock.add(stage, milliseconds / 1e3)
        yield FinishedStudy(job.study_key, job.refused, printed)


def print_again(
    results: Iterable[StudyResult], ledger: Ledger, place: Place, settings: Settings, workers: WorkerPool
) -> Iterator[PrintedStudy]:
    """Print reports from their results and the pictures on disk, without any engine."""
    jobs = (
        _job(result.study_key, result, place, settings, find_priors(result, ledger, settings)) for result in results
    )
    yield from _print_jobs(jobs, settings, workers)


def print_overtaken(ledger: Ledger, place: Place, settings: Settings, workers: WorkerPool) -> Iterator[PrintedStudy]:
    """Print the reports again that name other earlier studies of their patient than there are by now."""
    jobs = (
        replace(_job(each.result.study_key, each.result, place, settings, each.priors), html=each.html, pdf=each.pdf)
        for each in ledger.priors.overtaken()
    )
    yield from _print_jobs(jobs, settings, workers)


def find_priors(result: StudyResult, ledger: Ledger, settings: Settings) -> tuple[PriorStudy, ...]:
    """Return the earlier studies that the report of a result is to name."""
    return ledger.priors.of(result.study_key, result.header) if settings.priors else ()


def _print_jobs(jobs: Iterable[PrintJob], settings: Settings, workers: WorkerPool) -> Iterator[PrintedStudy]:
    for outcome in workers.run_ahead(reprint_report, jobs, timeout_s=settings.print_timeout_s):
        yield _printed(outcome, _result(outcome.task))


def _job(
    study_key: str, result: StudyResult | None, place: Place, settings: Settings, priors: tuple[PriorStudy, ...] = ()
) -> PrintJob:
    manner = Manner(
        heatmaps=settings.heatmaps,
        priors=priors,
        pdf_variant=settings.pdf_variant,
        paper=settings.paper,
        dicom=settings.object_kinds,
        locale=settings.locale,
        templates=in_use(),
    )
    return PrintJob(study_key, result, place, settings.html, settings.pdf, manner=manner)


def check_printing(settings: Settings) -> None:
    """Refuse to print reports of which no picture is drawn, and objects that nothing may be in, or not what they need.

    Raises:
        UsageError: that is asked for.
    """
    check_objects(settings)
    asked = [f"--{name}" for name in ("html", "pdf") if getattr(settings, name)]
    if asked and not settings.pictures:
        raise UsageError(
            f"--no-pictures leaves no reports, and {' and '.join(asked)} are asked for. Add "
            f"{' '.join(option.replace('--', '--no-') for option in asked)}, or leave out --no-pictures "
            "(settings: html, pdf, pictures)."
        )


def check_objects(settings: Settings) -> None:
    """Refuse objects that cannot be, or could not be what they are asked to be.

    Raises:
        UsageError: they are asked for.
    """
    kinds = settings.object_kinds
    if kinds and settings.deidentify:
        raise UsageError(
            "--deidentify and --dicom exclude each other: an object joins the study of its patient in the archive, and "
            "cannot be without identity. Leave out one of them (settings: deidentify, dicom)."
        )
    if kinds and not settings.pictures:
        raise UsageError("--no-pictures and --dicom exclude each other (settings: pictures, dicom).")
    if "pdf" in kinds and not settings.pdf:
        raise UsageError(
            "--dicom writes report.pdf as an object, and --no-pdf leaves none. Leave out --no-pdf, or write "
            "--dicom=sr,sc (settings: pdf, dicom)."
        )


def print_report(job: PrintJob) -> PrintedStudy:
    """Print one report, or leave the result where there are to be no pictures; runs in a worker."""
    _tidy_up(job)
    result = _result(job)
    if not result.pictures:
        if not result.keeps_arrays:
            return write_result(result, job.place)
        from cxrbatch.output.report.kept_arrays import keep_arrays

        kept = keep_arrays(result, job.pixels)
        return write_result(kept.result, job.place, kept.files)
    from cxrbatch.output.report.report import print_study

    with printing_with(job.manner.templates):
        return print_study(result, job.pixels, job.place, html=job.html, pdf=job.pdf, manner=job.manner)


def reprint_report(job: PrintJob) -> PrintedStudy:
    """Print one report again; runs in a worker."""
    from cxrbatch.output.report.report import reprint_study

    _tidy_up(job)

    with printing_with(job.manner.templates):
        return reprint_study(_result(job), job.place, html=job.html, pdf=job.pdf, manner=job.manner)


def print_sheet(page: str) -> bytes:
    """Print the sheet of a run; runs in a worker."""
    from cxrbatch.output.sheets import pdf

    return pdf.print_sheet(page)


def _has_no_scores(job: PrintJob) -> bool:
    return job.result is None


def _result(job: PrintJob) -> StudyResult:
    assert job.result is not None, "what has no scores passes by the workers"
    return job.result


def _printed(outcome: Outcome[PrintJob, PrintedStudy], result: StudyResult) -> PrintedStudy:
    """Return what was printed, and what went wrong with it, which mostly is nothing."""
    try:
        printed = outcome.value()
    except RunError:
        raise
    except Exception as error:  # noqa: BLE001  # a report that cannot be printed must not lose its scores
        place = outcome.task.place
        place.check()
        _refuse_full_disk(error, place.out)
        _tidy_up(outcome.task)
        log_event("printing failed", level=logging.ERROR, study_key=result.study_key, error=type(error).__name__)
        return PrintedStudy(result, failure=f"{COULD_NOT_PRINT}: {error}")
    if printed.failure:
        log_event("printing failed", level=logging.ERROR, study_key=result.study_key)
    return printed


def _tidy_up(job: PrintJob) -> None:
    """Remove what a worker left half written: one that was killed cannot do it itself, its successor begins with it."""

    # Where it fails, whoever opens this output next tries again.
    with job.place.writing(), suppress(OSError):
        remove_temporaries(report_folder(job.place.out, job.study_key))


def _refuse_full_disk(error: Exception, out: Path) -> None:
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        raise OutputNotWritable(
            f"{out}: cannot be written ({error.strerror}). Make room, then run the same command again."
        ) from error
