"""What drifted, in the words of a page; `drift_in_words` says it in English for terminals."""

from __future__ import annotations

from cxrbatch.output.drift import DriftLine
from cxrbatch.pages.labels import shown_label
from cxrbatch.pages.language import gettext as _, msgid, number

_WHAT = {
    "score": msgid("scores of {label}"),
    "positive": msgid("rate of {label}"),
    "grey": msgid("grey levels"),
    "view": msgid("views"),
    "age": msgid("ages"),
}


def drift_said(line: DriftLine) -> str:
    """Say what changed, against what, and by how much, in the language spoken."""
    what = _(_WHAT[line.what]).format(label=shown_label(line.label.replace("_", " ")))
    if line.against == "training":
        return _("{what} against the validation images, {index}").format(what=what, index=number(line.psi, 2))
    return _("{what} against the last 30 days, {index}").format(what=what, index=number(line.psi, 2))
