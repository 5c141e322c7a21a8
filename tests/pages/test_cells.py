"""A cell is inert wherever a spreadsheet splits the line, and every text can be had back from it."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
import unicodedata
from collections.abc import Iterator

import pandas as pd
import pytest
from hypothesis import example, given, settings, strategies as st

from cxrbatch.pages.cells import LIST_SEPARATOR, harmless, list_cell, restored, write_rows
from cxrbatch.pages.wording import visible

pytestmark = pytest.mark.hostile("9.13 CSV cells")

FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212\ufb29"
SEPARATORS = ",;\t"
# A number is what it is; only text is to be looked at.
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?")

HOSTILE = [
    *(f"{start}cmd|' /C calc'!A0" for start in FORMULA),
    *(f"x{separator}{start}1+1" for separator in SEPARATORS for start in FORMULA),
    *(f"x{separator} {start}1+1" for separator in SEPARATORS for start in "=+-@"),
    *(f'x{separator}"{start}1+1"' for separator in SEPARATORS for start in "=+-@"),
    *(f"{space}=1+1" for space in (" ", "\xa0", "\u3000", "\u2003", "\v", "\f", "\x85", "\u2028", "\ufeff", "\u200b")),
    *("\t=1", "\r=1", "\n=1", "a\n=1", "a\r\n;=1", "\x00=1", '"=1', '""=1', "'=1", "''=1", "';=1", "x;'=1", " '=1"),
    *("@SUM(1+1)", "-2+3", "+1", "-0.5", "1e5", "=1.png", "'=1.png", "=DDE('a';'b')", "sep=;", ";", ",", "'", "", "-"),
    *('","=1+1";=1', "\u200d=1", "\u3164=1", "x;;=1", "x; ; =1", "x,\xa0=1", "\\=1", "\\x3d1", "\\", "\\\\", "\\x0a"),
    *("\x85", os.fsdecode(b"\x85"), "\u0085x", "\ud800", "\udcff", "\U000e0041", "\x1b[31m", "a|b", "a\\|b", "\ufeff"),
]
TEXT = st.text(st.sampled_from("=+-@'\" \t\n\r,;|\\x0au\xa0\uff1d\u200d\ufeff\x85\udc85ab"), max_size=12) | st.text(
    st.characters(exclude_categories=()), max_size=12
)


def written(rows: list[list[object]]) -> str:
    stream = io.StringIO()
    write_rows(stream, rows)
    return stream.getvalue()


def cells_as_split(text: str, separator: str) -> Iterator[str]:
    """Yield every cell that some reader may find: one that heeds quotes, one that does not, pandas."""
    lines = text.splitlines()
    for line in lines:
        yield from line.split(separator)
        yield from next(csv.reader([line], delimiter=separator))
        yield from next(csv.reader([line], delimiter=separator, quoting=csv.QUOTE_NONE, escapechar="\x00"))
    yield from (cell for row in csv.reader(io.StringIO(text), delimiter=separator) for cell in row)


def begins_a_formula(cell: str) -> bool:
    """Tell whether a reader that drops spaces and quotes first would see a formula."""
    bare = cell
    while bare and (bare[0].isspace() or bare[0] in '"\u200b\u200c\u200d\ufeff\u3164\u115f\u1160\u2800\uffa0'):
        bare = bare[1:]
    return bare.startswith(tuple(FORMULA)) and NUMBER.fullmatch(bare) is None


def is_inert(text: str) -> bool:
    return not any(begins_a_formula(cell) for separator in SEPARATORS for cell in cells_as_split(text, separator))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_hostile_text_is_inert_at_every_place_of_a_row(text: str) -> None:
    rows: list[list[object]] = [[text], [text, "a"], ["a", text], [text, text], ["a;", text], ['a"', text, 0.5]]
    for row in [*rows, ["a", -0.5, text, "z"]]:
        table = written([row])
        assert is_inert(table)
        assert len(table.splitlines()) == 1
        assert [restored(cell) for cell in next(csv.reader([table]))] == [str(cell) for cell in row]


@settings(max_examples=600, deadline=None)
@given(st.lists(TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4))
@example(["x;", "=1"])
@example(['"', ";=1"])
def test_every_row_is_inert_and_can_be_had_back(row: list[object]) -> None:
    table = written([row])
    for separator in SEPARATORS:
        found = [cell for cell in cells_as_split(table, separator) if begins_a_formula(cell)]
        # What is left are numbers, which with another separator have their neighbours in the same cell.
        assert all(any(isinstance(cell, int | float) and found_cell.startswith(str(cell)) for cell in row)
                   for found_cell in found)  # fmt: skip
    assert [restored(cell) for cell in next(csv.reader([table]))] == [str(cell) for cell in row]


@settings(max_examples=600, deadline=None)
@given(TEXT)
def test_text_can_be_had_back(text: str) -> None:
    cell = harmless(text)
    assert restored(cell) == text
    assert cell.encode("utf-8").decode() == cell
    assert len(cell.splitlines()) <= 1
    assert visible(cell) == cell, "nothing unseen is left"


@settings(max_examples=300, deadline=None)
@given(TEXT, TEXT)
@example("=1.png", "'=1.png")
@example("\x85", "\udc85")
@example("a\nb", "a\\x0ab")
def test_two_texts_are_two_cells(one: str, other: str) -> None:
    assert (harmless(one) == harmless(other)) == (one == other)


@given(st.lists(TEXT | st.just("A|B"), max_size=4))
def test_two_lists_are_two_cells(items: list[str]) -> None:
    found = restored(harmless(list_cell(items)))
    assert found.count(LIST_SEPARATOR) == max(0, len(items) - 1)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_pandas_reads_the_same_text(text: str) -> None:
    table = written([["path", "score"], [text, 0.5], ["other", -0.25]])
    read = pd.read_csv(io.StringIO(table), dtype={"path": str}, keep_default_na=False)
    assert restored(read["path"][0]) == text
    assert read["score"].tolist() == [0.5, -0.25]
    for separator in ";\t":
        split = pd.read_csv(io.StringIO(table), sep=separator, header=None, dtype=str, names=range(9), quoting=3)
        assert not any(begins_a_formula(cell) for cell in split.to_numpy().ravel() if isinstance(cell, str))


def test_ordinary_text_stays_as_it_is() -> None:
    for text in (
        *(
            "CR",
            "a=b",
            "M\u00fcller^Hans",
            "\u5c71\u7530^\u592a",
            "x'y",
            "'70s",
            "1.2.840.10008.1.2",
            "",
            "0012",
            "x - y",
        ),
        *("it is small; 3 px, not 4", 'body part is "HAND", not CHEST', "a-b_c+d@e", "A;B", "C, D", "50 % (1/2)"),
        *("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "1e5", "0.5", "night/1.dcm"),
    ):
        assert harmless(text) == text


def test_numbers_stay_numbers() -> None:
    assert written([[-0.5, 1e5, -3, 0, None, True]]) == "-0.5,100000.0,-3,0,,True\n"


def test_everything_unseen_is_written_out() -> None:
    kept = "\u200c\u200d"
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        if unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and letter not in kept:
            assert harmless(f"a{letter}").isprintable()
            assert visible(f"a{letter}").isprintable()
