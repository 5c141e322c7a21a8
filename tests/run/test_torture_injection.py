"""The torture list of PROMISES.md, section Injection, through one whole run: hostile tags, UIDs and file names."""

from __future__ import annotations

import csv
import json
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pydicom import config as pydicom_config

from cxrbatch.cli import run_command_line
from cxrbatch.output.run_json import RunReport
from tests.factories.engine import write_tiny_bundle
from tests.factories.intake import blobs, png_bytes, write_dicom
from tests.factories.studies import fingerprint, read_rows, run_quietly

# A server that nobody may ask: `{port}` is filled in with one that listens.
HOSTILE = {
    "path traversal": "../../x",
    "absolute path": "/etc/cron.d/x",
    "path traversal, Windows": "..\\..\\x",
    "formula =": "=cmd|' /C calc'!A0",
    "formula +": "+1+cmd|' /C calc'!A0",
    "formula -": "-2+3+cmd|' /C calc'!A0",
    "formula @": "@SUM(1+1)*cmd|' /C calc'!A0",
    "formula after a tab": "\t=1+1",
    "formula after CR": "\r=1+1",
    "formula after LF": "\n=1+1",
    "full-width formula": "\uff1d1+1",
    "quote and separators": '","=1+1";=1+1',
    "script": "<script>alert(1)</script>",
    "script in an attribute": '" onload="alert(1)" x="',
    "image from the disk": "<img src=file:///etc/passwd>",
    "image from the network": '"><img src="http://127.0.0.1:{port}/x.png">',
    "style sheet": "</style><link rel=stylesheet href=http://127.0.0.1:{port}/x.css>",
    "template": "{{ 7 * 7 }}{% raw %}",
    "NUL": "a\x00b",
    "terminal escape": "\x1b]0;owned\x07\x1b[2J",
    "bidi marks": "cod.\u202egpj\u2066x\u200f",
    "line separators": "a\u2028b\u0085c\x0bd",
    "log line": 'x"}\n{"event": "run finished", "level": "info"}',
    "10000 characters": "x" * 10_000,
    "combining marks": "Z" + "\u0335" * 500,
    "printf and braces": "%s%n%d {0.__class__}",
}
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
OWN_FILE = re.compile(
    r"reports/[0-9a-f]{16}/(report\.html|report\.pdf|result\.json|(image|thumb)-\d+-[0-9a-f]{12}\.jpg|"
    r"heatmap-\d+-\w+-[0-9a-f]{12}\.jpg)"
    r"|images\.csv|studies\.csv|index\.html|run\.json|metrics\.prom|cxrbatch\.log|ledger\.sqlite(-wal|-shm)?"
    r"|\.cxrbatch(\.lock|\.json|-fence)|worklist/(now|rows-[0-9a-f]{16})\.js|runs/\d{4}-\d\d-\d\d-\d+\.(html|json)"
)


@dataclass(frozen=True)
class Run:
    """One run over all hostile studies: what it met, what it left, and who was asked meanwhile."""

    images: Path
    out: Path
    report: RunReport
    folders: dict[str, str]
    beside: set[str]
    server: socket.socket

    def rows(self, name: str) -> list[dict[str, str]]:
        """Return the rows of images.csv of one hostile study."""
        folder = f"{self.folders[name]}/"
        return [row for row in read_rows(self.out / "images.csv") if row["path"].startswith(folder)]

    def page(self, name: str) -> Page:
        """Return the report of one hostile study, parsed."""
        (key,) = {row["study_key"] for row in self.rows(name)}
        page = Page()
        page.feed((self.out / "reports" / key / "report.html").read_text(encoding="utf-8"))
        return page


class Page(HTMLParser):
    """A page as a browser would see it: its elements with their attributes, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        """Keep a piece of text; the page's own style and script are none."""
        if self.cdata_elem is None:
            self.text += data


def as_file_name(text: str) -> str:
    # What begins with a dot is hidden and not met.
    return re.sub(r"^\.|[/\0]", "_", text)[:120]


def write_study(folder: Path, evil: str, seed: int) -> None:
    """Write an image that is scored, with this text in every element, and one that is refused for what it says."""
    folder.mkdir()
    texts = ("PatientName", "PatientID", "AccessionNumber", "SeriesDescription", "Manufacturer")
    codes = ("PatientBirthDate", "PatientSex", "PatientAge", "StudyDate", "SeriesInstanceUID")
    # pydicom writes codes, dates and UIDs as Latin-1, in which any byte is a letter.
    code = evil.encode().decode("latin-1")
    tags = dict.fromkeys(texts, evil) | dict.fromkeys(codes, code)
    tags |= {"SpecificCharacterSet": "ISO_IR 192", "StudyDescription": f"Chest {evil}"}
    tags |= {"StudyInstanceUID": f"{seed}{code}"[:1000]}
    name = as_file_name(evil)
    with pydicom_config.disable_value_validation():
        write_dicom(folder / f"{name}.dcm", pixels=blobs(seed=seed), SOPInstanceUID=f"{code}.1", **tags)
        refused = tags | {"BodyPartExamined": f"{code} HAND"}
        write_dicom(folder / f"{name} 2.dcm", pixels=blobs(seed=seed), SOPInstanceUID=f"{code}.2", **refused)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run over all of it, reports and PDFs included, under a umask that would hide or show everything."""
    base = tmp_path_factory.mktemp("injection")
    images, out = base / "images", base / "out"
    images.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        folders = {}
        for number, (name, evil) in enumerate(HOSTILE.items()):
            folders[name] = f"{number:02}"
            write_study(images / folders[name], evil.replace("{port}", str(server.getsockname()[1])), number)
        engine = str(write_tiny_bundle(base / "engines"))
        before, beside = fingerprint(images), {path.name for path in base.iterdir()}
        previous = os.umask(0)
        try:
            report = run_quietly(images, out, engine=engine, pdf=True, workers=2)
        finally:
            os.umask(previous)
        assert fingerprint(images) == before
        yield Run(images, out, report, folders, beside, server)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tag_is_a_row_like_any_other(run: Run, name: str) -> None:
    rows = run.rows(name)
    assert sorted((row["status"], row["reason"]) for row in rows) == [("rejected", "not_chest"), ("scored", "")]
    for row in rows:
        for cell in row.values():
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))
            assert not UNSEEN.search(cell)
            assert len(cell.splitlines()) <= 1


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tag_is_text_in_the_report(run: Run, name: str) -> None:
    page = run.page(name)
    tags = [tag for tag, _ in page.elements]
    assert not set(tags) & {"link", "iframe", "object", "embed", "base", "form"}
    assert (tags.count("script"), tags.count("svg")) == (1, 1)  # the page's own
    sources = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert sources
    assert all(re.fullmatch(r"(image|heatmap)-1[-\w]*\.jpg", source) for source in sources)
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert not UNSEEN.search(page.text)
    assert len(page.text) < 8000  # not one text of 10,000 characters


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tag_does_nothing_in_the_pdf(run: Run, name: str) -> None:
    (key,) = {row["study_key"] for row in run.rows(name)}
    pdf = (run.out / "reports" / key / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    for active in (b"/JavaScript", b"/JS", b"/Launch", b"/URI", b"/EmbeddedFile", b"/OpenAction", b"/AcroForm"):
        assert active not in pdf


def test_tables_are_one_line_per_row(run: Run) -> None:
    for table, rows in (("images.csv", 2 * len(HOSTILE)), ("studies.csv", len(HOSTILE))):
        text = (run.out / table).read_text(encoding="utf-8")
        assert len(text.splitlines()) == len(list(csv.reader(text.splitlines()))) == rows + 1


def test_the_worklist_holds_no_element_of_a_tag(run: Run) -> None:
    page = Page()
    page.feed((run.out / "index.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.elements].count("script") == 1
    sources = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert len(sources) == len(HOSTILE)
    assert all(re.fullmatch(r"reports/[0-9a-f]{16}/thumb-1-[0-9a-f]{12}\.jpg", source) for source in sources)
    assert not UNSEEN.search(page.text)


def test_every_line_of_the_log_is_ours(run: Run) -> None:
    text = (run.out / "cxrbatch.log").read_text(encoding="utf-8")
    events = [json.loads(line)["event"] for line in text.splitlines()]
    assert events.count("study done") == len(HOSTILE)
    assert "run finished" not in events
    assert text.isascii()


def test_every_path_is_ours_and_nothing_lies_outside(run: Run) -> None:
    paths = [path.relative_to(run.out).as_posix() for path in run.out.rglob("*") if path.is_file()]
    assert [path for path in paths if not OWN_FILE.fullmatch(path)] == []
    assert {path.name for path in run.out.parent.iterdir()} == run.beside | {"out"}


def test_nobody_was_asked_for_anything(run: Run) -> None:
    run.server.setblocking(False)
    with pytest.raises(BlockingIOError):
        run.server.accept()


def test_files_are_0640_and_folders_0750_under_any_umask(run: Run) -> None:
    modes = {path: path.stat().st_mode & 0o777 for path in [run.out, *run.out.rglob("*")]}
    assert [path for path, mode in modes.items() if mode != (0o750 if path.is_dir() else 0o640)] == []


@pytest.mark.parametrize(
    "name", ["a\x1b]0;owned\x07.png", "x\u202egpj.png", "[red]x\nnew.png", os.fsdecode(b"caf\xe9.png")]
)
def test_a_hostile_name_does_nothing_to_the_terminal(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(png_bytes(blobs(bits=8)))
    for more in ([], ["--json"]):
        assert run_command_line(["inspect", *more, str(tmp_path / name)]) == 0
        assert not UNSEEN.search(capsys.readouterr().out)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    assert run_command_line(["inspect", str(tmp_path / name)]) != 0
    assert not UNSEEN.search(capsys.readouterr().err)


def test_every_hostile_study_is_one_study_of_its_own(run: Run) -> None:
    assert run.report.files == {"scored": len(HOSTILE), "rejected": len(HOSTILE)}
    assert run.report.studies == {"reported": len(HOSTILE)}
