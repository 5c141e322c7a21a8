"""The workshop's pages in other languages: no text outside of the catalogues, German throughout, files in English."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cxrbatch.model.compare.compare import compare_models
from cxrbatch.model.compare.paired_record import Difference, PairedModels
from cxrbatch.model.compare.record import MeasuredOn
from cxrbatch.model.compare.report import write_comparison_page
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.pixel_cache import CACHE_VARIABLE
from cxrbatch.model.describe.describe import describe_data
from cxrbatch.model.evaluate.evaluate import EvaluationOptions, evaluate_model
from cxrbatch.model.evaluate.localisation import PointingFigures
from cxrbatch.model.evaluate.record import Caution, Evaluation
from cxrbatch.model.evaluate.report import write_evaluation_page
from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.model.figures.plots import CONFUSION
from cxrbatch.model.train.folds import summarise_folds
from cxrbatch.model.train.origin import SETTING_NAMES
from cxrbatch.model.train.page import write_training_page
from cxrbatch.model.train.record import TrainingPart
from cxrbatch.pages.language import choose, speaking
from cxrbatch.pages.page import render_page
from cxrbatch.records import Label, MapCheck
from cxrbatch.serve.openapi import describe_api
from tests.factories.engine import write_tiny_bundle
from tests.factories.labelled import write_image, write_images
from tests.factories.pseudo_language import (
    OPEN,
    PSEUDO,
    Seen,
    outside,
    with_pseudo_language,
    write_pseudo_catalogue,
)
from tests.factories.training import CLASSES, make_run, without_validation

# Names of data, files and commands, which are the same in every language, and units.
SAME = {
    "sigmoid",
    "OTHER_DATA",
    "cxrbatch",
    "px",
    "ms",
    "min",
    "MB",
    "SHA-256",
    "UTC",
    "AUROC",
    "train",
    "val",
    "test",
}
REASON = "their peaks lie in what is marked on 31% of the images, no more than chance may hit (29%)"


@pytest.fixture(scope="module")
def catalogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogues")
    write_pseudo_catalogue(folder)
    return folder


@pytest.fixture(params=[PSEUDO, "de"])
def locale(request: pytest.FixtureRequest, catalogues: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Have pages made in a language of brackets, and in German."""
    if request.param == "de":
        choose("de")
        yield "de"
    else:
        with with_pseudo_language(catalogues, monkeypatch):
            choose(PSEUDO)
            yield PSEUDO
    choose("en")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = (Label("TopLeft", 0.5), Label("Odd", 0.5, urgent=True))
    return write_tiny_bundle(tmp_path_factory.mktemp("engines"), labels=labels)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixteen images of eight patients; image 3 is image 2 again, in another part with other labels; 11 is broken."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    folder = tmp_path / "clinic"
    names = write_images(folder, 16)
    (folder / names[3]).write_bytes((folder / names[2]).read_bytes())
    (folder / names[11]).write_bytes(b"not an image")
    write_image(folder / names[10], seed=10, size_px=96)
    rows = "".join(
        f"{name},{'val' if index in {3, 8, 9} else 'train'},p{99 if index == 3 else index // 2},"
        f"{'' if index == 1 else 20 * (index % 5)},{'FM'[index % 2]},{'PA' if index < 8 else 'AP'},{index % 2},"
        f"{int(index % 3 == 0)}\n"
        for index, name in enumerate(names)
    )
    (folder / "labels.csv").write_text(f"path,split,patient,age,sex,view,TopLeft,Odd\n{rows}")
    return folder


def check(out: Path, page: str, locale: str, known: set[str]) -> None:
    """Find nothing outside of the catalogues, in the page and in the pictures beside it."""
    text = (out / page).read_text()
    assert f'<html lang="{locale}">' in text
    drawn = " ".join(re.findall(r"<text[^>]*>([^<]*)<", "".join(path.read_text() for path in out.glob("*.svg"))))
    if locale == PSEUDO:
        assert outside(text, SAME | known) == set()
        assert outside(drawn, SAME | known) == set()
    else:
        seen = Seen()
        seen.feed(text)
        # Versions have several points.
        assert not re.search(r"(?<![.\d])\d+\.\d+(?!\.?\d)", " ".join([*seen.seen, drawn]))
    for kept in out.glob("*.json"):
        assert OPEN not in kept.read_text()


def data_of(record: Any, *, but: Iterable[str] = ()) -> set[str]:
    """Return every text that a record holds, and as pages show it, but sentences of ours, which are to be retold."""
    if isinstance(record, dict):
        return set().union(*(data_of(each, but=but) for each in [*record, *record.values()]), set())
    if isinstance(record, list | tuple):
        return set().union(*(data_of(each, but=but) for each in record), set())
    texts = {record, record.replace("_", " "), record[:12], record[:16]} if isinstance(record, str) else set()
    return {text for text in texts if len(text) > 1 and text not in SETTING_NAMES and text not in but}


def test_training(locale: str, tmp_path: Path) -> None:
    leak = "Pictures that are in two parts: 2 (a.png in train, b.png in val)."
    notes = ("3 of the 40 images of table.csv are there.", "12 files left out that are no frontal images.")
    init = "Weights start from a checkpoint: a.st, SHA-256 ab; the head is random."
    test = TrainingPart("test", 90, 44, (40, 12, 1), (0, 0, 0), of_unknown=3)
    run = make_run()
    facts = replace(run.facts, notice=leak, training=replace(run.facts.training, init=init))
    told: dict[str, Any] = {"leaks": (leak,), "notes": notes, "facts": facts, "parts": (*run.parts, test)}
    run = replace(run, **told, interrupted=True, operating_point_rule="sensitivity=0.9")
    known = data_of(msgspec.to_builtins(run), but=(leak, *notes, init, "epoch", "loss"))
    names = {"chest", "images", "average", "a.png in train, b.png in val", "table.csv", "a.st", "resnet18"}
    command = {f"cxrbatch evaluate {run.checkpoint} DATA -o evaluation --split test"}
    write_training_page(tmp_path, summarise_folds([run]))
    check(tmp_path, "training.html", locale, known | names | command)
    if locale == "de":
        page = (tmp_path / "training.html").read_text()
        assert "3 der 40 Bilder aus table.csv sind da." in page
        assert "die höchste Schwelle, die noch 90\N{NO-BREAK SPACE}% der Bilder mit dem Befund findet" in page
        assert "<dd>ein Checkpoint: a.st, SHA-256 ab; der Kopf ist zufällig</dd>" in page
        assert '<td class="right">6,43e-04</td>' in page


@pytest.mark.parametrize("locale", [PSEUDO], indirect=True)
def test_training_in_folds_and_of_classes(locale: str, tmp_path: Path) -> None:
    runs = [make_run(fold=fold, seed=fold) for fold in (1, 2, 3)]
    commands = {
        f"cxrbatch evaluate {run.checkpoint} OTHER_DATA -o evaluation --split all" for run in [*runs, make_run()]
    }
    known = data_of(msgspec.to_builtins(runs), but=("epoch", "loss")) | {"average"} | commands
    (tmp_path / "folds").mkdir()
    write_training_page(tmp_path / "folds", summarise_folds(runs))
    check(tmp_path / "folds", "training.html", locale, known | {"images"})
    run = without_validation(make_run(labels=CLASSES, task="multiclass"))
    (tmp_path / "classes").mkdir()
    write_training_page(tmp_path / "classes", summarise_folds([run]))
    check(tmp_path / "classes", "training.html", locale, known | data_of(msgspec.to_builtins(run)) | {"softmax"})


@pytest.fixture
def evaluation(engine: Path, data: Path, tmp_path: Path, locale: str) -> Evaluation:
    """Evaluate for the folder `evaluated`, in this language."""
    options = EvaluationOptions(split="all", resamples=20, data=DataOptions(allow_leak=True))
    return evaluate_model(str(engine), data, tmp_path / "evaluated", options)


LABELS = {"TopLeft", "Odd", "clinic", "folders_hidden", "labels.csv"}
LEARNED = (
    "Of 5 images 3 show 2 patients and 4 are the very pictures that the model learned from: its checkpoint knows them "
    "by keyed digests. The figures below say nothing about new patients."
)
RIVAL = (
    "View position alone reaches the model's AUROC for TopLeft (0.812, within its interval), Odd (0.700). The model "
    "may have learned that instead of the finding."
)


def test_evaluation(locale: str, evaluation: Evaluation, tmp_path: Path) -> None:
    out = tmp_path / "evaluated"
    known = data_of(msgspec.to_builtins(evaluation.model)) | LABELS | {evaluation.data.sha256[:16], "unreadable_header"}
    check(out, "evaluation.html", locale, known | {"csv", "AP", "PA", "not_an_image"})
    checked = MapCheck(30, 20, 0.31, 0.29, False, REASON, "", 0.01, 0.2, 0.1, 0.3, 0.2, 0.4, 0.5)
    pointing = PointingFigures("TopLeft", 1, Estimate(0.3, 0.2, 0.4), 0.1, Estimate(0.2, 0.1, 0.3), 5, 0.4, checked)
    more = replace(
        evaluation,
        model=replace(evaluation.model, notice="Not known whom a, b learned from: 2 members of it."),
        cautions=(Caution("void", LEARNED), Caution("doubtful", RIVAL)),
        pointing=(pointing,),
    )
    write_evaluation_page(out, more, [CONFUSION])
    check(out, "evaluation.html", locale, known | {"csv", "AP", "PA", "not_an_image"})
    if locale == "de":
        page = (out / "evaluation.html").read_text()
        assert "3 zeigen 2 Patienten, von denen das Modell lernte, und 4 sind ebendie Bilder" in page
        assert "bei TopLeft (0,812, innerhalb seines Intervalls), Odd (0,700)." in page
        assert "nicht mehr als der Zufall treffen kann (29\N{NO-BREAK SPACE}%)" in page


def test_data(locale: str, data: Path, tmp_path: Path) -> None:
    describe_data(data, DataOptions(allow_leak=True), tmp_path / "out", workers=1)
    names = {path.name for path in data.iterdir()} | {path.name for path in (tmp_path / "out").iterdir()}
    check(tmp_path / "out", "index.html", locale, LABELS | names | {str(data), "AP", "PA"})


def test_comparison(locale: str, evaluation: Evaluation, engine: Path, tmp_path: Path) -> None:
    del evaluation
    compared = compare_models([str(tmp_path / "evaluated"), str(engine)], tmp_path / "out", measure=False)
    known = data_of(msgspec.to_builtins(compared.models)) | LABELS | {"compare.csv", "compare.json", "no", "yes"}
    check(tmp_path / "out", "compare.html", locale, known)
    (model, *_) = compared.models
    measured = replace(model, measured_on=MeasuredOn("", "", "", 12, chosen_by=True), parameters=2_345_678)
    differences = (
        Difference(label="TopLeft", figure="auroc", first=0.9, second=0.8, p=0.01, adjusted=0.0001, verdict="first"),
        Difference(label="", figure="accuracy", first=0.5, second=0.6, interval=Estimate(-0.1, -0.2, 0.1)),
    )
    pair = PairedModels(
        first="aa", second="bb", images=9, patients=3, of_unknown=2, clusters=4, only_first=1, only_second=2,
        cautions=("aa knows these patients, so that a difference in its favour says nothing.",),
        differences=differences, resamples=100, seed=1, tests_overall=1, tests_of_labels=3,
    )  # fmt: skip
    write_comparison_page(tmp_path / "out", replace(compared, models=(measured,), pairs=(pair,)))
    check(tmp_path / "out", "compare.html", locale, known | {"aa", "bb"})
    if locale == "de":
        page = (tmp_path / "out" / "compare.html").read_text()
        assert "ausgelassen: 1 Bild nur von aa bewertet und 2 Bilder nur von bb bewertet." in page
        assert "2,3 Mio." in page


def test_the_api(locale: str, tmp_path: Path) -> None:
    english = describe_api()
    with speaking(locale):
        api = describe_api()
        page = render_page("api.html.j2", styles=("look.css", "api.css"), api=api)
    (tmp_path / "api.html").write_text(page)
    check(
        tmp_path,
        "api.html",
        locale,
        data_of(english, but=set(explanations(english))) | {"cxrbatch serve", "GET", "POST"},
    )
    assert explanations(english) == explanations(describe_api())


def explanations(document: Any) -> list[str]:
    """Return what an OpenAPI document says for people."""
    if isinstance(document, dict):
        own = [text for name, text in document.items() if name in {"description", "summary"} and isinstance(text, str)]
        return [*own, *(text for each in document.values() for text in explanations(each))]
    return [text for each in document for text in explanations(each)] if isinstance(document, list | tuple) else []
