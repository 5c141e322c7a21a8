"""The stage that prints reports, in worker processes."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cxrbatch.config import Settings
from cxrbatch.errors import OutputNotWritable, RunError
from cxrbatch.output.folder.place import Place
from cxrbatch.output.report.report import COULD_NOT_PRINT
from cxrbatch.records import ImagePixels, PrintedStudy, StudyResult
from cxrbatch.run.stages import ScoredStudy, StageClock
from cxrbatch.system.durable import remove_temporaries
from cxrbatch.system.logbook import log_event
from cxrbatch.system.workers import Outcome, WorkerPool

PRINTED = "reports printed"
# Where these come from, every further report would end the same way.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@dataclass(frozen=True, slots=True)
class PrintJob:
    """One report for a worker to print."""

    result: StudyResult
    pixels: tuple[ImagePixels, ...]
    out: Path
    html: bool
    pdf: bool
    place: Place


def print_reports(
    studies: Iterable[ScoredStudy], place: Place, settings: Settings, workers: WorkerPool, clock: StageClock
) -> Iterator[tuple[PrintedStudy, str]]:
    """Print the reports in worker processes; yield each with what went wrong, which mostly is nothing.

    A result whose images name no pictures did not come to be drawn.
    """
    jobs = (
        PrintJob(study.result, study.pixels, place.out, settings.html, settings.pdf, place)
        for study in studies
        if study.result is not None
    )
    for printed, failure in _printed(workers.run_ahead(print_report, jobs, timeout_s=settings.print_timeout_s)):
        for stage, milliseconds in printed.stage_ms.items():
            clock.add(stage, milliseconds / 1e3)
        yield printed, failure


def print_again(
    results: Iterable[StudyResult], place: Place, settings: Settings, workers: WorkerPool
) -> Iterator[tuple[PrintedStudy, str]]:
    """Print reports from their results and the pictures on disk, without any engine."""
    jobs = (PrintJob(result, (), place.out, settings.html, settings.pdf, place) for result in results)
    yield from _printed(workers.run_ahead(reprint_report, jobs, timeout_s=settings.print_timeout_s))


def open_workers(settings: Settings) -> WorkerPool:
    """Make the pool of processes that read and print."""
    return WorkerPool(
        settings.worker_count, memory_mb=settings.decode_memory_mb, warm_up=partial(warm_up, pdf=settings.pdf)
    )


def warm_up(*, pdf: bool) -> None:
    """Load what reading and printing need, down to fonts and style sheets; runs in a worker as it starts."""
    from cxrbatch.output.report.report import STYLES

    if pdf:
        from cxrbatch.output.report.pdf import PictureFetcher, render_pdf

        render_pdf("<p>cxrbatch</p>", PictureFetcher({}), styles=STYLES)


def print_report(job: PrintJob) -> PrintedStudy:
    """Print one report; runs in a worker."""
    from cxrbatch.output.report.report import print_study

    _tidy_up(job)

    return print_study(job.result, job.pixels, job.out, html=job.html, pdf=job.pdf, place=job.place)


def reprint_report(job: PrintJob) -> PrintedStudy:
    """Print one report again; runs in a worker."""
    from cxrbatch.output.report.report import reprint_study

    _tidy_up(job)

    return reprint_study(job.result, job.out, html=job.html, pdf=job.pdf, place=job.place)


def _printed(outcomes: Iterable[Outcome[PrintJob, PrintedStudy]]) -> Iterator[tuple[PrintedStudy, str]]:
    for outcome in outcomes:
        try:
            printed = outcome.value()
        except RunError:
            raise
        except Exception as error:  # noqa: BLE001  # a report that cannot be printed must not lose its scores
            outcome.task.place.check()
            _refuse_full_disk(error, outcome.task.out)
            result = outcome.task.result
            _tidy_up(outcome.task)
            log_event("printing failed", level=logging.ERROR, study_key=result.study_key, error=type(error).__name__)
            yield PrintedStudy(result), f"{COULD_NOT_PRINT}: {error}"
        else:
            if printed.failure:
                log_event("printing failed", level=logging.ERROR, study_key=printed.result.study_key)
            yield printed, printed.failure


def _tidy_up(job: PrintJob) -> None:
    """Remove what a worker left half written: one that was killed cannot do it itself, its successor begins with it."""
    from cxrbatch.output.report.report import report_folder

    with suppress(OSError):  # then whoever opens this output next tries again
        remove_temporaries(report_folder(job.out, job.result.study_key))


def _refuse_full_disk(error: Exception, out: Path) -> None:
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        raise OutputNotWritable(
            f"{out}: cannot be written ({error.strerror}). Make room, then run the same command again."
        ) from error
