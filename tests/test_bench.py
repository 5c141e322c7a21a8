"""The arithmetic of `make bench`: which samples count, what is made of them, and when `--quick` fails."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.bench_figures import (
    Cell,
    Cost,
    Limit,
    Sample,
    Summary,
    counting,
    summarise,
    together,
)
from scripts.bench_table import Results, as_json, as_markdown, draw_stages, figures, record

ROOT = Path(__file__).parents[1]
# Ten studies in 5 s on two cores, 4 s of which after start-up; others took a hundredth of the cores.
QUIET = Sample(10, 5.0, 8.0, 0.1, 2, 700.0, processing_s=4.0, stage_s={"read": 1.0, "infer": 2.0})
LOUD = replace(QUIET, wall_s=10.0, cpu_s=12.0, foreign_s=10.0, processing_s=9.0, peak_rss_mb=900.0)


def test_a_sample_tells_rates_cost_and_who_else_ran() -> None:
    assert (QUIET.studies_per_s, QUIET.whole_studies_per_s, QUIET.core_ms) == (2.5, 2.0, 800.0)
    assert (QUIET.foreign_share, LOUD.foreign_share) == (0.01, 0.5)


def test_only_quiet_samples_count_and_else_the_least_disturbed() -> None:
    assert counting([LOUD, QUIET, LOUD]) == [QUIET]
    worse = replace(LOUD, foreign_s=15.0)
    assert counting([worse, LOUD]) == [LOUD]
    mixed, loud = summarise([LOUD, QUIET]), summarise([worse, LOUD])
    assert (mixed.quiet, mixed.samples, mixed.wall_s, mixed.peak_rss_mb, mixed.is_quiet) == (1, 2, 5.0, 700.0, True)
    assert (loud.quiet, loud.samples, loud.wall_s, loud.foreign_share, loud.is_quiet) == (0, 2, 10.0, 0.5, False)


def test_a_summary_has_medians_and_what_no_stage_counts() -> None:
    samples = [replace(QUIET, cpu_s=cpu_s, wall_s=wall_s) for cpu_s, wall_s in ((8.0, 5.0), (9.0, 6.0), (13.0, 5.5))]
    summary = summarise(samples)
    assert (summary.core_ms, summary.wall_s, summary.studies_per_s) == (900.0, 5.5, 2.5)
    assert summary.stage_ms == {"read": 100.0, "infer": 200.0, "other": 600.0}
    assert summarise([replace(QUIET, stage_s={})]).stage_ms == {}
    # Of the plain way, what counts begins after start-up.
    assert summarise([replace(QUIET, processing_cpu_s=4.0)]).stage_ms["other"] == 100.0
    # A rerun that finds nothing to do has no studies, and still a time.
    assert summarise([replace(QUIET, studies=0, stage_s={})]).wall_s == 5.0


def test_limits_one_after_another_add_up() -> None:
    assert together([10.0, 10.0]) == pytest.approx(5.0)
    assert together([40.0]) == pytest.approx(40.0)


def test_cost_is_told_beside_the_plain_way_without_its_start_up() -> None:
    ours, plain = summarise([QUIET]), summarise([replace(QUIET, cpu_s=50.0, processing_cpu_s=16.0)])
    assert plain.core_ms == 5000.0
    assert Cost.of(ours, plain) == Cost(0.5, quiet=True)
    assert not Cost.of(summarise([LOUD]), plain).quiet
    assert not Cost.of(ours, summarise([LOUD])).quiet


@pytest.mark.parametrize("quiet", [True, False])
def test_a_cost_that_grew_by_more_than_a_quarter_fails_quick(quiet: bool) -> None:
    recorded = Cost(0.4, quiet=True)
    assert [Cost(ratio, quiet).has_grown(recorded) for ratio in (0.3, 0.4, 0.49, 0.51)] == [False, False, False, True]
    # What was recorded while the plain way's threads were spinning is too low to be held to.
    assert not Cost(0.51, quiet).has_grown(Cost(0.4, quiet=False))


@pytest.fixture
def results() -> Results:
    plain = summarise([replace(QUIET, processing_s=20.0, processing_cpu_s=16.0, stage_s={"read": 5.0, "pdf": 3.0})])
    made = Results()
    for images, mode in (("mixed", "pdf"), ("mixed", "html"), ("uncompressed", "csv")):
        made.plain[images, mode] = plain
        made.ours[Cell(images, mode, "fp32")] = summarise([QUIET])
        made.ours[Cell(images, mode, "int8")] = summarise([LOUD])
    made.limits = {f"decode/{images}": Limit(10.0, 200.0) for images in ("mixed", "uncompressed")}
    made.limits |= {"engine/fp32": Limit(5.0, 400.0), "engine/int8": Limit(10.0, 200.0), "pages": Limit(10.0, 200.0)}
    made.commands = {"24 studies": summarise([QUIET]), "rerun of 24 files": summarise([replace(QUIET, wall_s=0.31)])}
    return made


def test_the_table_has_the_figures_that_have_goals(results: Results) -> None:
    told = {row.what: (row.value, row.must) for row in figures(results)}
    # 2.5 studies/s beside 0.5; 2 with start-up beside 0.5; 2.5 images/s where the engine alone makes 5.
    assert told["CSV + HTML + PDF, mixed, FP32: studies/s over the plain way"] == ("5.0", "6")
    assert told["24 studies, start-up counted on our side only, FP32"] == ("4.0", "4.5")
    assert told["CSV only, uncompressed, FP32: images/s over the bare engine"] == ("0.50", "0.85")
    assert told["rerun of 24 files, nothing to do"] == ("0.31 s", "0.30 s")
    assert told["peak RSS of the process tree"] == ("700 MB", "820 MB")
    text = as_markdown(results)
    # 1 / (1/5 + 1/10 + 1/10) = 2.5 studies/s are possible.
    assert "| mixed, pdf, FP32 | 2.50 | 2.00 | 800 | 700 | 5.0 | 1.00 | 1 of 1, 1 % |" in text
    assert "0 of 1, 50 % \\* |" in text
    assert as_json(results)["cost"] == {"ratio": 0.5, "quiet": True}


def test_what_was_measured_is_recorded_in_the_page_and_beside_it(results: Results, tmp_path: Path) -> None:
    page = tmp_path / "bench.md"
    page.write_text((ROOT / "docs/measurements/bench.md").read_text())
    before = page.read_text().partition("<!--")[0]
    for _ in range(2):
        record(results, tmp_path)
    assert page.read_text().startswith(before)
    assert page.read_text().count("| figure | here | must | reach for |") == 1
    assert page.read_text().count("](bench.svg)") == 1
    assert json.loads((tmp_path / "bench.json").read_text())["cxrbatch"]["mixed/pdf/fp32"]["core_ms"] == 800.0
    drawn = (tmp_path / "bench.svg").read_bytes()
    assert drawn == draw_stages(results)
    assert b"cxrbatch, pdf, INT8" in drawn
    assert b"core-ms per study" in drawn


def test_a_recorded_cost_is_there_for_quick() -> None:
    recorded = Cost(**json.loads((ROOT / "docs/measurements/bench.json").read_text())["cost"])
    assert 0.05 < recorded.ratio < 1


BURN = "import time\nwhile time.process_time() < 0.4: pass"
# The work is done by a child of the command.
FAMILY = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}]); print('done')"
MEASURE = f"""
import json, sys
from pathlib import Path
from scripts.bench_measure import run_measured
measured = run_measured([sys.executable, "-c", {FAMILY!r}], cwd=Path("."))
print(json.dumps([measured.cpu_s, measured.wall_s, measured.peak_rss_mb, measured.foreign_s, measured.stdout]))
"""


def test_the_whole_process_tree_is_counted() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, check=True)
    cpu_s, wall_s, peak_rss_mb, foreign_s, stdout = json.loads(done.stdout)
    assert 0.4 < cpu_s < 2
    assert wall_s > 0.2
    assert peak_rss_mb > 10
    assert foreign_s >= 0
    assert stdout == "done\n"


def test_a_summary_survives_json() -> None:
    summary = summarise([QUIET])
    assert Summary(**json.loads(json.dumps(as_json(Results(commands={"x": summary}))))["commands"]["x"]) == summary
