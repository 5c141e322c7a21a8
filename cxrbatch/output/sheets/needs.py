"""What of a run needs a person, in sentences, the worst first; nothing of them names a patient or a path."""

from __future__ import annotations

from collections.abc import Iterator

from cxrbatch.output.drift import DriftReport
from cxrbatch.output.run_json import RunReport
from cxrbatch.output.sheets.drift_words import drift_said
from cxrbatch.output.sheets.facts import RunSheet
from cxrbatch.pages import wording
from cxrbatch.pages.language import gettext as _, ngettext, whole

FAILURES_SHOWN = 10
ALARMS_SHOWN = 8
_LONGEST_MESSAGE = 300


def needs_a_person(sheet: RunSheet, report: RunReport) -> Iterator[str]:
    """Say, the worst first, what somebody should look at; nothing where the run needs nobody."""
    if not sheet.finished and sheet.kind == "run":
        yield _("The run was stopped before its end. The same command goes on with what is left.")
    if urgent := sheet.priorities.get("urgent", 0):
        said = ngettext("{count} urgent study to be read first.", "{count} urgent studies to be read first.", urgent)
        yield said.format(count=whole(urgent))
    yield from _failure_sentences(sheet, report)
    yield from _input_sentences(sheet, report)
    yield from _drift_sentences(report.drift)
    if sheet.came > 0 and 2 * sheet.refused > sheet.came:
        said = _("More than half of what came was refused ({refused} of {came} files): see the reasons below.")
        yield said.format(refused=whole(sheet.refused), came=whole(sheet.came))
    if sheet.came == 0 and sheet.studies_done == 0 and sheet.finished:
        yield _("Nothing came. If there should have been studies, look at what sends them.")


def _failure_sentences(sheet: RunSheet, report: RunReport) -> Iterator[str]:
    if not (failed := sheet.studies.get("failed", 0)):
        return
    yield ngettext(
        "{count} study failed, and will be tried again in the next run:",
        "{count} studies failed, and will be tried again in the next run:",
        failed,
    ).format(count=whole(failed))
    messages = list(report.failures.items())
    for key, message in messages[:FAILURES_SHOWN]:
        shown = wording.plain(message, longest=_LONGEST_MESSAGE)
        yield _("study {key}: {message}").format(key=key, message=shown)
    if len(messages) > FAILURES_SHOWN:
        yield _("... and {count} more in run.json.").format(count=whole(len(messages) - FAILURES_SHOWN))


def _input_sentences(sheet: RunSheet, report: RunReport) -> Iterator[str]:
    if sheet.unlistable:
        yield ngettext(
            "{count} folder of the input cannot be listed: check permissions and mounts.",
            "{count} folders of the input cannot be listed: check permissions and mounts.",
            sheet.unlistable,
        ).format(count=whole(sheet.unlistable))
    if sheet.deferred:
        yield ngettext(
            "{count} file cannot be read now; every run tries it again.",
            "{count} files cannot be read now; every run tries them again.",
            sheet.deferred,
        ).format(count=whole(sheet.deferred))
    if report.folders_hidden:
        yield ngettext(
            "{count} folder of the input was left out, for it says that cxrbatch wrote it.",
            "{count} folders of the input were left out, for they say that cxrbatch wrote them.",
            report.folders_hidden,
        ).format(count=whole(report.folders_hidden))


def _drift_sentences(drift: DriftReport | None) -> Iterator[str]:
    if drift is None:
        return
    said = [_("Drift: {what}.").format(what=drift_said(line)) for line in drift.alarms]
    for each in drift.scanners:
        name = wording.plain(each.scanner, longest=120)
        said += [_("Drift on {scanner}: {what}.").format(scanner=name, what=drift_said(line)) for line in each.alarms]
    yield from said[:ALARMS_SHOWN]
    if len(said) > ALARMS_SHOWN:
        yield _("... and {count} more that drifted: see below.").format(count=len(said) - ALARMS_SHOWN)
