"""Every text of every page is in the catalogues, and every catalogue has all of them translated.

`make catalogues` brings them up to date; what is new then waits in the .po files for its translation.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from babel.messages import pofile
from babel.messages.catalog import Catalog, Message
from babel.messages.checkers import python_format
from jinja2 import Environment

from cxrbatch.locales import CATALOGUES, ENGLISH, locales
from scripts.catalogues import PARTS, compiled, extract_texts, is_translated, read_catalogue, translations, updated
from tests.factories.pseudo_language import Seen

ROOT = Path(__file__).parents[1]
TEMPLATES = sorted((ROOT / "templates").glob("*.j2"))
OTHERS = [name for name in locales() if name != ENGLISH]


@pytest.fixture(scope="module")
def extracted() -> dict[str, Catalog]:
    return extract_texts()


def translated(locale: str, part: str) -> Catalog:
    return read_catalogue(CATALOGUES / locale / f"{part}.po")


def texts(catalogue: Catalog) -> dict[tuple[object, str | None], Message]:
    return {(message.id, message.context): message for message in catalogue if message.id}


# --------------------------------------------------------------------------- catalogues


def test_german_is_there_and_english_first() -> None:
    assert locales()[0] == "en"
    assert "de" in locales()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("locale", OTHERS)
def test_a_catalogue_has_what_pages_say_and_nothing_else(locale: str, part: str, extracted: dict[str, Catalog]) -> None:
    said, known = set(texts(extracted[part])), set(texts(translated(locale, part)))
    assert said - known == set(), "run `make catalogues` and translate what is new"
    assert known - said == set(), "run `make catalogues`: this is said no more"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("locale", OTHERS)
def test_a_catalogue_is_translated_to_the_last_text(locale: str, part: str) -> None:
    catalogue = translated(locale, part)
    assert [message.id for message in catalogue if message.id and not is_translated(message)] == []
    assert [message.id for message in catalogue if message.pluralizable and len(forms(message.string)) < 2] == []


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("locale", OTHERS)
def test_a_translation_has_the_gaps_and_the_markup_of_its_text(locale: str, part: str) -> None:
    catalogue = translated(locale, part)
    for message in texts(catalogue).values():
        python_format(catalogue, message)
        (singular, *_, plural), strings = forms(message.id) * 2, forms(message.string)
        for place, string in enumerate(strings):
            assert gaps(string) <= gaps(plural), message.id
            assert gaps(string) >= (gaps(singular) & gaps(plural) if place == 0 else gaps(plural)), message.id
            assert sorted(re.findall(r"<[^>]+>", string)) == sorted(re.findall(r"<[^>]+>", plural)), message.id
            assert (string[0] == " ", string[-1] == " ") == (plural[0] == " ", plural[-1] == " "), message.id


def forms(texts: object) -> list[str]:
    """Return one text, or those of a text with a plural."""
    return [str(text) for text in texts] if isinstance(texts, tuple | list) else [str(texts)]


def gaps(text: str) -> set[str]:
    return set(re.findall(r"%\(\w+\)s|\{\w+\}", text))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("locale", OTHERS)
def test_what_programs_read_is_what_people_wrote(locale: str, part: str) -> None:
    path = CATALOGUES / locale / f"{part}.po"
    assert path.with_suffix(".mo").read_bytes() == compiled(path), "run `make catalogues`"


def write_po(path: Path, **entries: str) -> Path:
    catalogue = Catalog(locale="de")
    for text, string in entries.items():
        catalogue.add(text, string)
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        pofile.write_po(file, catalogue)
    return path


def test_a_text_takes_its_translation_from_wherever_there_is_one(tmp_path: Path) -> None:
    own = write_po(tmp_path / "de" / "pages.po", Both="eigen", Gone="fort", Open="")
    write_po(tmp_path / "de" / "workshop.po", Moved="umgezogen", Both="anderswo")
    theirs = write_po(tmp_path / "theirs.po", Both="ihres", Open="offen", Moved="ihres")
    said = Catalog()
    for text in ("Both", "Open", "Moved", "New"):
        said.add(text)
    known = translations(tmp_path / "de", [theirs])
    catalogue = updated(own, said, known)
    assert {str(message.id): message.string for message in catalogue if message.id} == {
        "Both": "eigen",
        "Open": "offen",
        "Moved": "ihres",
        "New": None,
    }
    assert translations(tmp_path / "fr", [theirs])["pages"] == []


# --------------------------------------------------------------------------- templates

# Names of things, which are the same in every language, and values that only programs read.
SAME_EVERYWHERE = frozenset({"PDF", "CSV", "JSON", "AUROC", "SHA-256", "px", "mm", "ms", "Enter", "Esc", "Shift"})
SPEAKS = {"_", "gettext", "ngettext", "pgettext", "npgettext"}


def unsaid(source: str) -> list[str]:
    """Return the texts of a template, of page and expressions, that no catalogue is asked for."""
    page: list[str] = []
    inside: list[tuple[str, str]] = []
    in_trans = False
    for _, kind, value in Environment(trim_blocks=True, lstrip_blocks=True).lex(source):
        if kind in {"block_begin", "variable_begin"}:
            inside = []
        elif kind == "block_end":
            name = next(value for kind, value in inside if kind == "name")
            in_trans = (in_trans or name == "trans") and name != "endtrans"
        elif kind == "variable_end":
            page += [] if in_trans else literals(inside)
        elif kind == "data":
            page += [] if in_trans else [value]
        else:
            inside.append((kind, value))
    parser = Seen()
    parser.feed("".join(page))
    found = (" ".join(re.sub(r"&\w+;", "", text).split()) for text in parser.seen)
    return [text for text in found if re.search(r"[^\W\d_]{2}", text) and text not in SAME_EVERYWHERE]


def literals(expression: list[tuple[str, str]]) -> list[str]:
    """Return the strings that an expression may show as they stand: neither looked up nor compared with."""
    tokens = [(kind, value) for kind, value in expression if kind != "whitespace"]
    shown, asked = [], 0
    for place, (kind, value) in enumerate(tokens):
        before, after = tokens[:place][-1:], tokens[place + 1 : place + 2]
        if kind == "operator" and value == "(":
            asked += bool(asked) or bool(before and before[0][1] in SPEAKS)
        elif kind == "operator" and value == ")" and asked:
            asked -= 1
        compared = {("operator", "=="), ("operator", "!="), ("operator", "[")} & {*before, *after}
        if kind == "string" and not asked and not compared:
            shown.append(f" {value[1:-1]} ")
    return shown


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_text_of_a_template_is_outside_of_the_catalogues(path: Path) -> None:
    assert unsaid(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "<p>Urgent</p>",
        "<p>{{ 'study' if one else 'studies' }}</p>",
        '<img alt="{{ name }} over the radiograph">',
        '<p aria-label="{% if a %}Files{% endif %}">{% trans %}x{% endtrans %}</p>',
        "{% trans %}said{% endtrans %} unsaid",
        "<input placeholder='Search'>",
    ],
)
def test_a_text_outside_of_the_catalogues_is_found(source: str) -> None:
    assert unsaid(source)


@pytest.mark.parametrize(
    "source",
    [
        "<p class='{{ 'urgent' if a else 'calm' }}'>{{ _('Urgent') }} {{ value }}</p>",
        "<p>{% trans count=n %}{{ count }} study{% pluralize %}{{ count }} studies{% endtrans %}</p>",
        "<p>{{ _('a') if a == 'told' else ngettext('b', 'c', len('dd')) }}</p><style>p { content: 'x' }</style>",
        "{# a remark #}<p>·</p>",
    ],
)
def test_what_is_in_the_catalogues_is_let_pass(source: str) -> None:
    assert unsaid(source) == []
