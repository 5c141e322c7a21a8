"""What templates of one's own are given, read off made-up studies: docs/template-context.md, by `make reference`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.output.template_check import render_specimens
from cxrbatch.pages.own_templates import CONTEXT_MINOR, CONTEXT_VERSION, OVERRIDABLE, OwnTemplates, printing_with
from cxrbatch.pages.template_rules import Given, noting_what_is_given

INTRO = f"""# What templates are given

Version {CONTEXT_VERSION}.{CONTEXT_MINOR}: the first number changes where something is taken away or means something
else, the second where something is added. [Templates of your own](templates.md) says how they are used. Every template
has `context_version` and `context_minor`, these two numbers; `policy`, the page's Content-Security-Policy; `style`, its
style sheets; and `script`, its script.

Texts are worded and formatted: a template puts them where it likes. `text[]` are any number of texts; `text?` may be
missing (none).
"""


def context_page() -> str:
    """Return, for every page, the names that it is given, what kind of thing each is, and what those have."""
    given, records = _given(), dict[str, type]()
    parts = [INTRO]
    for page in (name for name in OVERRIDABLE if name in given):
        rows = [f"| `{name}` | {_kind(values, records)} |" for name, values in sorted(_values(given[page]).items())]
        parts.append(f"## {page}\n\n| name | what it is |\n| --- | --- |\n" + "\n".join(rows) + "\n")
    parts.append("## The records\n")
    told: set[str] = set()
    while left := [name for name in records if name not in told]:
        told.add(left[0])
        parts.append(_record(records[left[0]], records))
    return "\n".join(parts)


def _given() -> Given:
    """Return what each page is given for each of the made-up studies and runs."""
    nothing_of_its_own = OwnTemplates(files=(("none.j2", ""),))
    with printing_with(nothing_of_its_own), noting_what_is_given() as given:
        render_specimens()
    return given


def _values(pages: list[Mapping[str, object]]) -> dict[str, list[object]]:
    left_out = {"style", "script", "policy"}
    return {name: [page[name] for page in pages] for page in pages for name in page if name not in left_out}


def _kind(values: list[object], records: dict[str, type]) -> str:
    """Return what kind of thing a name stands for, going by what it stood for; take note of records."""
    kinds = {kind for value in values for kind in _kinds_of(value, records)}
    return " or ".join(sorted(kinds - {"none"}) + sorted(kinds & {"none"}))


def _kinds_of(value: object, records: dict[str, type]) -> Iterator[str]:
    if is_dataclass(value) and not isinstance(value, type):
        records.setdefault(type(value).__name__, type(value))
        yield f"[{type(value).__name__}](#{type(value).__name__.lower()})"
    elif isinstance(value, Mapping):
        yield "names and values"
    elif isinstance(value, list | tuple):
        yield from (f"{kind}[]" for each in value[:1] for kind in _kinds_of_each(each, records))
    else:
        yield _plain_name(type(value))


def _kinds_of_each(value: object, records: dict[str, type]) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield f"({', '.join(f'`{name}`' for name in value)})"
    else:
        yield from _kinds_of(value, records)


def _plain_name(kind: Any) -> str:
    names = {str: "text", int: "number", float: "number", bool: "yes or no", type(None): "none"}
    return names.get(kind, "text" if isinstance(kind, type) and issubclass(kind, str) else str(kind))


def _record(kind: type, records: dict[str, type]) -> str:
    """Return what a record has: fields with their kinds, then what it tells of itself."""
    hints = get_type_hints(kind)
    rows = [f"| `{field.name}` | {_hinted(hints[field.name], records)} |" for field in fields(kind)]
    told = {name: made for name, made in vars(kind).items() if isinstance(made, property | cached_property)}
    rows += [
        f"| `{name}` | {(made.__doc__ or '').splitlines()[0]} |"
        for name, made in sorted(told.items())
        if name[0] != "_"
    ]
    about = " ".join((kind.__doc__ or "").split())
    return f"### {kind.__name__}\n\n{about}\n\n| name | what it is |\n| --- | --- |\n" + "\n".join(rows) + "\n"


def _hinted(hint: Any, records: dict[str, type]) -> str:
    """Return a type in words; take note of records."""
    if is_dataclass(hint) and isinstance(hint, type):
        records.setdefault(hint.__name__, hint)
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    arguments = [argument for argument in get_args(hint) if argument is not Ellipsis]
    origin = str(getattr(hint, "__origin__", ""))
    if "Literal" in str(hint):
        return ", ".join(f"`{argument}`" for argument in arguments if isinstance(argument, str)) or "text"
    if "dict" in origin:
        return "names and values"
    if "tuple" in origin:
        inner = [_hinted(argument, records) for argument in arguments]
        return f"{inner[0]}[]" if Ellipsis in get_args(hint) else f"({', '.join(inner)})"
    if arguments:
        return "?".join(_hinted(argument, records) for argument in arguments if argument is not type(None)) + "?"
    return _plain_name(hint)
