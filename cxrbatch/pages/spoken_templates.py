"""Templates in the language that is spoken: `_("...")` and `{% trans %}` look texts up while a page is made.

So a template is compiled once, whatever the languages. Values that a text names are shown as they are everywhere in a
template: letters only, escaped; whole numbers in groups of thousands.
"""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import Environment
from markupsafe import Markup

from cxrbatch.pages import language
from cxrbatch.pages.labels import shown_label

Shown = Callable[[object], object]


def teach(environment: Environment, shown: Shown) -> None:
    """Let the templates of an environment with the extension `jinja2.ext.i18n` say their texts.

    Args:
        environment: of the templates.
        shown: returns what a template shows of a value.
    """

    def filled(text: str, values: dict[str, object]) -> Markup:
        if not values:
            return Markup(text.replace("%%", "%"))  # noqa: S704  # of our templates and catalogues
        return Markup(text) % {name: _figure(shown(value)) for name, value in values.items()}  # noqa: S704

    def gettext(text: str, /, **values: object) -> Markup:
        return filled(language.gettext(text), values)

    def ngettext(singular: str, plural: str, count: int, /, **values: object) -> Markup:
        return filled(language.ngettext(singular, plural, count), {"num": count, **values})

    def pgettext(context: str, text: str, /, **values: object) -> Markup:
        return filled(language.pgettext(context, text), values)

    def npgettext(context: str, singular: str, plural: str, count: int, /, **values: object) -> Markup:
        return filled(language.npgettext(context, singular, plural, count), {"num": count, **values})

    spoken = {"gettext": gettext, "_": gettext, "ngettext": ngettext, "pgettext": pgettext, "npgettext": npgettext}
    environment.globals.update(spoken)
    environment.globals.update(whole=language.whole, number=language.number, named=shown_label)
    environment.filters.update(localised=language.localised, day=language.day_text)
    # What `trans` makes is text of which these functions fill the gaps.
    environment.newstyle_gettext = True  # type: ignore[attr-defined]
    environment.policies["ext.i18n.trimmed"] = True


def _figure(value: object) -> object:
    return language.whole(value) if isinstance(value, int) and not isinstance(value, bool) else value
