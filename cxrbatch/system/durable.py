"""Files that are there whole or not at all: every one is replaced in one atomic step."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cxrbatch.system.faults import reach

TEMPORARY_PREFIX = ".cxrbatch-tmp-"
FILE_MODE = 0o640
FOLDER_MODE = 0o750


@contextmanager
def replacing(target: Path, *, mode: int = FILE_MODE) -> Iterator[Path]:
    """Yield an empty temporary file beside `target`; on success it becomes `target`, on error it is removed.

    The bytes are on the disk before the name is: fsync of the file, rename, fsync of the folder.
    `mode` is set explicitly, so that no umask widens or narrows it.
    """
    temporary = _temporary_name(target)
    try:
        _create(temporary)
        yield temporary
        _settle(temporary, mode)
        reach("replacing-rename")
        temporary.replace(target)
        reach("replacing-renamed")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


@contextmanager
def new_temporary(target: Path, content: bytes, *, mode: int = FILE_MODE) -> Iterator[Path]:
    """Yield a temporary file beside `target` that holds `content`, on the disk; it is removed afterwards."""
    temporary = _temporary_name(target)
    try:
        _create(temporary)
        temporary.write_bytes(content)
        _settle(temporary, mode)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def replace_files(folder: Path, contents: Mapping[str, bytes], *, mode: int = FILE_MODE) -> None:
    """Replace several files of one folder, each atomically, in the order of `contents`.

    All are written before the first is waited for: the disk takes them together, at the price of one.
    """
    temporaries: list[Path] = []
    try:
        for name, content in contents.items():
            temporaries.append(_temporary_name(folder / name))
            _create(temporaries[-1])
            temporaries[-1].write_bytes(content)
            reach("files-written")
        for temporary in temporaries:
            _settle(temporary, mode)
        for name, temporary in zip(contents, temporaries, strict=True):
            reach("files-rename")
            temporary.replace(folder / name)
            reach("files-renamed")
    except BaseException:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(folder)


def replace_bytes(target: Path, content: bytes, *, mode: int = FILE_MODE) -> None:
    """Replace `target` by `content` atomically."""
    replace_files(target.parent, {target.name: content}, mode=mode)


def replace_text(target: Path, content: str, *, mode: int = FILE_MODE) -> None:
    """Replace `target` by `content`, as `encode` writes it, atomically."""
    replace_bytes(target, encode(content), mode=mode)


def keep_copy(source: Path, target: Path) -> None:
    """Give the content of `source` a second name that stays when `source` is replaced; an existing `target` stands.

    A hard link where the file system has them, which is there at once and whole; a copy elsewhere (SMB, FAT).
    """
    reach("copy-link")
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
    else:
        reach("copy-linked")
        sync_folder(target.parent)


def encode(text: str) -> bytes:
    """Return text as UTF-8; a name's undecodable bytes (lone surrogates) are written as \\udcNN."""
    return text.encode("utf-8", "backslashreplace")


def _temporary_name(target: Path) -> Path:
    return target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}{target.suffix}")


def _create(temporary: Path) -> None:
    reach("temporary-create")
    # Nobody else may read it before its mode is set, whatever the umask.
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    reach("temporary-created")


def _settle(temporary: Path, mode: int) -> None:
    with temporary.open("rb+") as written:
        os.fchmod(written.fileno(), mode)
        reach("temporary-sync")
        os.fsync(written.fileno())
        reach("temporary-synced")


def make_folder(folder: Path, *, within: Path | None = None) -> None:
    """Create `folder` and its missing parents with mode 0750 under any umask.

    With `within`, no folder above that one is made, nor that one itself: where it is missing somebody took it away.

    Raises:
        OSError: a folder cannot be made, or `within` is missing.
    """
    if folder.is_dir():
        return
    if folder == within:
        raise FileNotFoundError(errno.ENOENT, "it is no longer there", str(folder))
    make_folder(folder.parent, within=within)
    reach("folder-make")
    # Also between these two lines it is open to nobody else.
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    reach("folder-mode")
    folder.chmod(FOLDER_MODE)
    with suppress(PermissionError):  # one may write to a folder that one may not list
        sync_folder(folder.parent)
    reach("folder-made")


def sync_folder(folder: Path) -> None:
    """Make what was renamed or made in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        reach("folder-sync")
        os.fsync(descriptor)
        reach("folder-synced")
    finally:
        os.close(descriptor)


def close_for_good(descriptor: int) -> None:
    """Close a descriptor whose bytes were waited for, or don't matter.

    On a share that is gone even that fails, though it is closed: why the run ended is not to be hidden by it.
    """
    with suppress(OSError):
        os.close(descriptor)


def remove_temporaries(folder: Path, *, below: bool = True) -> int:
    """Remove what a killed process left half-written in `folder`, and `below`; return how many files."""
    pattern = f"{TEMPORARY_PREFIX}*"
    leftovers = list(folder.rglob(pattern) if below else folder.glob(pattern))
    for leftover in leftovers:
        reach("leftover-remove")
        leftover.unlink(missing_ok=True)
        reach("leftover-removed")
    return len(leftovers)
