"""Runs with templates of an operator's own: they reach every page and process; their mistakes end the run at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.config import Settings
from cxrbatch.errors import ConfigurationError, ExitCode
from cxrbatch.pages.own_templates import in_use
from cxrbatch.run.own_pages import pages_by
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import read_rows, run_quietly, write_image

REPORT = '{% extends "package/report.html.j2" %}{% block origin %}<p>{{ mark_of_ours }}</p>{% endblock %}'
REPORT = REPORT.replace("{{ mark_of_ours }}", "House {{ report.study_key }}")
WORKLIST = '{% extends "package/worklist.html.j2" %}{% block footer %}<footer>House list</footer>{% endblock %}'
SHEET = '{% extends "package/sheet.html.j2" %}{% block footer %}<footer>House sheet</footer>{% endblock %}'


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("base")
    write_image(base / "images" / "a.png", 20, 60, 120, 240)
    write_tiny_bundle(base / "engines")
    folder = base / "templates"
    folder.mkdir()
    for name, text in {"report.html.j2": REPORT, "worklist.html.j2": WORKLIST, "sheet.html.j2": SHEET}.items():
        (folder / name).write_text(text)
    (folder / "reports.css").write_text("")
    run_quietly(base / "images", base / "out", engine=str(base / "engines/tiny"), html=False)
    return base


def changed(base: Path, folder: Path, **files: str) -> str:
    shutil.copytree(base / "templates", folder)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return str(folder)


def test_every_page_is_of_the_folder_and_a_typo_is_told(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")
    out, engine = tmp_path / "out", str(base / "engines/tiny")
    arguments = ["run", str(base / "images"), "-o", str(out), "-e", engine, "--no-pdf"]
    assert run_command_line([*arguments, "--templates", str(base / "templates")]) == ExitCode.DONE
    assert "reports.css: not used; is it meant to be report.css?" in capsys.readouterr().out
    (row,) = read_rows(out / "studies.csv")
    report = out / row["report_html"]
    assert f"<p>House {row['study_key']}</p>" in report.read_text()
    assert "<footer>House list</footer>" in (out / "index.html").read_text()
    assert "<footer>House sheet</footer>" in next(out.glob("runs/*.html")).read_text()

    # A run without them writes the list anew; the report stays until it is asked for.
    assert run_command_line(arguments) == ExitCode.DONE
    assert "House list" not in (out / "index.html").read_text()
    assert "House" in report.read_text()
    assert run_command_line(["report", str(out), "--no-pdf"]) == ExitCode.DONE
    assert "House" not in report.read_text()
    assert run_command_line(["report", str(out), "--no-pdf", "--templates", str(base / "templates")]) == ExitCode.DONE
    assert "House" in report.read_text()
    assert "House list" in (out / "index.html").read_text()
    assert in_use().files == ()


def test_a_mistake_ends_the_run_before_anything_is_read(base: Path, tmp_path: Path) -> None:
    folder = changed(base, tmp_path / "templates", sheet_html_j2="{{ nothing }}")
    with pytest.raises(ConfigurationError, match=r"sheet\.html\.j2, line 1: 'nothing' is undefined"):
        run_quietly(base / "images", tmp_path / "out", engine=str(base / "engines/tiny"), templates=folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [["repair"], ["prune", "--older-than", "1d"], ["report"], ["run", "--dry-run"]])
def test_every_command_that_writes_pages_looks_at_them_first(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    folder = changed(base, tmp_path / "templates", sheet_html_j2="{% if %}")
    out = Path(shutil.copytree(base / "out", tmp_path / "out"))
    name, *options = command
    arguments = (
        [str(base / "images"), "-o", str(out), "-e", str(base / "engines/tiny")] if name == "run" else [str(out)]
    )
    assert run_command_line([name, *arguments, *options, "--templates", folder]) == ExitCode.CONFIGURATION
    assert "sheet.html.j2, line 1: Expected an expression" in capsys.readouterr().err


def test_a_print_that_asks_for_something_ends_the_run_before_anything_is_read(base: Path, tmp_path: Path) -> None:
    folder = changed(base, tmp_path / "templates")
    (Path(folder) / "report-print.css").write_text("body { background: url(https://example.org/logo.png) }")
    with pytest.raises(ConfigurationError, match=r"report\.pdf asks for https://example\.org/logo\.png"):
        run_quietly(base / "images", tmp_path / "out", engine=str(base / "engines/tiny"), templates=folder, pdf=True)
    assert not (tmp_path / "out").exists()


def test_a_mistake_that_only_a_real_study_shows_ends_the_run_too(base: Path, tmp_path: Path) -> None:
    """No made-up study is called a.png."""
    rare = '{% extends "package/report.html.j2" %}\n{% block origin %}{% if "a.png" in report.heading %}{{ report.x }}'
    folder = changed(base, tmp_path / "templates", report_html_j2=rare + "{% endif %}{% endblock %}")
    out = tmp_path / "out"
    with pytest.raises(ConfigurationError, match=r"report\.html\.j2, line 2: .* has no attribute 'x'"):
        run_quietly(base / "images", out, engine=str(base / "engines/tiny"), templates=folder)
    (row,) = read_rows(out / "studies.csv")
    assert row["status"] == "pending", "it waits for a run with templates that can be used"
    assert run_quietly(base / "images", out, engine=str(base / "engines/tiny")).studies == {"reported": 1}


def test_a_daemon_goes_back_to_templates_that_could_be_used(base: Path, tmp_path: Path) -> None:
    folder = changed(base, tmp_path / "templates")
    settings, said = Settings(templates=folder, pdf=False), list[str]()
    with pages_by(settings, said.append):
        good = in_use()
    (tmp_path / "templates" / "sheet.html.j2").write_text("{% if %}")
    with pytest.raises(ConfigurationError), pages_by(Settings(templates=folder, pdf=False), said.append):
        pass
    with pages_by(settings, said.append):
        assert in_use() == good
    assert in_use().files == ()
