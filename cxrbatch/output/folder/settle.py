"""What a killed process left of a study in hand: brought to where report folder and ledger say the same.

A report folder is written first and recorded in the ledger after that. Where that was cut off, either the new result is
whole on the disk, and the ledger takes it over as if its commit had come; or it is not, and the folder goes back to
what the ledger says, whose result and pictures are still there. This comes before any index: what is gone from INPUT
meanwhile, replaced or scored by another engine, is for the run that follows to find out, as ever.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.errors import RunError
from cxrbatch.output.dicom.object_files import has_foreign_objects, objects_of, tidy_objects
from cxrbatch.output.folder.key_sets import as_text, key_set, without
from cxrbatch.output.ledger.ledger import DEIDENTIFIED, Ledger
from cxrbatch.output.ledger.restore import (
    LOST,
    UNPRINTED,
    KnownStudy,
    adopt,
    known_study,
    owners,
    record_lost,
    record_reports,
    same_result,
)
from cxrbatch.output.report.intent import Intent, being_printed, end_printing, read_intent, result_mark
from cxrbatch.output.report.report_files import (
    REPORT_HTML,
    REPORT_PDF,
    RESULT_JSON,
    are_pictures_whole,
    is_drawn,
    is_named_by_content,
    is_report_of,
    picture_names,
    remove_earlier_reports,
    remove_stale_pictures,
    report_folder,
    report_folder_names,
    report_folders,
)
from cxrbatch.records import PrintedStudy, StudyResult
from cxrbatch.system import durable
from cxrbatch.system.faults import reach
from cxrbatch.system.logbook import log_event
from cxrbatch.system.record_json import from_json, to_json


@dataclass(slots=True)
class Settled:
    """How many studies the ledger took over from the disk, and how many folders went back to what it says."""

    adopted: int = 0
    undone: int = 0


@dataclass(frozen=True, slots=True)
class Settling:
    """How to settle the studies of one output folder.

    `is_foreign`: the ledger is not the one that worked here last, such as a backup. `is_earlier`: a run of an earlier
    version was killed here, which overwrote pictures.
    """

    out: Path
    ledger: Ledger
    is_foreign: bool = False
    is_earlier: bool = False

    def settle(self, *, everything: bool) -> Settled:
        """Settle the studies that were being printed; with `everything`, each that has a report folder."""
        settled = Settled()
        remove_as_ordered(self.out, self.ledger)
        intents = being_printed(self.out)
        others = {folder.name for folder in report_folders(self.out)} if everything else set()
        for study_key in sorted(intents.keys() | others):
            self._settle_study(study_key, intents.get(study_key), settled)
        if settled.adopted or settled.undone:
            log_event("studies in hand settled", adopted=settled.adopted, undone=settled.undone)
        return settled

    def settle_study(self, study_key: str) -> bool:
        """Settle one study if it was being printed; tell whether its new result was taken over."""
        settled, intent = Settled(), read_intent(self.out, study_key)
        if intent is not None:
            self._settle_study(study_key, intent, settled)
        return bool(settled.adopted)

    def undo_study(self, study_key: str) -> None:
        """Bring a study that was being printed back to what the ledger says: it cannot hold the new result."""
        known, intent = known_study(self.ledger, study_key), read_intent(self.out, study_key)
        if known is not None and known.result is not None and is_drawn(known.result):
            self._restore(known, known.result, intent)
        else:
            _remove_folder(report_folder(self.out, study_key))
        end_printing(self.out, study_key)

    def _settle_study(self, study_key: str, intent: Intent | None, settled: Settled) -> None:
        folder = report_folder(self.out, study_key)
        durable.remove_temporaries(folder)
        known, found = known_study(self.ledger, study_key), read_result(folder)
        reach("settle-study")
        if found is not None and self._is_to_be_adopted(found, known, intent):
            try:
                self._adopt(found, known, intent)
            except (RunError, OSError):
                raise
            except Exception as error:  # noqa: BLE001  # one result that no ledger holds must not end every run
                log_event("a result was not taken over", level=logging.ERROR, error=type(error).__name__)
                self.undo_study(study_key)
                settled.undone += 1
                return
            settled.adopted += 1
        elif known is not None and known.result is not None and is_drawn(known.result):
            settled.undone += not same_result(found, known.result)
            self._restore(known, known.result, intent)
        elif known is not None and intent is not None and found is None:
            _remove_folder(folder)
            settled.undone += 1
        end_printing(self.out, study_key)
        reach("settled-study")

    def _is_to_be_adopted(self, found: StudyResult, known: KnownStudy | None, intent: Intent | None) -> bool:
        """Tell whether the result on the disk is whole, and later than what the ledger has."""
        folder = report_folder(self.out, found.study_key)
        if not self._may_be_known(found):
            return False
        if known is None:
            return owners(self.ledger, found) == {None} and self._is_whole(found, folder)
        if same_result(found, known.result) or (known.status == "unscored" and not self.is_foreign):
            return False
        former = known.result
        later = former is None or (found.revision, found.scored_at) > (former.revision, former.scored_at)
        later = later or (intent is not None and intent.mark == result_mark(found))
        return later and self._is_whole(found, folder)

    def _may_be_known(self, result: StudyResult) -> bool:
        """Tell whether the result may be in this output folder at all: where no names may be, it may have none."""
        return result.deidentified or not self.ledger.fact(DEIDENTIFIED)

    def _is_whole(self, result: StudyResult, folder: Path) -> bool:
        """Tell whether every picture of the result is there, and is its own."""
        return are_pictures_whole(result, folder) and not (self.is_earlier and _is_overwritten(result, folder))

    def _adopt(self, result: StudyResult, known: KnownStudy | None, intent: Intent | None) -> None:
        """Let the ledger take over a result; reports that are not of it are printed again from it."""
        folder = report_folder(self.out, result.study_key)
        there = {name: is_report_of(folder / name, result) for name in (REPORT_HTML, REPORT_PDF)}
        wanted = {
            REPORT_HTML: intent.html if intent else (folder / REPORT_HTML).exists(),
            REPORT_PDF: intent.pdf if intent else (folder / REPORT_PDF).exists(),
        }
        failures = sorted({image.message for image in result.refused if image.status == "failed"})
        lacks = any(wanted[name] and not there[name] for name in wanted) or _lacks_objects(folder, result, intent)
        failures += [UNPRINTED] if result.pictures and lacks else []
        paths = {name: f"{_relative(folder)}/{name}" if there[name] else "" for name in there}
        printed = PrintedStudy(result, paths[REPORT_HTML], paths[REPORT_PDF])
        reach("settle-adopt")
        adopt(self.ledger, printed, failure="; ".join(failures), is_known=known is not None)
        reach("settle-adopted")
        _tidy(folder, result, there)
        if intent is not None and not intent.keeps_earlier:
            remove_earlier_reports(folder)

    def _restore(self, known: KnownStudy, result: StudyResult, intent: Intent | None) -> None:
        """Bring the report folder back to what the ledger says."""
        folder = report_folder(self.out, result.study_key)
        found = read_result(folder)
        if not self._is_whole(result, folder):
            self._give_up(known, result, folder)
            return
        if not same_result(found, result):
            reach("settle-restore")
            durable.replace_text(folder / RESULT_JSON, f"{to_json(result, indent=2)}\n")
            reach("settle-restored")
        elif intent is not None and not intent.keeps_earlier and intent.mark == result_mark(result):
            remove_earlier_reports(folder)
        # Kept for a later revision that did not come to be: it stands as report.pdf still.
        remove_earlier_reports(folder, since=result.revision)
        listed = {REPORT_HTML: known.report_html, REPORT_PDF: known.report_pdf}
        there = {name: path if path and is_report_of(folder / name, result) else "" for name, path in listed.items()}
        if there != listed or has_foreign_objects(folder, result):
            html, pdf = there[REPORT_HTML], there[REPORT_PDF]
            record_reports(self.ledger, result.study_key, html=html, pdf=pdf, failure=UNPRINTED)
        _tidy(folder, result, {name: bool(path) for name, path in there.items()})

    def _give_up(self, known: KnownStudy, result: StudyResult, folder: Path) -> None:
        """Let go of reports whose pictures are not there any more: a page would show others beside its scores."""
        tidy_objects(folder, objects_of(folder, result))
        if known.report_html or known.report_pdf:
            pdf = known.report_pdf if is_report_of(folder / REPORT_PDF, result) else ""
            record_reports(self.ledger, result.study_key, html="", pdf=pdf, failure=LOST)
            (folder / REPORT_HTML).unlink(missing_ok=True)


def remove_as_ordered(out: Path, ledger: Ledger) -> int:
    """Remove the report folders that the ledger ordered to go; return how many there were."""
    ordered = ledger.results.ordered_removals()
    folders = [folder for key in ordered if (folder := report_folder(out, key)).exists()]
    for folder in folders:
        _remove_folder(folder)
    ledger.results.removals_done(ordered)
    return len(folders)


def order_orphans_removed(ledger: Ledger, orphans: list[str]) -> None:
    """Order that these report folders go, before the first of them does."""
    if orphans:
        with ledger.store.transaction(durable=True):
            for study_key in orphans:
                ledger.results.order_removal(study_key)


@dataclass(frozen=True, slots=True)
class Strays:
    """Report folders and ledger that do not fit: `orphans` are to go, `adopted` were taken over, `lost` are missing."""

    orphans: list[str]
    adopted: int
    lost: int


def settle_strays(settling: Settling) -> Strays:
    """Look at the report folders that the ledger has no result for, and at the results that have no folder.

    A study that was refused after all, or whose files belong to other studies now, is to lose its report. One that the
    ledger never heard of was finished before the ledger was lost, and is taken over.
    """
    ledger, out = settling.ledger, settling.out
    folders = key_set(report_folder_names(out))
    orphans, settled = [], Settled()
    with_result = key_set(ledger.results.keys_with_result())
    for study_key in as_text(without(folders, with_result)):
        found, known = read_result(report_folder(out, study_key)), known_study(ledger, study_key)
        if known is not None:
            orphans += [study_key] if known.status == "unscored" else []
        elif found is None or None not in owners(ledger, found) or not settling._may_be_known(found):
            orphans.append(study_key)
        else:
            settling._settle_study(study_key, None, settled)
    missing = without(with_result, folders)
    if len(missing):
        missing = without(missing, key_set(ledger.results.keys_without_pictures()))
    lost = record_lost(ledger, as_text(missing)) if len(missing) else 0
    if lost:
        log_event("report folders are missing", studies=lost)
    return Strays(orphans, settled.adopted, lost)


def read_result(folder: Path) -> StudyResult | None:
    """Return what result.json says; None where there is none of this study that can be read."""
    with suppress(OSError, ValueError):
        result = from_json((folder / RESULT_JSON).read_text(encoding="utf-8"), StudyResult)
        if result.study_key == folder.name and result.images:
            return result
    return None


def _is_overwritten(result: StudyResult, folder: Path) -> bool:
    """Tell whether a killed run of an earlier version may have put its own pictures under the names of this result's.

    There, names say nothing of the content, but what was written after result.json was not written for it.
    """
    plain = [name for name in picture_names(result) if not is_named_by_content(name)]
    try:
        written_ns = (folder / RESULT_JSON).stat().st_mtime_ns
        return any((folder / name).stat().st_mtime_ns > written_ns for name in plain)
    except OSError:
        return bool(plain)


def _lacks_objects(folder: Path, result: StudyResult, intent: Intent | None) -> bool:
    """Tell whether an object that was to be written is not there, or one is of another result."""
    there = objects_of(folder, result)
    return has_foreign_objects(folder, result) or any(name not in there for name in (intent.dicom if intent else ()))


def _tidy(folder: Path, result: StudyResult, keep: dict[str, bool]) -> None:
    """Remove what the ledger does not list: pictures and objects of another result, and reports."""
    tidy_objects(folder, objects_of(folder, result))
    if is_drawn(result):
        remove_stale_pictures(result, folder)
    for name, is_listed in keep.items():
        if not is_listed:
            (folder / name).unlink(missing_ok=True)


def _remove_folder(folder: Path) -> None:
    reach("orphan-remove")
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    reach("orphan-removed")


def _relative(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
