"""Pages in another language: texts of catalogues, numbers and dates as that language writes them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timezone
from pathlib import Path

import jinja2
import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo

from cxrbatch import locales
from cxrbatch.cli import run_command_line
from cxrbatch.config import Settings
from cxrbatch.errors import ConfigurationError, ExitCode
from cxrbatch.pages import language
from cxrbatch.pages.language import speaking
from cxrbatch.pages.spoken_templates import teach
from cxrbatch.settings_sources import load_settings


@pytest.fixture
def spoken_in_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Swedish of two catalogues, of which the second has what the first has not."""
    kept: dict[str, dict[str | tuple[str, str], str | tuple[str, str]]] = {
        "one": {"Study": "Studie", ("{count} study", "{count} studies"): ("{count} studie", "{count} studier")},
        "two": {"Study": "never", "100 %%": "100 %%", "<b>%(name)s</b>, %(count)s": "%(count)s, <i>%(name)s</i>"},
    }
    for name, entries in kept.items():
        catalogue = Catalog(locale="sv")
        for text, string in entries.items():
            catalogue.add(text, string)
        catalogue.add("Read", "Läst", context="state")
        (tmp_path / "sv").mkdir(exist_ok=True)
        with (tmp_path / "sv" / f"{name}.mo").open("wb") as file:
            write_mo(file, catalogue)
    monkeypatch.setattr(locales, "CATALOGUES", tmp_path)
    caches = (locales.locales, language.language)
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()


@pytest.mark.usefixtures("spoken_in_tests")
def test_texts_come_from_all_catalogues_and_stay_english_where_none_has_them() -> None:
    assert locales.locales() == ("en", "sv")
    with speaking("sv"):
        assert language.gettext("Study") == "Studie"
        assert language.gettext("100 %%") == "100 %%"
        assert language.gettext("Never told") == "Never told"
        assert language.gettext("") == "", "not the head of the catalogue"
        assert [language.ngettext("{count} study", "{count} studies", n).format(count=n) for n in (1, 2)] == [
            "1 studie",
            "2 studier",
        ]
        assert language.pgettext("state", "Read") == "Läst"
        assert language.gettext("Read") == "Read"
    assert language.gettext("Study") == "Study"


@pytest.mark.usefixtures("spoken_in_tests")
def test_templates_say_texts_in_the_language_of_the_moment_and_escape_values() -> None:
    environment = jinja2.Environment(autoescape=True, extensions=["jinja2.ext.i18n"])
    teach(environment, lambda value: value)
    page = environment.from_string(
        "{{ _('Study') }}|{{ _('100 %%') }}|"
        "{% trans count=n, name=name %}\n  <b>{{ name }}</b>,\n{{ count }}{% endtrans %}"
    )
    assert page.render(n=1234, name="<x>") == "Study|100 %|<b>&lt;x&gt;</b>, 1,234"
    with speaking("sv"):
        assert page.render(n=1234, name="<x>") == "Studie|100 %|1\xa0234, <i>&lt;x&gt;</i>"


@pytest.mark.parametrize(
    ("locale", "shown"),
    [
        ("en", ("0.97", "\N{MINUS SIGN}1,234.5", "+3", "<0.01", "2026-11-22", "2026-11-22 03:04 UTC")),
        ("de", ("0,97", "\N{MINUS SIGN}1.234,5", "+3", "<0,01", "22.11.2026", "22.11.2026 03:04 UTC")),
    ],
)
def test_numbers_and_dates(locale: str, shown: tuple[str, ...]) -> None:
    when = datetime(2026, 11, 22, 3, 4, 5, tzinfo=timezone.utc)
    with speaking(locale):
        assert shown == (
            language.number(0.97, 2),
            language.number(-1234.5, 1),
            language.whole(3, signed=True),
            language.localised("<0.01"),
            language.day(date(2026, 11, 22)),
            language.minute(when),
        )


def test_what_is_chosen_holds_where_nothing_else_is_named() -> None:
    language.choose("de")
    try:
        with speaking():
            assert language.spoken().tag == "de"
            with speaking("en"):
                assert language.spoken().tag == "en"
            assert language.number(0.5, 1) == "0,5"
    finally:
        language.choose("en")
    assert language.spoken().tag == "en"


def test_an_unknown_language_is_refused_with_those_that_there_are() -> None:
    refused = r"locale = .* is none of en, de"
    with pytest.raises(ConfigurationError, match=refused):
        Settings(locale="tlh")
    with pytest.raises(ConfigurationError, match=refused):
        load_settings({}, environment={"CXRBATCH_LOCALE": "../de"})


@pytest.mark.parametrize("command", ["run . -o", "watch . -o", "report", "serve", "compare x -o", "describe . -o"])
def test_an_option_that_names_an_unknown_language_is_a_usage_error(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line([*command.split(), str(tmp_path), "--locale", "tlh"]) == ExitCode.USAGE
    assert "'tlh' is not one of 'en', 'de'" in capsys.readouterr().err


def test_english_loads_no_babel() -> None:
    code = (
        "import sys, datetime; from cxrbatch.pages import language, page, wording\n"
        "with language.speaking('en'): language.minute(datetime.datetime(2026, 1, 1)), language.number(1, 2)\n"
        "print([name for name in sys.modules if name.startswith('babel')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
