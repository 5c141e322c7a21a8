"""The stage that reads the images of pending studies and readies them for the engine, in worker processes."""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason, RunError, error_name
from cxrbatch.intake.duplicates import settle_duplicates
from cxrbatch.intake.patient import are_different_patients, identify, same_identity
from cxrbatch.output.ledger.attempts import failed_again, may_pass
from cxrbatch.output.ledger.queue import StudyTask
from cxrbatch.output.ledger.results import CHANGED
from cxrbatch.records import Header, IndexedFile, InputSpec, PreparedImage, RefusedImage, is_same_time, storable_ns
from cxrbatch.run.deidentification import Pseudonyms, told
from cxrbatch.run.stages import DecodedStudy, StageClock
from cxrbatch.system.logbook import log_event
from cxrbatch.system.workers import Outcome, WorkerCrashed, WorkerPool, WorkerTimedOut


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read: from below `root`, for an engine's input, and with which names where none may stay."""

    root: Path
    spec: InputSpec
    settings: Settings
    pseudonyms: Pseudonyms | None = None

    def header(self, header: Header) -> Header:
        """Return a header as the index keeps it."""
        return self.pseudonyms.header(header) if self.pseudonyms else header

    def message(self, rejected: ImageRejected) -> str:
        """Return what may be said of a refusal."""
        return told(rejected.reason) if self.pseudonyms else rejected.message


@dataclass(frozen=True, slots=True)
class ReadJob:
    """One file for a worker to read."""

    study_key: str
    file: IndexedFile
    path: Path
    spec: InputSpec
    settings: Settings


@dataclass(frozen=True, slots=True)
class ReadImage:
    """What a worker read, and the milliseconds it took."""

    image: PreparedImage
    read_ms: float
    preprocess_ms: float


def decode_studies(
    studies: Iterable[StudyTask], reading: Reading, workers: WorkerPool, clock: StageClock
) -> Iterator[DecodedStudy]:
    """Read every image of each study in worker processes; a study comes out once all of its files are read."""
    begun: deque[StudyTask] = deque()
    root, spec, settings = reading.root, reading.spec, reading.settings

    def jobs() -> Iterator[ReadJob]:
        for study in studies:
            begun.append(_within_limit(study, settings.max_images_per_study))
            for file in begun[-1].files:
                yield ReadJob(study.study_key, file, root / file.file.path, spec, settings)

    window = 2 * workers.count + settings.batch_size
    outcomes = workers.run_ahead(read_image, jobs(), timeout_s=settings.decode_timeout_s, window=window)
    for study_key, group in groupby(outcomes, key=lambda outcome: outcome.task.study_key):
        study = begun.popleft()
        assert study.study_key == study_key, "a study without files would give its neighbour's images another name"
        # Drawn here: what a later study does to the queue is not this one's fault.
        yield _settle_if_possible(study, list(group), reading, clock)


def read_image(job: ReadJob) -> ReadImage:
    """Read one file and prepare it for the engine; runs in a worker.

    Raises:
        ImageRejected: it gets no score.
        OSError: it cannot be read now, or is no longer the file that was indexed.
    """
    from cxrbatch.intake.anatomy import check_anatomy
    from cxrbatch.intake.preprocess import prepare, reading_for, source_side
    from cxrbatch.intake.read import read_radiograph

    started = time.perf_counter()
    _refuse_changed(job)
    settings = reading_for(job.settings, job.spec)
    radiograph = read_radiograph(job.path, settings, source_px=source_side(job.spec))
    _refuse_changed(job)
    radiograph = check_anatomy(radiograph, job.settings)
    read = time.perf_counter()
    image = prepare(radiograph, job.spec)
    if not job.settings.pictures:
        image = _without_display(image)
    return ReadImage(image, 1e3 * (read - started), 1e3 * (time.perf_counter() - read))


def _without_display(image: PreparedImage) -> PreparedImage:
    """Leave behind what only drawing needs: it is 17 times as large as what an engine of 224 px eats."""
    return replace(image, radiograph=replace(image.radiograph, display=image.radiograph.display[:0]))


def _refuse_changed(job: ReadJob) -> None:
    """Refuse a file that was replaced since it was indexed: its pixels would stand under another identity."""
    status, indexed = job.path.stat(), job.file.file
    # Another machine may have indexed it, over another file system, or on the server's own disk.
    is_same = is_same_time(storable_ns(status.st_mtime_ns), indexed.mtime_ns)
    if status.st_size != indexed.size_bytes or not is_same:
        raise OSError(errno.ESTALE, "it changed since it was indexed")


def _within_limit(task: StudyTask, max_images: int) -> StudyTask:
    """Refuse the images of a study beyond the limit: all images of a study are in memory together."""
    message = f"the study has {len(task.files)} images; the limit is {max_images} (max_images_per_study)"
    reason = Reason.TOO_MANY_IMAGES.value
    beyond = tuple(RefusedImage(file.file.path, "rejected", reason, message) for file in task.files[max_images:])
    return replace(task, files=task.files[:max_images], refused=(*task.refused, *beyond)) if beyond else task


def _settle_if_possible(
    task: StudyTask, outcomes: list[Outcome[ReadJob, ReadImage]], reading: Reading, clock: StageClock
) -> DecodedStudy:
    """Settle a study; one that this fails for goes on without its images, and ends no run."""
    try:
        return _settle_study(task, outcomes, reading, clock)
    except RunError:
        raise
    except Exception as error:  # noqa: BLE001  # one study
        paths = [file.file.path for file in task.files]
        failed = tuple(_refusal(path, error, task, reading) for path in paths)
        return DecodedStudy(task, (), (*task.refused, *failed))


def _settle_study(
    task: StudyTask, outcomes: Iterable[Outcome[ReadJob, ReadImage]], reading: Reading, clock: StageClock
) -> DecodedStudy:
    images: list[tuple[str, PreparedImage]] = []
    refused = list(task.refused)
    for outcome in outcomes:
        file = outcome.task.file
        path = file.file.path
        try:
            read = outcome.value()
        except RunError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever one file does, the rest of the work goes on
            refused.append(_refusal(path, error, task, reading))
            continue
        clock.add("read", read.read_ms / 1e3)
        clock.add("preprocess", read.preprocess_ms / 1e3)
        # A file can be replaced by one of the same size and time.
        if same_identity(reading.header(read.image.radiograph.header), file.header):
            images.append((path, _with_indexed_facts(read.image, file)))
        else:
            refused.append(RefusedImage(path, "failed", "", CHANGED))
    if conflict := _conflict(task):
        # Nothing that fails and may come right later can settle it; only a file that changed may.
        unsettled = [path for path, _ in images]
        unsettled += [image.path for image in refused if image.status == "failed" and image.message != CHANGED]
        refused = [image for image in refused if image.path not in unsettled]
        refused += [RefusedImage(path, "rejected", Reason.PATIENT_CONFLICT.value, conflict) for path in unsettled]
        images = []
    kept, duplicates = settle_duplicates(images)
    return DecodedStudy(task, tuple(kept), tuple(refused + duplicates))


def _conflict(task: StudyTask) -> str:
    """Say why the files of a study cannot belong together, whatever became of each; '' where they can."""
    if len({header.study_instance_uid for header in task.headers}) > 1:
        return "images of different studies have one study key. Correct the Study Instance UIDs at the source."
    if len(task.headers) > 1 and are_different_patients(map(identify, task.headers)):
        return "images of different patients share this StudyInstanceUID. Correct the identity at the source."
    return ""


def _with_indexed_facts(image: PreparedImage, file: IndexedFile) -> PreparedImage:
    """Let the index speak for identity (it may be de-identified); its flags come first."""
    flags: tuple[Flag, ...] = tuple(dict.fromkeys((*file.flags, *image.radiograph.flags)))
    return replace(image, radiograph=replace(image.radiograph, header=file.header, flags=flags))


def _refusal(path: str, error: Exception, task: StudyTask, reading: Reading) -> RefusedImage:
    """Say what became of a file that could not be read: refused for good, or failed and tried again."""
    failed_before = task.attempts.get(path, 0)
    rejected = _as_rejection(error)
    if rejected is not None:
        return RefusedImage(path, "rejected", rejected.reason.value, reading.message(rejected))
    if may_pass(error):
        why = error.strerror if isinstance(error, OSError) else error_name(error)
        return RefusedImage(path, "failed", "", f"cannot be read now: {why}")
    if isinstance(error, WorkerCrashed):
        return failed_again(path, Reason.DECODER_CRASHED, f"decoding: {error}", failed_before=failed_before)
    if isinstance(error, WorkerTimedOut):
        return failed_again(path, Reason.DECODE_TIMEOUT, f"decoding {error}", failed_before=failed_before)
    name = error_name(error)
    log_event("reading failed unexpectedly", level=logging.ERROR, study_key=task.study_key, error=name)
    message = f"unexpected {name} while reading; please report it"
    return failed_again(path, Reason.UNEXPECTED_ERROR, message, failed_before=failed_before)


def _as_rejection(error: Exception) -> ImageRejected | None:
    """Return the verdict on the file itself that this error is, if it is one."""
    if isinstance(error, ImageRejected):
        return error
    if isinstance(error, WorkerTimedOut) and not error.waiting:
        return ImageRejected(Reason.DECODE_TIMEOUT, f"decoding {error}")
    if isinstance(error, WorkerCrashed) and not error.was_killed:
        return ImageRejected(Reason.DECODER_CRASHED, f"decoding: {error}")
    if isinstance(error, MemoryError):
        return ImageRejected(Reason.TOO_LARGE, "decoding needs more memory than a worker may take")
    return None
