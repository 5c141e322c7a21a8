"""Writing the sheet of a run, after its tables: a page that cannot be made is no run that failed."""

from __future__ import annotations

import logging
from pathlib import Path

from cxrbatch.config import RUNS, Settings
from cxrbatch.errors import RunError
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.run_json import RunReport
from cxrbatch.output.sheets.sheet import Sheets
from cxrbatch.run.print import print_sheet
from cxrbatch.run.stages import StageClock
from cxrbatch.system.durable import replace_bytes
from cxrbatch.system.logbook import log_event
from cxrbatch.system.workers import WorkerPool


def write_sheet(
    sheets: Sheets, ledger: Ledger, report: RunReport, settings: Settings, workers: WorkerPool, clock: StageClock
) -> None:
    """Write the sheet of what was done until now, and its PDF where that is asked for.

    Raises:
        RunError: the output folder cannot be written.
    """
    out = ledger.home.out
    try:
        with clock.measure("sheet"), output_errors_explained(out, ledger.home):
            sheet = sheets.write(ledger, report)
            if sheet is not None and settings.sheet_pdf:
                _print(out / RUNS / f"{sheet.name}.html", settings.print_timeout_s, workers)
    except RunError:
        raise
    except Exception as error:  # noqa: BLE001  # the results stand
        log_event("sheet not written", level=logging.ERROR, error=type(error).__name__)


def _print(page: Path, limit_s: float, workers: WorkerPool) -> None:
    for outcome in workers.run_ahead(print_sheet, [page.read_text(encoding="utf-8")], timeout_s=limit_s):
        replace_bytes(page.with_suffix(".pdf"), outcome.value())
