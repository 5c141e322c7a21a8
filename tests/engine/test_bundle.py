"""Bundles are found, read, verified and refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.engine import installed
from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.installed import find_bundle, installed_bundles, installed_folders
from cxrbatch.engine.manifest import EngineFile, ParityFigures
from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.errors import EngineError, ExitCode
from cxrbatch.records import InputSpec, Label
from tests.factories.engine import write_tiny_bundle
from tests.factories.validated import VALIDATED


@pytest.fixture(autouse=True)
def empty_lookup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the three places of the look-up at empty folders; return the working folder."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("CXRBATCH_ENGINES", str(tmp_path / "from-variable"))
    monkeypatch.setattr(installed, "user_engines_folder", lambda: tmp_path / "from-user")
    return work


def edit_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_manifest_survives_the_round_trip(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path)
    manifest = replace(
        load_bundle(folder).manifest,
        labels=(Label("A", operating_point=None, urgent=True, metrics={"auroc": 0.9}), Label("B", normal=True)),
        training=TrainingFacts(
            data="somewhere", images={"train": 3}, options={"epochs": 2}, figures={"macro_auroc": 1}
        ),
        parity={"onnx": ParityFigures(64, "phantoms", 1e-6, 1e-7, 1e-4)},
    )
    save_bundle(folder, manifest)
    assert load_bundle(folder).manifest == manifest


def test_engine_json_is_readable_and_starts_with_its_schema(tmp_path: Path) -> None:
    lines = (write_tiny_bundle(tmp_path) / "engine.json").read_text().splitlines()
    assert lines[:3] == ["{", '  "schema": 1,', '  "name": "tiny",']


def test_an_engine_is_its_file_and_all_that_decides_a_verdict(tmp_path: Path) -> None:
    bundle = load_bundle(write_tiny_bundle(tmp_path))

    def identity(**changes: object) -> str:
        manifest = replace(bundle.manifest, **changes)  # type: ignore[arg-type]  # any field of it
        return EngineBundle(bundle.folder, manifest).describe("onnx", "onnxruntime").sha256

    (first, *others), entry = bundle.labels, bundle.file("onnx")
    assert identity(name="renamed", created="today", notice="new") == identity()
    measured = replace(first, metrics={"auroc": 0.9}, images_with=3, images_without=9, reference=(0.1, 0.9))
    assert identity(labels=(measured, *others)) == identity()
    assert identity(verdict="threshold") == identity(), "what every engine had before it said so"
    different = [
        identity(labels=(replace(first, operating_point=0.3), *others)),
        identity(labels=(replace(first, name="Other"), *others)),
        identity(labels=(replace(first, urgent=True), *others)),
        identity(input=InputSpec(size_px=32, fit="crop")),
        identity(files={"onnx": replace(entry, sha256="0" * 64)}),
        identity(task="multiclass"),
    ]
    assert len({identity(), *different}) == 7
    # The identity under which version 1 scored: with another, everything would be scored again.
    assert identity() == "499900bcfd5df6cc6ecbbb264e50029a219026b790826caec0ec82e14d8eadd6"


def test_the_rule_of_verdict_is_that_of_the_task_and_another_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path)
    assert load_bundle(folder).manifest.verdict is None
    assert load_bundle(folder).describe("onnx", "onnxruntime").verdict == "threshold"
    edit_manifest(folder, task="multiclass")
    assert load_bundle(folder).describe("onnx", "onnxruntime").verdict == "argmax"
    edit_manifest(folder, verdict="argmax")
    assert load_bundle(folder).manifest.verdict == "argmax"
    for task, verdict in (("multiclass", "threshold"), ("multilabel", "argmax"), ("multilabel", "loudest")):
        edit_manifest(folder, task=task, verdict=verdict)
        with pytest.raises(EngineError, match="damaged"):
            load_bundle(folder)


def test_labels_travel_with_their_scores_where_a_report_needs_them(tmp_path: Path) -> None:
    judged, unjudged = Label("A", reference=(0.1, 0.9)), Label("B", None, reference=(0.2, 0.3, 0.3))
    bundle = load_bundle(write_tiny_bundle(tmp_path, labels=(judged, unjudged)))
    assert bundle.labels == (judged, unjudged)
    described = bundle.describe("onnx", "onnxruntime").labels
    # It lies in every result: what no report shows is left out.
    assert described == (Label("A"), unjudged)


@pytest.mark.parametrize(
    "changes",
    [
        {"reference": [0.5]},
        {"reference": [0.5, 0.4]},
        {"reference": [0.0] * 1002},
        {"images_with": -1},
        {"images_without": -1},
        {"maps": {"images": -1, "patients": 1, "hits": 0.5, "chance": 0.1}},
        {"maps": {"images": 1, "patients": 1, "hits": 1.5, "chance": 0.1}},
        {"maps": {"images": 1, "patients": 1, "hits": 0.5, "chance": 0.1, "reason": "x" * 1001}},
        {"maps": "yes"},
    ],
)
def test_a_label_that_contradicts_itself_is_damage(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = write_tiny_bundle(tmp_path)
    edit_manifest(folder, labels=[{"name": "A"} | changes])
    with pytest.raises(EngineError, match="damaged"):
        load_bundle(folder)


def test_labels_of_an_earlier_version_have_what_they_have(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path)
    edit_manifest(folder, labels=[{"name": "A", "operating_point": None, "urgent": True, "metrics": {"auroc": 0.9}}])
    (label,) = load_bundle(folder).labels
    assert (label.images_with, label.images_without, label.reference) == (None, None, ())
    assert (label.maps, label.has_validated_maps) == (None, False)


def test_where_maps_point_decides_no_verdict_and_makes_no_other_engine(tmp_path: Path) -> None:
    labels = [(Label("A", maps=maps),) for maps in (None, VALIDATED)]
    bundles = [load_bundle(write_tiny_bundle(tmp_path / str(at), labels=each)) for at, each in enumerate(labels)]
    plain, checked = (bundle.describe("onnx", "onnxruntime") for bundle in bundles)
    assert plain.sha256 == checked.sha256
    assert (plain.labels[0].has_validated_maps, checked.labels[0].has_validated_maps) == (False, True)


def test_a_changed_byte_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    bundle = load_bundle(write_tiny_bundle(tmp_path))
    model = bundle.folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    for read in (bundle.verified_file, bundle.read_verified):
        with pytest.raises(
            EngineError, match=r"model\.onnx: not the file .* cxrbatch build CHECKPOINT -n tiny"
        ) as refusal:
            read("onnx")
        assert refusal.value.exit_code is ExitCode.ENGINE


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    bundle = load_bundle(write_tiny_bundle(tmp_path))
    (bundle.folder / "model.onnx").unlink()
    with pytest.raises(EngineError, match=r"model\.onnx: missing"):
        bundle.verified_file("onnx")


def test_a_role_that_was_never_built_is_refused(tmp_path: Path) -> None:
    bundle = load_bundle(write_tiny_bundle(tmp_path))
    with pytest.raises(EngineError, match=r"no plan file .it has onnx.\. Build"):
        bundle.read_verified("plan")


@pytest.mark.parametrize("path", ["../model.onnx", "/etc/hostname", "a/../../model.onnx", "link.onnx"])
def test_a_path_out_of_the_bundle_is_refused(tmp_path: Path, path: str) -> None:
    folder = write_tiny_bundle(tmp_path)
    outside = tmp_path / "model.onnx"
    outside.write_bytes((folder / "model.onnx").read_bytes())
    (folder / "link.onnx").symlink_to(outside)
    bundle = load_bundle(folder)
    entry = EngineFile(path, bundle.file("onnx").sha256, "fp32")
    save_bundle(folder, replace(bundle.manifest, files={"onnx": entry}))
    with pytest.raises(EngineError, match="outside the bundle"):
        load_bundle(folder).verified_file("onnx")


def test_a_folder_without_engine_json_is_no_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no engine here"):
        load_bundle(tmp_path)


def test_a_newer_schema_asks_for_an_upgrade(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path)
    (folder / "engine.json").write_text('{"schema": 2, "quite": "different"}')
    with pytest.raises(EngineError, match=r"newer cxrbatch .schema 2, this one reads 1.. Upgrade"):
        load_bundle(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema": 1}', b'{"schema": "1"}'])
def test_a_garbled_engine_json_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_tiny_bundle(tmp_path)
    (folder / "engine.json").write_bytes(content)
    with pytest.raises(EngineError, match=r"engine\.json: damaged: "):
        load_bundle(folder)


@pytest.mark.parametrize(
    "changes",
    [{"labels": []}, {"labels": [{"name": "A"}, {"name": "A"}]}, {"task": "poetry"}, {"input": {"size_px": 0}}],
)
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = write_tiny_bundle(tmp_path)
    edit_manifest(folder, **changes)
    with pytest.raises(EngineError, match="damaged"):
        load_bundle(folder)


def test_find_by_path_then_by_name_in_the_order_of_the_places(tmp_path: Path, empty_lookup: Path) -> None:
    by_user = write_tiny_bundle(tmp_path / "from-user", name="one")
    assert find_bundle("one").folder == by_user
    write_tiny_bundle(empty_lookup / "engines", name="one")
    assert find_bundle("one").folder == Path("engines/one")
    by_variable = write_tiny_bundle(tmp_path / "from-variable", name="one")
    assert find_bundle("one").folder == by_variable
    by_path = write_tiny_bundle(tmp_path / "elsewhere", name="one")
    assert find_bundle(str(by_path)).folder == by_path


def test_several_folders_in_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRBATCH_ENGINES", os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b")]))
    second = write_tiny_bundle(tmp_path / "b", name="two")
    assert find_bundle("two").folder == second


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no engine ghost\. Looked in .*cxrbatch demo"):
        find_bundle("ghost")
    write_tiny_bundle(tmp_path / "from-user", name="one")
    with pytest.raises(EngineError, match=r"no engine ghost. Installed: one \("):
        find_bundle("ghost")


def test_an_empty_name_takes_the_only_one_and_asks_when_there_are_more(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no engine is installed"):
        find_bundle("")
    write_tiny_bundle(tmp_path / "from-user", name="one")
    assert find_bundle("").name == "one"
    write_tiny_bundle(tmp_path / "from-user", name="two")
    with pytest.raises(EngineError, match=r"several engines .* --engine. Installed: one .*, two"):
        find_bundle("")


def test_a_damaged_bundle_is_listed_as_a_folder_but_not_as_a_bundle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = write_tiny_bundle(tmp_path / "from-user", name="good")
    bad = write_tiny_bundle(tmp_path / "from-user", name="bad")
    (bad / "engine.json").write_text("{")
    assert installed_folders() == [bad, good]
    assert [bundle.folder for bundle in installed_bundles()] == [good]
    assert "damaged" in caplog.text
