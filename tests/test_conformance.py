"""The conformance statement says what the code does now."""

from __future__ import annotations

from pathlib import Path

import pytest

import cxrbatch.pacs
from cxrbatch.intake.codecs.transfer_syntaxes import SUPPORTED
from cxrbatch.pacs.receive import RADIOGRAPHS
from scripts import conformance_clients
from scripts.conformance import PAGE, page
from scripts.conformance_objects import MODULES, unlisted_attributes

TEXT = PAGE.read_text()


def test_it_is_what_the_code_says_now() -> None:
    assert page() == TEXT, "docs/conformance.md is not what the code says now: run `make reference`."


def test_every_attribute_that_objects_have_is_in_one_module() -> None:
    assert unlisted_attributes() == set()
    listed = [keyword for keywords in MODULES.values() for keyword in keywords.split()]
    assert len(listed) == len(set(listed))


def test_what_is_received_is_listed() -> None:
    for uid in (*RADIOGRAPHS, *SUPPORTED):
        assert f"| {uid} |" in TEXT
    for line in (
        "| 0000 | success |",
        "| A700 | out of resources |",
        "|  | Manufacturer's Model Name | made | made | made |",
    ):
        assert line in TEXT


@pytest.mark.parametrize(("module", "heading"), [("store", "### Sending"), ("query", "### Asking and fetching")])
def test_commands_that_ask_others_are_told_of_where_there_are_any(module: str, heading: str) -> None:
    is_there = (Path(cxrbatch.pacs.__file__).parent / f"{module}.py").exists()
    assert conformance_clients._has(module) == is_there == (heading in TEXT)
