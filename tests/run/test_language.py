"""A run in German: pages are German, and whatever machines read is as in English; printed reports change when asked."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from cxrbatch.config import Settings
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.ledger.ledger import ENGINE, LOCALE
from cxrbatch.output.tables import IMAGES_CSV, STUDIES_CSV, derive_tables
from cxrbatch.records import EngineDescription
from cxrbatch.serve.studies import Query, Studies
from cxrbatch.system.logbook import log_limits
from cxrbatch.system.progress import RunProgress
from cxrbatch.system.record_json import from_json
from cxrbatch.upkeep.reprint import reprint_reports
from tests.factories.engine import write_tiny_bundle
from tests.factories.intake import write_dicom
from tests.factories.studies import run_quietly, write_image


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The output of the same images in both languages, each with DICOM objects and a PDF."""
    folder = tmp_path_factory.mktemp("both")
    engine = str(write_tiny_bundle(folder / "engines"))
    write_image(folder / "images" / "two.png", 20, 60, 120, 240)
    write_dicom(folder / "images" / "one.dcm")
    (folder / "images" / "notes.txt").write_text("no image")
    outs = {}
    for locale in ("en", "de"):
        outs[locale] = folder / locale
        run_quietly(folder / "images", outs[locale], engine=engine, pdf=True, dicom="sr", locale=locale)
    return outs


def page(out: Path, name: str = "reports/*/report.html") -> str:
    return "\n".join(path.read_text() for path in sorted(out.glob(name)))


def test_pages_are_in_the_language_asked_for(both: dict[str, Path]) -> None:
    german, english = page(both["de"]), page(both["en"])
    assert german.count('<html lang="de">') == english.count('<html lang="en">') == 2
    for said, instead in (("Bericht Röntgen-Thorax", "Chest radiograph report"), ("Schwelle 0,", "threshold 0.")):
        assert said in german
        assert said not in english
        assert instead in english
        assert instead not in german
    assert "<h1>Arbeitsliste</h1>" in page(both["de"], "index.html")
    assert "Die Datei ist weder DICOM noch PNG noch JPEG." in page(both["de"], "runs/*.html")
    assert "Lauf vom " in page(both["de"], "runs/*.html")


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext of poppler-utils is not installed")
def test_a_pdf_is_in_that_language_with_its_margins(both: dict[str, Path]) -> None:
    first = min(both["de"].glob("reports/*/report.pdf"))
    text = subprocess.run(["pdftotext", "-layout", first, "-"], check=True, capture_output=True, text=True).stdout
    for said in ("Beurteilung", "Schwelle", "Seite 1 von 1", "Nicht zur Diagnosestellung", "Fassung: 1"):
        assert said in text


def test_what_machines_read_is_english_in_every_language(both: dict[str, Path]) -> None:
    for table, timed in ((IMAGES_CSV, "scored_at"), (STUDIES_CSV, "reported_at")):
        german, english = (_without(both[locale] / table, timed) for locale in ("de", "en"))
        assert german == english
    results = [
        [_untimed(json.loads(path.read_text())) for path in sorted(both[locale].glob("reports/*/result.json"))]
        for locale in ("de", "en")
    ]
    assert results[0] == results[1]
    objects = [next(both[locale].glob("reports/*/dicom/sr.dcm")).read_bytes() for locale in ("de", "en")]
    assert all(b"Wahrscheinlich" not in each and b"Befund" not in each for each in objects)
    assert len(objects[0]) == len(objects[1])
    studies = [[_untimed(each) for each in _studies(both[locale])] for locale in ("de", "en")]
    for german, english in zip(*studies, strict=True):
        assert german["findings"] == english["findings"]
        assert german["study_date"] == english["study_date"]


def _studies(out: Path) -> list[dict[str, object]]:
    found = Studies(out).find(Query())["studies"]
    assert isinstance(found, list)
    return sorted(found, key=lambda each: str(each["study_key"]))


def _without(table: Path, *columns: str) -> list[list[str]]:
    rows = [line.split(",") for line in table.read_text().splitlines()]
    left = [n for n, name in enumerate(rows[0]) if name not in columns]
    return sorted([row[n] for n in left if n < len(row)] for row in rows)


def _untimed(record: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in record.items() if key not in {"scored_at", "arrived_at"}}


def test_another_language_changes_lists_at_once_and_reports_when_asked(both: dict[str, Path], tmp_path: Path) -> None:
    out = shutil.copytree(both["de"], tmp_path / "de")
    former = page(out)
    run_quietly(both["de"].parent / "images", out, engine=str(next((both["de"].parent / "engines").iterdir())))
    assert "<h1>Worklist</h1>" in page(out, "index.html")
    assert page(out) == former, "what is printed stays until it is printed again"
    with open_output(out, log_limits(Settings())) as ledger:
        ledger.remember(LOCALE, "tlh")
        derive_tables(out, ledger, from_json(ledger.fact(ENGINE), EngineDescription))
    assert "<h1>Worklist</h1>" in page(out, "index.html"), "a language of another version"
    with RunProgress(Console(quiet=True)) as progress:
        assert reprint_reports(out, Settings(pdf=False, workers=1), progress) == {}
    assert 'lang="de"' not in page(out)
    assert page(out).count('lang="en"') == 2
