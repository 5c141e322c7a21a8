"""Sets of study keys, small enough for ten million: a key is 16 hex digits, and so a number of 64 bits.

As text a million of them take 100 MB, as numbers 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from cxrbatch.output.report.intent import STUDY_KEY

_AT_ONCE = 10_000

Keys = NDArray[np.uint64]


def key_set(study_keys: Iterable[str]) -> Keys:
    """Return the numbers of study keys, uint64 [n], sorted; what is no key is left out."""
    found, keys = [np.empty(0, np.uint64)], iter(study_keys)
    while some := list(islice(keys, _AT_ONCE)):
        found.append(_numbers(some))
    numbers = np.concatenate(found)
    # Not np.unique, which puts them into a hash table first: a second for a million, where sorting takes a fiftieth.
    numbers.sort()
    is_new = np.ones(len(numbers), bool)
    is_new[1:] = numbers[1:] != numbers[:-1]
    return numbers[is_new]


def _numbers(study_keys: Sequence[str]) -> Keys:
    try:
        numbers = np.frombuffer(bytes.fromhex("".join(study_keys)), ">u8")
    except ValueError:
        numbers = np.empty(0, np.uint64)
    if len(numbers) != len(study_keys) or not all(map((16).__eq__, map(len, study_keys))):
        return _numbers([key for key in study_keys if STUDY_KEY.fullmatch(key)])
    return numbers.astype(np.uint64)


def without(first: Keys, second: Keys) -> Keys:
    """Return what of the first set is not in the second, sorted."""
    return np.setdiff1d(first, second, assume_unique=True)


def as_text(keys: Keys) -> list[str]:
    """Return the study keys of a set."""
    return [f"{number:016x}" for number in keys.tolist()]
