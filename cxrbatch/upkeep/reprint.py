"""Printing reports again from what is in the output folder; neither engine nor image is needed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from cxrbatch.config import Settings
from cxrbatch.errors import UsageError
from cxrbatch.output.folder.opening import open_output, output_errors_explained
from cxrbatch.output.folder.state import find_state
from cxrbatch.output.ledger.ledger import CONVERTING, DEIDENTIFIED, ENGINE, LEDGER_FILE, LOCALE
from cxrbatch.output.ledger.restore import record_unprintable
from cxrbatch.output.report.report_files import tidy_report, without_pictures
from cxrbatch.output.tables import STUDIES_CSV, derive_tables
from cxrbatch.records import EngineDescription
from cxrbatch.run.deidentified_output import refuse_names, settle_names
from cxrbatch.run.own_pages import pages_by
from cxrbatch.run.print import PRINTED, check_objects, print_again
from cxrbatch.run.processes import open_workers
from cxrbatch.system.logbook import log_limits
from cxrbatch.system.progress import RunProgress
from cxrbatch.system.record_json import from_json


def reprint_reports(out: Path, settings: Settings, progress: RunProgress, *, study_key: str = "") -> dict[str, str]:
    """Print the reports of `out` again from its ledger; return what went wrong, by study key.

    Studies that were scored without pictures have no report; they stay as they are.

    Raises:
        UsageError: `out` holds no ledger, or no reported study of that key.
        RunError: another run holds `out`, or it cannot be written.
    """
    if not (state := find_state(out, settings.state) / LEDGER_FILE).is_file():
        raise UsageError(f"{out}: no {state} there, so nothing to print. Name the output folder of a run.")
    check_objects(settings)
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        ledger = stack.enter_context(open_output(out, log_limits(settings), state=settings.state))
        workers = stack.enter_context(open_workers(settings))
        stack.enter_context(pages_by(settings, progress.say, workers))
        if settings.deidentify:
            settle_names(out, ledger, settings, workers)
        elif ledger.fact(DEIDENTIFIED) == CONVERTING:
            refuse_names(out, ledger)
        if settings.dicom and ledger.fact(DEIDENTIFIED):
            raise UsageError(f"{out}: its results are de-identified, and objects need to say whose they are.")
        results = [row.result for row in ledger.results.study_rows(study_key) if row.result and row.status != "pending"]
        if not results:
            raise UsageError(f"{out}: no reported study {study_key or 'at all'}. {STUDIES_CSV} lists their keys.")
        failures = {each.study_key: without_pictures(each) for each in results if not each.pictures}
        results = [each for each in results if each.pictures]
        ledger.remember(LOCALE, settings.locale)
        progress.begin(PRINTED, len(results))
        for printed in print_again(results, ledger, ledger.home.place, settings, workers):
            if printed.failure:
                failures[printed.result.study_key] = printed.failure
                record_unprintable(ledger, printed.result.study_key, printed.failure)
            else:
                ledger.results.record_printed(printed)
                with output_errors_explained(out, ledger.home):
                    tidy_report(out, printed)
            progress.advance(PRINTED)
        progress.finish(PRINTED)
        with output_errors_explained(out, ledger.home):
            derive_tables(out, ledger, from_json(ledger.fact(ENGINE), EngineDescription))
    return failures
