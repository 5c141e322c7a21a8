"""What is written is, to the letter, what Prometheus' own client writes."""

from __future__ import annotations

from hypothesis import given, strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from cxrbatch.output.exposition import gauge

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(st.lists(st.tuples(TEXT, TEXT, st.floats() | st.integers(0, 10**9)), max_size=4), TEXT)
def test_gauges_are_those_of_the_client(series: list[tuple[str, str, float]], what: str) -> None:
    registry = CollectorRegistry()
    theirs = Gauge("cxrbatch_some", what, ["with", "a_label"], registry=registry)
    for one, other, value in series:
        theirs.labels(one, other).set(value)
    ours = gauge("cxrbatch_some", what, [({"with": one, "a_label": other}, value) for one, other, value in series])
    assert ours == generate_latest(registry).decode()


@given(st.floats())
def test_so_is_one_without_labels(value: float) -> None:
    registry = CollectorRegistry()
    Gauge("cxrbatch_some", "Something.", registry=registry).set(value)
    assert gauge("cxrbatch_some", "Something.", [({}, value)]) == generate_latest(registry).decode()
