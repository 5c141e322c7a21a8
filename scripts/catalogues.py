"""`make catalogues`: the texts of pages into message catalogues, and those into what programs read.

Every text of templates and code that pages show is an entry of `cxrbatch/catalogues/<language>/<part>.po`, under its
English wording; who translates edits these. This script adds what is new, removes what is said no more, and compiles
each to the `.mo` beside it. With the name of a language it begins that one.

Where two branches changed the same catalogues, don't resolve the conflict by hand: keep one side's, and give it the
other's, of which each text takes its translation:

    git checkout --ours cxrbatch/catalogues && git show MERGE_HEAD:cxrbatch/catalogues/de/pages.po > /tmp/theirs.po
    make catalogues CATALOGUES_ARGS="--also /tmp/theirs.po" && git add cxrbatch/catalogues
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from jinja2.ext import babel_extract

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.locales import CATALOGUES
from cxrbatch.pages import wording

ROOT = Path(__file__).parents[1]

PARTS = ("pages", "workshop", "kept")
"""The catalogues of a language: what runs print, what the workshop prints of models and data, and what files keep."""

KEYWORDS = {
    **dict.fromkeys(("_", "gettext", "msgid")),
    "ngettext": (1, 2),
    "nmsgid": (1, 2),
    "pgettext": ((1, "c"), 2),
    "npgettext": ((1, "c"), 2, 3),
}
KEPT_KEYWORDS = {"kept": None, "nkept": (1, 2)}
"""Those of `cxrbatch.pages.retelling`."""
_OPTIONS = {"extensions": "jinja2.ext.i18n", "trimmed": "true", "trim_blocks": "true", "lstrip_blocks": "true"}
_OPTIONS |= {"silent": "false", "newstyle_gettext": "true", "keep_trailing_newline": "true"}
_WORKSHOP = re.compile(
    r"templates/(api|compare|describe|evaluation|figures|training)\."
    r"|cxrbatch/(model/|serve/openapi\.py|pages/plot_style\.py)"
)
_WIDTH = 110
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
"""When every catalogue was made: the same texts give the same files."""


def main() -> None:
    """Bring all catalogues up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("new", nargs="?", metavar="LANGUAGE", help="begin this language, named as CLDR has it: fr")
    parser.add_argument(
        "--also", action="append", default=[], type=Path, metavar="PO", help="take translations from this file, too"
    )
    wanted = parser.parse_args()
    if wanted.new:
        (CATALOGUES / wanted.new).mkdir(parents=True, exist_ok=True)
    templates = extract_texts()
    for folder in sorted(path for path in CATALOGUES.iterdir() if path.is_dir()):
        known = translations(folder, wanted.also)
        for part in PARTS:
            catalogue = updated(folder / f"{part}.po", templates[part], known)
            write_catalogue(folder / f"{part}.po", catalogue)
            missing = sum(not is_translated(message) for message in catalogue if message.id)
            print(f"{folder.name}/{part}.po: {len(catalogue)} texts, {missing} without a translation")


def extract_texts() -> dict[str, Catalog]:
    """Return, by part, the texts of templates and code; one that runs print, too, is not the workshop's."""
    found = {part: Catalog(charset="utf-8") for part in PARTS}
    for path, method in _sources():
        name = path.relative_to(ROOT).as_posix()
        with path.open("rb") as file:
            for line, text, comments, context in extract(method, file, KEYWORDS, ("Translators:",), _OPTIONS):
                found["workshop" if _WORKSHOP.match(name) else "pages"].add(
                    text, locations=[(name, line)], auto_comments=comments, context=context
                )
        with path.open("rb") as file:
            for line, text, comments, _ in extract(method, file, KEPT_KEYWORDS, ("Translators:",), _OPTIONS):
                found["kept"].add(text, locations=[(name, line)], auto_comments=comments)
    for table in wording.TABLES:
        for text in table.values():
            found["pages"].add(text, locations=[("cxrbatch/pages/wording.py", 1)])
    for message in list(found["workshop"]):
        if message.id and found["pages"].get(message.id, message.context):
            found["workshop"].delete(message.id, message.context)
    return found


def _sources() -> Iterator[tuple[Path, Any]]:
    # Any: Babel takes the name of a method, or one of Jinja's own signature.
    for path in sorted((ROOT / "templates").glob("*.j2")):
        yield path, babel_extract
    for path in sorted((ROOT / "cxrbatch").rglob("*.py")):
        # Reading Python takes long, and few of its files say anything on a page.
        if re.search(rb"cxrbatch\.pages\.(language|retelling) import", path.read_bytes()):
            yield path, "python"


def translations(folder: Path, also: Sequence[Path]) -> dict[str, list[Catalog]]:
    """Return, by part of a language, where to look for translations: its own file, files named beside, other parts.

    So a text that is said elsewhere now keeps its translation, and one that only another branch had finds it.
    """
    own = {path.stem: read_catalogue(path) for path in sorted(folder.glob("*.po"))}
    others = [catalogue for catalogue in map(read_catalogue, also) if str(catalogue.locale) == folder.name]
    return {part: [*filter(None, [own.get(part)]), *others, *own.values()] for part in PARTS}


def updated(path: Path, texts: Catalog, known: Mapping[str, Sequence[Catalog]]) -> Catalog:
    """Return a catalogue with all of these texts and no other; what was translated stays."""
    catalogue = Catalog(
        locale=path.parent.name,
        project="cxrbatch",
        charset="utf-8",
        header_comment=f"# cxrbatch, {path.stem}: {path.parent.name}. Brought up to date by `make catalogues`.",
        creation_date=_EPOCH,
        revision_date=_EPOCH,
        fuzzy=False,
    )
    for text in texts:
        if text.id:
            message = catalogue.add(
                text.id, locations=text.locations, auto_comments=text.auto_comments, context=text.context
            )
            found = [each.get(text.id, text.context) for each in known[path.stem]]
            former = next((each for each in found if each is not None and is_told(each)), None)
            if former is not None:
                message.string, message.user_comments = former.string, former.user_comments
                message.flags |= former.flags & {"fuzzy"}
    return catalogue


def is_told(message: Message) -> bool:
    """Tell whether there is a translation, of every plural form."""
    strings = message.string if isinstance(message.string, tuple | list) else (message.string,)
    return all(strings)


def is_translated(message: Message) -> bool:
    """Tell whether there is a translation, of every plural form, that nobody has called doubtful."""
    return is_told(message) and not message.fuzzy


def read_catalogue(path: Path) -> Catalog:
    """Read a catalogue as people edit it."""
    with path.open("rb") as file:
        return read_po(file, abort_invalid=True)


def write_catalogue(path: Path, catalogue: Catalog) -> None:
    """Write a catalogue for people, and for programs beside it."""
    written = io.BytesIO()
    write_po(written, catalogue, width=_WIDTH, sort_by_file=True, include_lineno=False)
    path.write_bytes(written.getvalue())
    path.with_suffix(".mo").write_bytes(compiled(path))


def compiled(path: Path) -> bytes:
    """Return what programs read of a catalogue."""
    written = io.BytesIO()
    write_mo(written, read_catalogue(path))
    return written.getvalue()


if __name__ == "__main__":
    main()
