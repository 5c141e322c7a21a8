from __future__ import annotations

import pytest

from cxrbatch.pages import header_words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Doe^Jane", "Doe, Jane"),
        ("Doe^Jane^Q^Dr^PhD", "Doe, Dr Jane Q, PhD"),
        ("Doe", "Doe"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou (山田 太郎, やまだ たろう)"),
        ("Hong^Gildong=洪^吉洞=홍^길동", "Hong, Gildong (洪 吉洞, 홍 길동)"),
        ("=山田^太郎", "山田 太郎"),
        ("=山田^太郎=やまだ^たろう", "山田 太郎 (やまだ たろう)"),
        ("==やまだ^たろう", "やまだ たろう"),
        ("Doe=Doe=Doe", "Doe"),
        ("X" * 500 + "=山田", "X" * 79 + "… (山田)"),
        ("", ""),
        ("^^^^", ""),
    ],
)
def test_person_name(value: str, shown: str) -> None:
    assert header_words.person_name(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [("20240131", "2024-01-31"), ("20240230", "20240230"), ("2024.01.31", "2024.01.31"), ("", "")]
)
def test_day(value: str, shown: str) -> None:
    assert header_words.day(value) == shown


@pytest.mark.parametrize(("value", "shown"), [("058Y", "58 years"), ("001D", "1 day"), ("58", "58"), ("", "")])
def test_age(value: str, shown: str) -> None:
    assert header_words.age(value) == shown
