"""An engine bundle that somebody else made: every part of it hostile. Refused with exit code 5 and a sentence."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from cxrbatch.cli import run_command_line
from cxrbatch.engine.bundle import EngineBundle, load_bundle
from cxrbatch.engine.installed import find_bundle
from cxrbatch.engine.onnx_file import refers_to_other_files
from cxrbatch.engine.open import open_engine, plan_engine
from cxrbatch.engine.untrusted import read_file
from cxrbatch.errors import EngineError
from tests.factories.engine import tiny_graph, tiny_probabilities, write_tiny_bundle

pytestmark = pytest.mark.hostile("9.13 engine bundles")

NO_POINTS: list[Any] = [-0.1, 1.1, 1e300, "0.5", [], 10**400]
WRONG: dict[str, Any] = {
    "name": ["", " ", 1, None, "x" * 1001, [], "\t\n"],
    "schema": [-1e999, "1", None, 2, 10**30],
    "created": [1, None, {}],
    "architecture": [1, None],
    "task": ["x", "", None, 1, "multilabel "],
    "labels": [
        *([], {}, None, "x", [{}], [{"name": ""}], [{"name": " "}], [{"name": "A"}, {"name": "A"}], [{"name": 1}]),
        *([{"name": "A", "operating_point": point}] for point in NO_POINTS),
        *([{"name": "A", "urgent": "yes"}], [{"name": "x" * 1001}], [{"name": "A", "metrics": {"auroc": "x"}}]),
        *([{"name": "A", "metrics": []}], [{"name": f"L{number}"} for number in range(1001)], [["A"]], ["A"]),
    ],
    "input": [
        *({}, None, [], 224, {"size_px": 0}, {"size_px": -5}, {"size_px": 10**9}, {"size_px": 10**30}),
        *({"size_px": 32, "std": 0}, {"size_px": 32, "std": -1}, {"size_px": 32, "fit": "x"}, {"size_px": "32"}),
        *({"size_px": 1.5}, {"size_px": 32, "mean": None}, {"size_px": 32, "preprocess_version": "x"}),
    ],
    "files": [
        *(None, [], {"onnx": {}}, {"onnx": None}, {}, {"onnx": "model.onnx"}),
        *({"onnx": {"path": path, "sha256": "0" * 64, "precision": "fp32"}} for path in ("", "a\0b", "x" * 1001, 1)),
        *({"onnx": {"path": path, "sha256": "0" * 64, "precision": "fp32"}} for path in ("..", "../x", "/etc", ".")),
        *({"onnx": {"path": "model.onnx", "sha256": sha, "precision": "fp32"}} for sha in ("", "x" * 64, "0" * 63, 1)),
        {"onnx": {"path": "model.onnx", "sha256": "0" * 64, "precision": "fp8"}},
    ],
    "output_stride": [0, -1, 10**9, "32", None],
    "training": [None, [], {"figures": {"a": "x"}}, {"images": {"train": "x"}}, {"seed": 1e400}],
    "parity": [None, {"onnx": "passed"}, {"onnx": {}}],
    "notice": [None, 1],
}  # fmt: skip
CASES = [(field, value) for field, values in WRONG.items() for value in values]


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    manifest = json.loads((folder / "engine.json").read_text())
    change(manifest)
    (folder / "engine.json").write_text(json.dumps(manifest))
    return folder


def assert_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.parent / "images").mkdir(exist_ok=True)
    code = run_command_line(["run", str(folder.parent / "images"), "-o", str(folder.parent / "out"), "-e", str(folder)])
    said = capsys.readouterr().err
    assert code == 5, said
    assert "unexpected" not in said
    assert said.startswith("cxrbatch: ")
    assert len(said) < 3000


@pytest.mark.parametrize(("field", "value"), CASES, ids=lambda value: ascii(value)[:40])
def test_a_field_that_makes_no_sense_is_refused(
    field: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rewrite(write_tiny_bundle(tmp_path), lambda manifest: manifest.update({field: value}))
    assert_refused(folder, capsys)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema":' * 50_000, b'{"schema":1}', b"\0" * 100),
        *(b'{"schema": 1, "name": "\\ud800"}', b"x" * (17 * 2**20), b'{"schema": NaN}', b"9" * 10_000),
    ],
    ids=range(13),
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny_bundle(tmp_path)
    (folder / "engine.json").write_bytes(content)
    assert_refused(folder, capsys)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_manifest_ends_in_another_way(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    value = data.draw(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=6,
        )
    )
    rewrite(folder, lambda manifest: manifest.update({data.draw(st.sampled_from(sorted(manifest))): value}))
    with suppress(EngineError):
        open_engine(load_bundle(folder)).close()


NO_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a pipe without rights": lambda path: os.mkfifo(path, 0o000),
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link outside": lambda path: path.symlink_to("../elsewhere"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "nothing": lambda _: None,
}


@pytest.mark.parametrize("name", ["engine.json", "model.onnx"])
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_at_once(
    kind: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_bundle(tmp_path)
    (folder / name).rename(tmp_path / "elsewhere")
    NO_FILES[kind](folder / name)
    monkeypatch.setenv("CXRBATCH_ENGINES", str(tmp_path))
    # A link of engine.json itself is somebody's way to install an engine; the files that it names must lie beside it.
    if (kind, name) != ("a link outside", "engine.json"):
        assert_refused(folder, capsys)
    assert run_command_line(["engines"]) == 0


def test_a_huge_file_is_refused_unread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny_bundle(tmp_path)
    for name in ("model.onnx", "engine.json"):
        os.truncate(folder / name, 2**40)
        assert_refused(folder, capsys)


def test_a_file_that_grows_while_it_is_read_is_refused() -> None:
    with pytest.raises(OSError, match=r"larger|regular"):
        read_file(Path("/proc/self/maps"), largest=10)


@pytest.mark.parametrize("way", ["replaced", "written over"])
@pytest.mark.parametrize("moment", ["after the plan", "after the hash", "after the check", "after it was loaded"])
def test_a_file_that_is_swapped_in_between_is_never_loaded(
    moment: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the file is swapped: what runs is the file that was hashed and checked, or nothing."""
    bundle = load_bundle(write_tiny_bundle(tmp_path))
    model = bundle.folder / "model.onnx"
    other = tiny_graph(4, 32)
    other.graph.initializer[2].raw_data = np.full(4, 9.0, np.float32).tobytes()

    def swap(*_: object) -> None:
        target = model if way == "written over" else model.with_name("other.onnx")
        target.write_bytes(other.SerializeToString())
        target.replace(model)

    def after(function: Callable[..., object]) -> Callable[..., object]:
        def swapping(*arguments: object, **options: object) -> object:
            found = function(*arguments, **options)
            swap()
            return found

        return swapping

    if moment == "after the plan":
        plan_engine(bundle)
        swap()
        with pytest.raises(EngineError, match="not the file this engine was built with"):
            open_engine(bundle)
        return
    module = "cxrbatch.engine.onnxruntime_engine"
    if moment == "after the hash":
        monkeypatch.setattr(EngineBundle, "open_verified", after(EngineBundle.open_verified))
    elif moment == "after the check":
        monkeypatch.setattr(f"{module}.refers_to_other_files", after(refers_to_other_files))
    else:
        monkeypatch.setattr(f"{module}.give_back_freed_memory", swap)
    if way == "written over":
        with pytest.raises(EngineError, match="changed while it was loaded"):
            open_engine(bundle)
        return
    pixels = np.full((1, 1, 32, 32), 90, np.uint8)
    np.testing.assert_allclose(open_engine(bundle).infer(pixels).probabilities, tiny_probabilities(pixels), atol=1e-6)


@pytest.mark.parametrize("name", ["x; rm -rf ~", "$(reboot)", "`id`", "a b", "'"])
def test_the_command_that_mends_it_can_be_pasted(name: str, tmp_path: Path) -> None:
    folder = rewrite(write_tiny_bundle(tmp_path), lambda manifest: manifest.update(name=name))
    (folder / "model.onnx").unlink()
    with pytest.raises(EngineError) as refused:
        open_engine(load_bundle(folder))
    assert shlex.split(str(refused.value).rpartition("cxrbatch build ")[2]) == ["CHECKPOINT", "-n", name]


@pytest.mark.parametrize("name", ["x" * 10_000, "a\0b", "", ".", "..", "/", "a" * 300 + "/" + "b" * 300, "~", "\udcff"])
def test_a_name_that_no_folder_has_is_not_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXRBATCH_ENGINES", str(tmp_path))
    monkeypatch.setattr("cxrbatch.engine.installed.user_engines_folder", lambda: tmp_path / "none")
    with pytest.raises(EngineError, match=r"no engine"):
        find_bundle(name)
