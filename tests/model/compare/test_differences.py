"""Who is better on the very same images: made-up evaluations whose answers are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cxrbatch.cli.print_measured import print_comparison
from cxrbatch.errors import UsageError
from cxrbatch.model.compare.compare import compare_models
from cxrbatch.model.compare.paired_record import Difference, PairedModels
from cxrbatch.model.evaluate.record import Caution, EvaluatedData, Evaluation
from cxrbatch.model.figures.figures import MeasuredLabels
from cxrbatch.records import EngineDescription, InputSpec, Label, Task
from cxrbatch.system.record_json import to_json

Table = dict[str, list[object]]


def write_evaluation(
    folder: Path,
    table: Table,
    labels: tuple[Label, ...],
    *,
    task: Task = "multilabel",
    cautions: tuple[Caution, ...] = (),
) -> str:
    """Leave what `evaluate` would; the columns of the table are those of predictions.csv, path and patient first."""
    folder.mkdir(parents=True)
    images = len(next(iter(table.values())))
    model = EngineDescription(
        name=folder.name,
        sha256=folder.name.encode().hex().ljust(64, "0"),
        architecture="tiny",
        task=task,
        labels=labels,
        input=InputSpec(64),
        backend="torch",
        precision="fp32",
    )
    evaluation = Evaluation(
        model=model,
        data=EvaluatedData("/data/clinic", "csv", "ab" * 32, "test", images, images, {}),
        measured=MeasuredLabels((), {}),
        subgroups=(),
        shortcuts=(),
        pointing=(),
        cautions=cautions,
        resamples=0,
        seed=0,
        evaluated_at="2026-01-02T03:04:05+00:00",
        cxrbatch_version="0.1.0",
    )
    (folder / "metrics.json").write_text(to_json(evaluation))
    whole: Table = {"group": list[object]([""] * images), "status": list[object](["scored"] * images)} | table
    with (folder / "predictions.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([list(whole), *zip(*whole.values(), strict=True)])
    return str(folder)


def draw_table(seed: int, *, skill: float, images: int = 120, labels: tuple[str, ...] = ("A",)) -> Table:
    """Make images of patients of their own, a third of them with each label; `skill` moves the scores of those."""
    truth = {label: np.roll(np.arange(images) % 3 == 0, at) for at, label in enumerate(labels)}
    generator = np.random.default_rng(seed)
    table: Table = {"path": [f"{at}.png" for at in range(images)], "patient_id": [f"p{at}" for at in range(images)]}
    for label in labels:
        scores = 1 / (1 + np.exp(-generator.normal(0, 1, images) - skill * (truth[label] - 0.5)))
        table |= {
            f"target_{label}": truth[label].astype(int).tolist(),
            f"prob_{label}": scores.tolist(),
            f"positive_{label}": (scores > 0.5).astype(int).tolist(),
        }
    return table


def compare_tables(tmp_path: Path, first: Table, second: Table, labels: tuple[Label, ...]) -> PairedModels:
    runs = [write_evaluation(tmp_path / name, table, labels) for name, table in (("one", first), ("two", second))]
    (pair,) = compare_models(runs, tmp_path / "out", measure=False).pairs
    return pair


def find(pair: PairedModels, label: str, figure: str) -> Difference:
    (found,) = (each for each in pair.differences if (each.label, each.figure) == (label, figure))
    return found


def test_a_better_model_is_said_to_be_better_everywhere(tmp_path: Path) -> None:
    labels = (Label("A", 0.5), Label("B", 0.5))
    good, bad = (draw_table(seed, skill=skill, labels=("A", "B")) for seed, skill in ((1, 4.0), (2, 0.5)))
    pair = compare_tables(tmp_path, good, bad, labels)
    assert (pair.first, pair.second, pair.images, pair.patients, pair.clustered) == ("one", "two", 120, 120, False)
    figures = ("auroc", "average_precision", "sensitivity", "specificity")
    assert [(each.label, each.figure) for each in pair.differences] == [
        (label, figure) for label in ("", "A", "B") for figure in figures
    ]
    assert (pair.tests_overall, pair.tests_of_labels) == (4, 8)
    for each in pair.differences:
        assert each.interval is not None
        assert each.interval.low < each.first - each.second < each.interval.high
        assert each.p is not None
        assert each.adjusted is not None
        assert each.p <= each.adjusted < 0.05
        assert pair.verdict_in_words(each) == "one is better"
    auroc = find(pair, "", "auroc")
    assert auroc.first == pytest.approx(np.mean([find(pair, label, "auroc").first for label in "AB"]))
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "one against two" in page
    assert "One is better" not in page
    assert page.count("one is better") == 12
    stored = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert stored["pairs"][0]["differences"][0]["verdict"] == "first"


def test_equal_models_are_not_called_different_and_swapping_them_turns_the_sign(tmp_path: Path) -> None:
    tables = [draw_table(seed, skill=1.5) for seed in (3, 4)]
    labels = (Label("A", 0.5),)
    pair = compare_tables(tmp_path / "there", tables[0], tables[1], labels)
    back = compare_tables(tmp_path / "back", tables[1], tables[0], labels)
    for each, other in zip(pair.differences, back.differences, strict=True):
        assert each.verdict == other.verdict == "none"
        assert each.first - each.second == pytest.approx(other.second - other.first)
        assert each.p == pytest.approx(other.p)
    assert pair.tests_overall == 0


def test_identical_engines_differ_in_nothing_and_no_interval_is_certain_of_rates(tmp_path: Path) -> None:
    table = draw_table(5, skill=2.0)
    pair = compare_tables(tmp_path, table, table, (Label("A", 0.5),))
    assert {each.verdict for each in pair.differences} == {"none"}
    assert {each.p for each in pair.differences} == {1.0}
    sensitivity = find(pair, "A", "sensitivity").interval
    assert sensitivity is not None
    assert sensitivity.low < -0.05 < 0.05 < sensitivity.high


def test_two_perfect_models_are_not_certain_to_be_equal(tmp_path: Path) -> None:
    truth = (np.arange(24) % 4 == 0).astype(int).tolist()
    ids = {"path": [f"{at}.png" for at in range(24)], "patient_id": [f"p{at}" for at in range(24)]}
    table = ids | {"target_A": truth, "prob_A": truth, "positive_A": truth}
    pair = compare_tables(tmp_path, table, table, (Label("A", 0.5),))
    auroc = find(pair, "A", "auroc")
    assert auroc.interval is not None
    assert auroc.interval.low < -0.1 < 0.1 < auroc.interval.high
    assert auroc.verdict == "none"


def test_only_shared_images_are_compared_and_that_is_said(tmp_path: Path) -> None:
    first, second = draw_table(6, skill=2.0), draw_table(7, skill=2.0)
    cut: Table = {name: column[30:] for name, column in second.items()}
    cut["patient_id"][0] = "somebody else"  # the same name, another patient: another image
    pair = compare_tables(tmp_path, first, cut, (Label("A", 0.5),))
    assert (pair.images, pair.only_first, pair.only_second) == (89, 31, 1)
    assert "31 images that only one scored and 1 image that only two scored" in pair.images_in_words()
    assert "left out: 31 images" in " ".join((tmp_path / "out" / "compare.html").read_text().split())
    # What is compared is what is shared: the figures are those of these images alone.
    alone: Table = {name: column[31:] for name, column in first.items()}
    again = compare_tables(tmp_path / "again", alone, cut, (Label("A", 0.5),))
    assert find(again, "A", "auroc").first == find(pair, "A", "auroc").first


def test_nothing_shared_compares_nothing(tmp_path: Path) -> None:
    first = draw_table(6, skill=2.0)
    second = first | {"path": [f"other-{name}" for name in first["path"]]}
    pair = compare_tables(tmp_path, first, second, (Label("A", 0.5),))
    assert (pair.images, pair.differences) == (0, ())
    assert "They share no image" in (tmp_path / "out" / "compare.html").read_text()


def test_a_label_of_few_or_of_one_kind_is_too_little_to_tell(tmp_path: Path) -> None:
    tables = [draw_table(seed, skill=2.0, labels=("A", "Rare", "None")) for seed in (8, 9)]
    for table in tables:
        table["target_Rare"] = [int(at < 4) for at in range(120)]
        table["target_None"] = [0] * 120
    pair = compare_tables(tmp_path, tables[0], tables[1], (Label("A", 0.5), Label("Rare", 0.5), Label("None", 0.5)))
    rare = find(pair, "Rare", "auroc")
    assert (rare.verdict, rare.p, rare.interval, rare.patients_with) == ("too few", None, None, 4)
    assert find(pair, "Rare", "sensitivity").verdict == "too few"
    assert find(pair, "Rare", "specificity").p is not None
    assert not [each for each in pair.differences if (each.label, each.figure) == ("None", "auroc")]
    assert find(pair, "None", "specificity").p is not None
    # A mean over one label is that label; rates are of two and three.
    assert not [each for each in pair.differences if (each.label, each.figure) == ("", "auroc")]
    assert pair.verdict_in_words(rare) == "too few"


def test_unknown_and_contradicting_truths_are_left_out(tmp_path: Path) -> None:
    first, second = draw_table(10, skill=2.0), draw_table(11, skill=2.0)
    first["target_A"] = ["", *first["target_A"][1:]]
    second["target_A"] = [*second["target_A"][:3], 1 - int(str(second["target_A"][3])), *second["target_A"][4:]]
    pair = compare_tables(tmp_path, first, second, (Label("A", 0.5),))
    counts = find(pair, "A", "auroc")
    assert (counts.patients_with, counts.patients_without) == (38, 80)
    assert any("contradict each other in what is true, 1 time" in caution for caution in pair.cautions)


def test_a_patients_images_stay_together(tmp_path: Path) -> None:
    tables = [draw_table(seed, skill=skill) for seed, skill in ((12, 2.5), (13, 1.2))]
    labels = (Label("A", 0.5),)
    alone = compare_tables(tmp_path / "alone", tables[0], tables[1], labels)
    copied = []
    for table in tables:
        copy = {name: [each for each in column for _ in range(4)] for name, column in table.items()}
        copied.append(copy | {"path": [f"{at}.png" for at in range(480)]})
    together = compare_tables(tmp_path / "together", copied[0], copied[1], labels)
    assert (together.images, together.patients, together.clustered) == (480, 120, True)
    for figure in ("auroc", "sensitivity", "specificity"):
        assert find(together, "A", figure).p == pytest.approx(find(alone, "A", figure).p)
    assert "kept together (Obuchowski 1997)" in (tmp_path / "together" / "out" / "compare.html").read_text()
    # Who is unknown is one with the other figures of the same publication.
    for table in copied:
        table["patient_id"], table["group"] = [""] * 480, [f"paper {at // 8}" for at in range(480)]
    papers = compare_tables(tmp_path / "papers", copied[0], copied[1], labels)
    assert (papers.clusters, papers.clustered, papers.patients, papers.of_unknown) == (60, True, 0, 480)
    assert papers.images_in_words() == "On 480 images of unknown patients that both scored."
    for table in copied:
        table["patient_id"] = [f"p{at}" if at < 3 else "" for at in range(480)]
    some = compare_tables(tmp_path / "some", copied[0], copied[1], labels)
    assert "of 3 patients and 477 images of unknown ones" in some.images_in_words()


def test_exclusive_classes_are_compared_by_accuracy(tmp_path: Path) -> None:
    labels = (Label("x", 0.5), Label("y", 0.5), Label("normal", 0.5, normal=True))
    truths = np.arange(90) % 3
    ids: Table = {"path": [f"{at}.png" for at in range(90)], "patient_id": [f"p{at}" for at in range(90)]}

    def answer(wrong: int) -> Table:
        answers = np.where(np.arange(90) < wrong, (truths + 1) % 3, truths)
        table = dict(ids)
        for at, label in enumerate(labels):
            table[f"target_{label.name}"] = (truths == at).astype(int).tolist()
            table[f"prob_{label.name}"] = np.where(answers == at, 0.8, 0.1).tolist()
            table[f"positive_{label.name}"] = (answers == at).astype(int).tolist()
        return table

    runs = [
        write_evaluation(tmp_path / name, answer(wrong), labels, task="multiclass")
        for name, wrong in (("one", 6), ("two", 30))
    ]
    (pair,) = compare_models(runs, tmp_path / "out", measure=False).pairs
    accuracy = find(pair, "", "accuracy")
    assert (accuracy.first, accuracy.second) == pytest.approx((84 / 90, 60 / 90))
    assert accuracy.p == pytest.approx(2 / 2**24)
    assert accuracy.verdict == "first"


def test_many_pairs_are_many_tests(tmp_path: Path) -> None:
    labels = (Label("A", 0.5),)
    runs = [write_evaluation(tmp_path / name, draw_table(seed, skill=2.0), labels) for seed, name in enumerate("abc")]
    pairs = compare_models(runs, tmp_path / "out", measure=False).pairs
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert {pair.tests_of_labels for pair in pairs} == {12}
    smallest = min((each for pair in pairs for each in pair.differences), key=lambda each: each.p or 0.0)
    assert smallest.adjusted == pytest.approx(min(1.0, 12 * (smallest.p or 0.0)))


def test_who_knows_the_patients_is_no_winner_without_a_word(tmp_path: Path) -> None:
    labels = (Label("A", 0.5),)
    void = (Caution("void", "The model learned from these very patients."),)
    runs = [
        write_evaluation(tmp_path / "knows", draw_table(1, skill=5.0), labels, cautions=void),
        write_evaluation(tmp_path / "honest", draw_table(2, skill=1.0), labels),
    ]
    comparison = compare_models(runs, tmp_path / "out", measure=False)
    (pair,) = comparison.pairs
    assert pair.cautions == ("knows knows these patients, so that a difference in its favour says nothing.",)
    console = Console(record=True, width=200)
    print_comparison(console, comparison, tmp_path / "out" / "compare.html")
    printed = console.export_text()
    assert "knows is better" in printed
    assert pair.cautions[0] in printed
    assert "On 120 images of 120 patients that both scored." in printed


def test_a_table_that_is_gone_is_said_and_a_damaged_one_refused(tmp_path: Path) -> None:
    labels = (Label("A", 0.5),)
    runs = [write_evaluation(tmp_path / name, draw_table(1, skill=2.0), labels) for name in ("one", "two")]
    (tmp_path / "two" / "predictions.csv").unlink()
    comparison = compare_models(runs, tmp_path / "out", measure=False)
    assert comparison.pairs == ()
    assert any("Without predictions.csv" in caution.text for caution in comparison.cautions)
    (tmp_path / "two" / "predictions.csv").write_text("path,status,target_A\n1.png,scored,yes\n")
    with pytest.raises(UsageError, match=r"predictions\.csv: damaged, or not what evaluate wrote"):
        compare_models(runs, tmp_path / "out", measure=False)
