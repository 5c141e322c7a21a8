"""What the ledger knows of every file, small enough for ten million: to tell what a walk meets anew, and what is gone.

A file is told by a hash of its path beside its size and time: 25 bytes, where a path and a record take 300. The hash is
Python's own, SipHash of 64 bits under a key that each process draws anew. Two of ten million paths share one with a
chance of 3 in a million: one of them is then read again, or the account that each run makes of its files says so.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from cxrbatch.output.ledger.index import KnownFile
from cxrbatch.output.ledger.store import LedgerStore

_PRESENT, _REFUSED, _MET = 1, 2, 4
_AT_ONCE = 10_000
_QUERY = "SELECT path, size_bytes, mtime_ns, present + 2 * (status = 'rejected') FROM files"

Numbers = NDArray[np.int64]


class KnownFiles:
    """The files of a ledger as they were when it was asked, and which of them were met since."""

    def __init__(self, store: LedgerStore, *, by_folder: bool = False) -> None:
        """Read the table `files`; with `by_folder`, so that a folder can be met as a whole."""
        self._store = store
        hashes, sizes, times, flags, folders = (array(kind) for kind in "qqqBq")
        rows = store.rows(_QUERY)
        while some := list(islice(rows, _AT_ONCE)):
            paths, *columns = zip(*some, strict=True)
            hashes.extend(map(hash, paths))
            for column, values in zip((sizes, times, flags), columns, strict=True):
                column.extend(values)
            if by_folder:
                folders.extend(hash(path.rpartition(b"/")[0]) for path in paths)
        order = _order(hashes)
        self._hashes, self._sizes, self._times = (_sorted(column, order) for column in (hashes, sizes, times))
        self._flags, folders = _sorted(flags, order), _sorted(folders, order)
        self._by_folder: Numbers = _order(folders)
        self._folders = _sorted(folders, self._by_folder)

    def __len__(self) -> int:
        return len(self._hashes)

    def meet(self, path: str) -> KnownFile | None:
        """Note that a file of this path is there; return what is known of it, if anything is."""
        found = hash(os.fsencode(path))
        at = bisect_left(self._hashes, found)
        if at == len(self._hashes) or self._hashes[at] != found:
            return None
        flags = self._flags[at]
        self._flags[at] = flags | _MET
        return KnownFile(self._sizes[at], self._times[at], bool(flags & _PRESENT), bool(flags & _REFUSED))

    def is_settled(self, folder: str) -> bool:
        """Tell whether no file that was in a folder itself is to be looked at again, as one that was deferred is."""
        return all(self._times[at] >= 0 for at in self._places(folder))

    def meet_folder(self, folder: str) -> int:
        """Note that all files that were in a folder itself are there as they were; return how many there are."""
        places = self._places(folder)
        for at in places:
            self._flags[at] |= _MET
        return len(places)

    def _places(self, folder: str) -> list[int]:
        """Return where the files are that were in a folder itself when it was walked over last."""
        found = hash(os.fsencode(folder))
        first, end = bisect_left(self._folders, found), bisect_right(self._folders, found)
        return [at for at in self._by_folder[first:end].tolist() if self._flags[at] & _PRESENT]

    def gone(self) -> Iterator[str]:
        """Yield the files that were there and were not met."""
        flags = np.frombuffer(self._flags, np.uint8)
        gone = np.flatnonzero((flags & (_PRESENT | _MET)) == _PRESENT)
        if not len(gone):
            return
        hashes = set(np.frombuffer(self._hashes, np.int64)[gone].tolist())
        for (path,) in self._store.rows("SELECT path FROM files WHERE present ORDER BY path"):
            if hash(path) in hashes:
                yield os.fsdecode(path)


def _order(column: array[int]) -> Numbers:
    numbers = np.frombuffer(column, np.int64) if len(column) else np.empty(0, np.int64)
    return np.argsort(numbers, kind="stable")


def _sorted(column: array[int], order: Numbers) -> array[int]:
    """Return a column in another order; an empty one stays empty."""
    if not len(column):
        return column
    return array(column.typecode, np.frombuffer(column, column.typecode)[order].tobytes())
