"""Which file system holds a folder, told from what the kernel says of its mounts."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from cxrbatch.output.ledger import store
from cxrbatch.output.ledger.store import file_system_of, network_file_system

SERVER = r"""
22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
30 22 0:40 / /mnt rw shared:15 - autofs systemd-1 rw,fd=42
31 30 0:44 / /mnt/pacs rw,relatime shared:20 - nfs4 pacs.example:/export rw,vers=4.2
32 31 8:17 / /mnt/pacs/scratch rw,relatime - xfs /dev/sdb1 rw
33 22 0:45 / /srv/share\040one rw,relatime master:3 propagate_from:2 - cifs //nas/share rw,vers=3.1.1
34 22 0:46 / /home/anna/remote rw,nosuid - fuse.sshfs anna@host:/data rw
35 22 0:47 / /data rw - ext4 /dev/sdc1 rw
36 22 0:48 / /data rw - nfs old.example:/data rw
37 22 0:49 / /mnt/pacs2 rw - tmpfs tmpfs rw
"""

DOCKER_DESKTOP = """
1021 930 0:270 / / rw,relatime master:300 - overlay overlay rw,lowerdir=/a,upperdir=/b
1022 1021 0:274 / /proc rw - proc proc rw
1030 1021 0:36 /Users/anna/out /out rw,relatime - 9p host rw,trans=fd
this line is none
1031 1021 0:37 /x
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/cxrbatch", "ext4"),
        ("/mnt/pacs/out", "nfs4"),
        ("/mnt/pacs", "nfs4"),
        ("/mnt/pacs/scratch/state", "xfs"),
        ("/mnt/pacs2/out", "tmpfs"),
        ("/mnt/elsewhere", "autofs"),
        ("/srv/share one/out", "cifs"),
        ("/home/anna/remote/out", "fuse.sshfs"),
        ("/data/out", "nfs"),
        ("/", "ext4"),
    ],
)
def test_the_deepest_and_last_mount_above_a_path_counts(path: str, kind: str) -> None:
    assert file_system_of(PurePosixPath(path), SERVER) == kind


def test_lines_that_are_not_understood_are_passed_over() -> None:
    assert file_system_of(PurePosixPath("/out/reports"), DOCKER_DESKTOP) == "9p"
    assert file_system_of(PurePosixPath("/tmp"), DOCKER_DESKTOP) == "overlay"
    assert file_system_of(PurePosixPath("/tmp"), "") == ""


def test_only_network_file_systems_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "mountinfo"
    monkeypatch.setattr(store, "MOUNTINFO", info)
    for kind, named in (("nfs4", "nfs4"), ("cifs", "cifs"), ("ext4", ""), ("fuse.sshfs", "fuse.sshfs"), ("zfs", "")):
        info.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {tmp_path.resolve()} rw - {kind} host:/x rw\n")
        assert network_file_system(tmp_path) == named
    monkeypatch.setattr(store, "MOUNTINFO", tmp_path / "no such kernel")
    assert network_file_system(tmp_path) == ""


def test_a_link_is_where_it_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "share")
    info = tmp_path / "mountinfo"
    info.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {tmp_path.resolve()}/share rw - nfs host:/x rw\n")
    monkeypatch.setattr(store, "MOUNTINFO", info)
    assert network_file_system(tmp_path / "out") == "nfs"
