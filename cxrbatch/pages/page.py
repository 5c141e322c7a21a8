"""Rendering HTML pages: escaped, self-contained, asking for nothing."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cxrbatch.pages.compiled_templates import CompiledTemplates
from cxrbatch.pages.language import spoken
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
    page = _environment().get_template(template)
    style = Markup("\n").join(asset(name) for name in styles)
    code = asset(script) if script else Markup("")
    policy = _policy(code, loads_data=loads_data)
    return page.render(lang=spoken().tag, style=style, script=code, policy=policy, **content)


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


@cache
def asset(name: str) -> Markup:
    """Return a style sheet or script of this repository, which is ours and therefore not escaped."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704


def _with_visible_text(value: object) -> object:
    """Return what a template shows of a value: of text, letters only. A name may hold what reorders a line."""
    if not isinstance(value, str) or isinstance(value, Markup) or (value.isascii() and value.isprintable()):
        return value
    return "\n".join(map(visible, value.split("\n")))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_with_visible_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        bytecode_cache=CompiledTemplates(),
        extensions=["jinja2.ext.i18n"],
    )
    teach(environment, _with_visible_text)
    return environment
