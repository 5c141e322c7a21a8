"""The record of a training in, a page that says what its figures are worth out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cxrbatch.model.train.folds import summarise_folds
from cxrbatch.model.train.page import TRAINING_HTML, write_training_page
from cxrbatch.model.train.record import TrainingPart, TrainingRun
from cxrbatch.pages.wording import NO_VALUE
from cxrbatch.records import Label
from tests.factories.training import CLASSES, LABELS, make_run, without_validation

CURVES = ["loss.svg", "auroc.svg", "learning_rate.svg", "pace.svg"]


def write_page(out: Path, runs: Sequence[TrainingRun]) -> str:
    out.mkdir(exist_ok=True)
    write_training_page(out, summarise_folds(runs))
    return (out / TRAINING_HTML).read_text()


def pictures(page: str) -> list[str]:
    return re.findall(r'<img src="([^"]+)"', page)


def row(page: str, first: str) -> list[str]:
    """Return the cells of the last table row that begins with this text, without tags."""
    rows = [
        [" ".join(re.sub("<[^>]+>", " ", cell).split()) for cell in re.split("</t[hd]>", body)[:-1]]
        for body in re.findall("<tr[^>]*>(.*?)</tr>", page, re.DOTALL)
    ]
    return next(cells for cells in reversed(rows) if cells and cells[0] == first)


def test_the_page_tells_what_was_trained_and_shows_its_curves(tmp_path: Path) -> None:
    page = write_page(tmp_path, [make_run()])
    assert "<h1>chest, trained on images</h1>" in page
    assert "<dd>resnet18, 224 px, pad</dd>" in page
    assert "<dd>random weights</dd>" in page
    assert "<dd>epoch 7 of 8</dd>" in page
    assert "<dd>5 min 32 s</dd>" in page
    assert pictures(page) == CURVES
    assert sorted(path.name for path in tmp_path.glob("*.svg")) == sorted(CURVES)
    assert "The shaded epochs saw images at 149 px instead of 224 px" in page
    assert row(page, "7, kept") == ["7, kept", "224", "6.43e-04", "0.3143", "0.4286", "0.8800", "24.0", "31.0"]


def test_the_page_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = write_page(tmp_path, [make_run()])
    assert "default-src &#39;none&#39;; img-src &#39;self&#39; file:" in page
    assert "http" not in page.replace('http-equiv="', "")


def test_figures_are_said_to_promise_too_much_and_how_to_get_better_ones(tmp_path: Path) -> None:
    run = make_run()
    page = write_page(tmp_path / "none", [run])
    assert "The same 120 validation images chose the epoch, the calibration and the operating points" in page
    assert "cxrbatch evaluate models/chest.safetensors OTHER_DATA -o evaluation --split all" in page
    test = TrainingPart("test", 90, 44, (40, 12, 1), (0, 0, 0))
    page = write_page(tmp_path / "test", [replace(run, parts=(*run.parts, test), checkpoint="my models/a.safetensors")])
    assert "Its test part (90 images) played no part" in page
    assert "cxrbatch evaluate &#39;my models/a.safetensors&#39; DATA -o evaluation --split test" in page


def test_verdicts_and_calibration_of_every_label(tmp_path: Path) -> None:
    page = write_page(tmp_path, [make_run()])
    assert "where sensitivity + specificity is greatest" in page
    assert row(page, "Pneumonia") == ["Pneumonia", "76 21.1 %, 19 not known", "24 20.0 %"]
    verdicts = page[page.index("From an answer to a verdict") : page.index("What it learned from")]
    assert row(verdicts, "Effusion") == ["Effusion", "0.31", "1.40", "+0.25", "urgent"]
    assert row(verdicts, "Hernia")[1:4] == [NO_VALUE, "1.00", "0"]
    assert "fewer than 5 images to choose on" in row(verdicts, "Hernia")[4]
    assert "too few images to calibrate" in row(verdicts, "Hernia")[4]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("sensitivity=0.95", "the highest threshold that still finds 95% of the images with the finding"),
        ("specificity=0.9", "the lowest threshold that still passes 90% of the images without it"),
        ("f1", "where F1 is greatest"),
        ("fixed=0.3", "the threshold 0.3, given beforehand"),
    ],
)
def test_the_rule_is_said_in_words(tmp_path: Path, rule: str, words: str) -> None:
    assert words in write_page(tmp_path, [replace(make_run(), operating_point_rule=rule)])


def test_leaks_and_an_interruption_come_before_any_figure(tmp_path: Path) -> None:
    run = make_run(interrupted=True, epochs=5, kept=4, leaks=("Two patients are in train and val.",))
    page = write_page(tmp_path, [run])
    header = page[: page.index("</header>")]
    assert "The split leaks: these figures are void.</strong> Two patients are in train and val." in header
    assert "A signal ended the training after epoch 5 of 8. The checkpoint holds epoch 4" in header
    assert "but for the leaks named above" in page
    calm = write_page(tmp_path, [make_run()])
    assert "leak" not in calm[: calm.index("</header>")].split("</style>")[1]
    assert "Interrupted" not in calm


def test_settings_libraries_and_provenance_are_all_there(tmp_path: Path) -> None:
    page = write_page(tmp_path, [make_run()])
    settings = dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", page[page.index("<h2>Settings") :]))
    assert settings["augmentation zoom"] == "0.1"
    assert settings["loss"] == "the usual one"
    assert settings["warm up"] == "0.25"
    assert settings["seed"] == "7"
    assert set(settings) >= {"batch size", "learning rate", "optimizer", "schedule", "precision", "devices", "patience"}
    assert "torch 2.12.0, numpy 2.3.0" in page
    assert "SHA-256 121212121212" in page
    assert "Weights start from random weights." in page
    assert "Recipe abababababab" in page
    assert "train cdcdcdcdcdcd, val efefefefefef" in page
    assert "50 resamples" in page


def test_folds_come_with_mean_spread_and_a_line_each(tmp_path: Path) -> None:
    runs = [make_run(fold=fold, seed=fold) for fold in (1, 2, 3)]
    (tmp_path / "fold-1-training").mkdir()
    (tmp_path / "fold-1-training" / TRAINING_HTML).touch()
    summary = summarise_folds(runs)
    page = write_page(tmp_path, runs)
    spread = summary.spread["macro_auroc"]
    assert "<h1>resnet18 on images, in 3 folds</h1>" in page
    assert row(page, "Mean and spread")[2] == f"{spread.mean:.3f} ± {spread.deviation:.3f}"
    assert f'<p class="big">{spread.mean:.3f}</p>' in page
    chosen = summary.runs[summary.chosen]
    assert row(page, f"Fold {chosen.fold}, the checkpoint")[1] == "epoch 7 of 8, 5 min 32 s"
    assert '<a href="fold-1-training/training.html">' in page
    assert "fold-3-training" not in page
    aurocs = [f"{run.facts.labels[0].metrics['auroc']:.3f}" for run in runs]
    per_label = page[page.index("AUROC of each label") : page.index("How it learned")]
    assert row(per_label, "Effusion")[1:4] == aurocs
    assert "the other 2 folds" in (tmp_path / "auroc.svg").read_text()


def test_classes_get_accuracy_and_a_confusion_matrix(tmp_path: Path) -> None:
    run = make_run(labels=CLASSES, task="multiclass")
    assert run.measured.classes is not None
    page = write_page(tmp_path, [run])
    assert pictures(page) == [*CURVES, "confusion.svg"]
    assert f'<p class="what">Accuracy</p><p class="big">{run.measured.classes.accuracy.value:.3f}</p>' in page
    assert "likeliest class" in page
    drawn = (tmp_path / "confusion.svg").read_text()
    assert f">{run.measured.classes.confusion[0][0]}<" in drawn


def test_a_training_that_measured_nothing_still_has_its_page(tmp_path: Path) -> None:
    page = write_page(tmp_path, [without_validation(make_run(labels=LABELS[:1], epochs=1, kept=1))])
    assert pictures(page) == ["loss.svg", "learning_rate.svg", "pace.svg"]
    assert "Figures on the validation images" not in page
    assert row(page, "1, kept")[4:6] == [NO_VALUE, NO_VALUE]


def test_curves_mark_the_kept_epoch_and_name_few_labels_only(tmp_path: Path) -> None:
    write_page(tmp_path, [make_run()])
    drawn = (tmp_path / "auroc.svg").read_text()
    assert "epoch 7 kept" in drawn
    assert all(f">{label.name}<" in drawn for label in LABELS)
    assert "prefers-color-scheme:dark" in drawn
    many = tuple(Label(f"L{place}", None) for place in range(3))
    run = make_run(labels=many)
    facts = replace(run.facts, labels=tuple(Label(f"L{place}", None) for place in range(7)))
    epochs = tuple(replace(epoch, label_auroc=(epoch.val_auroc,) * 7) for epoch in run.epochs)
    parts = tuple(replace(part, positives=(3,) * 7, unknown=(0,) * 7) for part in run.parts)
    calibration = replace(run.calibration, temperature=(1.0,) * 7, offset=(0.0,) * 7)
    wide = replace(run, facts=facts, epochs=epochs, parts=parts, calibration=calibration)
    write_page(tmp_path, [wide])
    assert ">L0<" not in (tmp_path / "auroc.svg").read_text()


def test_names_that_strangers_wrote_are_inert(tmp_path: Path) -> None:
    labels = (Label("<script>x</script>", 0.5), Label("B", 0.5), Label("C", 0.5))
    page = write_page(tmp_path, [replace(make_run(labels=labels), data="/d/<img src=x>")])
    assert "<script>" not in page
    assert "<img src=x>" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
