"""What `make bench` says: tables of its figures and of all cells, the same as JSON, and a bar per way of working."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from matplotlib.figure import Figure

from cxrbatch.pages.plot_style import as_svg, label_colour, plot_style
from scripts.bench_figures import (
    MODES,
    PRECISIONS,
    QUIET_SHARE,
    SETS,
    Cell,
    Cost,
    Limit,
    Summary,
    together,
)

PACKAGES = ("numpy", "onnxruntime", "torch", "torchvision", "pydicom", "jinja2", "weasyprint", "imagecodecs")
STAGES = ("index", "read", "preprocess", "infer", "pictures", "html", "pdf", "write", "tables", "other")
MAIN = {precision: Cell("mixed", "pdf", precision) for precision in PRECISIONS}
_LIMITS_OF = {"csv": ("engine", "decode"), "html": ("engine", "decode"), "pdf": ("engine", "decode", "pages")}
_START, _END = "<!-- what make bench --record wrote -->", "<!-- until here -->"


@dataclass(slots=True)
class Results:
    """All that was measured. `plain` is by images and mode, `limits` by what they limit, `commands` by what was run."""

    ours: dict[Cell, Summary] = field(default_factory=dict)
    plain: dict[tuple[str, str], Summary] = field(default_factory=dict)
    limits: dict[str, Limit] = field(default_factory=dict)
    commands: dict[str, Summary] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    def speedup(self, cell: Cell) -> float:
        """How many times as many studies per second as the plain way, both after start-up."""
        return self.ours[cell].studies_per_s / self.plain[cell.images, cell.mode].studies_per_s

    def limit(self, cell: Cell) -> float:
        """Studies per second that engine, decoder and PDF library allow, one after the other on all cores."""
        return together(self.limits[self.limit_name(what, cell)].per_s for what in _LIMITS_OF[cell.mode])

    @staticmethod
    def limit_name(what: str, cell: Cell) -> str:
        """Name what limits a cell: the engine by precision, the decoder by images."""
        return {"engine": f"engine/{cell.precision}", "decode": f"decode/{cell.images}", "pages": "pages"}[what]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the table; `must` and `reach` are what it is meant to be."""

    what: str
    value: str
    must: str = ""
    reach: str = ""


def figures(results: Results) -> Iterator[Row]:
    """Yield the figures that have goals, those that were measured."""
    ours, commands = results.ours, results.commands
    for precision, must, reach in (("fp32", "6", "7.5"), ("int8", "8", "12")):
        if (cell := MAIN[precision]) in ours:
            what = f"CSV + HTML + PDF, mixed, {precision.upper()}: studies/s over the plain way"
            yield Row(what, f"{results.speedup(cell):.1f}", must, reach)
    if "24 studies" in commands and ("mixed", "pdf") in results.plain:
        ratio = commands["24 studies"].whole_studies_per_s / results.plain["mixed", "pdf"].studies_per_s
        yield Row("24 studies, start-up counted on our side only, FP32", f"{ratio:.1f}", "4.5", "6.5")
    for precision, must, reach in (("fp32", "10", "12"), ("int8", "13", "16")):
        if (cell := Cell("mixed", "html", precision)) in ours:
            yield Row(f"without PDF, mixed, {precision.upper()}", f"{results.speedup(cell):.1f}", must, reach)
    for precision, must, reach in (("fp32", "0.85", "0.95"), ("int8", "0.7", "0.85")):
        if (cell := Cell("uncompressed", "csv", precision)) in ours:
            share = ours[cell].studies_per_s / results.limits[f"engine/{precision}"].per_s
            what = f"CSV only, uncompressed, {precision.upper()}: images/s over the bare engine"
            yield Row(what, f"{share:.2f}", must, reach)
    yield from _commands(results)


def _commands(results: Results) -> Iterator[Row]:
    ours, commands = results.ours, results.commands
    if "one study" in commands:
        yield Row("one study, whole command", f"{commands['one study'].wall_s:.2f} s", "1.0 s", "0.7 s")
    if MAIN["fp32"] in ours:
        yield Row("peak RSS of the process tree", f"{ours[MAIN['fp32']].peak_rss_mb:.0f} MB", "820 MB", "600 MB")
    if results.memory:
        told = "{first:.0f} / {last:.0f} MB, peak {peak:.0f} MB".format_map(results.memory)
        yield Row(f"the same over {results.memory['studies']:.0f} studies: median, 2nd / last quarter", told, "flat")
    reruns = {what: commands[what] for what in commands if what.startswith("rerun")}
    goals = {"rerun of 24 files": ("0.30 s", "0.25 s"), "rerun of 10000 files": ("1.5 s", "1 s")}
    for what, summary in reruns.items():
        yield Row(f"{what}, nothing to do", f"{summary.wall_s:.2f} s", *goals.get(what, ()))


# --------------------------------------------------------------------------- Markdown


def as_markdown(results: Results) -> str:
    """Return the figures and all cells as tables, with what they were measured on; `*` marks what was disturbed."""
    blocks = [
        _heading(),
        _table(("figure", "here", "must", "reach for"), [astuple_of(row) for row in figures(results)]),
    ]
    cells = [_cell_row(results, cell) for cell in sorted(results.ours, key=_order)]
    head = ("ours", "studies/s", "with start-up", "core-ms/study", "peak MB", "over plain", "of the limits", "samples")
    blocks.append(_table(head, cells))
    plain = [_plain_row(name, summary) for name, summary in results.plain.items()]
    blocks.append(_table(("plain way", "studies/s", "core-ms/study", "peak MB", "samples"), plain))
    limits = [(name, f"{limit.per_s:.1f}", f"{limit.core_ms:.1f}") for name, limit in results.limits.items()]
    blocks.append(_table(("limit, on all cores", "per second", "core-ms"), limits))
    stages = [stage for stage in STAGES if any(stage in summary.stage_ms for summary in results.ours.values())]
    rows = [(_title(cell), *_stage_cells(results.ours[cell], stages)) for cell in sorted(results.ours, key=_order)]
    rows += [(f"plain, {', '.join(name)}", *_stage_cells(each, stages)) for name, each in results.plain.items()]
    blocks.append(_table(("core-ms per study", *stages), rows))
    return "\n\n".join(blocks) + "\n"


def _heading() -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    today = datetime.now().astimezone().date()
    return f"`make bench`, {today}, {psutil.cpu_count()} cores ({cpu}), Python {platform.python_version()}, {versions}."


def astuple_of(row: Row) -> tuple[str, ...]:
    """Return a row as cells."""
    return row.what, row.value, row.must, row.reach


def _cell_row(results: Results, cell: Cell) -> tuple[str, ...]:
    summary = results.ours[cell]
    return (
        _title(cell),
        f"{summary.studies_per_s:.2f}",
        f"{summary.whole_studies_per_s:.2f}",
        f"{summary.core_ms:.0f}",
        f"{summary.peak_rss_mb:.0f}",
        f"{results.speedup(cell):.1f}" if (cell.images, cell.mode) in results.plain else "",
        f"{summary.studies_per_s / results.limit(cell):.2f}" if results.limits else "",
        _samples(summary),
    )


def _plain_row(name: tuple[str, str], summary: Summary) -> tuple[str, ...]:
    cost = f"{summary.processing_core_ms or summary.core_ms:.0f}"
    return ", ".join(name), f"{summary.studies_per_s:.2f}", cost, f"{summary.peak_rss_mb:.0f}", _samples(summary)


def _samples(summary: Summary) -> str:
    """Tell how many samples count, and what share of the cores others took of those at most."""
    mark = "" if summary.is_quiet else " \\*"
    return f"{summary.quiet} of {summary.samples}, {100 * summary.foreign_share:.0f} %{mark}"


def _stage_cells(summary: Summary, stages: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{summary.stage_ms[stage]:.0f}" if stage in summary.stage_ms else "" for stage in stages)


def _title(cell: Cell) -> str:
    return f"{cell.images}, {cell.mode}, {cell.precision.upper()}"


def _order(cell: Cell) -> tuple[int, int, int]:
    return SETS.index(cell.images), MODES.index(cell.mode), PRECISIONS.index(cell.precision)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --------------------------------------------------------------------------- JSON and picture


def as_json(results: Results) -> dict[str, Any]:
    """Return everything by name."""
    facts: dict[str, Any] = {"heading": _heading(), "quiet_share": QUIET_SHARE}
    facts["figures"] = [asdict(row) for row in figures(results)]
    facts["cxrbatch"] = {cell.name: asdict(summary) for cell, summary in results.ours.items()}
    facts["plain"] = {"/".join(name): asdict(summary) for name, summary in results.plain.items()}
    facts["limits"] = {name: asdict(limit) for name, limit in results.limits.items()}
    facts["commands"] = {name: asdict(summary) for name, summary in results.commands.items()}
    facts["memory"] = results.memory
    if "24 studies" in results.commands and ("mixed", "pdf") in results.plain:
        facts["cost"] = asdict(Cost.of(results.commands["24 studies"], results.plain["mixed", "pdf"]))
    return facts


def draw_stages(results: Results, images: str = "mixed") -> bytes:
    """Draw core-ms of each stage as one bar per way of working, as an SVG file's bytes."""
    bars: dict[str, Mapping[str, float]] = {}
    for mode in reversed(MODES):
        if (images, mode) in results.plain:
            bars[f"plain, {mode}, FP32"] = results.plain[images, mode].stage_ms
        for precision in PRECISIONS:
            if (cell := Cell(images, mode, precision)) in results.ours:
                bars[f"cxrbatch, {mode}, {precision.upper()}"] = results.ours[cell].stage_ms
    with plot_style():
        figure = Figure(figsize=(8.0, 0.9 + 0.34 * len(bars)), layout="constrained")
        axes = figure.subplots()
        ends = dict.fromkeys(bars, 0.0)
        for place, stage in enumerate(stage for stage in STAGES if any(stage in bar for bar in bars.values())):
            widths = [bar.get(stage, 0.0) for bar in bars.values()]
            axes.barh(list(bars), widths, left=list(ends.values()), color=label_colour(place), label=stage, height=0.7)
            ends = {name: end + width for (name, end), width in zip(ends.items(), widths, strict=True)}
        axes.invert_yaxis()
        axes.set_xlabel("core-ms per study")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper center", ncols=len(STAGES), frameon=False, handlelength=1, columnspacing=1)
        return as_svg(figure)


def record(results: Results, folder: Path) -> None:
    """Write the tables into bench.md, and bench.json and bench.svg beside it."""
    page = folder / "bench.md"
    before, _, rest = page.read_text().partition(_START)
    _, _, after = rest.partition(_END)
    picture = "![Core-ms per study and stage, mixed set](bench.svg)"
    page.write_text(f"{before}{_START}\n\n{picture}\n\n{as_markdown(results)}\n{_END}{after}")
    (folder / "bench.json").write_text(json.dumps(as_json(results), indent=1) + "\n")
    (folder / "bench.svg").write_bytes(draw_stages(results))
