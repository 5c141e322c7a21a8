"""Names that strangers chose, for engines, labels, files and columns, through every command: letters everywhere."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from cxrbatch.cli import run_command_line
from cxrbatch.cli.print_run import print_engines
from cxrbatch.engine.bundle import load_bundle, save_bundle
from cxrbatch.engine.model_card import MODEL_CARD, write_model_card
from cxrbatch.output.report.pictures import heatmap_file_names
from cxrbatch.pages.cells import restored
from cxrbatch.pages.terminal_text import PlainConsole, literal
from cxrbatch.records import Label
from cxrbatch.watch.systemd import status_line
from tests.factories.engine import write_tiny_bundle
from tests.factories.labelled import write_image as write_noise
from tests.factories.studies import write_image

pytestmark = pytest.mark.hostile("9.13 names are data")

NAMES = [
    *("[red]", "[/]", "[/red]x", "[link=https://evil.invalid]x[/link]", "[bold", ":skull:", "\\[red]", "a\\"),
    *("[@click=x]y", "\x1b[31mred", "\x1b]0;owned\x07", "\x9b2J", "\x7f\x08\r", "a\nb", "a\x00b", "\u202egpj"),
    *("\u2066x\u200b", "\U000e0041", "</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>'),
    *("{{ 7*7 }}", "{% raw %}", "&lt;", "</title>", 'x"} 1\ncxrbatch_up{a="', "a|b", "`x`", "*x*", "# x", "<!--"),
    *("[x](https://evil.invalid)", "$\\frac{1}{0}$", "_x", "$x", "=1+1", "x;=1", "x,=1", "'=1", "@SUM(1)", "prob_=1"),
    *("a,b", 'a"b', "../../x", "/etc/passwd", ".", "..", "CON", "x" * 300, "A_3", "A", "A!", "a", "\u0410", "%s%n"),
    *("{0.__class__}", "a\u2028b", "a\x85b", "-1", "READY=1\nSTATUS=x"),
]
SHOWN = NAMES[:41:2]
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)
ENGINE_NAME = "[/]\x1b[31m\u202e</title><script>alert(1)</script>`x`|y\nREADY=1"


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


def call(*arguments: str | Path) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run_command_line([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


def assert_inert(said: Said, code: int = 0) -> None:
    assert said.code == code, said.err
    for text in (said.out, said.err):
        assert not UNSEEN.search(text)
        assert "Traceback" not in text
        assert "\U0001f480" not in text


class Page(HTMLParser):
    """Everything of a page that is no text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.comments: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_inert_page(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not UNSEEN.search(page.text), path
    scripts = [tag for tag, _ in page.elements if tag == "script"]
    assert len(scripts) == text.count("script-src")
    for tag, attributes in page.elements:
        assert tag not in {"iframe", "object", "embed", "base", "link"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert re.fullmatch(r"[\w./#-]*", attributes.get(name) or "")
            assert not (attributes.get(name) or "").startswith("//")


def assert_inert_table(path: Path) -> list[list[str]]:
    text = path.read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO(text)))
    assert len(rows) == len(text.splitlines())
    for separator in ",;\t":
        for row in csv.reader(io.StringIO(text), delimiter=separator):
            for cell in row:
                number = re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", cell)
                assert number or not cell.lstrip(' "\xa0').startswith(("=", "+", "-", "@", "\t", "\r"))
                assert not UNSEEN.search(cell)
    assert len(set(rows[0])) == len(rows[0]), "two columns have one name"
    return rows


def write_hostile_engine(folder: Path, names: list[str], name: str = "hostile") -> Path:
    """Write an engine whose every text is hostile."""
    bundle = load_bundle(write_tiny_bundle(folder, name=name, labels=tuple(Label(label) for label in names)))
    evil = "[/]\x1b[2J<script>x</script>"
    training = replace(bundle.manifest.training, data=evil, init=evil, options={evil: evil}, libraries={evil: evil})
    save_bundle(
        bundle.folder,
        replace(bundle.manifest, name=ENGINE_NAME, notice=evil, architecture=evil, created=evil, training=training),
    )
    write_model_card(bundle.folder / MODEL_CARD, load_bundle(bundle.folder).manifest)
    return bundle.folder


@dataclass(frozen=True)
class Folders:
    base: Path
    images: Path
    out: Path
    engine: Path
    said: Said


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folders]:
    """One run of a hostile engine over images with hostile names."""
    base = tmp_path_factory.mktemp("names")
    images, out = base / "images", base / "out"
    for number, name in enumerate(("[red]a\x1b[2J\nb", "x;=1+1\u202e", "=1", "'=1")):
        write_image(images / f"{name}.png", 20 + 30 * number, 200, 40, 180)
    (images / "[bold]\x1b]0;x\x07.png").write_bytes(b"no picture")
    engine = write_hostile_engine(base / "engines", NAMES)
    (base / "cxrbatch.toml").write_text("pixel_check = false\nworkers = 1\npdf = false\n")
    said = call("run", images, "-o", out, "-e", engine, "--config", base / "cxrbatch.toml")
    yield Folders(base, images, out, engine, said)


def test_run_shows_letters(ran: Folders) -> None:
    assert_inert(ran.said)
    assert r"[/]\x1b[31m\u202e</title><script>" in ran.said.out.replace("\n", "")


@pytest.mark.parametrize("command", ["status", "status --json", "report --no-pdf", "prune --older-than 1d", "repair"])
def test_commands_on_the_folder_show_letters(ran: Folders, command: str) -> None:
    name, *more = command.split()
    assert_inert(call(name, ran.out, *more))


def test_status_as_json_is_json(ran: Folders) -> None:
    assert json.loads(call("status", ran.out, "--json").out)["last_run"]["engine"]["name"] == ENGINE_NAME


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_inspect_shows_letters(ran: Folders, more: list[str]) -> None:
    for path in sorted(ran.images.iterdir()):
        said = call("inspect", *more, path)
        assert_inert(said)
        if more:
            assert json.loads(said.out)["file"] == str(path)


def test_engines_and_doctor_show_letters(ran: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRBATCH_ENGINES", str(ran.engine.parent))
    monkeypatch.setenv("COLUMNS", "4000")
    damaged = ran.engine.parent / "damaged\x1b[2J[red]"
    damaged.mkdir(exist_ok=True)
    (damaged / "engine.json").write_text("{")
    said = call("engines")
    assert_inert(said)
    assert "[red], [/], [/red]x, [link=https://evil.invalid]x[/link], [bold, :skull:" in said.out
    said = call("doctor")
    assert not UNSEEN.search(said.out + said.err)
    assert "[/]" in said.out


def test_engines_show_letters_on_any_console(ran: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRBATCH_ENGINES", str(ran.engine.parent))
    stream = io.StringIO()
    print_engines(Console(file=stream, width=4000))
    assert not UNSEEN.search(stream.getvalue())


def test_bench_shows_letters(ran: Folders) -> None:
    said = call("bench", "-e", ran.engine, "--batch-sizes", "1", "--seconds", "0.01")
    assert_inert(said)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "", ".", "..", "a/b", "x" * 10_000, "[/]", "\x1b[2J", "\udcff", "-x", "a\x00b", "NUL\n"]
)
def test_an_engine_that_is_not_there_is_said_in_letters(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXRBATCH_ENGINES", str(tmp_path / "none\x1b[2J"))
    monkeypatch.setattr("cxrbatch.engine.installed.user_engines_folder", lambda: tmp_path / "nor here")
    (tmp_path / "images").mkdir()
    said = call("run", "images", "-o", "out", f"--engine={name}")
    # A NUL is refused where the settings are read.
    assert_inert(said, 4 if "\0" in name else 5)


def test_what_click_complains_of_is_said_in_letters(tmp_path: Path) -> None:
    evil = "\x1b[2J\u202e[/]"
    for arguments in (
        ["inspect", tmp_path / evil],
        [evil],
        ["run", tmp_path, f"--{evil}"],
        ["status", tmp_path / evil],
    ):
        said = call(*arguments)
        assert said.code == 2
        assert not UNSEEN.search(said.out + said.err)


def test_pages_hold_no_markup_of_a_name(ran: Folders) -> None:
    pages = list(ran.out.rglob("*.html"))
    assert len(pages) == 6
    for page in pages:
        assert_inert_page(page)


def test_tables_are_inert_and_tell_every_name_apart(ran: Folders) -> None:
    rows = assert_inert_table(ran.out / "images.csv")
    columns = [restored(column) for column in rows[0]]
    assert [column for column in columns if column.startswith("prob_")] == [f"prob_{name}" for name in NAMES]
    paths = {restored(row[0]) for row in rows[1:]}
    assert paths == {os.fsdecode(path.relative_to(ran.images)) for path in ran.images.iterdir()}
    assert_inert_table(ran.out / "studies.csv")


def test_metrics_are_read_by_prometheus(ran: Folders) -> None:
    text = (ran.out / "metrics.prom").read_text(encoding="utf-8")
    assert not UNSEEN.search(text)
    samples = {sample.name: sample for family in text_string_to_metric_families(text) for sample in family.samples}
    assert (
        samples["cxrbatch_engine_info"].labels["name"]
        == "[/]\\x1b[31m\\u202e</title><script>alert(1)</script>`x`|y\nREADY=1"
    )
    assert "cxrbatch_up" not in samples


def test_the_log_is_lines_of_json(ran: Folders) -> None:
    text = (ran.out / "cxrbatch.log").read_bytes().decode("ascii")
    assert not UNSEEN.search(text)
    assert all(json.loads(line)["event"] for line in text.splitlines())


def test_files_are_named_by_us(ran: Folders) -> None:
    names = {path.name for path in (ran.out / "reports").rglob("*") if path.is_file()}
    assert all(re.fullmatch(r"[\w.-]{1,80}", name, re.ASCII) for name in names)


def test_every_label_has_its_own_heatmap() -> None:
    for labels in (NAMES, ["A_3", "A", "A!"], ["a_4", "A", "a", "!a", "a!"], ["_2", "!", "?"], ["x" * 100, "x" * 101]):
        files = heatmap_file_names(1, [Label(name) for name in labels])
        assert len({name.lower() for name in files}) == len(labels)
        assert all(re.fullmatch(r"heatmap-1-\w{1,60}\.jpg", name, re.ASCII) for name in files)


def test_a_model_card_holds_no_markup_of_a_name(ran: Folders) -> None:
    text = (ran.engine / MODEL_CARD).read_text(encoding="utf-8")
    assert not UNSEEN.search(text)
    assert "<script" not in text
    assert not re.search(r"(?<!\\)\[[^\]]*\]\(", text)
    assert "https://" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
    assert len(table) == len(NAMES) + 2
    assert len(cells) == 1
    lines = text.splitlines()
    assert not [line for line in lines if re.match(r"(# x|=|READY=1)", line)]


# --------------------------------------------------------------------------- the workshop


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A labelled folder whose columns and cells are hostile."""
    folder = tmp_path / "data\x1b[2J[red]"
    folder.mkdir()
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "patient_id", "split", "sex", "age", "view", *SHOWN])
        for number in range(12):
            name = f"{SHOWN[number % len(SHOWN)].replace('/', '_').replace(chr(0), '').strip()[:60]} {number}.png"
            if number % 3 == 0:
                write_noise(folder / name, number, size_px=128)
            else:
                write_image(folder / name, 20 * number, 255 - 20 * number, 40, 90)
            targets = [(number + place) % 2 for place in range(len(SHOWN))]
            table.writerow([name, f"p{number}", "test", "MF"[number % 2], 20 + number, "=PA\x1b", *targets])
    return folder


def test_describe_writes_letters(labelled: Path, tmp_path: Path) -> None:
    said = call("describe", labelled, "-o", tmp_path / "out")
    assert_inert(said)
    check_folder(tmp_path / "out")


def test_evaluate_and_compare_write_letters(labelled: Path, tmp_path: Path) -> None:
    engine = write_hostile_engine(tmp_path / "engines", SHOWN)
    said = call("evaluate", engine, labelled, "-o", tmp_path / "out")
    assert_inert(said)
    check_folder(tmp_path / "out")
    said = call("compare", tmp_path / "out", engine, "-o", tmp_path / "compared", "--no-measure")
    assert_inert(said)
    check_folder(tmp_path / "compared")


def check_folder(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        if path.suffix == ".csv":
            assert_inert_table(path)
        elif path.suffix == ".html":
            assert_inert_page(path)
        elif path.suffix == ".svg":
            tree = ET.fromstring(path.read_text(encoding="utf-8"))
            assert not [element for element in tree.iter() if element.tag.endswith("script")]
            assert not UNSEEN.search("".join(tree.itertext())), path
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    assert any(path.suffix == ".html" for path in files)


# --------------------------------------------------------------------------- the boundary itself


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_console_shows_letters_and_keeps_its_own_colours(name: str) -> None:
    stream = io.StringIO()
    console = PlainConsole(file=stream, force_terminal=True, width=2000, emoji=False, color_system="standard")
    table = Table("a column", title=literal(name))
    table.add_row(literal(name, "red"))
    console.print(table)
    console.print(name, markup=False, highlight=False)
    console.print("[green]ours[/green]")
    written = stream.getvalue()
    assert "\x1b[32mours\x1b[0m" in written
    assert not UNSEEN.search(re.sub(r"\x1b\[[\d;]*m", "", written))
    assert "\x1b[31mred" not in written or name != "\x1b[31mred"


def test_as_a_process_of_its_own(ran: Folders, tmp_path: Path) -> None:
    """The bytes that a shell sees, its log and warnings included."""
    environment = {**os.environ, "CXRBATCH_ENGINES": str(ran.engine.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "cxrbatch", "engines"], env=environment, capture_output=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0
    assert not UNSEEN.search(done.stdout.decode() + done.stderr.decode())


@pytest.mark.parametrize("text", ["a\nREADY=1", "a\rb", "\x1b[2J\x00", "\u2028x", "\udcff", "\u202e"])
def test_a_status_for_systemd_is_one_assignment(text: str) -> None:
    line = status_line(text)
    assert len(line.splitlines()) == 1
    assert line.startswith("STATUS=")
    assert not UNSEEN.search(line)
    assert line.encode()


def test_probabilities_are_those_of_the_engine(ran: Folders) -> None:
    """Columns keep their order, whatever their names: the label at place i looks at quadrant i % 4."""
    with (ran.out / "images.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream) if row[1] in {"status", "scored"}]
    first = rows[0].index(next(column for column in rows[0] if restored(column) == f"prob_{NAMES[0]}"))
    values = np.array([[float(cell) for cell in row[first : first + len(NAMES)]] for row in rows[1:]])
    np.testing.assert_allclose(values, values[:, np.arange(len(NAMES)) % 4])
