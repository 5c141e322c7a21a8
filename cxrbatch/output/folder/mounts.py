"""The network file system that a folder lies on, if any, told by the kernel's list of mounts."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

MOUNTINFO = Path("/proc/self/mountinfo")

NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs", "beegfs", "gpfs"),
        *("gfs2", "ocfs2", "orangefs", "pvfs2", "davfs", "vboxsf", "prl_fs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse"),
        *("fuse.davfs", "fuse.davfs2", "fuse.smbnetfs", "fuse.vmhgfs-fuse", "fuse.mfs", "fuse.juicefs"),
    }
)
"""Where several machines may write, or memory is not shared between processes: no place for SQLite's WAL mode
(sqlite.org/wal.html: "All processes using a database must be on the same host computer")."""

_OCTAL = re.compile(r"\\([0-7]{3})")


def network_file_system(folder: Path) -> str:
    """Return the type of the network file system that holds `folder`; '' on a local one, or where nobody knows."""
    try:
        mountinfo = MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    kind = file_system_of(PurePosixPath(folder.resolve()), mountinfo)
    return kind if kind in NETWORK_FILE_SYSTEMS else ""


def file_system_of(path: PurePosixPath, mountinfo: str) -> str:
    """Return the type of the file system that holds an absolute path without links, as proc(5) lists mounts.

    A line is `36 35 98:0 /root /mount/point options [tag:value]... - type source options`, with blanks in names as
    octal escapes. The deepest mount point above the path counts, and of several on one point the last.
    """
    found, depth = "", -1
    for line in mountinfo.splitlines():
        place, separator, source = line.partition(" - ")
        fields = place.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = PurePosixPath(_OCTAL.sub(lambda octal: chr(int(octal[1], 8)), fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = source.split(" ")[0], len(point.parts)
    return found
