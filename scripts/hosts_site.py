"""What the checks of `hosts_check` share: hosts with an INPUT, commands on these, and what a local run leaves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cxrbatch.output.folder.sharded import SHARDS
from scripts.hosts_machine import ROOT, SCHEDULER, Host, Hosts, Wire
from tests.factories.outputs import leftovers, snapshot

_TIME = re.compile(r'("mtime_ns": *\d+)\d{9}')
ENGINE = str(ROOT / "engines" / "demo")
CXRBATCH = (sys.executable, "-m", "cxrbatch")
# Small shares of a small machine, so that there is a middle of the run in which something can happen.
SMALL = ("--workers", "1", "--threads", "1", "--no-pdf", "-q")


@dataclass(slots=True)
class Site:
    """Hosts with an INPUT, and what a run on one machine makes of that."""

    folder: Path
    studies: int
    stack: ExitStack = field(default_factory=ExitStack)
    _local: dict[str, object] = field(default_factory=dict)

    def hosts(self, nodes: int = 2, wire: Wire | None = None, *, same_paths: bool = False) -> Hosts:
        """Make hosts, for the time of one check."""
        return self.stack.enter_context(Hosts(self.folder, nodes, wire, same_paths=same_paths))

    def out(self, name: str) -> Path:
        """Return the results of a name, as this machine sees them."""
        return self.folder / "results" / name

    def expect_as_local(self, name: str, *, marker: bool = True) -> None:
        """Compare with a run on the head alone: all but times and logs, and with no `marker` where the ledger is.

        Raises:
            AssertionError: they differ.
        """
        if not self._local:
            with Hosts(self.folder, nodes=0) as hosts:
                expect(driver(hosts.head, "local", cluster="").wait(), 0)
            self._local = as_seen_by_all(self.out("local"))
        there = as_seen_by_all(self.out(name))
        skipped = set() if marker else {".cxrbatch.json"}
        names = (self._local.keys() | there.keys()) - skipped
        different = sorted(key for key in names if self._local.get(key) != there.get(key))
        expect((different[:5], leftovers(self.out(name))), ([], []))

    def events(self, name: str, event: str, log: str = "cxrbatch.log") -> list[dict[str, Any]]:
        """Return the lines of a log about one kind of event."""
        path = self.out(name) / log
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if line["event"] == event]

    def done(self, name: str) -> int:
        """Return how many studies of a run are done."""
        return len(self.events(name, "study done"))


def as_seen_by_all(out: Path) -> dict[str, object]:
    """Return what a run left, without logs of shards, and with file times to the second: sshfs knows no more."""
    seen: dict[str, object] = {}
    for key, (mode, content) in snapshot(out).items():
        if key.partition("/")[0] != SHARDS:
            seen[key] = (mode, _TIME.sub(r"\1", content) if isinstance(content, str) else content)
    return seen


def driver(host: Host, name: str, *more: str, cluster: str = SCHEDULER) -> subprocess.Popen[bytes]:
    """Start a run on a host."""
    where = ("--cluster", cluster) if cluster else ()
    words = ("run", f"{host.where}/pacs", "-o", f"{host.where}/results/{name}", "-e", ENGINE, *SMALL, *where, *more)
    return host.start(*CXRBATCH, *words, log=f"run-{name}")


def expect(found: object, expected: object) -> None:
    """Raise an AssertionError that shows both where they differ."""
    if found != expected:
        raise AssertionError(f"{found!r} instead of {expected!r}")


def cluster_of(hosts: Hosts, **environment: str) -> subprocess.Popen[bytes]:
    """Start a scheduler, and a worker on each node."""
    scheduler = hosts.scheduler(**environment)
    for node in hosts.nodes:
        hosts.worker(node)
    return scheduler


def deal_out(hosts: Hosts, name: str, shards: int) -> None:
    """Deal INPUT out in shards."""
    words = ("shard", "/mnt/pacs", "-o", f"/mnt/results/{name}", "--of", str(shards), "--no-pdf", "-q")
    hosts.head.must(*CXRBATCH, *words, "-e", ENGINE)


def work(host: Host, name: str, number: int) -> subprocess.Popen[bytes]:
    """Start to work on a shard."""
    words = ("work", f"/mnt/results/{name}", "--shard", str(number), "-e", ENGINE, "--workers", "1", "--threads", "1")
    return host.start(*CXRBATCH, *words, "-q", log=f"work-{name}-{number}")


def open_ports(host: Host) -> list[str]:
    """Return where a host listens, but for its file server."""
    lines = [line.split() for line in host.must("ss", "-Hltn").splitlines()]
    return sorted(line[3] for line in lines if ":220" not in line[3])


def since(moment: float, line: dict[str, Any]) -> float:
    """Return how long after a moment a line of a log was written."""
    return datetime.fromisoformat(line["time"]).timestamp() - moment
