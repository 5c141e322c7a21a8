"""Whether an engine's INT8 file runs where nobody asked for a precision: only if its gate counted, and it passed."""

from __future__ import annotations

from cxrbatch.engine.agreement import too_many_flips
from cxrbatch.engine.manifest import AccuracyFigures, Manifest, ParityFigures
from cxrbatch.pages.retelling import kept

INT8 = "onnx_int8"


def int8_obstacle(manifest: Manifest) -> str:
    """Say in words why INT8 is not what runs by default on a CPU; empty where it is.

    Its figures are held against the limits that stand beside them, whatever the build made of them.
    """
    if INT8 not in manifest.files:
        return kept("the engine has no INT8 file")
    if not isinstance(manifest.parity.get(INT8), ParityFigures):
        return kept("INT8 was not compared with the checkpoint")
    figures = manifest.accuracy.get(INT8)
    if figures is None:
        return kept("no labelled images have judged INT8")
    if figures.worst_limit is None or figures.flip_limit is None or not figures.verdicts:
        return kept("the gate of INT8 counted no verdicts")
    return "" if _passed(figures, figures.worst_limit, figures.flip_limit) else kept("INT8 did not pass its gate")


def _passed(figures: AccuracyFigures, worst_limit: float, flip_limit: float) -> bool:
    # Written so that a figure that is no number passes nothing.
    ranks_as_well = figures.drop <= figures.limit and figures.worst_drop <= worst_limit
    return ranks_as_well and not too_many_flips(figures.decision_flips, figures.verdicts, flip_limit)


def int8_in_words(manifest: Manifest) -> str:
    """Say what the gate of the INT8 file measured, for a report; why it does not count where it does not."""
    if obstacle := int8_obstacle(manifest):
        return kept("not passed: {obstacle}").format(obstacle=obstacle)
    figures = manifest.accuracy[INT8]
    return kept(
        "passed: mean AUROC {auroc} beside {reference} in FP32, {flips} of {verdicts} verdicts differ ({images} "
        "{source})"
    ).format(
        auroc=f"{figures.auroc:.4f}",
        reference=f"{figures.auroc_reference:.4f}",
        flips=figures.decision_flips,
        verdicts=figures.verdicts,
        images=figures.images,
        source=figures.source,
    )
