"""What the ledger knows of every file, small enough for ten million: to tell what a walk meets anew, and what is gone.

A file is told by a hash of its path beside one of its size and time: 17 bytes, where a path and a record take 300, and
8 more once a walk meets files in another order than the ledger's. The hash of the path is Python's own, SipHash of 64
bits under a key that each process draws anew. Two of ten million paths share one with a chance of 3 in a million: one
of them is then read again, or the account that each run makes of its files says so.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.records import ImageFile

_PRESENT, _REFUSED, _DEFERRED, _MET = 1, 2, 4, 8
# Few enough that they stay in the cache of a processor: that saves a third of the time.
_AT_ONCE = 200
# All of it is in the index `files_by_walk`.
_QUERY = "SELECT path, size_bytes, mtime_ns, present + 2 * (status = 'rejected') + 4 * (mtime_ns < 0) FROM files"
# Odd, so that no two sizes become the same; large, so that no size makes up for another time.
_SPREAD = 0x1E3779B97F4A7C15

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FormerFile:
    """What is known of a file that was met before: whether it has the same size and time, whether it was refused."""

    is_same: bool
    refused: bool


class KnownFiles:
    """The files of a ledger as they were when it was asked, and which of them were met since."""

    def __init__(self, store: LedgerStore, *, by_folder: bool = False) -> None:
        """Read what there is of all files; with `by_folder`, so that a folder can be met as a whole."""
        self._store = store
        hashes, states, flags, folders = (array(kind) for kind in "qqBq")
        rows = store.rows(_QUERY)
        while some := list(islice(rows, _AT_ONCE)):
            paths, sizes, times, marks = zip(*some, strict=True)
            hashes.extend(map(hash, paths))
            states.frombytes(_states(sizes, times).tobytes())
            flags.extend(marks)
            if by_folder:
                folders.extend(hash(path.rpartition(b"/")[0]) for path in paths)
        self._hashes: Numbers = _as_numpy(hashes)
        self._states: Numbers = _as_numpy(states)
        self._flags: NDArray[np.uint8] = _as_numpy(flags)
        self._folders = _Lookup(_as_numpy(folders))
        self._lookup: _Lookup | None = None
        self._next = 0

    def __len__(self) -> int:
        return len(self._hashes)

    def meet(
        self, files: Sequence[ImageFile], *, tell_refused: bool = False, tell_all: bool = False
    ) -> list[tuple[ImageFile, FormerFile | None]]:
        """Note that these files are there, each once.

        Returns:
            Those that are not as they were and where they were, and with `tell_refused` those that were refused, with
            what is known of them, if anything is; in their order.
        """
        at, is_known = self._find(_numbers(hash(os.fsencode(file.path)) for file in files))
        if not is_known.any():
            return [(file, None) for file in files]
        flags = self._flags[at]
        self._flags[at[is_known]] |= _MET
        is_same = self._states[at] == _states([file.size_bytes for file in files], [file.mtime_ns for file in files])
        is_as_it_was = is_known & is_same & ((flags & (_PRESENT | _REFUSED * tell_refused)) == _PRESENT)
        told = range(len(files)) if tell_all else np.flatnonzero(~is_as_it_was).tolist()
        return [
            (files[n], FormerFile(bool(is_same[n]), bool(flags[n] & _REFUSED)) if is_known[n] else None) for n in told
        ]

    def _find(self, hashes: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
        """Return where these files are, and of which that is so.

        Most walks meet what is known in the order in which the ledger has it: then it lies after what was met last.
        """
        ahead = np.arange(self._next, min(self._next + len(hashes), len(self)))
        if len(ahead) == len(hashes) and (self._hashes[ahead] == hashes).all():
            at, is_known = ahead, np.ones(len(hashes), bool)
        else:
            self._lookup = self._lookup or _Lookup(self._hashes)
            at, is_known = self._lookup.find(hashes)
        if is_known.any():
            self._next = int(at[is_known][-1]) + 1
        return at, is_known

    def is_settled(self, folder: str) -> bool:
        """Tell whether no file that was in a folder itself is to be looked at again, as one that was deferred is."""
        return not (self._flags[self._places(folder)] & _DEFERRED).any()

    def meet_folder(self, folder: str) -> int:
        """Note that all files that were in a folder itself are there as they were; return how many there are."""
        places = self._places(folder)
        self._flags[places] |= _MET
        return len(places)

    def _places(self, folder: str) -> Numbers:
        """Return where the files are that were in a folder itself when it was walked over last."""
        places = self._folders.find_all(hash(os.fsencode(folder)))
        is_there: NDArray[np.bool_] = (self._flags[places] & _PRESENT) != 0
        return places[is_there]

    def gone(self) -> Iterator[str]:
        """Yield the files that were there and were not met."""
        gone = (self._flags & (_PRESENT | _MET)) == _PRESENT
        if not gone.any():
            return
        hashes = set(self._hashes[gone].tolist())
        for (path,) in self._store.rows("SELECT path FROM files WHERE present ORDER BY path"):
            if hash(path) in hashes:
                yield os.fsdecode(path)


class _Lookup:
    """Where numbers are in an array that is in any order."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers, self._order = numbers, numbers.argsort()

    def find(self, wanted: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
        """Return where each number is, or some place, and of which it is the place."""
        if not len(self._numbers):
            return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
        at = np.searchsorted(self._numbers, wanted, sorter=self._order)
        at[at == len(self._numbers)] = 0
        places: Numbers = self._order[at]
        return places, self._numbers[places] == wanted

    def find_all(self, wanted: int) -> Numbers:
        """Return all places of a number."""
        first, end = (np.searchsorted(self._numbers, wanted, side, self._order) for side in ("left", "right"))
        places: Numbers = self._order[first:end]
        return places


def _numbers(values: Iterable[int]) -> Numbers:
    return np.fromiter(values, np.int64)


def _states(sizes: Sequence[int], times: Sequence[int]) -> Numbers:
    """Return a number for each pair of size and time, which two of one file share with a chance of 1 in 2^64."""
    return (np.array(sizes, np.int64) * _SPREAD) ^ np.array(times, np.int64)


def _as_numpy(values: array[int]) -> NDArray[Any]:
    """Return the same memory as a NumPy array."""
    return np.frombuffer(values, values.typecode) if values else np.array(values)
