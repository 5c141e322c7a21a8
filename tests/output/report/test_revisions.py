"""A later revision replaces report.pdf, and the report that somebody may have acted upon is still there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cxrbatch.output.report import report as report_module
from cxrbatch.output.report.report import print_study, reprint_study
from cxrbatch.output.report.report_files import tidy_report
from cxrbatch.records import StudyResult
from cxrbatch.system import durable
from tests.factories.output import STUDY_KEY, make_pixels, make_study_result


@pytest.fixture(autouse=True)
def _quick_pdfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PDF that says which revision it is of, since what WeasyPrint makes of it is tested elsewhere."""
    for name in ("render_report", "render_paper"):
        monkeypatch.setattr(report_module, name, lambda result, **_: f"revision {result.revision}")
    monkeypatch.setattr("cxrbatch.output.report.pdf.render_pdf", lambda page, *_, **__: b"%PDF- " + page.encode())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "reports" / STUDY_KEY


def print_revision(out: Path, revision: int, *, pdf: bool = True, deidentified: bool = False) -> StudyResult:
    result = replace(make_study_result(revision=revision), deidentified=deidentified)
    printed = print_study(result, [make_pixels()], out, html=True, pdf=pdf)
    tidy_report(out, printed)
    return printed.result


def pdfs(folder: Path) -> dict[str, str]:
    return {path.name: path.read_bytes().decode().removeprefix("%PDF- ") for path in folder.glob("*.pdf")}


def test_every_earlier_report_is_kept_under_its_revision(tmp_path: Path, folder: Path) -> None:
    for revision in (1, 2, 3):
        print_revision(tmp_path, revision)
    assert pdfs(folder) == {
        "report.pdf": "revision 3",
        "report-r1.pdf": "revision 1",
        "report-r2.pdf": "revision 2",
    }
    for path in folder.glob("*.pdf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_printing_the_same_revision_again_keeps_nothing_more(tmp_path: Path, folder: Path) -> None:
    print_revision(tmp_path, 1)
    print_revision(tmp_path, 2)
    result = print_revision(tmp_path, 2)
    reprint_study(result, tmp_path, html=True, pdf=True)
    assert pdfs(folder) == {"report.pdf": "revision 2", "report-r1.pdf": "revision 1"}


def test_an_earlier_report_stays_when_the_later_revision_prints_none(tmp_path: Path, folder: Path) -> None:
    print_revision(tmp_path, 1)
    print_revision(tmp_path, 2, pdf=False)
    assert pdfs(folder) == {"report-r1.pdf": "revision 1"}


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("links", [True, False])
def test_killed_at_any_step_and_begun_again_nothing_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Before every link, rename and removal of a printing in turn; without hard links as on SMB, too."""
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)
    died = 0
    for step in range(40):
        out = tmp_path / str(step)
        print_revision(out, 1)
        with monkeypatch.context() as patched:
            kill_at(step, patched)
            try:
                print_revision(out, 2)
            except Killed:
                died += 1
        print_revision(out, 2)
        durable.remove_temporaries(out)
        assert pdfs(out / "reports" / STUDY_KEY) == {"report.pdf": "revision 2", "report-r1.pdf": "revision 1"}
    assert died > 6, "the test has to die in printing, not after it"


def refuse_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def kill_at(step: int, patched: pytest.MonkeyPatch) -> None:
    """Let the process die before this many-th change of a name."""
    left = [step]

    def dying(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return function(*arguments, **more)

        return call

    patched.setattr(os, "link", dying(os.link))
    patched.setattr(os, "fsync", dying(os.fsync))
    patched.setattr(Path, "replace", dying(Path.replace))
    patched.setattr(Path, "unlink", lambda *_, **__: None)  # a dead process cleans nothing up


def test_a_deidentified_revision_keeps_no_report_that_names_the_patient(tmp_path: Path, folder: Path) -> None:
    print_revision(tmp_path, 1)
    print_revision(tmp_path, 2)
    print_revision(tmp_path, 3, deidentified=True)
    assert pdfs(folder) == {"report.pdf": "revision 3"}
    print_revision(tmp_path, 4, deidentified=True)
    assert pdfs(folder) == {"report.pdf": "revision 4", "report-r3.pdf": "revision 3"}


def test_a_report_of_nobody_knows_which_revision_is_replaced(tmp_path: Path, folder: Path) -> None:
    print_revision(tmp_path, 1)
    (folder / "result.json").write_text('{"revision":')
    print_revision(tmp_path, 2)
    assert pdfs(folder) == {"report.pdf": "revision 2"}
