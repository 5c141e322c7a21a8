"""Making a damaged ledger anew from the results on disk. Start at `repair_output`.

Nothing is scored again that is unchanged: every result.json says which files it was made of, and how they were.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from cxrbatch.config import MARKER_FILE
from cxrbatch.errors import LedgerDamaged, UsageError
from cxrbatch.output.dicom.object_files import has_foreign_objects
from cxrbatch.output.folder.marker import Marker
from cxrbatch.output.folder.opening import held_output, open_ledger, output_errors_explained
from cxrbatch.output.folder.place import HeldOutput
from cxrbatch.output.folder.settle import Settling
from cxrbatch.output.folder.state import OUTPUT, OUTPUT_ID, SESSION, UNFINISHED, claim_state, refuse_foreign
from cxrbatch.output.ledger.ledger import DEIDENTIFIED, ENGINE, INPUT_SHA256, LEDGER_FILE, Ledger
from cxrbatch.output.ledger.restore import LOST, UNPRINTED, FoundStudy, Restorer
from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.output.report.intent import tidy_intents
from cxrbatch.output.report.report_files import (
    REPORT_HTML,
    REPORT_PDF,
    REPORTS,
    RESULT_JSON,
    is_drawn,
    is_report_of,
    kept_names,
    report_folders,
)
from cxrbatch.output.run_json import RUN_FILE, wanted_reports
from cxrbatch.output.tables import derive_tables
from cxrbatch.records import EngineDescription, StudyResult, storable_ns
from cxrbatch.run.index import INDEX_RULES
from cxrbatch.system import durable
from cxrbatch.system.faults import reach
from cxrbatch.system.logbook import log_event
from cxrbatch.system.record_json import from_json, to_json

REBUILT_SUFFIX = ".rebuilt"
_REPAIRING = "repairing"
# What SQLite keeps beside a database; left there, it would be taken for part of the new one.
_BESIDE_DATABASE = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Repair:
    """What was restored: studies, files of theirs, and how many studies the next run tries again.

    `damage` is empty where the ledger was sound and nothing was done; `aside` is where the damaged one lies, if
    there was any. `unreadable` says, by study key, why a report folder gave nothing; `forgotten` what is not known.
    """

    damage: str = ""
    aside: Path | None = None
    studies: int = 0
    files: int = 0
    retried: int = 0
    without_files: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    forgotten: tuple[str, ...] = ()


@dataclass(slots=True)
class _Findings:
    """What the report folders told."""

    unreadable: dict[str, str] = field(default_factory=dict)
    engine: EngineDescription | None = None
    newest: str = ""
    without_files: int = 0


def repair_output(out: Path, state: str = "") -> Repair:
    """Make the ledger of `out` anew from its results, unless it is sound; the damaged one is kept beside it.

    Killed at any moment and begun again it comes to the same end: the new ledger takes its name in one step,
    once it is whole, and until then the damaged one stands in its place.

    Raises:
        UsageError: `out` is no output folder.
        RunError: another run holds it, a newer cxrbatch wrote its ledger, or it cannot be written.
    """
    if not any((out / name).exists() for name in (LEDGER_FILE, MARKER_FILE, REPORTS, RUN_FILE)):
        raise UsageError(f"{out}: no output folder of cxrbatch, so there is nothing to repair.")
    with held_output(out, state=state, may_be_missing=True) as home, output_errors_explained(out):
        ledger_path = home.state / LEDGER_FILE
        damage = _damage(home, ledger_path)
        if not damage:
            _finish_former_repair(home)
            return Repair()
        # A ledger that is damaged today and can be opened tomorrow, without its log, is not what worked here last.
        session = secrets.token_hex(8)
        home.marker.update(session=session)
        durable.remove_temporaries(out)
        reach("repair-rebuild")
        rebuilt = ledger_path.with_name(LEDGER_FILE + REBUILT_SUFFIX)
        facts, findings = home.marker.known, _Findings()
        studies, files, retried = _rebuild(rebuilt, out, facts, findings)
        reach("repair-rebuilt")
        aside = _put_in_place(rebuilt, ledger_path)
        with Ledger(home.state, home=home) as ledger:
            _bring_in_line(ledger)
        reach("repair-done")
        log_event("ledger repaired", studies=studies, unreadable=len(findings.unreadable))
    return Repair(
        damage=damage,
        aside=aside,
        studies=studies,
        files=files,
        retried=retried,
        without_files=findings.without_files,
        unreadable=findings.unreadable,
        forgotten=tuple(_forgotten(facts)),
    )


def _bring_in_line(ledger: Ledger) -> None:
    """Let reports and tables follow a ledger that was made anew."""
    out = ledger.home.out
    claim_state(ledger)
    Settling(out, ledger).settle(everything=False)
    tidy_intents(out)
    if engine := ledger.fact(ENGINE):
        derive_tables(out, ledger, from_json(engine, EngineDescription))
    ledger.remember(UNFINISHED, "")


def _finish_former_repair(home: HeldOutput) -> None:
    """Do what a repair that was killed did not come to, once its ledger stood."""
    with Ledger(home.state, home=home) as ledger:
        if ledger.fact(UNFINISHED) == _REPAIRING:
            durable.remove_temporaries(home.out)
            _bring_in_line(ledger)


def _damage(home: HeldOutput, path: Path) -> str:
    """Return what is wrong with the ledger, having read all of it; '' where it is sound."""
    if not path.exists():
        return "it is missing"
    try:
        with open_ledger(home) as ledger:
            refuse_foreign(ledger)
            claim_state(ledger)
            ledger.store.check()
            for _ in ledger.results.file_rows():
                pass
            for _ in ledger.results.study_rows():
                pass
    except LedgerDamaged as error:
        return error.what
    return ""


def _rebuild(rebuilt: Path, out: Path, facts: Marker, findings: _Findings) -> tuple[int, int, int]:
    """Write a new ledger at `rebuilt`; return how many studies and files it has, and how many studies wait."""
    for path in (rebuilt, *(rebuilt.with_name(rebuilt.name + suffix) for suffix in _BESIDE_DATABASE)):
        path.unlink(missing_ok=True)
    store = LedgerStore(rebuilt)
    try:
        with store.transaction():
            restorer = Restorer(store)
            for study in _found_studies(out, findings):
                restorer.put(study)
            studies = restorer.finish()
            engine = findings.engine
            known = {INDEX_RULES: facts.index_rules, INPUT_SHA256: facts.input_sha256, OUTPUT_ID: facts.output_id}
            known[DEIDENTIFIED] = facts.deidentified
            known |= {SESSION: facts.session, OUTPUT: str(out.resolve()), UNFINISHED: _REPAIRING}
            for key, value in (known | ({ENGINE: to_json(engine)} if engine else {})).items():
                store.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (key, value))
        files = int(store.value("SELECT count(*) FROM files"))
        retried = int(store.value("SELECT count(*) FROM studies WHERE status = 'failed'"))
        # One file, without anything beside it, can be put in place in one step.
        store.value("PRAGMA journal_mode = DELETE")
    finally:
        store.close()
    return studies, files, retried


def _put_in_place(rebuilt: Path, ledger: Path) -> Path | None:
    """Let the rebuilt ledger take its place; return where the former one lies now, if there was one."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    aside = ledger.with_name(f"{LEDGER_FILE}.damaged-{stamp}")
    reach("repair-aside")
    for suffix in _BESIDE_DATABASE:
        with suppress(FileNotFoundError):
            ledger.with_name(ledger.name + suffix).replace(aside.with_name(aside.name + suffix))
    existed = ledger.exists()
    if existed:
        durable.keep_copy(ledger, aside)
    reach("repair-replace")
    rebuilt.replace(ledger)
    reach("repair-replaced")
    durable.sync_folder(ledger.parent)
    return aside if existed else None


def _found_studies(out: Path, findings: _Findings) -> Iterator[FoundStudy]:
    """Yield what every report folder tells; note what cannot be read, and the engine of the latest result."""
    wants_reports = wanted_reports(out)
    for folder in sorted(report_folders(out)):
        try:
            study = _found_study(folder, wants_reports=wants_reports)
        except (OSError, ValueError) as error:
            findings.unreadable[folder.name] = _plain(error)
            continue
        if study.result.scored_at >= findings.newest:
            findings.newest, findings.engine = study.result.scored_at, study.result.engine
        findings.without_files += not study.result.files
        yield study


def _found_study(folder: Path, *, wants_reports: bool) -> FoundStudy:
    """Read one report folder.

    Raises:
        OSError: its result.json is missing or unreadable.
        ValueError: it is damaged, or another study's.
    """
    record = folder / RESULT_JSON
    result = from_json(record.read_text(encoding="utf-8"), StudyResult)
    if result.study_key != folder.name or not result.images:
        raise ValueError(f"{RESULT_JSON} is of another study, or of none")
    written_ns = record.stat().st_mtime_ns
    found = [folder / name for name in (REPORT_HTML, REPORT_PDF) if (folder / name).exists()]
    reports = {path.name: path.stat().st_mtime_ns for path in found}
    failure = "; ".join(sorted({image.message for image in result.refused if image.status == "failed"}))
    lacks_reports = (wants_reports and result.pictures and not reports) or has_foreign_objects(folder, result)
    if lacks_reports or not all(_is_printed_of(path, result, written_ns) for path in found):
        failure = "; ".join(filter(None, (failure, UNPRINTED)))
    if not is_drawn(result) or not all((folder / name).exists() for name in kept_names(result)):
        failure = failure or LOST
    relative = f"{REPORTS}/{folder.name}"
    latest_ns = max([written_ns, *reports.values()])
    return FoundStudy(
        result=result,
        report_html=f"{relative}/{REPORT_HTML}" if REPORT_HTML in reports else "",
        report_pdf=f"{relative}/{REPORT_PDF}" if REPORT_PDF in reports else "",
        reported_at=datetime.fromtimestamp(storable_ns(latest_ns) / 1e9, timezone.utc).isoformat(timespec="seconds"),
        failure=failure,
    )


def _is_printed_of(report: Path, result: StudyResult, written_ns: int) -> bool:
    """Tell whether a report is of this result; those of earlier versions only tell by their age.

    Reports are written after their result; an older one is what a killed process did not come to replace.
    """
    return is_report_of(report, result) and report.stat().st_mtime_ns >= written_ns


def _forgotten(facts: Marker) -> Iterator[str]:
    if not facts.index_rules:
        yield "the rules that files were indexed by: the next run reads every file and scores every study again"
    if not facts.input_sha256:
        yield "which INPUT the results are of: the next run's is taken for it, so name the right one"


def _plain(error: Exception) -> str:
    """Say what is wrong with a result without quoting it: it may name a patient."""
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno else type(error).__name__
    return f"{RESULT_JSON} is damaged or of an unknown form"


Say = Callable[[str], None]


def tell_repair(repair: Repair, say: Say) -> None:
    """Tell what was restored, what could not be read, and what happens now."""
    if not repair.damage:
        say("The ledger is sound; nothing was changed.")
        return
    say(f"The ledger was damaged: {repair.damage}.")
    if repair.aside is not None:
        say(f"It lies, as it was, in {repair.aside}")
    say(f"Restored {repair.studies} studies with {repair.files} files from their {RESULT_JSON}.")
    if repair.retried:
        say(f"{repair.retried} of them were not finished; the next run tries them again.")
    if repair.without_files:
        say(f"{repair.without_files} of them are of an earlier cxrbatch and are scored again if still in INPUT.")
    for key, why in repair.unreadable.items():
        say(
            f"study {key}: not restored: {why}. If its files are still in INPUT the next run scores it again; if not, "
            f"copy what you need of {REPORTS}/{key} before, for that run removes it."
        )
    for what in repair.forgotten:
        say(f"Not known any more: {what}.")
    say("Now give the same `cxrbatch run` as before: refused files are met again, and what is unchanged stays.")
