"""Checkpoints stand alone, come back unchanged, and are never executed."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import safetensors.torch
import torch

from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.errors import EngineError
from cxrbatch.model.network.checkpoint import (
    Checkpoint,
    CheckpointFacts,
    encode_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.records import CellGrid, Gray8
from tests.factories.model import build_unlike_defaults, tiny_architecture


def write_raw(path: Path, network: ChestNetwork, metadata: dict[str, str]) -> Path:
    safetensors.torch.save_file(network.state_dict(), path, metadata=metadata)
    return path


def test_weights_and_facts_survive(tmp_path: Path, checkpoint: Checkpoint, noise: Gray8) -> None:
    training = TrainingFacts(
        "phantoms", {"train": 3}, "ab12", 7, 1.5, {"epochs": 2}, {"torch": "2"}, {"macro_auroc": 0.9}
    )
    facts = replace(checkpoint.facts, training=training)
    path = tmp_path / "one.safetensors"
    save_checkpoint(path, Checkpoint(checkpoint.network, facts))
    loaded = load_checkpoint(path)
    assert loaded.facts == replace(facts, cells=loaded.network.cells)
    assert not loaded.network.training
    pixels = torch.from_numpy(noise)
    with torch.no_grad():
        for found, expected in zip(loaded.network(pixels), checkpoint.network(pixels), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize(("data", "origin"), [("", 0.5), ("phantoms; their masks taught the heatmaps", 8.0)])
def test_a_checkpoint_of_an_earlier_version_gets_its_cells(
    tmp_path: Path, network: ChestNetwork, checkpoint: Checkpoint, data: str, origin: float
) -> None:
    facts = msgspec.to_builtins(replace(checkpoint.facts, training=TrainingFacts(data)))
    del facts["cells"]
    path = write_raw(tmp_path / "old.safetensors", network, {"cxrbatch": msgspec.json.encode(facts).decode()})
    assert load_checkpoint(path).facts.cells == CellGrid(origin, origin, 16, 16)


def test_channels_last_weights_are_saved(tmp_path: Path, checkpoint: Checkpoint) -> None:
    network = load_checkpoint_of(checkpoint, tmp_path).network.to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "last.safetensors", Checkpoint(network, checkpoint.facts))
    loaded = load_checkpoint(tmp_path / "last.safetensors").network.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in checkpoint.network.state_dict().items())


def load_checkpoint_of(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    save_checkpoint(folder / "copy.safetensors", checkpoint)
    return load_checkpoint(folder / "copy.safetensors")


def test_a_header_whose_length_begins_like_a_pickle_is_read(tmp_path: Path, facts: CheckpointFacts) -> None:
    with tiny_architecture():
        tiny = replace(facts, architecture="tiny", output_stride=32)
        network = build_unlike_defaults(tiny)
        for padding in range(0, 256, 8):
            padded = replace(tiny, notice="." * padding)
            content = encode_checkpoint(Checkpoint(network, padded))
            if content.startswith(b"\x80"):
                break
        assert content.startswith(b"\x80")
        loaded = load_checkpoint(tmp_path / "not-read.safetensors", content)
    assert loaded.facts == replace(padded, cells=network.cells)


def zipped_pickle() -> bytes:
    stream = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, stream)
    return stream.getvalue()


@pytest.mark.parametrize("content", [zipped_pickle(), pickle.dumps({"weight": [0.0]})])
def test_a_pickle_is_refused_by_its_content(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "innocent.safetensors"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"looks like a pickle .* is refused"):
        load_checkpoint(path)


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no such checkpoint\. `cxrbatch train DATA -o"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_cut_file_is_refused(checkpoint_file: Path, keep: int) -> None:
    checkpoint_file.write_bytes(checkpoint_file.read_bytes()[:keep])
    with pytest.raises(EngineError, match="damaged, or no cxrbatch checkpoint"):
        load_checkpoint(checkpoint_file)


def test_foreign_safetensors_are_refused(tmp_path: Path, network: ChestNetwork) -> None:
    path = write_raw(tmp_path / "foreign.safetensors", network, {"format": "pt"})
    with pytest.raises(EngineError, match="no cxrbatch checkpoint"):
        load_checkpoint(path)


def test_a_newer_schema_asks_for_an_upgrade(tmp_path: Path, network: ChestNetwork) -> None:
    path = write_raw(tmp_path / "new.safetensors", network, {"cxrbatch": '{"schema": 2}'})
    with pytest.raises(EngineError, match="schema 2, this one reads 1"):
        load_checkpoint(path)


def test_weights_that_do_not_fit_the_facts_are_refused(
    tmp_path: Path, network: ChestNetwork, facts: CheckpointFacts
) -> None:
    fewer = replace(facts, labels=facts.labels[:2])
    path = write_raw(tmp_path / "odd.safetensors", network, {"cxrbatch": msgspec.json.encode(fewer).decode()})
    with pytest.raises(EngineError, match="weights do not fit its own description"):
        load_checkpoint(path)
