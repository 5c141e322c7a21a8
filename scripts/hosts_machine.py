"""Hosts made of this machine's namespaces: each has a network, a name, processes and mounts of its own. Needs root.

`Hosts` makes a switch, a head that owns the storage and serves it by sshd, and nodes that mount it by sshfs. What
happens to hosts happens to these: a cable is pulled, a file server hangs, the power goes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
SCHEDULER = "tls://10.77.0.1:8786"
# dask's pages for people are served without TLS, with --no-dashboard, too.
_PAGES = ("--dashboard-address", "127.0.0.1:0")
SHARES = ("pacs", "results")
_SSH_PORT = 2200
# What every host has of its own: a place for mounts that nobody else sees.
_FIRST_PROCESS = "mount -t tmpfs tmpfs /mnt; hostname {name}; while :; do sleep 3600 & wait; done"
_NAMESPACES = ("--mount", "--uts", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
_SSHFS = (
    "reconnect,ServerAliveInterval=5,ServerAliveCountMax=3,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,"
    "ConnectTimeout=5,LogLevel=ERROR,"
)


@dataclass(frozen=True, slots=True)
class Wire:
    """How far away a host is."""

    delay_ms: float = 0
    loss_percent: float = 0


@dataclass(slots=True)
class Host:
    """One host: its name, address and folder for logs, and the process that it lives as long as."""

    name: str
    number: int
    folder: Path
    holder: subprocess.Popen[bytes]
    first: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    where: Path = Path("/mnt")
    """The folder that its shares are mounted in."""

    @property
    def address(self) -> str:
        """Its address, of which nobody outside of these hosts knows."""
        return f"10.77.0.{self.number}"

    def words(self, words: Sequence[str]) -> list[str]:
        """Return the command that runs another one on this host."""
        inside = ("nsenter", "--target", str(self.first), "--mount", "--uts", "--net", "--pid")
        return [*inside, "--wd=/", *words]

    def start(self, *words: str, log: str = "log", **environment: str) -> subprocess.Popen[bytes]:
        """Start a command there; what it says goes to a file of its folder."""
        with (self.folder / f"{self.name}-{log}.txt").open("ab") as file:
            everything = os.environ | self.environment | environment
            return subprocess.Popen(self.words(words), env=everything, stdout=file, stderr=subprocess.STDOUT)

    def run(self, *words: str, timeout_s: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end, whatever its exit code."""
        everything = os.environ | self.environment | environment
        return subprocess.run(
            self.words(words), env=everything, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def must(self, *words: str) -> str:
        """Run a command there that has to succeed; return what it printed."""
        done = self.run(*words)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def processes(self, *having: str) -> list[psutil.Process]:
        """Return its processes in whose words all of these stand."""
        found = []
        for process in psutil.Process(self.first).children(recursive=True) + _entered(self.first):
            with suppress(psutil.Error):
                if all(word in " ".join(process.cmdline()) for word in having):
                    found.append(process)
        return found

    def lose_power(self) -> None:
        """End all that runs there, at once."""
        self.holder.kill()
        self.holder.wait()


def _entered(first: int) -> list[psutil.Process]:
    """Return the processes that came into a host from outside: they are no children of its first one."""
    there = Path(f"/proc/{first}/ns/pid").readlink()
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if process.pid != first and Path(f"/proc/{process.pid}/ns/pid").readlink() == there:
                found.append(process)
    return found


class Hosts:
    """A switch, `head` and `nodes` that are gone, with all that runs on them, when the context is left.

    Every other node has the shares mounted elsewhere, where they are not to have the `same_paths`.
    """

    def __init__(self, folder: Path, nodes: int = 2, wire: Wire | None = None, *, same_paths: bool = False) -> None:
        self.folder, self._wire, self._nodes, self._same_paths = folder, wire, nodes, same_paths
        self._stack = ExitStack()

    def __enter__(self) -> Hosts:
        try:
            for name in (*SHARES, "private"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            _make_keys(self.folder / "private")
            self._switch = self._made("switch", 0)
            self._switch.must("ip", "link", "add", "br0", "type", "bridge")
            self._switch.must("ip", "link", "set", "br0", "up")
            self.head = self.add("head", 1)
            for name in SHARES:
                self.head.must("mkdir", f"/mnt/{name}")
                self.head.must("mount", "--bind", str(self.folder / name), f"/mnt/{name}")
            self.nodes = [self.add(f"node{number}", 1 + number, self._wire) for number in range(1, 1 + self._nodes)]
            for node in self.nodes:
                self.serve(node)
            for number, node in enumerate(self.nodes):
                self.mount(node, "/mnt" if number % 2 == 0 or self._same_paths else "/mnt/elsewhere")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _made(self, name: str, number: int) -> Host:
        words = ("unshare", *_NAMESPACES, "sh", "-c", _FIRST_PROCESS.format(name=name))
        host = Host(name, number, self.folder, subprocess.Popen(words))
        self._stack.callback(host.lose_power)
        host.first = wait_until(lambda: [each.pid for each in psutil.Process(host.holder.pid).children()])[0]
        wait_until(lambda: host.run("hostname").stdout.strip() == name)
        host.environment = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "DASK_CONFIG": str(self.folder / "private" / "dask.yaml"),
            "DASK_DISTRIBUTED__WORKER__DAEMON": "False",
            "CXRBATCH_DEBUG": "1",
        }
        return host

    def add(self, name: str, number: int, wire: Wire | None = None) -> Host:
        """Make a host, on the switch."""
        host = self._made(name, number)
        port = f"to-{name}"
        if wire is None:
            veth = ["name", port, "netns", str(self._switch.first), "type", "veth"]
            must("ip", "link", "add", *veth, "peer", "name", "eth0", "netns", str(host.first))
        else:
            far = (f"--delay-ms={wire.delay_ms}", f"--loss-percent={wire.loss_percent}")
            ends = (str(self._switch.first), port, str(host.first), "eth0")
            words = (sys.executable, str(ROOT / "scripts" / "hosts_wire.py"), *ends, *far)
            carrier = subprocess.Popen(words, stdout=subprocess.PIPE)
            self._stack.callback(carrier.wait)
            self._stack.callback(carrier.kill)
            if carrier.stdout is None or not carrier.stdout.readline():
                raise RuntimeError("the wire was not made")
        self._switch.must("ip", "link", "set", port, "master", "br0", "up")
        for device in ("lo", "eth0"):
            host.must("ip", "link", "set", device, "up")
        host.must("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        return host

    def serve(self, node: Host) -> None:
        """Start a file server for one node on the head."""
        Path("/run/sshd").mkdir(exist_ok=True)
        private = self.folder / "private"
        options = (
            f"HostKey={private}/host",
            f"AuthorizedKeysFile={private}/key.pub",
            f"Port={_SSH_PORT + node.number}",
        )
        more = ("StrictModes=no", "UsePAM=no", "PidFile=none", "Subsystem=sftp internal-sftp", "PermitRootLogin=yes")
        words = [word for option in (*options, *more) for word in ("-o", option)]
        self.head.start("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *words, log=f"sshd-{node.name}")

    def server_of(self, node: Host) -> list[psutil.Process]:
        """Return the processes of the head that serve files to a node."""
        listeners = self.head.processes("sshd", f"Port={_SSH_PORT + node.number}")
        return [each for one in listeners for each in (one, *one.children(recursive=True))]

    def mount(self, node: Host, where: str) -> None:
        """Mount the shares on a node."""
        node.where = Path(where)
        for name in SHARES:
            self.mount_share(node, name)
        pairs = [f"/mnt/{name}={where}/{name}" for name in SHARES]
        if where != "/mnt":
            node.environment["CXRBATCH_PATHS"] = ";".join(pairs)

    def mount_share(self, node: Host, name: str) -> None:
        """Mount one share on a node."""
        node.must("mkdir", "-p", f"{node.where}/{name}")
        options = f"{_SSHFS}IdentityFile={self.folder}/private/key,port={_SSH_PORT + node.number}"
        words = ("sshfs", f"root@{self.head.address}:/mnt/{name}", f"{node.where}/{name}", "-o", options)
        wait_until(lambda: node.run(*words, timeout_s=30).returncode == 0)

    def cut(self, host: Host) -> None:
        """Pull its cable."""
        self._switch.must("ip", "link", "set", f"to-{host.name}", "down")

    def join(self, host: Host) -> None:
        """Put its cable back."""
        self._switch.must("ip", "link", "set", f"to-{host.name}", "up")

    @contextmanager
    def hanging(self, node: Host) -> Iterator[None]:
        """Let the file server of a node hang while the block lasts."""
        stopped = self.server_of(node)
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in stopped:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)

    def scheduler(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a scheduler on the head, as docs/cluster.md says."""
        words = ("-m", "distributed.cli.dask_scheduler", "--protocol", "tls", "--host", self.head.address)
        started = self.head.start(sys.executable, *words, *_PAGES, log="scheduler", **environment)
        wait_until(lambda: "8786" in self.head.run("ss", "-Hltn").stdout)
        return started

    def worker(self, node: Host, **environment: str) -> subprocess.Popen[bytes]:
        """Start a node's dask worker, as docs/cluster.md says."""
        words = ("-m", "distributed.cli.dask_worker", SCHEDULER, "--nworkers", "1", "--nthreads", "2")
        quiet = (*_PAGES, "--host", node.address, "--local-directory", "/mnt/scratch")
        return node.start(sys.executable, *words, *quiet, log="worker", **environment)

    def end(self, host: Host, *having: str) -> None:
        """Kill processes of a host."""
        for process in host.processes(*having):
            with suppress(psutil.Error):
                process.kill()


def _make_keys(folder: Path) -> None:
    """Make keys for sshd, and an authority with one certificate for dask, as an administrator would."""
    if (folder / "dask.yaml").exists():
        return
    for name in ("host", "key"):
        must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    new = ("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    ca, ca_key = str(folder / "ca.pem"), str(folder / "ca-key.pem")
    must(*new, "-x509", "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=authority")
    request, cert, key = (str(folder / name) for name in ("request.pem", "cert.pem", "cert-key.pem"))
    must(*new, "-keyout", key, "-out", request, "-subj", "/CN=cxrbatch")
    must("openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-out", cert, "-days", "2")
    roles = "".join(f"      {role}: {{cert: {cert}, key: {key}}}\n" for role in ("scheduler", "worker", "client"))
    (folder / "dask.yaml").write_text(
        f"distributed:\n  comm:\n    require-encryption: true\n    tls:\n      ca-file: {ca}\n{roles}"
    )


def must(*words: str) -> None:
    """Run a command of this machine that has to succeed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")


def wait_until(look: Any, patience_s: float = 60) -> Any:
    """Wait until something holds; return it."""
    end = time.monotonic() + patience_s
    while not (found := look()):
        if time.monotonic() > end:
            raise TimeoutError("it did not come about")
        time.sleep(0.1)
    return found


def missing_programs() -> list[str]:
    """Return what this machine lacks."""
    return [name for name in ("ip", "sshfs", "sshd", "ss", "unshare", "nsenter", "openssl") if not shutil.which(name)]
