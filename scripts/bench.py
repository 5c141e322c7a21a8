"""`make bench`: cxrbatch beside the plain way and beside what engine, decoder and PDF library allow, in one run.

All work on the same studies of one synthetic radiograph each (2022x2464, 16 bit; "mixed" has a quarter JPEG 2000 and an
eighth JPEG Lossless; "png" is 1,024 px high) with the same ResNet50 of 14 labels at 224 px, and draw two heatmaps per
study. Each sample notes how much of the machine others took; where that is more than a little, another one is taken,
and only quiet ones count. Prints tables, and writes them with a JSON file and a picture to bench/; --record also into
docs/measurements. --quick compares the cost of a study, beside the plain way's, with the recorded one.
"""

from __future__ import annotations

import argparse
import json
import sys
from compileall import compile_dir
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))
from scripts import bench_inputs
from scripts.bench_cases import (
    ROOT,
    WORK,
    TakeSample,
    measure_limit,
    rerun_of_files,
    rerun_of_studies,
    run_cxrbatch,
    run_plain,
    sample_cxrbatch,
    sample_until_quiet,
)
from scripts.bench_figures import MODES, MOST_GROWTH, PRECISIONS, SETS, Cell, Cost, Summary, summarise
from scripts.bench_table import MAIN, Results, as_json, as_markdown, draw_stages, record

RECORD = ROOT / "docs/measurements"
FEW = 24
PARTS = ("cells", "limits", "commands")


def main() -> None:
    """Measure what the options ask for, print the tables and keep them."""
    options = _options()
    WORK.mkdir(exist_ok=True)
    compile_dir(ROOT / "cxrbatch", quiet=1)  # as an installation is
    engine = bench_inputs.make_resnet50_engine(WORK / "engines")
    if options.quick:
        sys.exit(run_quick(engine, options))
    results = Results()
    if "limits" in options.parts:
        measure_limits(results, engine, options)
    if "cells" in options.parts:
        measure_cells(results, engine, options)
    if "commands" in options.parts:
        measure_commands(results, engine, options)
    if options.long:
        measure_memory(results, engine, options.long)
    text = as_markdown(results)
    (WORK / "result.md").write_text(text)
    (WORK / "result.json").write_text(json.dumps(as_json(results), indent=1))
    (WORK / "result.svg").write_bytes(draw_stages(results))
    if options.record:
        record(results, RECORD)
    print(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200, help="with CSV only, and of the mixed set with PDF")
    parser.add_argument("--fewer", type=int, default=80, help="in all other cells")
    parser.add_argument("--plain", type=int, default=FEW, help="studies that the plain way does")
    parser.add_argument("--files", type=int, default=10_000, help="of the rerun that finds nothing to do")
    parser.add_argument("--repeats", type=int, default=2, help="quiet samples wanted of everything")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--long", type=int, nargs="?", const=1000, help="also look at memory over so many studies")
    parser.add_argument("--record", action="store_true", help="keep the figures in docs/measurements")
    parser.add_argument("--quick", action="store_true", help="only compare the cost of a study with the recorded one")
    return parser.parse_args()


def measure_cells(results: Results, engine: Path, options: argparse.Namespace) -> None:
    """Measure all ways to run, and the plain way right after them."""
    for images in options.sets:
        for mode in options.modes:
            studies = studies_of(images, mode, options)
            for precision in PRECISIONS:
                cell = Cell(images, mode, precision)
                take = partial(sample_cxrbatch, cell, studies, engine)
                results.ours[cell] = summarised(cell.name, take, options.repeats)
            plain = partial(run_plain, mode, studies, engine, options.plain)
            results.plain[images, mode] = summarised(f"plain {images}/{mode}", plain, options.repeats)


def studies_of(images: str, mode: str, options: argparse.Namespace) -> Path:
    """Return the studies of a cell: many where the table has a goal for it, or where a few are over at once."""
    many = mode == "csv" or Cell(images, mode, "fp32") == MAIN["fp32"]
    return bench_inputs.make_set(WORK / "sets", images, options.studies if many else options.fewer)


def measure_limits(results: Results, engine: Path, options: argparse.Namespace) -> None:
    """Measure what nothing can exceed: the pages are those of a run of the mixed set."""
    for precision in PRECISIONS:
        limit = measure_limit("engine", engine, "--precision", precision)
        results.limits[f"engine/{precision}"] = limit
    for images in options.sets:
        few = bench_inputs.make_set(WORK / "sets", images, FEW)
        results.limits[f"decode/{images}"] = measure_limit("decode", few)
    few, out = bench_inputs.make_set(WORK / "sets", "mixed", FEW), WORK / "pages-out"
    run_cxrbatch(MAIN["fp32"], few, engine, out=out)
    results.limits["pages"] = measure_limit("pages", out)


def measure_commands(results: Results, engine: Path, options: argparse.Namespace) -> None:
    """Measure whole commands: one study, few studies, and reruns that find nothing to do."""
    few = bench_inputs.make_set(WORK / "sets", "mixed", FEW)
    one = bench_inputs.make_set(WORK / "sets", "mixed", 1)
    takes: dict[str, TakeSample] = {
        "one study": partial(sample_cxrbatch, MAIN["fp32"], one, engine),
        f"{FEW} studies": partial(sample_cxrbatch, MAIN["fp32"], few, engine),
        f"rerun of {FEW} files": rerun_of_studies(few, engine),
        f"rerun of {options.files} files": rerun_of_files(options.files),
    }
    for name, take in takes.items():
        # They take seconds, and what else runs for a moment counts for much.
        results.commands[name] = summarised(name, take, options.repeats + 1)


def measure_memory(results: Results, engine: Path, n_studies: int) -> None:
    """Compare the memory of a long run's second quarter with its last."""
    studies = bench_inputs.make_set(WORK / "sets", "mixed", n_studies)
    rss = run_cxrbatch(MAIN["fp32"], studies, engine).rss_mb
    quarter = len(rss) // 4
    first, last = median(rss[quarter : 2 * quarter]), median(rss[-quarter:])
    results.memory = {"studies": n_studies, "first": first, "last": last, "peak": max(rss)}


def summarised(name: str, take: TakeSample, wanted: int) -> Summary:
    """Take samples until enough are quiet, and tell on the terminal what came of them."""
    summary = summarise(list(sample_until_quiet(take, wanted)))
    told = f"{summary.wall_s:.2f} s, {summary.core_ms:.0f} core-ms per study, {summary.foreign_share:.0%} foreign"
    print(f"{name}: {told}", file=sys.stderr, flush=True)
    return summary


def run_quick(engine: Path, options: argparse.Namespace) -> int:
    """Compare the cost of a study beside the plain way's with the recorded one; return the exit code."""
    few = bench_inputs.make_set(WORK / "sets", "mixed", FEW)
    ours = summarised("cxrbatch", partial(sample_cxrbatch, MAIN["fp32"], few, engine), options.repeats)
    plain = summarised("plain", partial(run_plain, "pdf", few, engine, FEW // 2), 1)
    cost = Cost.of(ours, plain)
    path = RECORD / "bench.json"
    facts = json.loads(path.read_text()) if path.exists() else {}
    if options.record:
        facts["cost"] = asdict(cost)
        path.write_text(json.dumps(facts, indent=1) + "\n")
    recorded = Cost(**facts["cost"])
    print(f"core-ms a study over the plain way's: {_in_words(cost)}; recorded: {_in_words(recorded)}")
    if cost.has_grown(recorded):
        print(f"it grew by more than {MOST_GROWTH - 1:.0%}: profile it, or record it (BENCH_ARGS=--record) and say why")
        return 1
    return 0


def _in_words(cost: Cost) -> str:
    return f"{cost.ratio:.3f}" if cost.quiet else f"{cost.ratio:.3f} (while others took much of the machine)"


if __name__ == "__main__":
    main()
