"""The demo from end to end: synthetic studies, the demo engine's reports on them, and a word on where to look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from cxrbatch.demo.engine import ensure_demo_engine
from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.errors import UsageError
from cxrbatch.output.run_json import RunReport
from cxrbatch.phantom import write_demo_studies, write_truth
from cxrbatch.run.batch import run_batch
from cxrbatch.settings_sources import load_settings
from cxrbatch.system import durable
from cxrbatch.system.progress import RunProgress
from cxrbatch.system.record_json import from_json, to_json

ENGINES = Path("engines")
STUDIES, RESULTS, TRUTH, DRAWN = "studies", "results", "truth.csv", "drawn.json"


@dataclass(frozen=True, slots=True)
class DrawnStudies:
    """Which studies an output folder holds; written once they are all there."""

    studies: int
    seed: int


def run_demo(out: Path, *, n_studies: int, seed: int, console: Console) -> RunReport:
    """Fill `out` with synthetic studies, what is true of them, and the results of a run on them.

    The engine comes from, or goes to, `engines/demo` below the working folder.

    Returns:
        What the run in `out`/results came to.

    Raises:
        UsageError: `out` holds other studies already.
    """
    bundle = ensure_demo_engine(ENGINES, report=lambda sentence: console.print(sentence, markup=False, highlight=False))
    _draw_studies(out, DrawnStudies(n_studies, seed), console)
    with RunProgress(console) as progress:
        report = run_batch(out / STUDIES, out / RESULTS, load_settings({"engine": str(bundle.folder)}), progress)
    _print_figures(console, bundle)
    return report


def _draw_studies(out: Path, wanted: DrawnStudies, console: Console) -> None:
    marker = out / DRAWN
    if marker.exists():
        if (there := from_json(marker.read_text(), DrawnStudies)) != wanted:
            raise UsageError(
                f"{out}: holds {there.studies} studies of seed {there.seed} already. "
                f"Choose another folder for {wanted.studies} of seed {wanted.seed}: cxrbatch demo -o FOLDER."
            )
        return
    console.print(f"drawing {wanted.studies} synthetic studies in {out / STUDIES}", markup=False, highlight=False)
    studies = write_demo_studies(out / STUDIES, n_studies=wanted.studies, seed=wanted.seed)
    write_truth(out / TRUTH, studies)
    durable.replace_text(marker, to_json(wanted))


def _print_figures(console: Console, bundle: EngineBundle) -> None:
    figures = bundle.manifest.training.figures
    console.print(
        f"The demo engine on {figures['images']:.0f} phantoms that it never saw: macro AUROC "
        f"{figures['macro_auroc']:.3f}; heatmap peak on the lesion in {figures['pointing_rate']:.0%} of "
        f"{figures['true_positives']:.0f} true positives.",
        highlight=False,
    )
