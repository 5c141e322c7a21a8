"""What drifted, in the words of a page; `drift_in_words` says it in English for terminals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from cxrbatch.output.drift import DriftLine
from cxrbatch.pages.labels import shown_label
from cxrbatch.pages.language import gettext as _, msgid, number, whole
from cxrbatch.pages.retelling import retold

_SHOWN = 3
_WHAT = {
    "score": msgid("scores of {label}"),
    "positive": msgid("rate of {label}"),
    "grey": msgid("grey levels"),
    "view": msgid("views"),
    "age": msgid("ages"),
}
_AGAINST = {"training": msgid("against the validation images"), "recent": msgid("against the last 30 days")}
# As `find_drift` words it for run.json.
_LEFT_OUT = re.compile(
    rf"(?P<what>{'|'.join(_WHAT)})(?: (?P<label>.+?))?(?: against (?P<against>{'|'.join(_AGAINST)}))?: "
    r"(?:(?P<studies>\d+) and (?P<reference>\d+) known, (?P<needed>\d+) needed|not known of the validation images)"
)


def drift_said(line: DriftLine) -> str:
    """Say what changed, against what, and by how much, in the language spoken."""
    return _("{what} {against}, {index}").format(
        what=_what(line.what, line.label), against=_(_AGAINST[line.against]), index=number(line.psi, 2)
    )


def lines_left_out(sentences: Sequence[str]) -> Iterator[str]:
    """Yield what could not be compared: the first lines of it, and how many more there are."""
    for sentence in sentences[:_SHOWN]:
        yield f"{left_out_said(sentence)}."
    if len(sentences) > _SHOWN:
        yield _("... and {count} more in run.json.").format(count=whole(len(sentences) - _SHOWN))


def left_out_said(sentence: str) -> str:
    """Return a line of run.json on what could not be compared, in the language spoken."""
    found = _LEFT_OUT.fullmatch(sentence)
    if not found:
        return retold(sentence)
    what = _what(found["what"], found["label"] or "")
    if found["against"]:
        what = f"{what} {_(_AGAINST[found['against']])}"
    if found["studies"] is None:
        return _("{what}: not known of the validation images").format(what=what)
    return _("{what}: {studies} and {reference} known, {needed} needed").format(
        what=what, **{name: whole(int(found[name])) for name in ("studies", "reference", "needed")}
    )


def _what(what: str, label: str) -> str:
    return _(_WHAT[what]).format(label=shown_label(label.replace("_", " ")))
