from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from cxrbatch.errors import Flag, Reason
from cxrbatch.pages import wording
from cxrbatch.records import RefusedImage


def test_every_flag_and_reason_has_its_own_sentence() -> None:
    assert set(wording.FLAG_SENTENCES) == set(Flag)
    assert set(wording.REASON_SENTENCES) == set(Reason)
    sentences = [*wording.FLAG_SENTENCES.values(), *wording.REASON_SENTENCES.values()]
    assert len(set(sentences)) == len(sentences)
    assert all(sentence.endswith(".") and sentence[0].isupper() for sentence in sentences if sentence[0] != "c")


def test_of_a_long_path_its_end_is_shown() -> None:
    assert wording.input_path("night/a.png") == "night/a.png"
    assert wording.input_path("deep/" * 100 + "na\u202eme.png", longest=20) == "…/deep/deep/name.png"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("2024-02-01T03:04:05+00:00", "2024-02-01 03:04 UTC"),
        ("2024-02-01T03:04:05.123456Z", "2024-02-01 03:04 UTC"),
        ("2024-02-01T03:04:05+02:00", "2024-02-01 03:04 UTC+02:00"),
        ("2024-02-01T03:04:05", "2024-02-01 03:04"),
        ("yesterday", "yesterday"),
    ],
)
def test_moment(value: str, shown: str) -> None:
    assert wording.moment(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0 s"),
        (41.0, "41 s"),
        (59.6, "1 min 0 s"),
        (332.4, "5 min 32 s"),
        (3600.0, "1 h 00 min"),
        (7530, "2 h 05 min"),
    ],
)
def test_duration(seconds: float, shown: str) -> None:
    assert wording.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "point", "shown"),
    [
        (0.914, None, "0.91"),
        (0.498, 0.5, "0.498"),
        (0.4998, 0.5, "0.4998"),
        (0.5, 0.5, "0.50"),
        (0.001, None, "<0.01"),
        (0.9991, 0.5, ">0.99"),
        (0.0, None, "<0.01"),
        (1.0, 0.5, ">0.99"),
        (0.004, 0.003, "0.004"),
    ],
)
def test_probability(value: float, point: float | None, shown: str) -> None:
    assert wording.probability(value, point) == shown


@given(st.floats(0, 1), st.integers(10, 990))
def test_a_probability_never_looks_as_if_it_were_on_the_other_side(value: float, thousandths: int) -> None:
    point = thousandths / 1000
    shown = wording.probability(value, point)
    if abs(value - point) > 0.0001 and shown[0] not in "<>":
        assert (float(shown) >= point) == (value >= point)


@given(st.text())
def test_plain_text_is_one_short_printable_line(text: str) -> None:
    shown = wording.plain(text, longest=20)
    assert len(shown) <= 20
    assert shown.encode("utf-8").decode() == shown
    assert "\n" not in shown
    assert "\x00" not in shown
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


def test_plain_text_cuts_visibly() -> None:
    assert wording.plain("x" * 10_000, longest=5) == "xxxx…"


def test_undecodable_bytes_of_a_path_are_written_in_hexadecimal() -> None:
    assert wording.printable_path(b"a/\xff\xe9.dcm".decode("utf-8", "surrogateescape")) == r"a/\xff\xe9.dcm"


def test_what_would_move_a_terminals_cursor_is_made_visible() -> None:
    assert wording.visible("a\x1b[2Jb\u202ec\n") == r"a\x1b[2Jb\u202ec\x0a"
    assert wording.visible("Z\u00fcrich/\u5c71\u7530.dcm") == "Z\u00fcrich/\u5c71\u7530.dcm"


def test_refused_sentence_falls_back_to_the_status() -> None:
    assert wording.refused_sentence(RefusedImage("a", "rejected", "not_frontal", "")).startswith("The image is not a f")
    assert "scored once" in wording.refused_sentence(RefusedImage("a", "duplicate", "", ""))
    assert "next run" in wording.refused_sentence(RefusedImage("a", "failed", "something_new", ""))
