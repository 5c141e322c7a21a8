"""What a walk tells of the files that it meets, beside what the ledger knows of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from cxrbatch.errors import Reason
from cxrbatch.output.ledger import known as known_files
from cxrbatch.output.ledger.known import FormerFile, KnownFiles
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.records import Header, ImageFile, IndexedFile, Rejection

# More than are compared at once, in an order that is not that of their paths.
FILES = [ImageFile(f"{number * 7919 % 1009:04}.dcm", 1000 + number % 3, 10**18 + number) for number in range(1009)]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as opened:
        refused = Rejection(Reason.NOT_FRONTAL, "a lateral")
        opened.index.record(
            IndexedFile(file, f"study{number // 2}", Header(), rejection=refused if number % 2 else None)
            for number, file in enumerate(FILES)
        )
        yield opened


def test_what_is_as_it_was_is_not_told(ledger: Ledger) -> None:
    known = KnownFiles(ledger.store)
    assert len(known) == len(FILES)
    assert known.meet(FILES) == []
    assert list(known.gone()) == []


def test_what_changed_in_size_or_time_and_what_is_new_is_told_in_order(ledger: Ledger) -> None:
    larger, later = replace(FILES[5], size_bytes=7), replace(FILES[2], mtime_ns=3)
    both, new = replace(FILES[9], size_bytes=7, mtime_ns=3), ImageFile("new.dcm", 1000, 10**18)
    changed = FormerFile(is_same=False, refused=True)
    told = KnownFiles(ledger.store).meet([FILES[0], larger, new, later, FILES[1], both])
    assert told == [(larger, changed), (new, None), (later, FormerFile(is_same=False, refused=False)), (both, changed)]


def test_files_that_took_each_others_place_have_changed(ledger: Ledger) -> None:
    first, second = FILES[0], FILES[1]
    swapped = [replace(second, path=first.path), replace(first, path=second.path)]
    assert [file for file, _ in KnownFiles(ledger.store).meet(swapped)] == swapped


def test_what_was_refused_is_told_where_that_is_asked_for(ledger: Ledger) -> None:
    told = KnownFiles(ledger.store).meet(FILES[:4], tell_refused=True)
    assert told == [(file, FormerFile(is_same=True, refused=True)) for file in (FILES[1], FILES[3])]
    assert [file for file, _ in KnownFiles(ledger.store).meet(FILES[:4], tell_all=True)] == FILES[:4]


def test_what_was_not_met_is_gone_and_told_when_it_is_back(ledger: Ledger) -> None:
    known = KnownFiles(ledger.store)
    known.meet(FILES[3:])
    gone = sorted(file.path for file in FILES[:3])
    assert list(known.gone()) == gone
    ledger.index.record_gone(gone)
    known = KnownFiles(ledger.store)
    # Refused, for none of them was scored before it went.
    assert known.meet(FILES) == [(file, FormerFile(is_same=True, refused=True)) for file in FILES[:3]]
    assert list(known.gone()) == []


def test_a_ledger_that_knows_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        known = KnownFiles(ledger.store, by_folder=True)
        assert known.meet(FILES[:2]) == [(file, None) for file in FILES[:2]]
        assert list(known.gone()) == []
        assert known.meet_folder("a") == 0


def test_no_size_and_time_that_are_near_each_other_are_taken_for_the_same() -> None:
    sizes = [0, 1, 2, 3, 2**20, 2**31, 2**32, 2**40]
    times = [-(2**63) + 1, -1, 0, 1, 2, 3, 10**9, 10**18, 10**18 + 1, 10**18 + 2**32, 2**63 - 1]
    pairs = list(product(sizes, times))
    assert len(set(known_files._states(*zip(*pairs, strict=True)).tolist())) == len(pairs)
