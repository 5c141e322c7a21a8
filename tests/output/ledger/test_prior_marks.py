"""The worklist marks a study for its priors exactly where its report names one: one rule, tried on the same cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.output.ledger import priors as priors_module
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.priors import WithPrior
from cxrbatch.output.ledger.schema_growth import UNKNOWN_PRIORS
from cxrbatch.output.report.report import render_report
from cxrbatch.records import ImageFile, IndexedFile, PrintedStudy
from cxrbatch.run.deidentification import Pseudonyms
from tests.factories.output import make_header, make_study_result

PSEUDONYMS = Pseudonyms(b"k" * 32)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as ledger:
        yield ledger


def add(ledger: Ledger, name: str, date: str, *, html: bool = True, deidentified: bool = False, **fields: Any) -> None:
    """Let a study be scored, and reported with the priors that the ledger knows then."""
    header = make_header(study_date=date, **fields)
    if deidentified:
        header = PSEUDONYMS.header(header)
    result = make_study_result(header=header, study_key=name)
    result = replace(result, images=(replace(result.images[0], path=f"{name}.dcm", image_file="image-1.jpg"),))
    ledger.index.record([IndexedFile(ImageFile(f"{name}.dcm", 1, 1), name, header)])
    priors = ledger.priors.of(name, header)
    path = f"reports/{name}/report.html" if html else ""
    ledger.results.record(PrintedStudy(result, path, priors=priors if html else ()))


def settle(ledger: Ledger) -> None:
    """Let the reports be printed again that say what is no longer so, as a run does before it writes its list."""
    due = ledger.priors.due()
    for each in list(ledger.priors.overtaken()):
        path = f"reports/{each.result.study_key}/report.html"
        ledger.results.record_printed(PrintedStudy(each.result, path, priors=each.priors))
    ledger.priors.settled(due)


def shown(ledger: Ledger) -> set[str]:
    """Return the studies whose report has a table of earlier ones."""
    rows = [row.result for row in ledger.results.study_rows() if row.result]
    pages = {each.study_key: render_report(each, priors=ledger.priors.of(each.study_key, each.header)) for each in rows}
    return {key for key, page in pages.items() if '<table class="priors">' in page}


def day_after_day(ledger: Ledger, **fields: Any) -> None:
    for number, date in enumerate(("20230101", "20240101", "20240201"), start=1):
        add(ledger, f"{number}", date, **fields)


def one_day(ledger: Ledger) -> None:
    add(ledger, "a", "20230101")
    add(ledger, "b", "20230101")


def anonymous(ledger: Ledger) -> None:
    for number in range(6):
        add(ledger, f"anon-{number}", f"2023010{number + 1}", patient_id="7")
    add(ledger, "a", "20230101", patient_id="P1")
    add(ledger, "b", "20230102", patient_id="P1")


def others(ledger: Ledger) -> None:
    """Same ID, other person."""
    add(ledger, "born-1", "20230101", patient_birth_date="19620228")
    add(ledger, "born-2", "20230102", patient_birth_date="19700101")
    add(ledger, "of-one", "20230101", patient_id="X", patient_id_issuer="one")
    add(ledger, "of-two", "20230102", patient_id="X", patient_id_issuer="two")
    add(ledger, "anon-1", "20230101", patient_id="ANON")
    add(ledger, "anon-2", "20230102", patient_id="ANON")
    add(ledger, "none-1", "20230101", patient_id="")
    add(ledger, "none-2", "20230102", patient_id="")


def spelled(ledger: Ledger) -> None:
    """Same person, written in another way: birth date and issuer of one are missing."""
    add(ledger, "1", "20230101", patient_name="DOE^JANE", patient_birth_date="")
    add(ledger, "2", "20230102", patient_name="Doe^Jane^^Dr")


def undated(ledger: Ledger) -> None:
    add(ledger, "1", "20230101")
    add(ledger, "2", "")
    add(ledger, "3", "2024")


def late(ledger: Ledger) -> None:
    """The earlier study comes last."""
    add(ledger, "2", "20240101")
    add(ledger, "1", "20230101")


def not_scored(ledger: Ledger) -> None:
    """The earlier, and another later study wait."""
    for name, date in (("1", "20230101"), ("3", "20240301")):
        ledger.index.record([IndexedFile(ImageFile(f"{name}.dcm", 1, 1), name, make_header(study_date=date))])
    add(ledger, "2", "20240101")


CASES: dict[str, tuple[Callable[[Ledger], None], set[str]]] = {
    "earlier days": (day_after_day, {"2", "3"}),
    "one day": (one_day, {"a", "b"}),
    "de-identified": (lambda ledger: day_after_day(ledger, deidentified=True), {"1", "2", "3"}),
    "an ID that is nobody's": (anonymous, {"b"}),
    "other people": (others, set()),
    "spelled otherwise": (spelled, {"2"}),
    "without a date": (undated, set()),
    "the earlier one last": (late, {"2"}),
    "not scored": (not_scored, set()),
    "without reports": (lambda ledger: day_after_day(ledger, html=False), {"2", "3"}),
}


def marked(ledger: Ledger) -> set[str]:
    """Return the keys of the studies that a list of all of them marks."""
    with_prior = WithPrior(ledger.priors)
    return {row.study_key for row in ledger.results.study_rows() if row.study_key in with_prior}


@pytest.mark.parametrize("case", CASES)
def test_list_and_report_say_the_same(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(priors_module, "MOST_STUDIES", 5)
    fill, wanted = CASES[case]
    fill(ledger)
    settle(ledger)
    assert shown(ledger) == wanted
    assert marked(ledger) == wanted


def test_a_report_that_was_taken_over_from_the_disk_is_marked_for_what_it_will_say(ledger: Ledger) -> None:
    day_after_day(ledger)
    add(ledger, "alone", "20230101", patient_id="P9")
    ledger.store.execute("UPDATE studies SET priors = ?", (UNKNOWN_PRIORS,))
    assert marked(ledger) == {"2", "3"}


def test_reports_without_priors_are_not_marked(ledger: Ledger) -> None:
    day_after_day(ledger)
    (row,) = ledger.results.study_rows("2")
    assert row.result is not None
    ledger.results.record_printed(PrintedStudy(row.result, row.report_html))
    assert marked(ledger) == {"3"}
