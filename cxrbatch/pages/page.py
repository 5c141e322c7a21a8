"""Rendering HTML pages: escaped, self-contained, asking for nothing."""

from __future__ import annotations

import base64
import hashlib
from functools import cache, lru_cache
from pathlib import Path

from jinja2 import BaseLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cxrbatch.pages.compiled_templates import CompiledTemplates
from cxrbatch.pages.language import spoken
from cxrbatch.pages.own_templates import CONTEXT_MINOR, CONTEXT_VERSION, PACKAGED, OwnTemplates, in_use
from cxrbatch.pages.spoken_templates import teach
from cxrbatch.pages.wording import visible

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"


def render_page(
    template: str, *, styles: tuple[str, ...] = (), script: str = "", loads_data: bool = False, **content: object
) -> str:
    """Render one page, in the language that is spoken (`language.speaking`): `lang` names it to the template.

    Args:
        template: the page's file name in templates/.
        styles: the style sheets there that go inside the page.
        script: its script there, if any; the page's policy allows that very text and no other.
        loads_data: whether that script may load others, and ask whoever served the page.
        content: what the template shows; every text of it is escaped.
    """
    own = in_use()
    page = environment(own)
    style = Markup("\n").join(asset(name) for name in styles)
    code = asset(script) if script else Markup("")
    policy = _policy(code, loads_data=loads_data)
    given = {"lang": spoken().tag, "style": style, "script": code, "policy": policy, **content}
    if not own.files:
        return page.get_template(template).render(given)
    from cxrbatch.pages.template_rules import rendered_by

    return rendered_by(own, page, template, given)


@cache
def _policy(script: str, *, loads_data: bool) -> str:
    """Return the page's Content-Security-Policy: pictures from beside it, nothing from anywhere else.

    What a script loads is trusted as far as the script itself is ('strict-dynamic', CSP Level 3): pages that are read
    from a disk have no origin of which 'self' could speak.
    """
    allowed = "default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    if not script:
        return allowed
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    loading = " 'strict-dynamic'; connect-src 'self'" if loads_data else ""
    return f"{allowed}; script-src 'sha256-{digest}'{loading}"


def asset(name: str) -> Markup:
    """Return a style sheet or script, which is ours or the operator's and therefore not escaped."""
    own = in_use().text(name)
    return _packaged_asset(name) if own is None else Markup(own)  # noqa: S704


@cache
def _packaged_asset(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704


def _with_visible_text(value: object) -> object:
    """Return what a template shows of a value: of text, letters only. A name may hold what reorders a line."""
    if not isinstance(value, str) or isinstance(value, Markup) or (value.isascii() and value.isprintable()):
        return value
    return "\n".join(map(visible, value.split("\n")))


@lru_cache(maxsize=4)
def environment(own: OwnTemplates = PACKAGED) -> Environment:
    """Return what compiles templates. An operator's are in a sandbox; what is kept compiled is the package's."""
    kind, loader = _compiler(own, FileSystemLoader(TEMPLATES))
    made = kind(
        loader=loader,
        autoescape=True,
        finalize=_with_visible_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        bytecode_cache=None if own.files else CompiledTemplates(),
        extensions=["jinja2.ext.i18n"],
    )
    made.globals |= {"context_version": CONTEXT_VERSION, "context_minor": CONTEXT_MINOR}
    teach(made, _with_visible_text)
    return made


def _compiler(own: OwnTemplates, packaged: BaseLoader) -> tuple[type[Environment], BaseLoader]:
    """Return what compiles templates, and what finds them; the rules are loaded only where there are some to apply."""
    if not own.files:
        return Environment, packaged
    from cxrbatch.pages.template_rules import Sandbox, loader_of

    return Sandbox, loader_of(own, packaged)
