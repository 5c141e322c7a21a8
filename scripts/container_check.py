"""Run the image that scripts/container_build.sh made, as Kubernetes would, and print what came of it as a table.

crun does that here, which is what podman and Kubernetes call, too. Start at `main`.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.container_loop import free_port, run_loop, source_of
from scripts.container_machine import USER, Machine, Mount, Service, mounted_image

ROOT = Path(__file__).parents[1]
_PATIENCE_S = 180.0
_KEY = "5a" * 32


# --------------------------------------------------------------------------- what is looked at


def check_doctor(machine: Machine, mounts: list[Mount]) -> str:
    """The installation misses nothing that a run needs."""
    done = machine.run(["doctor"], mounts)
    expect(done.returncode == 0, done.stdout + done.stderr)
    return f"exit code {done.returncode}; " + ", ".join(
        name for name in ("compressed DICOM", "PDF reports", "PDF speed", "PDF fonts") if f"{name}" in done.stdout
    )


def check_run(machine: Machine, mounts: list[Mount]) -> str:
    """Radiographs become scores, reports and objects."""
    out = source_of(mounts, "/output")
    done = machine.run(["run", "/input", "-o", "/output", "--state", "/state", "--dicom", "--heatmaps", "all"], mounts)
    expect(done.returncode == 0, done.stdout + done.stderr)
    with (out / "images.csv").open() as table:
        statuses = [row["status"] for row in csv.DictReader(table)]
    objects, reports = sorted(out.glob("reports/*/dicom/*.dcm")), sorted(out.glob("reports/*/report.pdf"))
    expect("scored" in statuses and bool(objects) and bool(reports), f"{statuses}: {objects}")
    expect({path.stat().st_uid for path in out.rglob("*")} == {USER}, "something in OUT is somebody else's")
    scored = statuses.count("scored")
    return (
        f"{len(statuses)} files, {scored} scored, {len(reports)} PDFs, {len(objects)} DICOM objects, all of user {USER}"
    )


def check_deidentified_run(machine: Machine, mounts: list[Mount]) -> str:
    """A de-identified run takes the key that is mounted, read-only, from a secret."""
    out = source_of(mounts, "/output")
    (out.parent / "key").write_text(f"{_KEY}\n")
    os.chown(out.parent / "key", 0, USER)
    (out.parent / "key").chmod(0o440)
    key = Mount(out.parent / "key", "/output/.cxrbatch.key")
    done = machine.run(["run", "/input", "-o", "/output", "--state", "/state", "--deidentify"], [*mounts, key])
    expect(done.returncode == 0, done.stdout + done.stderr)
    again = machine.run(["run", "/input", "-o", "/output", "--state", "/state", "--deidentify"], [*mounts, key])
    expect(again.returncode == 0, again.stdout + again.stderr)
    return f"exit code {done.returncode}, again {again.returncode}; key mounted read-only, of group {USER}"


def check_watch(machine: Machine, mounts: list[Mount]) -> str:
    """The daemon says when it is ready, and ends when it is asked to."""
    words = ["watch", "/input", "-o", "/output", "--state", "/state", "--settle", "1", "--metrics-port", "9464"]
    with machine.running(words, mounts) as daemon:
        waited = wait_until(lambda: daemon.probe() == "ok", daemon)
        expect(daemon.probe("--alive") == "ok", "ready and not alive")
        code, took = daemon.stop()
    expect(code in {0, 143}, f"exit code {code}")
    return f"ready after {waited:.0f} s (engine opened, INPUT looked at); SIGTERM: exit code {code} after {took:.1f} s"


def check_receive(machine: Machine, mounts: list[Mount]) -> str:
    """The receiver takes what storescu sends."""
    if shutil.which("storescu") is None:
        return "not run: storescu is not here"
    inbox = source_of(mounts, "/state") / "inbox"
    shutil.rmtree(inbox, ignore_errors=True)
    inbox.mkdir()
    os.chown(inbox, USER, USER)
    sent = next(path for path in sorted(source_of(mounts, "/input").iterdir()) if "jpeg_baseline" in path.name)
    port = free_port()
    words = ["receive", "/state/inbox", "--port", str(port), "--min-free", "1"]
    with machine.running(words, mounts, network=True) as receiver:
        wait_until(lambda: receiver.probe() == "ok", receiver)
        call = ["storescu", "-xy", "-aec", "CXRBATCH", "127.0.0.1", str(port), str(sent)]
        stored = subprocess.run(call, capture_output=True, text=True, check=False)
        expect(stored.returncode == 0, stored.stdout + stored.stderr)
        code, took = receiver.stop()
    (received,) = inbox.glob("*/*.dcm")
    expect((code, received.stat().st_uid) == (0, USER), f"exit code {code}, {received}")
    return f"1 object stored by storescu, of user {USER}; SIGTERM: exit code {code} after {took:.1f} s"


def check_loop(machine: Machine, mounts: list[Mount]) -> str:
    """The services of the compose file hand a radiograph from an archive through to its objects there."""
    radiographs = source_of(mounts, "/input")
    others = [mount for mount in mounts if mount.target != "/input"]
    inbox = machine.work / "input"
    shutil.rmtree(inbox, ignore_errors=True)
    inbox.mkdir()
    os.chown(inbox, USER, USER)
    radiograph = next(path for path in sorted(radiographs.iterdir()) if "jpeg_baseline" in path.name)
    return run_loop(machine, radiograph, [*others, Mount(inbox, "/input", "rw")], machine.work)


CHECKS: dict[str, Callable[[Machine, list[Mount]], str]] = {
    "`doctor`": check_doctor,
    "`run --dicom`": check_run,
    "`run --deidentify`": check_deidentified_run,
    "`watch`, health check": check_watch,
    "`receive`, health check": check_receive,
    "services of the compose file": check_loop,
}


# --------------------------------------------------------------------------- how it is done


class Failed(Exception):
    """Something is not as it should be."""


def expect(is_so: bool, otherwise: str) -> None:
    """End with what is wrong, unless it is so."""
    if not is_so:
        raise Failed(otherwise)


def wait_until(is_so: Callable[[], bool], service: Service) -> float:
    """Wait for something that a service comes to; return the seconds it took."""
    started = time.monotonic()
    while not is_so():
        expect(service.process.poll() is None, f"it ended: see {service.machine.work}/bundle-*.log")
        expect(time.monotonic() - started < _PATIENCE_S, f"not within {_PATIENCE_S:g} s")
        time.sleep(0.5)
    return time.monotonic() - started


def fresh_mounts(work: Path, radiographs: Path, engines: Path) -> list[Mount]:
    """Return INPUT and engines, and folders for what is written, which are the container user's."""
    mounts = [Mount(radiographs, "/input"), Mount(engines, "/engines")]
    for name in ("output", "state"):
        folder = work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        os.chown(folder, USER, USER)
        mounts.append(Mount(folder, f"/{name}", "rw"))
    return mounts


def readable_copy(engine: Path, work: Path) -> Path:
    """Return a folder of engines with a copy of this one that everybody may read."""
    engines = work / "engines"
    shutil.rmtree(engines, ignore_errors=True)
    shutil.copytree(engine, engines / engine.name)
    subprocess.run(["chmod", "-R", "a+rX", engines], check=True)
    return engines


def main() -> None:
    """Run the image, and print a row for each thing that was looked at."""
    arguments = _read_arguments()
    work: Path = arguments.work.resolve()
    engines = readable_copy(arguments.engine, work)
    say("| what | what came of it | s |\n| --- | --- | --- |")
    with mounted_image(work) as machine:
        for name, check in CHECKS.items():
            started = time.monotonic()
            said = check(machine, fresh_mounts(work, arguments.radiographs, engines))
            say(f"| {name} | {said} | {time.monotonic() - started:.0f} |")


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "container", help="where the image was built")
    parser.add_argument("--engine", type=Path, default=ROOT / "engines" / "demo")
    shared = Path(os.environ.get("CXRBATCH_SHARED_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--radiographs", type=Path, default=shared / "dicom" / "chest", help="a folder of DICOM files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
