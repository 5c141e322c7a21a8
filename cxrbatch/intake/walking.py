"""The walk over an input folder: every regular file below it, in one order, on one thread or on many. Start at `walk`.

On a share each look at a file waits for a server, and many looks may wait at once. So where the first looks take long,
the folders that come next are listed ahead by threads. What comes out, and its order, are the same.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from cxrbatch.config import LOG_FILE
from cxrbatch.intake.folders import describe_entry, is_output_folder, list_sorted
from cxrbatch.records import ImageFile, storable_ns

SLOW_S = 0.0005
"""Where a look takes longer than this on average, threads look ahead; on a local disk it takes a hundredth of it."""
# So many looks tell; so many files are one task of a thread; so many tasks per thread are given ahead.
_LOOKS_THAT_TELL, _FILES_AT_ONCE, _AHEAD = 40, 16, 4
# For so many a late look may count; so a quarter of those that tell are late where threads begin.
_LATEST = 4


@dataclass(frozen=True, slots=True)
class RememberedFolder:
    """A folder as an earlier walk met it: when it had changed last, and the names of the folders in it."""

    mtime_ns: int
    folders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MetFolder:
    """A folder that a walk met, its path below INPUT with a slash at the end, '' for INPUT itself.

    `is_unchanged`: it was not listed, for it is as it was remembered. `youngest_ns` is when it, or a file in it,
    changed last; None where that cannot be told, since there are links in it.
    """

    path: str
    mtime_ns: int
    folders: tuple[str, ...]
    is_unchanged: bool = False
    youngest_ns: int | None = None


@dataclass(frozen=True, slots=True)
class WalkManner:
    """How to walk: on how many threads where looks take long, and what is remembered of folders, by their paths.

    `on_folder` is told of every folder that was listed, or is as it was remembered, when all of its files are known.
    """

    threads: int = 1
    remembered: Callable[[str], RememberedFolder | None] = lambda _: None
    on_folder: Callable[[MetFolder], object] | None = None


def walk(
    root: Path,
    *,
    exclude: Path | None = None,
    on_error: Callable[[OSError], None] | None = None,
    on_hidden: Callable[[Path], None] | None = None,
    manner: WalkManner | None = None,
) -> Iterator[ImageFile]:
    """Yield every regular file below `root`, folder by folder, sorted by name; memory is that of some folders.

    Not met: hidden files and folders, files still being copied (.tmp, .part), DICOMDIR, linked folders,
    links that lead nowhere or in a circle, FIFOs, sockets, devices, and output folders of cxrbatch. A link to
    a file is met; where it leads is `index_file`'s question. A folder that holds a `.lock` file is being written
    by another program, as mercure does, and is passed over until it is gone.

    Args:
        root: the input folder.
        exclude: a folder below it that is left out, such as the output folder.
        on_error: told of every folder below `root` that cannot be listed now or is locked.
        on_hidden: told of every folder below `root` that is left out, with all below it, as an output folder.
        manner: how to walk, by default on one thread, and looking at every file.

    Raises:
        OSError: `root` itself cannot be listed.
    """
    base = str(root.resolve())
    excluded = str(exclude.resolve()) if exclude is not None else None
    walker = _Walker(base, manner or WalkManner())
    pending = [_Node(base, "")]
    try:
        while pending:
            node = pending.pop()
            try:
                listed = walker.listed(node, pending)
            except OSError as error:
                if node.path == base and not isinstance(error, BlockingIOError):
                    raise
                if on_error is not None:
                    on_error(error)
                continue
            if listed is None:
                if on_hidden is not None:
                    on_hidden(Path(node.path))
                continue
            pending.extend(child for child in reversed(node.children(listed)) if child.path != excluded)
            yield from walker.files(node, listed)
    finally:
        walker.close()


@dataclass(frozen=True, slots=True)
class _Listed:
    """What is in a folder: entries of which some are described already; None: it is as it was remembered."""

    mtime_ns: int
    folders: tuple[str, ...]
    entries: list[os.DirEntry[str]] | None
    described: list[ImageFile | None] = field(default_factory=list)


_Entries = list[os.DirEntry[str]]
_Found = list[ImageFile | None]


@dataclass(slots=True)
class _Node:
    """A folder that is yet to come, and what was found out about it ahead: up to which of its files, and which."""

    path: str
    within: str
    future: Future[_Listed | None] | None = None
    below: list[_Node] | None = None
    asked: int = 0
    waiting: deque[tuple[_Entries, Future[_Found]]] = field(default_factory=deque)

    def children(self, listed: _Listed) -> list[_Node]:
        """Return the folders in it, in their order."""
        if self.below is None:
            self.below = [_Node(os.path.join(self.path, name), f"{self.within}{name}/") for name in listed.folders]  # noqa: PTH118  # once per folder
        return self.below


class _Walker:
    """Lists folders and describes files: here while that is quick, else on threads."""

    def __init__(self, base: str, manner: WalkManner) -> None:
        self._base, self._manner = base, manner
        self._executor: ThreadPoolExecutor | None = None
        self._looks, self._took_s = 0, 0.0

    def close(self) -> None:
        """Let go of the threads; what they wait for is not waited for."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def listed(self, node: _Node, pending: list[_Node]) -> _Listed | None:
        """Return what is in a folder; None for one that is to be left out, as an output folder.

        Raises:
            OSError: it cannot be listed now.
        """
        if self._executor is None:
            with self._timed(1):
                return _list(node, self._base, self._remembered(node))
        self._look_ahead(node, pending)
        assert node.future is not None
        return node.future.result()

    def files(self, node: _Node, listed: _Listed) -> Iterator[ImageFile]:
        """Yield the files of a folder, and tell of it."""
        youngest: int | None = listed.mtime_ns
        for entry, found in self._described(node, listed):
            if entry.is_symlink():
                youngest = None
            if found is not None:
                youngest = None if youngest is None else max(youngest, found.mtime_ns)
                yield found
        if self._manner.on_folder is not None:
            is_unchanged = listed.entries is None
            self._manner.on_folder(MetFolder(node.within, listed.mtime_ns, listed.folders, is_unchanged, youngest))

    def _described(self, node: _Node, listed: _Listed) -> Iterator[tuple[os.DirEntry[str], ImageFile | None]]:
        entries = listed.entries or []
        yield from zip(entries[: len(listed.described)], listed.described, strict=True)
        node.asked = max(node.asked, len(listed.described))
        while node.waiting or node.asked < len(entries):
            if self._executor is None:
                some = entries[node.asked : node.asked + _FILES_AT_ONCE]
                node.asked += len(some)
                with self._timed(len(some)):
                    found = _describe_all(some, self._base, node.within)
            else:
                self._ask(node, listed, _AHEAD * self._manner.threads - len(node.waiting))
                some, future = node.waiting.popleft()
                found = future.result()
            yield from zip(some, found, strict=True)

    def _ask(self, node: _Node, listed: _Listed, tasks: int) -> int:
        """Let threads look at further files of a folder, in so many tasks at most; return in how many."""
        entries = listed.entries or []
        node.asked, given = max(node.asked, len(listed.described)), 0
        while given < tasks and node.asked < len(entries):
            assert self._executor is not None
            some = entries[node.asked : node.asked + _FILES_AT_ONCE]
            node.asked += len(some)
            node.waiting.append((some, self._executor.submit(_describe_all, some, self._base, node.within)))
            given += 1
        return given

    def _look_ahead(self, node: _Node, pending: list[_Node]) -> None:
        """List the folders that come next, in their order, as far as they are known by now, and look at their files."""
        left = _AHEAD * self._manner.threads
        coming = [*pending[-left:], node]
        while coming and left > 0:
            each = coming.pop()
            left -= 1
            if each.future is None:
                assert self._executor is not None
                each.future = self._executor.submit(_list_ahead, each, self._base, self._remembered(each))
            elif each.future.done() and each.future.exception() is None and (listed := each.future.result()):
                left -= self._ask(each, listed, left)
                coming.extend(reversed(each.children(listed)[:left]))

    def _remembered(self, node: _Node) -> RememberedFolder | None:
        return self._manner.remembered(node.within)

    def _timed(self, looks: int) -> _Timed:
        return _Timed(self, looks)

    def note(self, looks: int, took_s: float) -> None:
        """Note how long some looks took; where they take long, threads look from now on."""
        # One that is late, such as the listing of a folder of thousands, says nothing of the others.
        self._looks, self._took_s = self._looks + looks, self._took_s + min(took_s, _LATEST * SLOW_S * looks)
        if self._manner.threads > 1 and self._looks >= _LOOKS_THAT_TELL and self._took_s > SLOW_S * self._looks:
            self._executor = self._executor or ThreadPoolExecutor(self._manner.threads, "walk")
        if self._looks > 100 * _LOOKS_THAT_TELL:
            # A share may become slow while it is walked over.
            self._looks, self._took_s = 0, 0.0


@dataclass(slots=True)
class _Timed:
    walker: _Walker
    looks: int
    started: float = 0.0

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.walker.note(self.looks, time.monotonic() - self.started)


def _list(node: _Node, base: str, remembered: RememberedFolder | None) -> _Listed | None:
    # Before it is listed: what changes it meanwhile makes its time another one than what is remembered.
    mtime_ns = storable_ns(os.stat(node.path).st_mtime_ns)  # noqa: PTH116  # once per folder
    if remembered is not None and remembered.mtime_ns == mtime_ns:
        return _Listed(mtime_ns, remembered.folders, None)
    entries = list_sorted(node.path)
    is_base = node.path == base
    # An output folder has a log: only where there is one of that name is a look at its marker worth the time.
    if not is_base and any(entry.name == LOG_FILE for entry in entries) and is_output_folder(Path(node.path)):
        return None
    folders = tuple(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    return _Listed(mtime_ns, folders, [entry for entry in entries if not entry.is_dir(follow_symlinks=False)])


def _list_ahead(node: _Node, base: str, remembered: RememberedFolder | None) -> _Listed | None:
    """List a folder on a thread, and describe its first files there, too: of most folders these are all."""
    listed = _list(node, base, remembered)
    if listed is not None and listed.entries:
        listed.described.extend(_describe_all(listed.entries[:_FILES_AT_ONCE], base, node.within))
    return listed


def _describe_all(entries: _Entries, base: str, within: str) -> _Found:
    return [describe_entry(entry, base, within) for entry in entries]
