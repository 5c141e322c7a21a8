"""What an operator's own templates may do, and what is said of those that cannot be used: which file, which line.

They say what a page looks like and which of its facts it shows. They cannot say less about who may load what: every
text from files stays escaped, the page's policy stays in its head, and code stays in Jinja's sandbox. That guards
against accidents and against what was copied from somewhere; the operator is trusted all the same.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Set as AbstractSet
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from xml.etree import ElementTree as ET

from jinja2 import BaseLoader, Environment, TemplateError, TemplateNotFound, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import escape

from cxrbatch.errors import ConfigurationError
from cxrbatch.pages.own_templates import CONTEXT_MINOR, CONTEXT_VERSION, OVERRIDABLE, PACKAGE, OwnTemplates, in_use

PAPER = "report-print.xml.j2"
MANUAL = "docs/templates.md says what templates are given."

_WRITTEN_FOR = re.compile(r"(?:\{#-?|/\*)\s*cxrbatch context\s+(\d{1,6})(?:\.(\d{1,6}))?\s*(?:-?#\}|\*/)")
# Before the policy stands nothing that could load anything, nor what would make a comment of it.
_TOO_EARLY = re.compile(r"<(?:!--|script|style|link|img|body|iframe|object|base|svg|template|noscript)", re.IGNORECASE)
Given = dict[str, list[Mapping[str, object]]]
_noted: ContextVar[Given | None] = ContextVar("given", default=None)
_GUARDS = {"defined", "undefined", "default", "d"}


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles an operator's templates, and the package's that they extend or include."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters = {name: made for name, made in self.filters.items() if name != "safe"}


class _OwnLoader(BaseLoader):
    """Finds a template among the operator's, else among the package's; with `package/` before its name, only there."""

    def __init__(self, own: OwnTemplates, packaged: BaseLoader) -> None:
        self._own, self._packaged = own, packaged

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, Callable[[], bool] | None]:
        text = self._own.text(template)
        if text is None:
            return self._packaged.get_source(environment, template.removeprefix(PACKAGE))
        return text, self._own.place(template), lambda: True


def loader_of(own: OwnTemplates, packaged: BaseLoader) -> BaseLoader:
    """Return what finds templates by name."""
    return _OwnLoader(own, packaged)


@contextmanager
def noting_what_is_given() -> Iterator[Given]:
    """Note what each page is given while the context lasts, by the name of its template."""
    noted: Given = {}
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


def rendered_by(own: OwnTemplates, environment: Environment, template: str, given: Mapping[str, object]) -> str:
    """Render a page of which an operator may have changed something.

    Raises:
        ConfigurationError: a template of theirs cannot be used, or asks for what there is not.
    """
    if (noted := _noted.get()) is not None:
        noted.setdefault(template, []).append(given)
    try:
        page = environment.get_template(template).render(given)
    except Exception as error:
        if (explained := _explained(own, error)) is None:
            raise
        raise explained from error
    if template.endswith(".html.j2"):
        _refuse_without_policy(own, template, page, str(given["policy"]))
    return page


def _explained(own: OwnTemplates, error: Exception) -> ConfigurationError | None:
    """Say where in which of the operator's templates it went wrong; None where that was in none of them."""
    if isinstance(error, ConfigurationError):
        return None
    what = _in_words(own, error)
    if isinstance(error, TemplateSyntaxError):
        return refusal(error.filename or error.name or own.folder, error.lineno, error.message or what)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in _places(own)]
    return refusal(frames[-1].filename, frames[-1].lineno, what) if frames else None


def _in_words(own: OwnTemplates, error: Exception) -> str:
    """Return what is wrong, quoting nothing that is not of the templates: it could be a patient's name."""
    written = "".join(text for _, text in own.files)
    if isinstance(error, RecursionError):
        return "templates include or extend each other in a circle"
    said = f"there is no template '{error.name}'" if isinstance(error, TemplateNotFound) else str(error)
    is_ours = all(part in written or part.endswith(" object") for part in re.findall("'([^']*)'", said))
    return said if isinstance(error, TemplateError) and is_ours else type(error).__name__


def _places(own: OwnTemplates) -> set[str]:
    return {own.place(name) for name, _ in own.files}


def refusal(place: str, line: int | None, what: str) -> ConfigurationError:
    """Return the error that says what is wrong with a template."""
    where = f"{place}, line {line}" if line else place
    return ConfigurationError(f"template {where}: {what.rstrip('.')}. {MANUAL}")


def _refuse_without_policy(own: OwnTemplates, template: str, page: str, policy: str) -> None:
    """Refuse a page without the policy that keeps it from asking for anything, or with something before that."""
    wanted = f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
    before, found, _ = page.partition(wanted)
    if not found or _TOO_EARLY.search(before):
        raise refusal(
            own.place(template), None,
            'the page must begin its head with <meta http-equiv="Content-Security-Policy" content="{{ policy }}">, '
            "before any style, script or picture",
        )  # fmt: skip


def refuse_malformed(error: ET.ParseError, page: str = "") -> None:
    """Refuse an operator's template of which the page for the PDF came out as no well-formed XML, if it is theirs.

    Args:
        error: what was wrong.
        page: what came out, to be quoted: of a made-up study only.

    Raises:
        ConfigurationError: there is one.
    """
    own = in_use()
    if own.text(PAPER) is None:
        return
    row, column = error.position
    line = f": {page.splitlines()[row - 1][max(0, column - 60) : column + 20]}" if page else ""
    raise refusal(own.place(PAPER), None, f"what it makes is no well-formed XML ({error}){line}") from error


def check_style(own: OwnTemplates, name: str) -> None:
    """Refuse a style sheet that would end the element in which it stands.

    Raises:
        ConfigurationError: it does, or was written for another version.
    """
    text = own.text(name) or ""
    check_version(own, name)
    if (found := re.search("</style|<!--", text, re.IGNORECASE)) is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise refusal(own.place(name), line, f"{found[0]} would end the style sheet, which stands inside the page")


def check_version(own: OwnTemplates, name: str) -> str:
    """Refuse a file that says it was written for another major version; return a remark on one for a later minor one.

    Raises:
        ConfigurationError: it does.
    """
    text = own.text(name) or ""
    if (said := _WRITTEN_FOR.search(text)) is None:
        return ""
    major, minor = int(said[1]), int(said[2] or 0)
    line = text.count("\n", 0, said.start()) + 1
    if major != CONTEXT_VERSION:
        raise refusal(
            own.place(name), line,
            f"was written for version {major} of what templates are given, and this cxrbatch gives version "
            f"{CONTEXT_VERSION}.{CONTEXT_MINOR}: compare it with the package's {name}, then change its first line",
        )  # fmt: skip
    if minor > CONTEXT_MINOR:
        return f"{own.place(name)}: written for {major}.{minor}, and this is {CONTEXT_VERSION}.{CONTEXT_MINOR}"
    return ""


def check_template(own: OwnTemplates, name: str, environment: Environment) -> None:
    """Refuse a template that does not compile, would turn escaping off, or extends itself.

    Raises:
        ConfigurationError: that is so.
    """
    tree = _parsed(own, name, environment)
    for node in tree.find_all((nodes.ScopedEvalContextModifier, nodes.EvalContextModifier)):
        raise refusal(own.place(name), node.lineno, "{% autoescape %}: every text of a page is escaped")
    for extended in tree.find_all(nodes.Extends):
        if isinstance(extended.template, nodes.Const) and extended.template.value == name:
            raise refusal(
                own.place(name), extended.lineno, f'it extends itself: write {{% extends "{PACKAGE}{name}" %}}'
            )


def check_names(own: OwnTemplates, name: str, environment: Environment, given: AbstractSet[str]) -> None:
    """Refuse a template that asks for names that its page is not given, in any branch: one that hardly any study takes.

    Args:
        own: the operator's templates.
        name: which of them.
        environment: what compiles it.
        given: the names that its page is given.

    Raises:
        ConfigurationError: that is so.
    """
    tree = _parsed(own, name, environment)
    known = given | set(environment.globals) | set().union(*(_made(each) for each in _trees(own, environment)))
    missing = meta.find_undeclared_variables(tree) - known - _guarded(tree)
    for asked in tree.find_all(nodes.Name):
        if asked.name in missing:
            raise refusal(own.place(name), asked.lineno, f"'{asked.name}' is undefined")


def _parsed(own: OwnTemplates, name: str, environment: Environment) -> nodes.Template:
    try:
        tree = environment.parse(own.text(name) or "", name, own.place(name))
        environment.compile(tree, name, own.place(name))
    except TemplateSyntaxError as error:
        raise refusal(own.place(name), error.lineno, error.message or str(error)) from error
    return tree


def _trees(own: OwnTemplates, environment: Environment) -> Iterator[nodes.Template]:
    """Yield all templates that may stand around a block or an included file, and make names for it."""
    assert environment.loader is not None
    names = [name for name, _ in own.files] + [f"{PACKAGE}{name}" for name in OVERRIDABLE]
    for name in names:
        if name.endswith(".j2"):
            source, place, _ = environment.loader.get_source(environment, name)
            yield environment.parse(source, name, place)


def _made(tree: nodes.Template) -> set[str]:
    """Return the names that a template makes for itself and for what it includes."""
    stored = {name.name for name in tree.find_all(nodes.Name) if name.ctx in {"store", "param"}}
    return stored | {macro.name for macro in tree.find_all(nodes.Macro)}


def _guarded(tree: nodes.Template) -> set[str]:
    """Return the names of which a template first asks whether they are there."""
    asked = (node for node in tree.find_all((nodes.Test, nodes.Filter)) if node.name in _GUARDS)
    return {name.name for node in asked for name in node.find_all(nodes.Name)}
