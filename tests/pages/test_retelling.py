"""Sentences that files keep in English, retold in German: each that there is, and none that somebody else wrote."""

from __future__ import annotations

import re

import pytest

from cxrbatch.locales import CATALOGUES
from cxrbatch.pages.language import speaking
from cxrbatch.pages.retelling import kept, nkept, retold
from scripts.catalogues import read_catalogue

GERMAN = [message for message in read_catalogue(CATALOGUES / "de" / "kept.po") if message.id]


FEW = (
    "tiny: Too few patients to measure how well images are ranked, so no AUROC: Mass (3 patients with it, 7 without), "
    "A, B (1 patient with it, 2 without). It takes 5 either way; means are over the other labels."
)
FEW_IN_GERMAN = (
    "tiny: Zu wenige Patienten, um zu messen, wie gut die Bilder geordnet werden, deshalb keine AUROC: Mass (3 "
    "Patienten mit Befund, 7 ohne), A, B (1 Patient mit Befund, 2 ohne). Nötig sind 5 auf jeder Seite; Mittelwerte "
    "gehen über die übrigen Label."
)
RIVALS = (
    "Image height alone reaches the model's AUROC for A (0.661), B (0.642, within its interval). The model may have "
    "learned that instead of the finding."
)
RIVALS_IN_GERMAN = (
    "Bildhöhe: Schon dies allein erreicht die AUROC des Modells bei A (0,661), B (0,642, innerhalb seines Intervalls). "
    "Das Modell hat womöglich das gelernt und nicht den Befund."
)
LEAKS = "Pictures that are in two parts: 1 (a. B.png in train). Patients with images in two parts: 2 (c in val)."
LEAKS_IN_GERMAN = (
    "Bilder, die in zwei Teilen sind: 1 (a. B.png in train). Patienten mit Bildern in zwei Teilen: 2 (c in val)."
)


def filled(text: str, gaps_of: str, count: int, sentence: str) -> str:
    """Fill a text with names, with this count, and with a figure, each by its place in another text."""
    gaps = re.findall(r"\{(\w+)\}", gaps_of)
    values = {gap: f"Xy {place}" if gap.startswith(("name", "file")) else "7" for place, gap in enumerate(gaps)}
    return text.format(**values | {"count": str(count), "sentence": sentence})


@pytest.mark.parametrize("message", GERMAN, ids=lambda message: str(message.id)[:50])
def test_every_sentence_is_recognised_with_what_stands_in_it(message: object) -> None:
    ids, strings = (
        each if isinstance(each, tuple | list) else (each,)
        for each in (message.id, message.string)  # type: ignore[attr-defined]
    )
    with speaking("de"):
        for text, german, count in zip(ids, strings, (1, 7), strict=False):
            told = retold(filled(text, text, count, "no difference shown"))
            assert told == filled(german, text, count, "kein Unterschied gezeigt")


@pytest.mark.parametrize(
    ("english", "german"),
    [
        ("Not scored, and in no figure: 1 image.", "Nicht bewertet und in keiner Zahl enthalten: 1 Bild."),
        ("Not scored, and in no figure: 1,234 images.", "Nicht bewertet und in keiner Zahl enthalten: 1.234 Bilder."),
        (RIVALS, RIVALS_IN_GERMAN),
        (FEW, FEW_IN_GERMAN),
        (LEAKS, LEAKS_IN_GERMAN),
        (
            "Of 8 images 2 show 1 patient of this data's training part, which the model learned from.",
            "8 Bilder: 2 zeigen 1 Patient aus dem Trainingsteil dieser Daten, von dem das Modell lernte.",
        ),
        (
            "On 5 images of 3 patients and 2 images of unknown ones that both scored.",
            "Von beiden bewertet: 5 Bilder (3 Patienten und 2 Bilder von unbekannten).",
        ),
    ],
)
def test_phrases_and_figures_inside_of_a_sentence(english: str, german: str) -> None:
    with speaking("de"):
        assert retold(english) == german
    assert retold(english) == english


@pytest.mark.parametrize("text", ["", "For research in our clinic. Ask Dr Doe.", "{name}", "x" * 100_000, "7 of 9"])
def test_what_somebody_wrote_stays(text: str) -> None:
    with speaking("de"):
        assert retold(text) == text


def test_hostile_names_are_not_templates() -> None:
    with speaking("de"):
        assert retold("The data says nothing about {count}, {0.x}, a: not evaluated.") == (
            "Die Daten sagen nichts über {count}, {0.x}, a: nicht evaluiert."
        )


def test_what_is_kept_is_english() -> None:
    with speaking("de"):
        assert kept("too few") == "too few"
        assert nkept("{count} image", "{count} images", 2) == "{count} images"
