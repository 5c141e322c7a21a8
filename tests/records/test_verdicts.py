"""What follows from probabilities, on made-up engines: nothing here is scored, so every number can be chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from cxrbatch.records import Calls, Label, Priority, Task, VerdictRule, judge, judge_study, likeliest_class, usual_rule
from tests.factories.output import make_engine

EFFUSION, NODULE = Label("Effusion", 0.5), Label("Nodule", 0.4)
PNEUMOTHORAX, HERNIA = Label("Pneumothorax", 0.3, urgent=True), Label("Hernia", None)
NO_FINDING = Label("No Finding", 0.5, normal=True)
NORMAL, COVID, VIRAL = Label("normal", 0.3, normal=True), Label("covid", 0.3, urgent=True), Label("viral", 0.3)
CLASSES = (COVID, NORMAL, VIRAL)


def without_point(label: Label) -> Label:
    return replace(label, operating_point=None)


@pytest.mark.parametrize(
    ("labels", "probabilities", "calls", "priority"),
    [
        # Every label judged.
        ((EFFUSION, NODULE, PNEUMOTHORAX), (0.49, 0.39, 0.29), (False, False, False), "normal"),
        ((EFFUSION, NODULE, PNEUMOTHORAX), (0.5, 0.0, 0.0), (True, False, False), "abnormal"),
        ((EFFUSION, NODULE, PNEUMOTHORAX), (0.9, 0.9, 0.3), (True, True, True), "urgent"),
        # Some without a point: high or low, nobody may judge them, and nothing is normal.
        ((EFFUSION, HERNIA), (0.1, 0.99), (False, None), "incomplete"),
        ((EFFUSION, HERNIA), (0.1, 0.0), (False, None), "incomplete"),
        ((EFFUSION, HERNIA), (0.6, 0.99), (True, None), "abnormal"),
        ((PNEUMOTHORAX, HERNIA), (0.6, 0.99), (True, None), "urgent"),
        # An urgent one without a point is neither urgent nor normal.
        ((EFFUSION, without_point(PNEUMOTHORAX)), (0.1, 0.98), (False, None), "incomplete"),
        ((EFFUSION, without_point(PNEUMOTHORAX)), (0.1, 0.001), (False, None), "incomplete"),
        ((EFFUSION, without_point(PNEUMOTHORAX)), (0.7, 0.98), (True, None), "abnormal"),
        # No point at all.
        ((HERNIA, without_point(PNEUMOTHORAX)), (0.99, 0.98), (None, None), "unscored"),
        # A class that means "nothing found" beside findings takes no part but where it is alone.
        ((EFFUSION, NO_FINDING), (0.1, 0.9), (False, True), "normal"),
        ((EFFUSION, NO_FINDING), (0.9, 0.9), (True, True), "abnormal"),
        ((EFFUSION, without_point(NO_FINDING)), (0.1, 0.9), (False, None), "normal"),
        ((HERNIA, NO_FINDING), (0.1, 0.9), (None, True), "incomplete"),
        ((NO_FINDING,), (0.9,), (True,), "normal"),
        ((NO_FINDING,), (0.1,), (False,), "abnormal"),
        ((without_point(NO_FINDING),), (0.9,), (None,), "unscored"),
        # What is no number is no verdict.
        ((EFFUSION, NODULE), (float("nan"), 0.1), (None, False), "incomplete"),
        ((EFFUSION,), (float("nan"),), (None,), "unscored"),
    ],
)
def test_from_its_operating_point_on(
    labels: tuple[Label, ...], probabilities: tuple[float, ...], calls: Calls, priority: Priority
) -> None:
    verdict = judge(labels, "threshold", [probabilities])
    assert (verdict.calls, verdict.priority) == (calls, priority)


@pytest.mark.parametrize(
    ("labels", "images", "calls", "priority"),
    [
        # 0.35 reaches covid's point; normal is likelier, and one image is one class.
        (CLASSES, [(0.35, 0.4, 0.25)], (False, True, False), "normal"),
        (CLASSES, [(0.45, 0.4, 0.15)], (True, False, False), "urgent"),
        (CLASSES, [(0.2, 0.35, 0.45)], (False, False, True), "abnormal"),
        # Of several images: a finding where it wins in one, normal where it wins in all.
        (CLASSES, [(0.1, 0.8, 0.1), (0.2, 0.7, 0.1)], (False, True, False), "normal"),
        (CLASSES, [(0.1, 0.8, 0.1), (0.1, 0.3, 0.6)], (False, False, True), "abnormal"),
        (CLASSES, [(0.7, 0.2, 0.1), (0.1, 0.3, 0.6)], (True, False, True), "urgent"),
        # A class that nobody may judge: it may have won, and it may have been overlooked.
        ((without_point(COVID), NORMAL, VIRAL), [(0.9, 0.05, 0.05)], (None, False, False), "incomplete"),
        ((without_point(COVID), NORMAL, VIRAL), [(0.05, 0.9, 0.05)], (None, True, False), "incomplete"),
        ((without_point(COVID), NORMAL, VIRAL), [(0.05, 0.05, 0.9)], (None, False, True), "abnormal"),
        ((COVID, without_point(NORMAL), VIRAL), [(0.05, 0.9, 0.05)], (False, None, False), "incomplete"),
        (tuple(map(without_point, CLASSES)), [(0.05, 0.9, 0.05)], (None, None, None), "unscored"),
        # No class means "nothing found": there is always a finding.
        ((COVID, VIRAL), [(0.4, 0.6)], (False, True), "abnormal"),
        # Equally likely: a finding, and an urgent one, rather than normal.
        (CLASSES, [(0.1, 0.45, 0.45)], (False, False, True), "abnormal"),
        (CLASSES, [(0.4, 0.2, 0.4)], (True, False, False), "urgent"),
        (CLASSES, [(float("nan"), 0.9, 0.1)], (None, None, None), "unscored"),
        (CLASSES, [(0.1, 0.8, 0.1), (float("nan"), 0.9, 0.1)], (None, None, None), "unscored"),
    ],
)
def test_the_likeliest_of_exclusive_classes(
    labels: tuple[Label, ...], images: list[tuple[float, ...]], calls: Calls, priority: Priority
) -> None:
    verdict = judge(labels, "argmax", images)
    assert (verdict.calls, verdict.priority) == (calls, priority)


def test_several_images_are_one_study() -> None:
    verdict = judge((EFFUSION, NO_FINDING), "threshold", [(0.1, 0.9), (0.2, 0.1)])
    assert verdict.calls == (False, False), "nothing found in one of two images is not nothing found"
    assert judge((EFFUSION, NODULE), "threshold", [(0.6, 0.1), (0.1, 0.6)]).findings == (EFFUSION, NODULE)
    assert judge((EFFUSION, HERNIA, NO_FINDING), "threshold", [(0.6, 0.1, 0.0)]).judged == (EFFUSION,)


labels_of_any_kind = st.lists(
    st.builds(
        Label,
        st.just("L"),
        st.none() | st.floats(0, 1),
        urgent=st.booleans(),
        normal=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@st.composite
def studies(draw: st.DrawFn) -> tuple[list[Label], VerdictRule, list[list[float]]]:
    labels = draw(labels_of_any_kind)
    row = st.lists(st.floats(0, 1), min_size=len(labels), max_size=len(labels))
    rules: st.SearchStrategy[VerdictRule] = st.sampled_from(["threshold", "argmax"])
    return labels, draw(rules), draw(st.lists(row, min_size=1, max_size=3))


@given(studies())
def test_normal_is_never_said_of_what_was_not_judged(study: tuple[list[Label], VerdictRule, list[list[float]]]) -> None:
    labels, rule, images = study
    verdict = judge(labels, rule, images)
    if verdict.priority == "normal":
        assert not verdict.findings
        assert all(call is False for label, call in zip(labels, verdict.calls, strict=True) if not label.normal)
        assert any(call is not None for call in verdict.calls)
    assert all(
        (call is None) == (label.operating_point is None) for label, call in zip(labels, verdict.calls, strict=True)
    )
    assert (verdict.priority in {"urgent", "abnormal"}) >= bool(verdict.findings)
    assert (verdict.priority == "unscored") == all(label.operating_point is None for label in labels)


@given(studies())
def test_one_image_is_never_two_exclusive_classes(study: tuple[list[Label], VerdictRule, list[list[float]]]) -> None:
    labels, _, images = study
    for image in images:
        calls = judge(labels, "argmax", [image]).calls
        assert calls.count(True) <= 1
        winner = likeliest_class(labels, image)
        assert winner is not None
        assert image[winner] == max(image)


@pytest.mark.parametrize(
    ("task", "labels", "rule"),
    [
        ("multilabel", CLASSES, "threshold"),
        ("binary", (NO_FINDING,), "threshold"),
        ("multiclass", CLASSES, "argmax"),
        ("multiclass", (COVID,), "threshold"),
    ],
)
def test_an_engine_that_does_not_say_its_rule_has_that_of_its_task(
    task: Task, labels: tuple[Label, ...], rule: VerdictRule
) -> None:
    assert usual_rule(task, labels) == rule
    engine = replace(make_engine(labels), task=task)
    assert (engine.verdict, engine.verdict_rule) == (None, rule)


def test_a_study_is_judged_by_the_rule_of_its_engine() -> None:
    engine = replace(make_engine(CLASSES), task="multiclass", verdict="argmax")
    assert judge_study(engine, [(0.35, 0.4, 0.25)]).findings == ()
    assert judge_study(make_engine(CLASSES), [(0.35, 0.4, 0.25)]).findings == (COVID,)
