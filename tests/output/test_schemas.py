"""The JSON Schemas that `cxrbatch schema` prints, held against what real runs write and what the code can load."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ConfigurationError
from cxrbatch.output.run_json import RunReport
from cxrbatch.output.schemas import SCHEMAS, Named, json_schema
from cxrbatch.records import RefusedImage, StudyResult
from cxrbatch.system.record_json import from_json, to_json
from tests.factories.output import make_study_result
from tests.factories.varied import run_varied

Json = dict[str, Any]


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, report = run_varied(tmp_path_factory.mktemp("varied"))
    assert report.files == {"scored": 4, "duplicate": 1, "failed": 1, "rejected": 2}
    assert report.studies == {"reported": 3, "failed": 1}
    return out


@pytest.fixture(scope="module")
def written(varied: Path) -> dict[Named, list[Json]]:
    results = [json.loads(path.read_text()) for path in varied.glob("reports/*/result.json")]
    assert {from_json(json.dumps(result), StudyResult).priority for result in results} == {
        "urgent",
        "abnormal",
        "incomplete",
    }
    return {"result": results, "run": [json.loads((varied / "run.json").read_text())]}


@pytest.fixture(params=["result", "run"])
def named(request: pytest.FixtureRequest) -> Named:
    chosen: Named = request.param
    return chosen


def fits(value: object, named: Named | None) -> bool:
    return not list(jsonschema.Draft202012Validator(json_schema(named)).iter_errors(value))


def loads(value: object, named: Named) -> bool:
    try:
        from_json(json.dumps(value), SCHEMAS[named])
    except (ValueError, ConfigurationError):
        return False
    return True


def test_what_a_run_writes_fits(written: dict[Named, list[Json]], named: Named) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema(named))
    for each in written[named]:
        jsonschema.validate(each, json_schema(named))
        assert fits(each, None)
        assert not fits(each, "run" if named == "result" else "result")


def test_a_study_of_which_some_images_were_refused_fits() -> None:
    refused = (RefusedImage("a", "rejected", "blank", "b"), RefusedImage("c", "failed", "", "d", counts=True))
    assert fits(json.loads(to_json(make_study_result(refused=refused))), "result")


def test_files_of_earlier_versions_fit_and_load(written: dict[Named, list[Json]], named: Named) -> None:
    """Take out of a file all that has a default, as if it were older than that."""
    definitions = json_schema(named)["$defs"]
    root = SCHEMAS[named].__name__
    for each in written[named]:
        older = {key: value for key, value in each.items() if key in definitions[root]["required"]}
        assert set(older) < set(each)
        older["engine"] = {key: each["engine"][key] for key in definitions["EngineDescription"]["required"]}
        assert fits(older, named)
        assert loads(older, named)


def test_files_of_later_versions_fit_and_load(written: dict[Named, list[Json]], named: Named) -> None:
    later = written[named][0] | {"something_new": [1]}
    assert fits(later, named)
    assert loads(later, named)


def _spoilt(value: Any, spoil: Callable[[Any], Any]) -> Iterator[Any]:
    """Yield copies of a JSON value in each of which one member is missing, or replaced."""
    if isinstance(value, dict):
        for key in value:
            yield {name: member for name, member in value.items() if name != key}
            yield value | {key: spoil(value[key])}
            yield from ({**value, key: inner} for inner in _spoilt(value[key], spoil))
    elif isinstance(value, list):
        for place, member in enumerate(value[:1]):
            yield [spoil(member), *value[1:]]
            yield from ([*value[:place], inner, *value[place + 1 :]] for inner in _spoilt(member, spoil))


def test_a_file_fits_exactly_where_it_can_be_loaded(written: dict[Named, list[Json]], named: Named) -> None:
    validator = jsonschema.Draft202012Validator(json_schema(named))
    spoilt = [
        each for spoil in (lambda _: [7], lambda _: None, lambda _: "x") for each in _spoilt(written[named][0], spoil)
    ]
    verdicts = [(validator.is_valid(each), loads(each, named)) for each in spoilt]
    wrong = [each for each, (fit, load) in zip(spoilt, verdicts, strict=True) if fit != load]
    assert not wrong
    assert len(verdicts) > 100
    assert {fit for fit, _ in verdicts} == {True, False}


def test_settings_say_what_they_mean_and_take() -> None:
    workers = json_schema("run")["$defs"]["Settings"]["properties"]["workers"]
    assert (workers["minimum"], workers["maximum"]) == (0, 1024)
    assert "processes" in workers["description"]


@pytest.mark.parametrize("arguments", [["schema", "result"], ["schema", "run"], ["schema"]])
def test_the_command_prints_it(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    chosen: Any = arguments[1] if len(arguments) > 1 else None
    assert printed == json.loads(json.dumps(json_schema(chosen)))


def test_both_records_are_told() -> None:
    assert set(SCHEMAS.values()) == {StudyResult, RunReport}
