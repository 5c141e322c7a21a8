"""Pages of every kind, of the shape that they have in use, for tests that look at them in a browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from cxrbatch.errors import Flag
from cxrbatch.model.compare.compare import compare_models
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.describe.describe import describe_data
from cxrbatch.model.evaluate.evaluate import EvaluationOptions, evaluate_model
from cxrbatch.model.train.folds import summarise_folds
from cxrbatch.model.train.page import TRAINING_HTML, write_training_page
from cxrbatch.output.report.report import print_study
from cxrbatch.output.worklist import write_worklist
from cxrbatch.phantom import draw_phantom
from cxrbatch.records import Gray8, Label, RefusedImage, StudyResult
from tests.factories.engine import write_tiny_bundle
from tests.factories.output import make_engine, make_pixels, make_study_result, make_study_row
from tests.factories.studies import four_greys
from tests.factories.training import make_run
from tests.factories.validated import VALIDATED

RANGE = {"": 0.9, "_low": 0.8, "_high": 0.95}
MEASURED = {"auroc": 0.93} | {
    f"{name}{end}": at for name in ("sensitivity", "specificity") for end, at in RANGE.items()
}
FINDINGS = (
    Label("Effusion", 0.5, metrics=MEASURED, images_with=90, images_without=900, maps=VALIDATED),
    Label("Pneumothorax", 0.35, urgent=True, metrics=MEASURED, images_with=40, images_without=900, maps=VALIDATED),
    Label("Nodule", 0.4, metrics=MEASURED, maps=VALIDATED),
    Label("Mass", None, reference=tuple(n / 100 for n in range(101)), metrics={"auroc": 0.8}),
)
HIGH, LOW = (0.9, 0.8, 0.7, 0.4), (0.1, 0.2, 0.1, 0.2)


def radiograph(seed: int, shape: tuple[int, int]) -> Gray8:
    """Draw a display image, uint8 [H,W]."""
    stored = draw_phantom(seed, rows=512).stored
    return np.asarray(cv2.resize(stored >> 4, shape[::-1]), np.uint8)


def write_report(
    out: Path,
    probabilities: Sequence[Sequence[float]] = (HIGH,),
    *,
    key: str = "0" * 16,
    labels: Sequence[Label] = FINDINGS,
    shape: tuple[int, int] = (400, 400),
) -> Path:
    """Print a study of one image of this shape per row of probabilities of the labels; return its report.html."""
    result = make_study_result(
        probabilities,
        labels=labels,
        study_key=key,
        notice="Knows phantoms only.",
        flags=(Flag.LOSSY, Flag.OUT_OF_DISTRIBUTION),
        refused=(RefusedImage("night/lateral.dcm", "rejected", "not_frontal", ""),),
    )
    pixels = [
        make_pixels(len(labels), display=radiograph(n, shape), rows=2 * shape[0], columns=2 * shape[1])
        for n in range(len(result.images))
    ]
    printed = print_study(result, pixels, out, html=True, pdf=False)
    return out / printed.report_html


def write_list(out: Path) -> Path:
    """Write the worklist of a few studies, of every priority; return index.html."""
    studies: list[StudyResult] = [
        make_study_result((scores,), labels=FINDINGS[:3], study_key=f"{n}" * 16)
        for n, scores in enumerate((HIGH[:3], (0.9, 0.1, 0.1), LOW[:3]))
    ]
    rows = [make_study_row(study) for study in studies]
    refused = make_study_row(None, study_key="6" * 16, status="unscored", reasons=("not_frontal",))
    write_worklist(
        out,
        [*rows, replace(rows[0], study_key="7" * 16), refused],
        engine=make_engine(FINDINGS[:3], notice="Knows phantoms only."),
        generated_at="2026-01-02T03:04:05+00:00",
    )
    return out / "index.html"


def write_workshop(folder: Path) -> dict[str, Path]:
    """Write the pages of a training, two evaluations, their comparison and a description of their data."""
    data = _labelled_data(folder / "clinic")
    evaluations = []
    for name in ("one", "two"):
        engine = write_tiny_bundle(folder / name, name=name, labels=(Label("TopLeft", 0.5 if name == "one" else 0.8),))
        evaluate_model(str(engine), data, folder / f"evaluation-{name}", EvaluationOptions(resamples=20))
        evaluations.append(folder / f"evaluation-{name}")
    compare_models([str(each) for each in evaluations], folder / "comparison", measure=False)
    (folder / "training").mkdir()
    write_training_page(folder / "training", summarise_folds([make_run()]))
    describe_data(data, DataOptions(), folder / "description")
    return {
        "evaluation": evaluations[0] / "evaluation.html",
        "comparison": folder / "comparison" / "compare.html",
        "training": folder / "training" / TRAINING_HTML,
        "description": folder / "description" / "index.html",
    }


def _labelled_data(folder: Path) -> Path:
    """Make twelve test images of as many patients, half of them with the finding, one of each kind misleading."""
    folder.mkdir(parents=True)
    rows = ["image_index,patient_id,age,sex,view,split,TopLeft"]
    greys = (*((grey, 1) for grey in (240, 230, 220, 210, 200, 20)), *((grey, 0) for grey in (180, 60, 50, 40, 30, 10)))
    for at, (grey, truth) in enumerate(greys):
        pixels = four_greys(grey, 128, 128, 128, size_px=128)
        pixels[-1, :] = np.random.default_rng(at).integers(0, 256, 128)
        if not cv2.imwrite(str(folder / f"{at}.png"), pixels):
            raise OSError(f"{folder / f'{at}.png'} could not be written")
        rows.append(f"{at}.png,p{at},{30 + 4 * at},{'FM'[at % 2]},{('PA', 'AP')[truth]},test,{truth}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder
