"""Which templates a run's pages are made of: read, tried, and kept until it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cxrbatch.config import Settings
from cxrbatch.errors import ConfigurationError, RunError, WorkerTimedOut, error_name
from cxrbatch.pages.own_templates import OwnTemplates, printing_with, read_templates
from cxrbatch.system.workers import WorkerPool

# The last ones that could be used, and the settings that they are of.
_proven: list[tuple[Settings, OwnTemplates]] = []


@contextmanager
def pages_by(settings: Settings, say: Callable[[str], object], workers: WorkerPool | None = None) -> Iterator[None]:
    """Make pages of the operator's templates, if settings name some, while the context lasts.

    A daemon that goes back to the settings that it had, because new ones cannot be used, has the templates of then.

    Args:
        settings: they name the folder, and what is printed.
        say: told what looks like a mistake.
        workers: print a made-up report, where given.

    Raises:
        ConfigurationError: they cannot be used.
    """
    if not settings.templates:
        yield
        return
    known = next((own for proven, own in _proven if proven is settings), None)
    own = known or _read(settings, say, workers)
    _proven[:] = [(settings, own)]
    with printing_with(own):
        yield


def _read(settings: Settings, say: Callable[[str], object], workers: WorkerPool | None) -> OwnTemplates:
    # Loaded only here: most runs have no templates of their own, and these load what draws.
    from cxrbatch.output.template_check import check_templates

    own, remarks = read_templates(settings.templates)
    if own.files:
        remarks += check_templates(own)
        if workers is not None and settings.pdf:
            _try_to_print(own, settings, workers)
    for remark in remarks:
        say(f"templates: {remark}")
    return own


def _try_to_print(own: OwnTemplates, settings: Settings, workers: WorkerPool) -> None:
    job = (own, settings.sheet_pdf)
    for outcome in workers.run_ahead(_print_specimen, [job], timeout_s=settings.print_timeout_s):
        try:
            outcome.value()
        except RunError:
            raise
        except ImportError:
            pass  # nothing can be printed here at all: every report says so
        except WorkerTimedOut as error:
            raise ConfigurationError(f"templates = {own.folder}: printing a made-up report {error}.") from error
        except Exception as error:
            what = f"a made-up report cannot be printed ({error_name(error)})"
            raise ConfigurationError(f"templates = {own.folder}: {what}.") from error


def _print_specimen(job: tuple[OwnTemplates, bool]) -> None:
    """Print made-up studies; runs in a worker."""
    from cxrbatch.output.template_check import check_print

    own, sheet_pdf = job
    check_print(own, sheet_pdf=sheet_pdf)
