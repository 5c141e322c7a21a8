"""`make arrivals`: phantom studies arrive at a `cxrbatch watch` at random, and it has to end with the rows of a `run`.

Studies come whole, in two halves, under another name that is then changed, or in a folder that is moved into
place; a second image may come late. The daemon may be killed again and again (--kills), and its disk may be full
for a while (--full-disk: OUT then lies on a small tmpfs, which takes root). In the end the tables are compared with
those of `cxrbatch run` on the same folder, and the daemon's memory with what it was after the first tenth.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.phantom import draw_phantom
from cxrbatch.system.durable import TEMPORARY_PREFIX
from tests.factories.engine import write_tiny_bundle
from tests.factories.intake import write_dicom

ROOT = Path(__file__).parents[1]
CXRBATCH = [sys.executable, "-m", "cxrbatch"]
# Told apart by when they came, not by what they are.
PASSING = ("scored_at", "reported_at", "revision")
ROWS = 160


@dataclass
class Daemon:
    """`cxrbatch watch`, started again whenever it ends; its resident memory, in MB, by the seconds since the start."""

    command: list[str]
    log: Path
    starts: int = 0
    rss_mb: list[float] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _child: subprocess.Popen[bytes] | None = None

    def keep_running(self) -> None:
        """Start it, sample its memory, and start it again, until it is to stop."""
        while not self._stop.is_set():
            with self.log.open("ab") as log:
                self._child = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
            self.starts += 1
            process = psutil.Process(self._child.pid)
            while self._child.poll() is None:
                try:
                    self.rss_mb.append(process.memory_info().rss / 2**20)
                except psutil.NoSuchProcess:
                    break
                time.sleep(0.5)
            self.exit_codes.append(self._child.wait())
            self._stop.wait(1)

    def kill(self) -> None:
        """End the daemon and its workers the hard way."""
        if self._child is not None and self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)


def make_studies(folder: Path, count: int) -> list[Path]:
    """Write phantoms as DICOM studies; every tenth has a second image."""
    folder.mkdir(parents=True)
    pool = [draw_phantom(seed, rows=ROWS) for seed in range(40)]
    for number in range(count):
        phantom = pool[number % len(pool)]
        noise = np.random.default_rng(number).integers(0, 8, phantom.stored.shape, np.uint16)
        for image in range(2 if number % 10 == 0 else 1):
            write_dicom(
                folder / f"{number:05}-{image}.dcm",
                pixels=np.clip(phantom.stored + noise + image, 0, 4095).astype(np.uint16),
                BitsStored=12,
                HighBit=11,
                WindowCenter=phantom.window_center,
                WindowWidth=phantom.window_width,
                StudyInstanceUID=f"1.2.826.0.1.3680043.10.7.{number + 1}",
                SOPInstanceUID=f"1.2.826.0.1.3680043.10.8.{number + 1}.{image}",
            )
    return sorted(folder.iterdir())


def arrive(files: list[Path], inbox: Path, per_second: float, chance: random.Random) -> None:
    """Let the files come, in any order, each in one of four ways."""
    waiting: list[Future[None]] = []
    with ThreadPoolExecutor(8) as copies:
        for file in chance.sample(files, len(files)):
            target = inbox / f"{chance.randrange(100):02}" / file.name
            target.parent.mkdir(exist_ok=True)
            way = chance.choice((copy_whole, copy_in_halves, copy_and_rename, move_folder))
            waiting.append(copies.submit(way, file, target))
            time.sleep(chance.expovariate(per_second))
    for each in waiting:
        each.result()


def copy_whole(file: Path, target: Path) -> None:
    """Copy at one go."""
    shutil.copyfile(file, target)


def copy_in_halves(file: Path, target: Path) -> None:
    """Write half of it, and the rest a little later."""
    content = file.read_bytes()
    target.write_bytes(content[: len(content) // 2])
    time.sleep(0.7)
    with target.open("ab") as rest:
        rest.write(content[len(content) // 2 :])


def copy_and_rename(file: Path, target: Path) -> None:
    """Write it under a name that is passed over, then rename it into place."""
    part = target.with_name(f"{target.name}.part")
    shutil.copyfile(file, part)
    part.rename(target)


def move_folder(file: Path, target: Path) -> None:
    """Write it into a hidden folder, then move the folder into place."""
    folder = target.with_name(f".{target.stem}")
    folder.mkdir()
    shutil.copyfile(file, folder / target.name)
    folder.rename(target.with_name(target.stem))


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table, without what passes, by path below the last folder."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    return [{name: cell for name, cell in row.items() if name not in PASSING} for row in rows]


def fill_disk(out: Path, seconds: float) -> None:
    """Leave no room on the disk of OUT for a while."""
    filler = out / "filler"
    try:
        with filler.open("wb") as stream:
            while True:
                stream.write(bytes(1 << 20))
                stream.flush()
    except OSError:
        pass
    time.sleep(seconds)
    filler.unlink(missing_ok=True)


def read_options() -> argparse.Namespace:
    """Return how many studies arrive how fast, and what disturbs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=5000)
    parser.add_argument("--per-second", type=float, default=20.0)
    parser.add_argument("--kills", type=int, default=0, help="kill the daemon so often, at random")
    parser.add_argument("--full-disk", type=int, default=0, help="fill the disk of OUT so often, for 20 s each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "bench" / "arrivals")
    return parser.parse_args()


def main() -> None:
    """Let studies arrive, compare, and print what was found."""
    options = read_options()
    chance = random.Random(options.seed)  # noqa: S311  # nothing secret is drawn
    work: Path = options.work
    shutil.rmtree(work, ignore_errors=True)
    files = make_studies(work / "source", options.studies)
    inbox, out = work / "inbox", work / "out"
    inbox.mkdir()
    out.mkdir()
    if options.full_disk:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", str(out)], check=True)
    engine = write_tiny_bundle(work / "engines")
    common = ["-e", str(engine), "--no-pdf"]
    watch = [*CXRBATCH, "watch", str(inbox), "-o", str(out / "results"), *common, "--settle", "1.5", "--interval", "2"]
    daemon = Daemon(watch, work / "watch.log")
    keeper = threading.Thread(target=daemon.keep_running)
    keeper.start()
    started = time.monotonic()
    arriving = threading.Thread(target=arrive, args=(files, inbox, options.per_second, chance))
    arriving.start()
    for disturb in disturbances(options, chance, daemon, out):
        disturb()
    arriving.join()
    arrived_s = time.monotonic() - started
    end = time.monotonic() + 1800
    while time.monotonic() < end:
        rows = read_table(out / "results" / "images.csv")
        if len(rows) == len(files) and all(row["status"] != "pending" for row in rows):
            break
        time.sleep(2)
    caught_up_s = time.monotonic() - started - arrived_s
    daemon.stop()
    keeper.join()
    subprocess.run([*CXRBATCH, "run", str(inbox), "-o", str(work / "by-run"), *common], check=True, capture_output=True)
    print_findings(work, out / "results", daemon, arrived_s, caught_up_s, len(files))
    if options.full_disk:
        subprocess.run(["umount", str(out)], check=True)


def disturbances(
    options: argparse.Namespace, chance: random.Random, daemon: Daemon, out: Path
) -> Iterator[Callable[[], None]]:
    """Yield what disturbs the daemon, spread over the time in which studies arrive."""
    acts = [daemon.kill] * options.kills + [lambda: fill_disk(out, 20)] * options.full_disk
    chance.shuffle(acts)
    expected_s = options.studies * 1.1 / options.per_second
    for act in acts:
        time.sleep(chance.uniform(0.5, 1.5) * expected_s / (len(acts) + 1))
        yield act


def print_findings(
    work: Path, results: Path, daemon: Daemon, arrived_s: float, caught_up_s: float, n_files: int
) -> None:
    """Print a table, and leave with 1 where a row is lost, doubled or other than that of a run."""
    differing = 0
    for name in ("images.csv", "studies.csv"):
        ours, theirs = read_table(results / name), read_table(work / "by-run" / name)
        differing += len(ours) != len(theirs) or sum(mine != other for mine, other in zip(ours, theirs, strict=False))
    rows = read_table(results / "images.csv")
    paths = [row["path"] for row in rows]
    leftovers = list(results.rglob(f"{TEMPORARY_PREFIX}*"))
    early = daemon.rss_mb[len(daemon.rss_mb) // 10]
    found = [
        ("files", n_files),
        ("arrived within, s", round(arrived_s)),
        ("scored after the last one came, s", round(caught_up_s, 1)),
        ("starts of the daemon", daemon.starts),
        ("exit codes", " ".join(map(str, daemon.exit_codes))),
        ("rows lost", n_files - len(set(paths))),
        ("rows doubled", len(paths) - len(set(paths))),
        ("rows other than those of a run", differing),
        ("temporary files left", len(leftovers)),
        ("RSS of the main process after a tenth of the time, MB", round(early)),
        ("RSS of the main process, highest afterwards, MB", round(max(daemon.rss_mb[len(daemon.rss_mb) // 10 :]))),
    ]
    print("| | |\n| --- | ---: |")
    for what, value in found:
        print(f"| {what} | {value} |")
    bad = differing or leftovers or len(paths) != n_files or len(set(paths)) != n_files
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
