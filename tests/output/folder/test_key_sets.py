"""Sets of study keys as numbers."""

from __future__ import annotations

import pytest

from cxrbatch.output.folder.key_sets import as_text, key_set, without

KEYS = ["00000000000000ff", "ffffffffffffffff", "0123456789abcdef"]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_keys_come_back_sorted_and_once(n: int) -> None:
    assert as_text(key_set(iter(KEYS[:n] * 2))) == sorted(KEYS[:n])


def test_what_is_no_study_key_is_left_out() -> None:
    strange = ["", "0", "report", "0123456789ABCDEF", "0123456789abcdef0", "g" * 16, " " * 16, "\u0660" * 16]
    assert as_text(key_set([*strange, *KEYS])) == sorted(KEYS)
    assert as_text(key_set(strange)) == []


def test_what_is_in_one_set_only() -> None:
    assert as_text(without(key_set(KEYS), key_set(KEYS[1:]))) == KEYS[:1]
    assert as_text(without(key_set([]), key_set(KEYS))) == []
    assert as_text(without(key_set(KEYS), key_set([]))) == sorted(KEYS)


def test_more_keys_than_are_read_at_once() -> None:
    many = [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in range(25_000)]
    assert as_text(key_set(many)) == sorted(many)
