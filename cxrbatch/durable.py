"""Files that are there whole or not at all: text, bytes or a written-to path in, one atomic replacement out."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_PREFIX = ".cxrbatch-tmp-"
FILE_MODE = 0o640
FOLDER_MODE = 0o750


@contextmanager
def replacing(target: Path, *, mode: int = FILE_MODE) -> Iterator[Path]:
    """Yield an empty temporary file beside `target`; on success it becomes `target`, on error it is removed.

    The bytes are on the disk before the name is: fsync of the file, rename, fsync of the folder.
    `mode` is set explicitly, so that no umask widens or narrows it.
    """
    temporary = _begin_temporary(target)
    try:
        yield temporary
        _settle(temporary, mode)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def replace_files(folder: Path, contents: Mapping[str, bytes], *, mode: int = FILE_MODE) -> None:
    """Replace several files of one folder, each atomically, in the order of `contents`.

    All are written before the first is waited for: the disk takes them together, at the price of one.
    """
    temporaries: list[Path] = []
    try:
        for name, content in contents.items():
            temporaries.append(_begin_temporary(folder / name))
            temporaries[-1].write_bytes(content)
        for temporary in temporaries:
            _settle(temporary, mode)
        for name, temporary in zip(contents, temporaries, strict=True):
            temporary.replace(folder / name)
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
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
    else:
        sync_folder(target.parent)


def encode(text: str) -> bytes:
    """Return text as UTF-8; a name's undecodable bytes (lone surrogates) are written as \\udcNN."""
    return text.encode("utf-8", "backslashreplace")


def _begin_temporary(target: Path) -> Path:
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}{target.suffix}")
    # Nobody else may read it before its mode is set, whatever the umask.
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    return temporary


def _settle(temporary: Path, mode: int) -> None:
    with temporary.open("rb+") as written:
        os.fchmod(written.fileno(), mode)
        os.fsync(written.fileno())


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents with mode 0750 under any umask."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    folder.chmod(FOLDER_MODE)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> int:
    """Remove what a killed process left half-written below `folder`; return how many files."""
    leftovers = list(folder.rglob(f"{TEMPORARY_PREFIX}*"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return len(leftovers)
