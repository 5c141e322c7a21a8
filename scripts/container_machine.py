"""Containers of one image, started by crun as Kubernetes would start them. Start at `mounted_image`.

Not as root, on a root file system that is read-only, without capabilities and, unless asked, without a network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

USER = 10001
IMAGE = "localhost/cxrbatch"
_PROBE = ["python", "-m", "cxrbatch.upkeep.probe"]


@dataclass(frozen=True, slots=True)
class Mount:
    """What a container sees of this machine: a folder or file, and where."""

    source: Path
    target: str
    mode: str = "ro"


@dataclass(slots=True)
class Machine:
    """Starts containers of one image, whose root file system is mounted at `root`."""

    work: Path
    root: Path
    environment: list[str]
    started: int = field(default=0)

    def bundle(self, arguments: list[str], mounts: list[Mount], *, network: bool = False) -> tuple[str, Path]:
        """Write what crun is to run; return the container's name and the folder of its bundle."""
        self.started += 1
        name, folder = f"cxrbatch-{os.getpid()}-{self.started}", self.work / f"bundle-{self.started}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run(["crun", "spec"], cwd=folder, check=True)
        spec = json.loads((folder / "config.json").read_text())
        spec["process"] |= {
            "terminal": False,
            "user": {"uid": USER, "gid": USER},
            "args": ["cxrbatch", *arguments],
            "cwd": "/output",
            "env": self.environment,
            "noNewPrivileges": True,
            "capabilities": {kind: [] for kind in spec["process"]["capabilities"]},
        }
        spec["root"] = {"path": str(self.root), "readonly": True}
        spec["mounts"] = [each for each in spec["mounts"] if each["type"] not in {"cgroup", "mqueue"}]
        spec["mounts"] += [_tmp(), *map(_bind, mounts)]
        if network:
            spaces = spec["linux"]["namespaces"]
            spec["linux"]["namespaces"] = [space for space in spaces if space["type"] != "network"]
        (folder / "config.json").write_text(json.dumps(spec))
        return name, folder

    def command(self, *words: str) -> list[str]:
        """Return how crun is called: away from this machine's control groups, which it may not understand."""
        crun = ["crun", "--root", str(self.work / "crun"), "--cgroup-manager=disabled", *words]
        return ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /sys/fs/cgroup; exec "$@"', "sh", *crun]

    def run(self, arguments: list[str], mounts: list[Mount]) -> subprocess.CompletedProcess[str]:
        """Run a command of cxrbatch to its end."""
        name, folder = self.bundle(arguments, mounts)
        call = self.command("run", "--bundle", str(folder), name)
        return subprocess.run(call, capture_output=True, text=True, check=False)

    @contextmanager
    def running(self, arguments: list[str], mounts: list[Mount], *, network: bool = False) -> Iterator[Service]:
        """Yield a command of cxrbatch that goes on until the block ends."""
        name, folder = self.bundle(arguments, mounts, network=network)
        with (self.work / f"{folder.name}.log").open("w+") as log:
            call = self.command("run", "--bundle", str(folder), name)
            process = subprocess.Popen(call, stdout=log, stderr=subprocess.STDOUT)
            try:
                yield Service(self, name, process)
            finally:
                if process.poll() is None:
                    subprocess.run(self.command("kill", name, "KILL"), check=False)
                    process.wait(30)


@dataclass(frozen=True, slots=True)
class Service:
    """A command that goes on, in a container of this name."""

    machine: Machine
    name: str
    process: subprocess.Popen[bytes]

    def probe(self, *options: str) -> str:
        """Return what the health check says: `ok`, or what is wrong."""
        call = self.machine.command("exec", self.name, *_PROBE, *options)
        return subprocess.run(call, capture_output=True, text=True, check=False).stdout.strip()

    def stop(self) -> tuple[int, float]:
        """Ask it to end, as an orchestrator does; return its exit code and the seconds that it took."""
        started = time.monotonic()
        subprocess.run(self.machine.command("kill", self.name, "TERM"), check=True)
        return self.process.wait(60), time.monotonic() - started


def _bind(mount: Mount) -> dict[str, Any]:
    return {
        "destination": mount.target,
        "type": "bind",
        "source": str(mount.source.resolve()),
        "options": ["rbind", mount.mode],
    }


def _tmp() -> dict[str, Any]:
    return {
        "destination": "/tmp",  # noqa: S108  # the container's own
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "nodev", "noexec", "mode=1777", "size=1g"],
    }


@contextmanager
def mounted_image(work: Path) -> Iterator[Machine]:
    """Yield a machine whose containers are of the image in `work`."""
    buildah = ["buildah", "--storage-driver", "vfs", "--root", str(work / "storage"), "--runroot", str(work / "run")]

    def ask(*words: str) -> str:
        return subprocess.run([*buildah, *words], check=True, capture_output=True, text=True).stdout.strip()

    environment = json.loads(ask("inspect", "--type", "image", IMAGE))["Docker"]["config"]["Env"]
    container = ask("from", "--pull-never", IMAGE)
    try:
        yield Machine(work, Path(ask("mount", container)), environment)
    finally:
        ask("rm", container)
