"""Foreign weights are read whichever way they were saved, and never executed."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from cxrbatch.errors import EngineError, UsageError
from cxrbatch.model.network.weights_file import read_weights

TENSORS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.tensor([1.5])}


class Bomb:
    """A pickle that creates the file `fuse` when it is loaded."""

    def __init__(self, fuse: Path) -> None:
        self.fuse = fuse

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.fuse),)  # type: ignore[return-value]


def assert_tensors(found: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(TENSORS)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "content",
    [TENSORS, {"state_dict": TENSORS, "epoch": 3}, {f"module.{name}": tensor for name, tensor in TENSORS.items()}],
    ids=["bare", "training", "several-gpus"],
)
def test_what_torch_saves_is_read(tmp_path: Path, content: object, legacy: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    file = read_weights(path)
    assert_tensors(file.tensors)
    assert (file.sha256, file.metadata) == (hashlib.sha256(path.read_bytes()).hexdigest(), {})


def test_safetensors_are_read_with_their_metadata(tmp_path: Path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "weights.safetensors", metadata={"format": "pt"})
    file = read_weights(tmp_path / "weights.safetensors")
    assert_tensors(file.tensors)
    assert file.metadata == {"format": "pt"}


def test_safetensors_with_the_first_byte_of_a_pickle_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    assert path.read_bytes().startswith(b"\x80")  # a header of 128 bytes
    assert_tensors(read_weights(path).tensors)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    path, fuse = tmp_path / "weights.pt", tmp_path / "fuse"
    torch.save({"state_dict": TENSORS, "bomb": Bomb(fuse)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(EngineError, match=r"weights\.pt: damaged, or a pickle of more than tensors, .* is refused"):
        read_weights(path)
    assert not fuse.exists()


def test_a_pickled_network_says_how_to_save_its_tensors(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 1), tmp_path / "model.pt")
    with pytest.raises(EngineError, match=r"torch\.save\(model\.state_dict\(\), 'weights\.pt'\)"):
        read_weights(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [[TENSORS["conv.bias"]], {}, {"epoch": 3}, {0: TENSORS["conv.bias"]}])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(EngineError, match="not a state dict"):
        read_weights(tmp_path / "weights.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 100, -3])
def test_a_cut_file_is_refused(tmp_path: Path, suffix: str, keep: int) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(TENSORS, path)
    else:
        safetensors.torch.save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(EngineError, match="damaged"):
        read_weights(path)


def test_a_bare_pickle_of_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps({"weight": [0.0]}))
    with pytest.raises(EngineError, match="damaged, or"):
        read_weights(tmp_path / "weights.pkl")


def test_a_missing_file_is_a_wrong_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.pt: weights cannot be read: No such file"):
        read_weights(tmp_path / "none.pt")
