"""The model card says what was measured, on how much, and what that is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cxrbatch.engine.bundle import load_bundle
from cxrbatch.engine.model_card import write_model_card
from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.records import Label
from tests.factories.engine import write_tiny_bundle

MEASURED = {"auroc": 0.9, "auroc_low": 0.8, "auroc_high": 0.95}
FIGURES = {"macro_auroc": 0.9, "macro_auroc_low": 0.8, "macro_auroc_high": 0.95, "alarm_rate": 0.05}


def read_card(folder: Path, labels: tuple[Label, ...], training: TrainingFacts) -> str:
    manifest = load_bundle(write_tiny_bundle(folder / "engines", labels=labels)).manifest
    write_model_card(folder / "card.md", replace(manifest, training=training))
    return (folder / "card.md").read_text()


def test_an_auroc_that_few_images_would_tell_is_said_to_be_missing(tmp_path: Path) -> None:
    labels = (
        Label("Rare", None, images_with=4, images_without=40),
        Label("Common", 0.5, metrics=MEASURED, images_with=30, images_without=40),
        Label("Old"),
    )
    card = read_card(tmp_path, labels, TrainingFacts())
    assert "| Finding | operating point | urgent | auroc | images with / without |" in card
    assert "| Rare | none: no verdict |  | too few images | 4 / 40 |" in card
    assert "| Common | 0.500 |  | 0.900 (0.800 to 0.950) | 30 / 40 |" in card
    # A bundle from before counts were kept says what it says.
    assert "| Old | 0.500 |  |  |  |" in card


def test_an_auroc_that_was_not_measured_for_want_of_patients_is_said_to_be_missing(tmp_path: Path) -> None:
    labels = (Label("Rare", 0.5, metrics={"sensitivity": 0.9}, images_with=30, images_without=40),)
    card = read_card(tmp_path, (*labels, Label("Common", metrics=MEASURED)), TrainingFacts())
    assert "| Rare | 0.500 |  | 0.900 | too few images | 30 / 40 |" in card


def test_figures_of_images_that_also_chose_are_marked(tmp_path: Path) -> None:
    chosen = read_card(tmp_path / "chosen", (Label("A"),), TrainingFacts(figures=FIGURES, measured_on="val"))
    assert "The same images chose the epoch, the calibration and the operating points" in chosen
    assert "- **macro_auroc: 0.900 (0.800 to 0.950)**\n- **alarm_rate: 0.050**\n" in chosen
    apart = read_card(tmp_path / "apart", (Label("A"),), TrainingFacts(figures=FIGURES, measured_on="calibration"))
    assert "The same images chose" not in apart
