"""An operator's templates: what they may change, and what is said of mistakes, with file and line, before any work."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cxrbatch.errors import ConfigurationError
from cxrbatch.output.report.paper import render_paper
from cxrbatch.output.report.report import render_report
from cxrbatch.output.specimen import specimen_studies
from cxrbatch.output.template_check import check_print, check_templates
from cxrbatch.pages.own_templates import OVERRIDABLE, OwnTemplates, printing_with, read_templates
from cxrbatch.pages.page import TEMPLATES, environment
from tests.factories.output import make_header, make_study_result

Write = Callable[..., OwnTemplates]
EXTENDED = '{% extends "package/report.html.j2" %}\n'


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a folder of templates and read it."""

    def write_templates(**files: str) -> OwnTemplates:
        for name, text in files.items():
            (tmp_path / name.replace("__", "-").replace("_", ".")).write_text(text, encoding="utf-8")
        return read_templates(str(tmp_path))[0]

    return write_templates


def refused(own: OwnTemplates) -> str:
    with pytest.raises(ConfigurationError) as raised:
        check_templates(own)
    return str(raised.value)


def packaged(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


# --------------------------------------------------------------------------- what they may do


def test_one_block_is_replaced_and_the_rest_is_the_packages(write: Write) -> None:
    own = write(
        report_html_j2=EXTENDED
        + "{% block origin %}<footer>St. Elsewhere, {{ report.study_key }}</footer>{% endblock %}"
    )
    assert check_templates(own) == []
    result = make_study_result()
    plain = render_report(result)
    with printing_with(own):
        page, paper = render_report(result), render_paper(result)
    before, _, rest = plain.partition('<footer class="origin">')
    assert page == before + f"<footer>St. Elsewhere, {result.study_key}</footer>" + rest.partition("</footer>\n")[2]
    assert paper == render_paper(result), "the other pages are as they were"
    assert render_report(result) == plain, "nothing stays in use"


def test_a_block_may_show_the_packages_and_more(write: Write) -> None:
    own = write(
        sheet_html_j2='{% extends "package/sheet.html.j2" %}'
        "{% block head %}{{ super() }}<p>{{ logo() }}</p>{% endblock %}"
        '{% macro logo() %}<svg width="9" height="9"></svg>{% endmacro %}'
    )  # fmt: skip
    assert check_templates(own) == []


@pytest.mark.parametrize("name", [name for name in OVERRIDABLE if name.endswith(".j2")])
def test_a_copy_of_a_page_makes_the_same_page(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(packaged(name), encoding="utf-8")
    own = read_templates(str(tmp_path))[0]
    assert check_templates(own) == []
    study = specimen_studies()[0]
    plain = render_report(study.result, priors=study.priors), render_paper(study.result, priors=study.priors)
    with printing_with(own):
        assert plain == (
            render_report(study.result, priors=study.priors),
            render_paper(study.result, priors=study.priors),
        )


def test_a_style_sheet_is_replaced_on_the_page_and_in_the_pdf(write: Write) -> None:
    own = write(report_css=".own { color: #123456 }", report__print_css="@page { size: A5; margin: 5mm }")
    assert check_templates(own) == []
    with printing_with(own):
        page = render_report(make_study_result())
    assert ".own { color: #123456 }" in page
    assert packaged("report.css") not in page
    assert packaged("look.css") in page
    check_print(own, sheet_pdf=False)


def test_templates_may_include_others_of_the_folder_and_ask_for_the_version(write: Write) -> None:
    own = write(
        report_html_j2=EXTENDED + '{% block origin %}{% include "house.html.j2" %}{% endblock %}',
        house_html_j2="<p>{{ report.heading }} {{ context_version }}.{{ context_minor }}"
        "{% if newer is defined %}{{ newer }}{% endif %}</p>",
    )
    assert check_templates(own) == []
    with printing_with(own):
        assert "Doe, Dr Jane 1.0</p>" in render_report(make_study_result())


def test_what_files_say_stays_escaped_and_letters_only(write: Write) -> None:
    own = write(report_html_j2=EXTENDED + "{% block origin %}[{{ report.heading }}]{% endblock %}")
    header = make_header(patient_name="<script>alert(1)</script>\u202e")
    with printing_with(own):
        page = render_report(make_study_result(header=header))
    assert "[&lt;script&gt;alert(1)&lt;/script&gt;]" in page


def test_the_packages_compiled_templates_are_not_mixed_up_with_others(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    own = write(report_html_j2=packaged("report.html.j2").replace("Chest radiograph report", "Own report"))
    assert environment(own).bytecode_cache is None
    with printing_with(own):
        assert "Own report" in render_report(make_study_result())
    assert "Own report" not in render_report(make_study_result())


# --------------------------------------------------------------------------- mistakes


def test_a_missing_name_is_told_with_file_and_line(write: Write, tmp_path: Path) -> None:
    said = refused(write(report_html_j2=EXTENDED + "{% block origin %}\n<p>{{ report.headng }}</p>\n{% endblock %}"))
    assert said.startswith(f"template {tmp_path / 'report.html.j2'}, line 3: ")
    assert "has no attribute 'headng'" in said
    assert "docs/templates.md" in said


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("{% block origin %}\n{{ reprt.heading }}{% endblock %}", 3, "'reprt' is undefined"),
        ("{% block origin %}\n{% if false %}\n{{ hospital }}{% endif %}{% endblock %}", 4, "'hospital' is undefined"),
        ("{% block origin %}\n{{ report.heading }\n{% endblock %}", 3, "unexpected '}'"),
        ("{% block origin %}\n{% if x %}{% endblock %}", 3, "endblock"),
        ("{% block origin %}\n{{ report.heading | safe }}{% endblock %}", 3, "No filter named 'safe'"),
        ("{% block origin %}\n{% autoescape false %}{% endautoescape %}{% endblock %}", 3, "every text of a page"),
        ("{% block origin %}\n{{ ().__class__.__mro__ }}{% endblock %}", 3, "SecurityError"),
        ("{% block origin %}\n{% include 'none.j2' %}{% endblock %}", 3, "none.j2"),
        ("{% block origin %}\n{{ 1 // 0 }}{% endblock %}", 3, "ZeroDivisionError"),
        ("{% block origin %}\n{% for each in report.findings %}{{ each.hue }}{% endfor %}{% endblock %}", 3, "'hue'"),
    ],
)  # fmt: skip
def test_every_mistake_is_told_with_its_line(write: Write, tmp_path: Path, text: str, line: int, what: str) -> None:
    said = refused(write(report_html_j2=EXTENDED + text))
    assert said.startswith(f"template {tmp_path / 'report.html.j2'}, line {line}: ")
    assert what in said


@pytest.mark.parametrize("name", ["worklist.html.j2", "sheet.html.j2", "report-print.xml.j2", "viewer.html.j2"])
def test_a_missing_name_is_found_on_every_page(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(packaged(name) + "\n{{ nowhere }}", encoding="utf-8")
    own = read_templates(str(tmp_path))[0]
    assert refused(own).startswith(f"template {tmp_path / name}, line {packaged(name).count(chr(10)) + 2}: 'nowhere'")


@pytest.mark.parametrize("includes", ["viewer.html.j2", "report.html.j2"])
def test_templates_that_include_each_other_in_a_circle_are_told_so(write: Write, tmp_path: Path, includes: str) -> None:
    circle = f'{{% include "{includes}" %}}\n'
    own = write(report_html_j2=circle, viewer_html_j2='\n{% include "report.html.j2" %}')
    assert re.search(rf"{tmp_path}/\w+\.html\.j2, line [12]: templates include .* in a circle\.", refused(own))


def test_a_page_that_extends_itself_is_told_what_to_write(write: Write) -> None:
    assert '{% extends "package/report.html.j2" %}' in refused(write(report_html_j2='{% extends "report.html.j2" %}'))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('<meta http-equiv="Content-Security-Policy" content="{{ policy }}">\n', ""),
        ("{{ policy }}", "default-src *"),
        (
            '<meta charset="utf-8">\n',
            '<meta charset="utf-8">\n<link rel="stylesheet" href="https://example.org/x.css">\n',
        ),
        ('<meta charset="utf-8">\n', '<meta charset="utf-8">\n<!--\n'),
    ],
    ids=["left out", "another", "after a link", "in a comment"],
)
def test_no_page_goes_without_its_policy(tmp_path: Path, old: str, new: str) -> None:
    page = {"": "worklist.html.j2", "default-src *": "sheet.html.j2"}.get(new, "report.html.j2")
    (tmp_path / page).write_text(packaged(page).replace(old, new, 1), encoding="utf-8")
    said = refused(read_templates(str(tmp_path))[0])
    assert str(tmp_path / page) in said
    assert "Content-Security-Policy" in said


def test_a_page_for_the_pdf_has_to_be_well_formed_and_to_ask_for_nothing(write: Write, tmp_path: Path) -> None:
    paper = packaged("report-print.xml.j2")
    said = refused(write(report__print_xml_j2=paper.replace("</body>", "<br></body>")))
    assert str(tmp_path / "report-print.xml.j2") in said
    assert "mismatched tag" in said
    own = write(report__print_xml_j2=paper.replace("</body>", '<img src="logo.png"/></body>'))
    assert check_templates(own) == []
    with pytest.raises(ConfigurationError, match=r"report\.pdf asks for https://report\.invalid/logo\.png"):
        check_print(own, sheet_pdf=False)


def test_a_style_sheet_cannot_end_its_element(write: Write, tmp_path: Path) -> None:
    said = refused(write(look_css="p { color: red }\n</style><script>"))
    assert said.startswith(f"template {tmp_path / 'look.css'}, line 2: </style would end")


def test_another_major_version_is_refused_and_a_later_minor_one_remarked(write: Write, tmp_path: Path) -> None:
    for name, begin, end in (("report_html_j2", "{#", "#}"), ("report_css", "/*", "*/")):
        text = packaged("report.css") if "css" in name else EXTENDED
        said = refused(write(**{name: f"{begin} cxrbatch context 2 {end}\n{text}"}))
        assert "line 1: was written for version 2" in said
        assert "gives version 1.0" in said
        remarks = check_templates(write(**{name: f"{begin} cxrbatch context 1.7 {end}\n{text}"}))
        assert [remark for remark in remarks if "written for 1.7, and this is 1.0" in remark]
        assert check_templates(write(**{name: f"{begin} cxrbatch context 1.0 {end}\n{text}"})) == []


@pytest.mark.parametrize(
    ("mistake", "what"),
    [
        ("{{ {}[report.heading] }}", "UndefinedError"),
        ("{% include report.heading %}", "TemplateNotFound"),
        ("{{ report.heading + 1 }}", "TypeError"),
        ("{{ report.surname }}", "has no attribute 'surname'"),
    ],
)
def test_a_mistake_that_only_a_study_shows_names_its_line_and_no_patient(
    write: Write, tmp_path: Path, mistake: str, what: str
) -> None:
    own = write(
        report_html_j2=EXTENDED
        + "{% block origin %}{% if 'Canary' in report.heading %}\n"
        + mistake
        + "{% endif %}{% endblock %}"
    )
    assert check_templates(own) == []
    result = make_study_result(header=make_header(patient_name="Canary^Name"))
    with printing_with(own), pytest.raises(ConfigurationError) as raised:
        render_report(result)
    assert str(raised.value).startswith(f"template {tmp_path / 'report.html.j2'}, line 3: ")
    assert what in str(raised.value)
    assert "Canary" not in str(raised.value)


# --------------------------------------------------------------------------- the folder


def test_names_that_nothing_uses_are_remarked(write: Write, tmp_path: Path) -> None:
    for name in ("report.htm.j2", "reports.css", "logo.svg", "README.md", ".gitignore"):
        (tmp_path / name).write_text("")
    (tmp_path / "old").mkdir()
    write(look_css="")
    remarks = read_templates(str(tmp_path))[1]
    assert [remark.removeprefix(f"{tmp_path}/") for remark in sorted(remarks)] == [
        "logo.svg: not used",
        "old: not used",
        "report.htm.j2: not used, nor included by another; is it meant to be report.html.j2?",
        "reports.css: not used; is it meant to be report.css?",
    ]


def test_an_empty_folder_is_remarked(tmp_path: Path) -> None:
    assert "holds no template" in read_templates(str(tmp_path))[1][0]


def test_links_are_followed_and_dead_ones_told(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "r.j2").write_text(EXTENDED)
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "report.html.j2").symlink_to(tmp_path / "kept" / "r.j2")
    assert read_templates(str(folder))[0].text("report.html.j2") == EXTENDED
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert read_templates(str(link))[0].text("report.html.j2") == EXTENDED
    (folder / "look.css").symlink_to(folder / "nowhere")
    with pytest.raises(ConfigurationError, match=r"look\.css: cannot be read \(No such file"):
        read_templates(str(folder))
    (folder / "look.css").unlink()
    (folder / "look.css").symlink_to("look.css")
    with pytest.raises(ConfigurationError, match=r"look\.css: cannot be read"):
        read_templates(str(folder))


def test_a_file_that_is_not_utf_8_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "look.css").write_bytes(b"p {}\n\n/* Krankenhaus S\xfcd */")
    with pytest.raises(ConfigurationError, match=r"look\.css, line 3: is not UTF-8"):
        read_templates(str(tmp_path))
    (tmp_path / "look.css").write_bytes("\ufeffp { }\r\n".encode())
    assert read_templates(str(tmp_path))[0].text("look.css") == "p { }\n"


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "look.css")
    with pytest.raises(ConfigurationError, match=r"look\.css: is no file"):
        read_templates(str(tmp_path))
    (tmp_path / "look.css").unlink()
    (tmp_path / "look.css").mkdir()
    with pytest.raises(ConfigurationError, match=r"look\.css: is no file"):
        read_templates(str(tmp_path))


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_everybody_may_write_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "look.css").write_text("p {}")
    (tmp_path if what == "folder" else tmp_path / "look.css").chmod(0o777)
    with pytest.raises(ConfigurationError, match="everybody on this machine may write"):
        read_templates(str(tmp_path))


def test_a_folder_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"templates = /nowhere/at-all: No such file"):
        read_templates("/nowhere/at-all")
