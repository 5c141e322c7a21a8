"""What the ledger knows of every file, small enough for ten million: to tell what a walk meets anew, and what is gone.

A file is told by a hash of its path beside its size and time: 25 bytes, where a path and a record take 300. The hash is
Python's own, SipHash of 64 bits under a key that each process draws anew. Two of ten million paths share one with a
chance of 3 in a million: one of them is then read again, or the account that each run makes of its files says so.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from cxrbatch.output.ledger.index import KnownFile
from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.records import ImageFile

_PRESENT, _REFUSED, _MET = 1, 2, 4
# Few enough that they stay in the cache of a processor: that saves a third of the time.
_AT_ONCE = 200
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
        found = np.array(hashes)
        order = found.argsort(kind="stable")
        self._hashes, self._sizes, self._times = found[order], np.array(sizes)[order], np.array(times)[order]
        self._flags = np.array(flags)[order]
        in_folders = np.array(folders)[order] if by_folder else np.array(folders)
        self._by_folder: Numbers = in_folders.argsort(kind="stable")
        self._folders: Numbers = in_folders[self._by_folder]

    def __len__(self) -> int:
        return len(self._hashes)

    def meet(
        self, files: Sequence[ImageFile], *, tell_refused: bool = False, tell_all: bool = False
    ) -> list[tuple[ImageFile, KnownFile | None]]:
        """Note that these files are there, each once.

        Returns:
            Those that are not as they were and where they were, and with `tell_refused` those that were refused, with
            what is known of them, if anything is; in their order.
        """
        hashes = _numbers(hash(os.fsencode(file.path)) for file in files)
        at = np.searchsorted(self._hashes, hashes)
        at[at == len(self)] = 0
        is_known = self._hashes[at] == hashes if len(self) else np.zeros(len(files), bool)
        if not is_known.any():
            return [(file, None) for file in files]
        flags, known_at = self._flags[at], at[is_known]
        self._flags[known_at] |= _MET
        is_as_it_was = is_known & (self._sizes[at] == _numbers(file.size_bytes for file in files))
        is_as_it_was &= self._times[at] == _numbers(file.mtime_ns for file in files)
        is_as_it_was &= (flags & (_PRESENT | _REFUSED * tell_refused)) == _PRESENT
        told = range(len(files)) if tell_all else np.flatnonzero(~is_as_it_was).tolist()
        return [(files[n], self._known(int(at[n])) if is_known[n] else None) for n in told]

    def _known(self, at: int) -> KnownFile:
        flags = int(self._flags[at])
        return KnownFile(int(self._sizes[at]), int(self._times[at]), bool(flags & _PRESENT), bool(flags & _REFUSED))

    def is_settled(self, folder: str) -> bool:
        """Tell whether no file that was in a folder itself is to be looked at again, as one that was deferred is."""
        return bool((self._times[self._places(folder)] >= 0).all())

    def meet_folder(self, folder: str) -> int:
        """Note that all files that were in a folder itself are there as they were; return how many there are."""
        places = self._places(folder)
        self._flags[places] |= _MET
        return len(places)

    def _places(self, folder: str) -> Numbers:
        """Return where the files are that were in a folder itself when it was walked over last."""
        found = hash(os.fsencode(folder))
        first, end = np.searchsorted(self._folders, found), np.searchsorted(self._folders, found, side="right")
        places = self._by_folder[first:end]
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


def _numbers(values: Iterator[int]) -> Numbers:
    return np.fromiter(values, np.int64)
