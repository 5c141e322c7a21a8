"""What could not be compared for drift, in words of the page."""

from __future__ import annotations

from cxrbatch.output.sheets.drift_words import lines_left_out
from cxrbatch.pages.language import speaking

LEFT_OUT = (
    "score Pleural_Effusion: not known of the validation images",
    "positive Nodule against recent: 1218 and 0 known, 50 needed",
    "grey: not known of the validation images",
    "view: not known of the validation images",
    "age: not known of the validation images",
)


def test_the_first_lines_are_said_in_words_and_the_others_counted() -> None:
    assert list(lines_left_out(LEFT_OUT)) == [
        "scores of Pleural Effusion: not known of the validation images.",
        "rate of Nodule against the last 30 days: 1,218 and 0 known, 50 needed.",
        "grey levels: not known of the validation images.",
        "... and 2 more in run.json.",
    ]
    assert len(list(lines_left_out(LEFT_OUT[:3]))) == 3


def test_they_are_said_in_the_language_of_the_page() -> None:
    with speaking("de"):
        said = list(lines_left_out(LEFT_OUT))
    assert "1.218" in said[1]
    assert not any(word in line for line in said for word in ("known", "scores", "more"))
