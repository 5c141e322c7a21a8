"""The option that says in which language pages are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from cxrbatch.locales import ENGLISH, locales

Command = TypeVar("Command", bound=Callable[..., Any])

locale_option = click.option(
    "--locale",
    type=click.Choice(locales()),
    help=f"Language of the pages that people read.  [default: {ENGLISH}]",
)
"""For a command that takes settings, of which this is one."""


def _choose(_context: click.Context, _option: click.Parameter, given: str | None) -> None:
    from cxrbatch.pages.language import choose
    from cxrbatch.settings_sources import load_settings

    choose(load_settings({"locale": given}).locale)


page_locale_option = click.option(
    "--locale",
    type=click.Choice(locales()),
    expose_value=False,
    callback=_choose,
    help=f"Language of the pages that people read.  [default: {ENGLISH}]",
)
"""For a command of the workshop, or one that serves: it chooses the language of this process's pages."""
