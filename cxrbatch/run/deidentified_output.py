"""Whether names may be in an output folder: it is kept as it is, refused, or printed again without any.

A folder is one or the other from its first run on, so that nobody who forgets an option puts names beside results
that others take for de-identified. The way from names to none is open, on demand, and begins again where it was
killed; there is no way back.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbatch.config import LOG_FILE, METRICS_FILE, Settings
from cxrbatch.errors import Reason, UsageError
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.output.ledger.ledger import CONVERTING, DEIDENTIFIED, ENGINE, LEDGER_FILE, Ledger
from cxrbatch.output.ledger.names import TRIED_AGAIN, take_names_out
from cxrbatch.output.marks import MARKS_FILE
from cxrbatch.output.report.report_files import RESULT_JSON, kept_names, report_folder, report_folders, tidy_report
from cxrbatch.output.run_json import RUN_FILE
from cxrbatch.output.sent_facts import SENT_FILE
from cxrbatch.output.sheets.sheet import remove_all_sheets
from cxrbatch.output.tables import IMAGES_CSV, derive_tables
from cxrbatch.output.worklist import INDEX_HTML
from cxrbatch.output.worklist_data import DATA_FOLDER
from cxrbatch.records import EngineDescription, Header, StudyResult
from cxrbatch.run.deidentification import Pseudonyms, open_pseudonyms, told
from cxrbatch.run.index import INDEX_RULES, index_rules
from cxrbatch.run.print import print_again
from cxrbatch.run.record import open_place
from cxrbatch.system import durable
from cxrbatch.system.logbook import log_event
from cxrbatch.system.record_json import from_json, to_json
from cxrbatch.system.workers import WorkerPool

YES = "yes"
# Written by every run anew, or about one; beside the ledger, what a repair put aside, and notes of readers.
_OF_EARLIER_RUNS = (RUN_FILE, METRICS_FILE, INDEX_HTML, f"{DATA_FOLDER}/*", "*.csv", f"{LOG_FILE}.*")
_BESIDE_LEDGER = (f"{LEDGER_FILE}.damaged-*", f"{LEDGER_FILE}.rebuilt*", f"{MARKS_FILE}*", f"{SENT_FILE}*")


@dataclass(frozen=True, slots=True)
class _Names:
    """Pseudonyms for what may have them already."""

    pseudonyms: Pseudonyms

    def study_key(self, study_key: str) -> str:
        return self.pseudonyms.study_key(study_key)

    def header(self, header: Header) -> Header:
        return header if header.identity is not None else self.pseudonyms.header(header)

    def message(self, status: str, reason: str, message: str) -> str:
        if status == "rejected":
            return told(Reason(reason))
        return TRIED_AGAIN if message and status == "failed" else message


def settle_names(out: Path, ledger: Ledger, settings: Settings, workers: WorkerPool) -> Pseudonyms | None:
    """Return what stands for names in `out`; None where names may be there.

    Raises:
        UsageError: it holds names and should not, or the other way round.
        RunError: it cannot be written.
    """
    holds_names = check_names(out, ledger, settings)
    if not settings.deidentify:
        return None
    with output_errors_explained(out):
        pseudonyms = open_pseudonyms(out)
        if holds_names:
            _take_names_out(out, ledger, settings, workers, _Names(pseudonyms))
        ledger.remember(DEIDENTIFIED, YES)
        ledger.home.marker.update(deidentified=YES)
    return pseudonyms


def check_names(out: Path, ledger: Ledger, settings: Settings) -> bool:
    """Refuse what does not go together; with `deidentify`, tell whether names are to be taken out first.

    Raises:
        UsageError: the folder holds names and should not, or the other way round.
    """
    if not settings.deidentify:
        refuse_names(out, ledger)
        return False
    kept = ledger.fact(DEIDENTIFIED)
    holds_names = kept != YES and (bool(kept) or _holds_anything(out, ledger))
    if holds_names and not settings.deidentify_existing:
        raise UsageError(
            f"{out}: holds results that name patients, or were de-identified by an earlier cxrbatch, which left more "
            "of them. Choose another output folder; or, to take the names out of this one for good, say so: "
            "--deidentify-existing. Nothing was changed."
        )
    return holds_names


def refuse_names(out: Path, ledger: Ledger) -> None:
    """Refuse to put names into a folder without any.

    Raises:
        UsageError: it is one, or is on the way to be.
    """
    kept = ledger.fact(DEIDENTIFIED)
    if kept == CONVERTING:
        raise UsageError(
            f"{out}: names were being taken out of it, which was not finished. Give --deidentify-existing again."
        )
    if kept:
        raise UsageError(
            f"{out}: is de-identified, and this run would write names into it. Give --deidentify, or choose another "
            "output folder. Nothing was changed."
        )


def _holds_anything(out: Path, ledger: Ledger) -> bool:
    """Tell whether a run left anything here that could name a patient."""
    table = out / IMAGES_CSV
    return bool(
        ledger.results.count_files()
        or any(report_folders(out))
        or any(_matching(ledger.folder, _BESIDE_LEDGER))
        or (table.exists() and len(table.read_bytes().splitlines()) > 1)
    )


def _take_names_out(out: Path, ledger: Ledger, settings: Settings, workers: WorkerPool, names: _Names) -> None:
    """Rewrite the ledger, then everything that was derived from it; killed anywhere, it is begun again.

    Reports are removed before they are printed again: one that cannot be printed must not stay as it was.
    """
    ledger.home.marker.update(deidentified=CONVERTING)
    ledger.remember(DEIDENTIFIED, CONVERTING)
    log_event("taking names out")
    rules = index_rules(replace(settings, deidentify_existing=False, deidentify=False))
    if ledger.fact(INDEX_RULES) == rules:
        # The same headers would give the same rows.
        rules = index_rules(settings, names.pseudonyms)
        ledger.remember(INDEX_RULES, rules)
        ledger.home.marker.update(index_rules=rules)
    take_names_out(ledger, names)
    for folder in list(report_folders(out)):
        _move_pictures(out, folder, ledger, names)
    _remove_others(out, ledger)
    remove_all_sheets(out)  # by their former keys studies can be found elsewhere
    durable.remove_temporaries(out)
    for path in [*_matching(out, _OF_EARLIER_RUNS), *_matching(ledger.folder, _BESIDE_LEDGER)]:
        path.unlink(missing_ok=True)
    _print_again(out, ledger, settings, workers)
    if engine := ledger.fact(ENGINE):
        derive_tables(out, ledger, from_json(engine, EngineDescription))
    ledger.store.vacuum()
    durable.replace_bytes(out / LOG_FILE, b"")
    log_event("names taken out", studies=sum(ledger.results.count_studies().values()))


def _move_pictures(out: Path, folder: Path, ledger: Ledger, names: _Names) -> None:
    """Give a report folder the new key of its study, with its pictures and nothing else of what was in it."""
    keys = ledger.results.keys_with_report()
    new_key = folder.name if folder.name in keys else names.study_key(folder.name)
    if new_key not in keys:
        return
    result = next(row.result for row in ledger.results.study_rows(new_key))
    assert result is not None, "it is one of those that have one"
    pictures, target = set(kept_names(result)), report_folder(out, new_key)
    if target == folder:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in {*pictures, RESULT_JSON}:
                path.unlink()
        return
    durable.make_folder(target)
    for name in sorted(pictures):
        if (folder / name).is_file():
            durable.keep_copy(folder / name, target / name)
    durable.replace_text(target / RESULT_JSON, to_json(result, indent=2) + "\n")
    shutil.rmtree(folder)


def _remove_others(out: Path, ledger: Ledger) -> None:
    """Remove the report folders that the ledger has no study for: whatever they hold, it names somebody."""
    keys = ledger.results.keys_with_report()
    for folder in list(report_folders(out)):
        if folder.name not in keys:
            shutil.rmtree(folder)


def _print_again(out: Path, ledger: Ledger, settings: Settings, workers: WorkerPool) -> None:
    if not settings.html and not settings.pdf:
        return
    for printed in print_again(_results(ledger), ledger, open_place(out, ledger), settings, workers):
        if printed.failure:
            log_event("not printed again", study_key=printed.result.study_key)
        else:
            ledger.results.record_printed(printed)
            tidy_report(out, printed)


def _results(ledger: Ledger) -> Iterator[StudyResult]:
    for key in sorted(ledger.results.keys_with_report()):
        yield from (row.result for row in ledger.results.study_rows(key) if row.result and row.result.pictures)


def _matching(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    for pattern in patterns:
        yield from folder.glob(pattern)
