"""Run cxrbatch on hosts made of namespaces, with a network share between them, and print what came of it as a table.

Needs root, sshfs, sshd and a built engine (`make demo`); everything is taken down again. Start at `main`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.phantom.studies import write_demo_studies
from scripts.hosts_machine import ROOT, Wire, missing_programs, wait_until
from scripts.hosts_site import CXRBATCH, ENGINE, Site, cluster_of, deal_out, driver, expect, open_ports, since, work

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")

# --------------------------------------------------------------------------- what is looked at


def check_cluster(site: Site) -> str:
    """Two nodes that mount the shares by sshfs, one of them elsewhere, with TLS: the rows of a local run."""
    hosts = site.hosts()
    cluster_of(hosts)
    expect(driver(hosts.head, "cluster").wait(), 0)
    site.expect_as_local("cluster")
    machines = sorted(line["machine"] for line in site.events("cluster", "node joined"))
    return f"exit code 0, as a local run; studies by {' and '.join(machines)}"


def check_cable(site: Site) -> str:
    """A node's cable is pulled in the middle, and put back after the run: it writes nothing more."""
    hosts = site.hosts()
    cluster_of(hosts)
    run = driver(hosts.head, "cable")
    wait_until(lambda: site.done("cable") >= 10)
    hosts.cut(hosts.nodes[0])
    cut = time.time()
    expect(run.wait(), 0)
    took = time.time() - cut
    (lost,) = site.events("cable", "node lost")
    site.expect_as_local("cable")
    hosts.join(hosts.nodes[0])
    time.sleep(20)
    site.expect_as_local("cable")
    return f"exit code 0, as a local run; lost after {since(cut, lost):.0f} s, ended after {took:.0f} s; back: nothing"


def check_frozen(site: Site) -> str:
    """A node stands still, as a virtual machine that is moved, until it is given up, and goes on then."""
    hosts = site.hosts()
    cluster_of(hosts, DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="20s")
    run = driver(hosts.head, "frozen")
    wait_until(lambda: site.done("frozen") >= 10)
    processes = hosts.nodes[0].processes("python")
    for process in processes:
        process.suspend()
    stood = time.time()
    expect(run.wait(), 0)
    took = time.time() - stood
    (lost,) = site.events("frozen", "node lost")
    site.expect_as_local("frozen")
    for process in processes:
        process.resume()
    time.sleep(15)
    site.expect_as_local("frozen")
    return (
        f"exit code 0, as a local run; lost after {since(stood, lost):.0f} s, ended after {took:.0f} s; back: nothing"
    )


def check_share_hangs(site: Site) -> str:
    """The file server of one node hangs for 40 s in the middle."""
    hosts = site.hosts()
    cluster_of(hosts)
    run = driver(hosts.head, "hangs")
    wait_until(lambda: site.done("hangs") >= 10)
    with hosts.hanging(hosts.nodes[0]):
        time.sleep(40)
        during = site.done("hangs")
    code = run.wait()
    failed = len(site.events("hangs", "study failed"))
    refused = len(site.events("hangs", "node refused"))
    again = driver(hosts.head, "hangs").wait()
    site.expect_as_local("hangs")
    then = f"again: {again}, as a local run"
    return f"{during} studies done while it hung; exit code {code}, {failed} failed, {refused} nodes refused; {then}"


def check_share_unmounted(site: Site) -> str:
    """INPUT is unmounted on one node in the middle, then OUT on it after it came back."""
    codes = []
    for share in ("pacs", "results"):
        hosts = site.hosts()
        cluster_of(hosts)
        name = f"unmounted-{share}"
        run = driver(hosts.head, name)
        wait_until(lambda name=name: site.done(name) >= 10)
        hosts.nodes[1].must("umount", "-l", f"{hosts.nodes[1].where}/{share}")
        code = run.wait()
        expect(code, 0)
        site.expect_as_local(name)
        (refused,) = site.events(name, "node refused")
        codes.append(f"{share}: exit code 0, as a local run, refused {refused['why'].partition(':')[0]}")
        site.stack.close()
    return "; ".join(codes)


def check_scheduler(site: Site) -> str:
    """The scheduler is killed in the middle; with a new one the same command goes on."""
    hosts = site.hosts()
    scheduler = cluster_of(hosts)
    run = driver(hosts.head, "scheduler")
    wait_until(lambda: site.done("scheduler") >= 10)
    hosts.end(hosts.head, "dask_scheduler")
    began = time.time()
    code = run.wait()
    took = time.time() - began
    scheduler.wait()
    workers = len(hosts.nodes[0].processes("dask_worker"))
    cluster_of(hosts)
    again = driver(hosts.head, "scheduler").wait()
    site.expect_as_local("scheduler")
    return f"exit code {code} after {took:.0f} s; processes of a node then: {workers}; again {again}, as a local run"


def check_version(site: Site) -> str:
    """A node with another version, and one with another engine."""
    hosts = site.hosts(nodes=3)
    other = site.folder / "other"
    shutil.copytree(ROOT / "cxrbatch", other / "cxrbatch")
    version = other / "cxrbatch" / "__init__.py"
    version.write_text(version.read_text().replace('__version__ = "', '__version__ = "9.'))
    hosts.scheduler()
    hosts.worker(hosts.nodes[0])
    hosts.worker(hosts.nodes[1], PYTHONPATH=str(other))
    hosts.nodes[2].must("mount", "-t", "tmpfs", "tmpfs", ENGINE)
    hosts.worker(hosts.nodes[2])
    time.sleep(5)
    expect(driver(hosts.head, "version").wait(), 0)
    site.expect_as_local("version")
    why = sorted(line["why"][:44] for line in site.events("version", "node refused"))
    return f"exit code 0, as a local run; refused: {'; '.join(why)}"


def check_far(site: Site) -> str:
    """Nodes 10 ms away in each direction, whose network loses one packet in a hundred."""
    hosts = site.hosts(wire=Wire(10, 1))
    cluster_of(hosts)
    began = time.time()
    expect(driver(hosts.head, "far").wait(), 0)
    site.expect_as_local("far")
    return f"exit code 0, as a local run, after {time.time() - began:.0f} s"


def check_ports(site: Site) -> str:
    """Where hosts listen: of a cluster with TLS as the manual says, and of `local:2`."""
    hosts = site.hosts()
    cluster_of(hosts)
    time.sleep(10)
    heard = [f"{host.name}: {', '.join(open_ports(host))}" for host in (hosts.head, *hosts.nodes)]
    hosts.end(hosts.head, "dask_")
    run = driver(hosts.head, "ports", cluster="local:2")
    wait_until(lambda: site.done("ports") >= 3)
    local = {port.rpartition(":")[0] for port in open_ports(hosts.head)}
    expect(run.wait(), 0)
    site.expect_as_local("ports")
    return f"cluster: {'; '.join(heard)}. `local:2`: all on {', '.join(local)}"


def check_clock(site: Site) -> str:
    """The clock of a node is an hour ahead."""
    hosts = site.hosts()
    hosts.scheduler()
    ahead = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": "+1h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    hosts.worker(hosts.nodes[0], **ahead)
    hosts.worker(hosts.nodes[1])
    expect(driver(hosts.head, "clock").wait(), 0)
    site.expect_as_local("clock")
    joined = len(site.events("clock", "node joined"))
    return f"exit code 0, as a local run of {joined} nodes"


def check_driver_lost(site: Site) -> str:
    """The driver's host is cut off, with the ledger on the share; another host goes on, then the first is back."""
    hosts = site.hosts(nodes=3, same_paths=True)
    hosts.scheduler()
    for node in hosts.nodes[1:]:
        hosts.worker(node)
    run = driver(hosts.nodes[0], "driver")
    wait_until(lambda: site.done("driver") >= 10)
    hosts.cut(hosts.nodes[0])
    time.sleep(5)
    done = site.done("driver")
    again = driver(hosts.nodes[1], "driver").wait()
    hosts.join(hosts.nodes[0])
    code = run.wait()
    site.expect_as_local("driver")
    return f"cut off after {done} studies; another host: exit code {again}, as a local run; the first, back: {code}"


def check_cost(site: Site) -> str:
    """A run of one host alone, with the ledger on its own disk, by where INPUT and OUT are."""
    rates = []
    for where, wire in (("own disk", None), ("sshfs", None), ("sshfs, 2.5 ms each way", Wire(2.5))):
        name = "cost-" + where.replace(" ", "-").replace(",", "")
        hosts = site.hosts(nodes=1, wire=wire)
        host = hosts.head if where == "own disk" else hosts.nodes[0]
        expect(driver(host, name, "--state", "/mnt/state", cluster="").wait(), 0)
        site.expect_as_local(name, marker=False)
        (began,), (ended,) = site.events(name, "processing"), site.events(name, "processed")
        took = datetime.fromisoformat(ended["time"]) - datetime.fromisoformat(began["time"])
        rates.append(f"{where}: {site.studies / took.total_seconds():.1f} studies/s")
        site.stack.close()
    return "; ".join(rates)


def check_shards(site: Site) -> str:
    """Three hosts with a shard each; one is cut off in the middle and another takes its shard, then it is back."""
    hosts = site.hosts(same_paths=True)
    deal_out(hosts, "shards", 3)
    workers = [work(host, "shards", number) for number, host in enumerate((hosts.head, *hosts.nodes))]
    wait_until(lambda: len(site.events("shards/shards/1", "study done")) >= 5)
    hosts.cut(hosts.nodes[0])
    codes = [workers[0].wait(), workers[2].wait()]
    taken = work(hosts.nodes[1], "shards", 1).wait()
    hosts.join(hosts.nodes[0])
    lost = workers[1].wait()
    merged = hosts.head.run(*CXRBATCH, "merge", "/mnt/results/shards", "-q").returncode
    site.expect_as_local("shards")
    return f"exit codes {codes}, shard taken over {taken}, its first host, back: {lost}; merge {merged}, as a local run"


def check_same_shard(site: Site) -> str:
    """Two hosts are given the same shard by mistake."""
    hosts = site.hosts(same_paths=True)
    deal_out(hosts, "same", 1)
    first = work(hosts.nodes[0], "same", 0)
    wait_until(lambda: len(site.events("same/shards/0", "study done")) >= 5)
    second = work(hosts.nodes[1], "same", 0)
    codes = first.wait(), second.wait()
    merged = hosts.head.run(*CXRBATCH, "merge", "/mnt/results/same", "-q").returncode
    site.expect_as_local("same")
    return f"exit codes: first {codes[0]}, second {codes[1]}; merge {merged}, as a local run"


def check_two_runs(site: Site) -> str:
    """Two hosts run on the same OUT at a time, with the ledger on the share."""
    hosts = site.hosts(same_paths=True)
    first = driver(hosts.nodes[0], "two", cluster="")
    wait_until(lambda: site.done("two") >= 5)
    second = driver(hosts.nodes[1], "two", cluster="")
    codes = first.wait(), second.wait()
    again = driver(hosts.nodes[0], "two", cluster="").wait()
    site.expect_as_local("two")
    return f"exit codes: first {codes[0]}, second {codes[1]}; again {again}, as a local run"


CHECKS: dict[str, Callable[[Site], str]] = {
    name.removeprefix("check_"): function for name, function in list(globals().items()) if name.startswith("check_")
}


def main() -> int:
    """Make the hosts for each check in turn; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)}; by default all")
    parser.add_argument("--studies", type=int, default=64)
    parser.add_argument("--keep", action="store_true", help="keep the folder of the hosts, with their logs")
    given = parser.parse_args()
    if missing := missing_programs():
        print(f"not there: {', '.join(missing)} (Debian: iproute2 sshfs openssh-server openssl)")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="cxrbatch-hosts-"))
    write_demo_studies(folder / "pacs", n_studies=given.studies, seed=7, rows=512)
    site, failed = Site(folder, given.studies), 0
    print("| what | what came of it | s |\n| --- | --- | ---: |")
    for name in given.checks or CHECKS:
        began = time.monotonic()
        try:
            with site.stack:
                result = CHECKS[name](site)
        except Exception as error:  # noqa: BLE001  # the others are looked at all the same
            result, failed = f"**{type(error).__name__}**: {error}", failed + 1
        print(f"| {name} | {result} | {time.monotonic() - began:.0f} |", flush=True)
    if given.keep or failed:
        print(f"{folder} is kept", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
