"""Files of weights that somebody else made: refused with a sentence, or read; nothing in between, and nothing run."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from cxrbatch.errors import EngineError, UsageError
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, load_checkpoint, save_checkpoint
from cxrbatch.model.network.weights_file import read_weights
from tests.factories.labelled import write_image

pytestmark = pytest.mark.hostile("9.13 files of weights")


def with_header(header: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + b"\0" * 64


TENSOR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
HEADERS: dict[str, bytes] = {
    "nothing": b"",
    "eight bytes": b"\0" * 8,
    "a list": with_header(b"[]"),
    "a string": with_header(b'"x"'),
    "deep": with_header(b'{"a":' * 50_000),
    "metadata is a list": with_header(json.dumps({"__metadata__": [], "a": TENSOR}).encode()),
    "metadata is text": with_header(json.dumps({"__metadata__": "x", "a": TENSOR}).encode()),
    "metadata is nested": with_header(json.dumps({"__metadata__": {"cxrbatch": {"a": 1}}, "a": TENSOR}).encode()),
    "metadata is no JSON": with_header(json.dumps({"__metadata__": {"cxrbatch": "{"}, "a": TENSOR}).encode()),
    "metadata is deep": with_header(json.dumps({"__metadata__": {"cxrbatch": "[" * 90_000}, "a": TENSOR}).encode()),
    "longer than the file": with_header(b"{}", 2**40),
    "the longest": with_header(b"{}", 2**64 - 1),
    "beyond the data": with_header(json.dumps({"a": {**TENSOR, "data_offsets": [0, 2**40]}}).encode()),
    "negative": with_header(json.dumps({"a": {**TENSOR, "shape": [-4]}}).encode()),
    "a shape of 2^62": with_header(json.dumps({"a": {**TENSOR, "shape": [2**62, 2**62]}}).encode()),
    "an unknown type": with_header(json.dumps({"a": {**TENSOR, "dtype": "PICKLE"}}).encode()),
    "no offsets": with_header(json.dumps({"a": {"dtype": "F32", "shape": [4]}}).encode()),
    "not UTF-8": with_header(b"{\xff}"),
    "an empty zip": b"PK\x05\x06" + b"\0" * 18,
    "half a zip": b"PK\x03\x04" + b"\0" * 40,
    "a pickle": b"\x80\x02cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_hostile_header_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(HEADERS[what])
    with pytest.raises(EngineError, match=r"x\.safetensors"):
        load_checkpoint(path)
    with suppress(EngineError):
        read_weights(path)


FACTS: dict[str, dict[str, Any]] = {
    "no labels": {"labels": []},
    "a label twice": {"labels": [{"name": "A"}, {"name": "A"}]},
    "200,000 labels": {"labels": [{"name": str(number)} for number in range(200_000)]},
    "an operating point of 2": {"labels": [{"name": "A", "operating_point": 2}]},
    "an input of 10^9 px": {"input": {"size_px": 10**9}},
    "no deviation": {"input": {"size_px": 32, "std": 0}},
    "an unknown network": {"architecture": "../../x"},
    "a stride of 0": {"output_stride": 0},
    "a stride of 10^9": {"output_stride": 10**9},
    "an unknown task": {"task": "[/]"},
}


@pytest.mark.parametrize("what", FACTS)
def test_hostile_facts_are_refused(what: str, tmp_path: Path, checkpoint: Checkpoint) -> None:
    facts = json.loads(msgspec.json.encode(checkpoint.facts)) | FACTS[what]
    path = tmp_path / "x.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.network.state_dict().items()}
    path.write_bytes(safetensors.torch.save(tensors, metadata={"cxrbatch": json.dumps(facts)}))
    with pytest.raises(EngineError, match=r"x\.safetensors"):
        load_checkpoint(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_ends_in_another_way(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(safetensors.torch.save({"a": torch.ones(4)}, metadata={"cxrbatch": '{"schema": 1}'}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(EngineError):
        load_checkpoint(path)
    with suppress(EngineError):
        read_weights(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(EngineError, match="cannot be read"):
        load_checkpoint(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_weights(path)


def test_a_file_that_is_swapped_after_it_was_read_is_not_seen(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tensors, the metadata and the hash of a file of weights are of the same bytes."""
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, checkpoint)
    load = safetensors.torch.load

    def swap_and_load(content: bytes) -> dict[str, torch.Tensor]:
        path.write_bytes(safetensors.torch.save({"a": torch.ones(1)}, metadata={"cxrbatch": "swapped"}))
        return load(content)

    monkeypatch.setattr(safetensors.torch, "load", swap_and_load)
    weights = read_weights(path)
    facts = msgspec.json.decode(weights.metadata["cxrbatch"], type=CheckpointFacts)
    assert replace(facts, cells=None) == checkpoint.facts


def test_a_path_of_our_own_table_is_found(tmp_path: Path) -> None:
    """A table that cxrbatch wrote may serve as labels: what made a path inert is undone where it is looked up."""
    from cxrbatch.model.data.table_layout import _locate
    from cxrbatch.pages.cells import harmless

    for name in ("=1.png", "'=1.png", "x;=1.png", "a\\b.png", "a\nb.png"):
        image = write_image(tmp_path / name)
        assert _locate(harmless(name), tmp_path) == image
        assert _locate(name, tmp_path) == image
        image.unlink()
    write_image(tmp_path / "=1.png")
    literal = write_image(tmp_path / "'=1.png")
    assert _locate("'=1.png", tmp_path) == literal, "a table of somebody else's says what it says"
    assert not _locate("x" * 10_000, tmp_path).name.startswith("=")
