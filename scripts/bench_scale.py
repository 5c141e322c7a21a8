"""`make bench-tree`: an input tree of 200,000 files: the first index, a rerun with nothing to do, and their memory.

The files are real DICOM files (64x64, two views to a study, a hundred to a folder); every header is read through the
same worker processes as in any run. Scoring them would take an hour and says nothing about the tree, so the studies are
recorded in the ledger as scored, by a stub, without pictures or reports. With --stub-index the headers of the first two
files stand for all the others, which leaves out the minutes that reading them takes. Prints a table and writes it to
bench/scale/result.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import psutil
from pydicom.uid import generate_uid

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.config import Settings
from cxrbatch.engine.bundle import load_bundle
from cxrbatch.engine.open import plan_engine
from cxrbatch.intake.discover import index_file, study_key, walk
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.queue import StudyTask
from cxrbatch.records import EngineDescription, ImageFile, ImageResult, IndexedFile, PrintedStudy, StudyResult, now_text
from cxrbatch.run.headers import FILES_PER_TASK
from cxrbatch.run.index import INDEX_RULES, index_rules
from scripts import bench_inputs
from tests.factories.intake import blobs, write_dicom

ROOT = Path(__file__).parents[1]
WORK = ROOT / "bench" / "scale"
FILES_PER_FOLDER = 100
NEVER = "2200-01-01"  # --since: everything is indexed, nothing is scored
UID_LENGTH = 40


@dataclass(frozen=True)
class Measured:
    """One run: the whole command, its index and its tables in seconds, and the main process' highest RSS."""

    wall_s: float
    index_s: float
    tables_s: float
    rss_mb: float
    files_read: int


def make_tree(folder: Path, n_files: int) -> Path:
    """Write studies of a frontal and a lateral image each, by changing the UIDs in two files made once."""
    if (folder / ".complete").exists():
        return folder
    templates = []
    folder.mkdir(parents=True, exist_ok=True)
    uids = {name: str(generate_uid())[:30].rstrip(".").ljust(UID_LENGTH, "7") for name in ("study", "instance")}
    for view in ("PA", "LL"):
        path = write_dicom(
            folder / "template.dcm",
            pixels=blobs(64, 64, bits=8),
            ViewPosition=view,
            StudyInstanceUID=uids["study"],
            SOPInstanceUID=uids["instance"],
        )
        templates.append(path.read_bytes())
        path.unlink()
    for number in range(n_files):
        content = templates[number % 2]
        for name, identity in (("study", number // 2), ("instance", number)):
            content = content.replace(uids[name].encode(), _uid(len(name), identity))
        place = folder / f"{number // FILES_PER_FOLDER:05}"
        place.mkdir(exist_ok=True)
        (place / f"{number:07}.dcm").write_bytes(content)
    (folder / ".complete").touch()
    return folder


def _uid(kind: int, number: int) -> bytes:
    """Return a UID of UID_LENGTH characters, none of whose parts begins with a zero."""
    uid = f"1.2.826.0.1.3680043.10.{kind}.1{number:0>14}".encode()
    assert len(uid) == UID_LENGTH
    return uid


def measure_run(inputs: Path, out: Path, engine: Path) -> Measured:
    """Index the tree as `cxrbatch run` does, scoring nothing; sample the main process' memory, not its workers'."""
    command = [sys.executable, "-m", "cxrbatch", "run", str(inputs), "-o", str(out), "-e", str(engine)]
    started = time.perf_counter()
    child = subprocess.Popen([*command, "--no-pdf", "--since", NEVER], cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = [0.0]
    sampler = threading.Thread(target=_sample, args=(child, peak))
    sampler.start()
    code = child.wait()
    wall_s = time.perf_counter() - started
    sampler.join()
    if code:
        sys.exit(f"failed with exit code {code}: {' '.join(command)}")
    stages = json.loads((out / "run.json").read_text())["stage_s"]
    events = [json.loads(line) for line in (out / "cxrbatch.log").read_text().splitlines()]
    read = [event["read"] for event in events if event["event"] == "indexed"][-1]
    return Measured(wall_s, stages["index"], stages["tables"], peak[0], read)


def _sample(child: subprocess.Popen[bytes], peak: list[float]) -> None:
    status = Path(f"/proc/{child.pid}/status")
    while child.poll() is None:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        peak[0] = max([peak[0], *(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))])
        time.sleep(0.1)


def index_by_stub(inputs: Path, out: Path) -> float:
    """Record every file as an index would, from the headers of the first two; return how long that took, in seconds."""
    settings = Settings()
    files = list(walk(inputs))
    read = [index_file(inputs, file, settings) for file in files[:2]]
    started = time.perf_counter()
    with open_output(out) as ledger:
        for start in range(0, len(files), FILES_PER_TASK):
            chunk = enumerate(files[start : start + FILES_PER_TASK], start)
            ledger.index.record(_like(read[number % 2], file, number) for number, file in chunk)
        ledger.remember(INDEX_RULES, index_rules(settings))
    return time.perf_counter() - started


def _like(template: IndexedFile, file: ImageFile, number: int) -> IndexedFile:
    study, instance = _uid(5, number // 2).decode(), _uid(8, number).decode()
    header = replace(template.header, study_instance_uid=study, sop_instance_uid=instance)
    return replace(template, file=file, study_key=study_key(study), header=header)


def record_as_scored(out: Path, engine: EngineDescription) -> float:
    """Record every study that waits as scored and return how long that took, in seconds."""
    started = time.perf_counter()
    with open_output(out) as ledger:
        for task in ledger.queue.take(ledger.queue.pending_keys()):
            _record(ledger, task, engine)
    return time.perf_counter() - started


def _record(ledger: Ledger, task: StudyTask, engine: EngineDescription) -> None:
    scores = (0.25,) * len(engine.labels)
    images = tuple(ImageResult(file.file.path, file.header, file.flags, scores, "0" * 64) for file in task.files)
    result = StudyResult(
        *(task.study_key, task.revision, engine, images, task.refused, now_text(), "bench"), files=task.sources
    )
    ledger.results.record(PrintedStudy(result))


def report(n_files: int, first: list[tuple[str, str]], reruns: list[Measured], recorded_s: float, out: Path) -> str:
    """Return the figures in Markdown, with what they were measured on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    rows = [
        ("files", str(n_files)),
        *first,
        ("recording every study as scored (stub), s", f"{recorded_s:.1f}"),
        ("size of the ledger then, MB", f"{(out / 'ledger.sqlite').stat().st_size / 2**20:.0f}"),
    ]
    for number, again in enumerate(reruns, start=1):
        rows += [
            (f"rerun {number} with nothing to do: rescan, s", f"{again.index_s:.2f}"),
            ("  its tables, s", f"{again.tables_s:.2f}"),
            ("  whole command, s", f"{again.wall_s:.1f}"),
            ("  RSS of the main process at its highest, MB", f"{again.rss_mb:.0f}"),
        ]
    today = datetime.now().astimezone().date()
    heading = f"`make bench-tree`, {today}, {psutil.cpu_count()} cores ({cpu}), Python {platform.python_version()}"
    return "\n".join([heading, "", "| | |", "| --- | ---: |", *(f"| {what} | {value} |" for what, value in rows), ""])


def first_by_run(inputs: Path, out: Path, engine: Path, n_files: int) -> list[tuple[str, str]]:
    """Index the tree in earnest, and return rows of the table."""
    first = measure_run(inputs, out, engine)
    assert first.files_read == n_files, f"{first.files_read} of {n_files} files were read"
    return [
        ("first index, s", f"{first.index_s:.1f}"),
        ("  files/s", f"{first.files_read / first.index_s:.0f}"),
        ("  its tables (images.csv, studies.csv, index.html), s", f"{first.tables_s:.1f}"),
        ("  RSS of the main process at its highest, MB", f"{first.rss_mb:.0f}"),
    ]


def first_by_stub(inputs: Path, out: Path) -> list[tuple[str, str]]:
    """Fill the ledger without reading the files, and return rows of the table."""
    return [("recording the index (stub: no headers read), s", f"{index_by_stub(inputs, out):.1f}")]


def main() -> None:
    """Make what is not there yet, run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--reruns", type=int, default=3)
    parser.add_argument("--stub-index", action="store_true")
    options = parser.parse_args()
    inputs = make_tree(WORK / f"tree-{options.files}", options.files)
    engine = bench_inputs.make_small_engine(WORK / "engines")
    out = bench_inputs.fresh(WORK / f"out-{options.files}")
    first = first_by_stub(inputs, out) if options.stub_index else first_by_run(inputs, out, engine, options.files)
    recorded_s = record_as_scored(out, plan_engine(load_bundle(engine), backend="auto", precision="auto"))
    reruns = [measure_run(inputs, out, engine) for _ in range(options.reruns)]
    assert not any(again.files_read for again in reruns), "a rerun read files that did not change"
    text = report(options.files, first, reruns, recorded_s, out)
    (WORK / "result.md").write_text(text)
    print(text)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
