"""Records survive JSON unchanged, whatever text they hold."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from cxrbatch.errors import Flag
from cxrbatch.records import Header, ImageResult
from cxrbatch.system.record_json import from_json, to_json

any_text = st.text(st.characters(codec=None), max_size=30)


@given(path=any_text, patient=any_text, flags=st.lists(st.sampled_from(Flag)).map(tuple))
def test_what_goes_in_comes_out(path: str, patient: str, flags: tuple[Flag, ...]) -> None:
    record = ImageResult(path, Header(patient_id=patient, rows=3), flags, (0.25, 1.0), "ab")
    assert from_json(to_json(record), ImageResult) == record


def test_text_that_does_not_fit_is_refused_with_the_place() -> None:
    with pytest.raises(ValueError, match=r"\$\.rows"):
        from_json('{"rows": "many"}', Header)
