"""What tells a data set without preamble from anything else."""

from __future__ import annotations

from pydicom.valuerep import VR

from cxrbatch.intake.kind import VALUE_REPRESENTATIONS


def test_value_representations_are_those_of_the_standard() -> None:
    assert {vr.value.encode() for vr in VR if len(vr.value) == 2} == VALUE_REPRESENTATIONS
