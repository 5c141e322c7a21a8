"""run.json is written by this version and read by whatever version comes next."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from cxrbatch.output.run_json import RUN_FILE, LastEngine, LastRun, RunReport, read_last_run, wanted_reports
from cxrbatch.records import EngineDescription


def test_what_is_read_back_is_what_is_written() -> None:
    assert {field.name for field in fields(LastRun)} <= {field.name for field in fields(RunReport)}
    assert {field.name for field in fields(LastEngine)} <= {field.name for field in fields(EngineDescription)}


@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff", b'{"engine": 1, "settings": 1}'])
def test_one_that_says_nothing_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / RUN_FILE).write_bytes(content)
    assert read_last_run(tmp_path) is None
    assert wanted_reports(tmp_path)


def test_one_of_another_version_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    said = {"studies_this_run": 3, "wall_s": 2, "later": [], "settings": {"html": False, "pdf": False, "new": 1}}
    (tmp_path / RUN_FILE).write_text(json.dumps(said))
    assert read_last_run(tmp_path) == LastRun(studies_this_run=3, wall_s=2.0)
    assert not wanted_reports(tmp_path)
    (tmp_path / RUN_FILE).write_text(json.dumps(said | {"settings": {"html": False}}))
    assert wanted_reports(tmp_path)
