"""Reading a file of weights that anybody may have written. Nothing in it is executed."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cxrbatch.engine.untrusted import read_file
from cxrbatch.errors import EngineError, UsageError

# A zip file is what torch.save writes today, a bare pickle (protocol 2 and up) what it wrote before.
_TORCH_HEADS = (b"PK\x03\x04", b"\x80")

# What torch and the pickle module raise over bytes that are not what they claim to be.
_DAMAGE = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    AssertionError,
    OverflowError,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The tensors of a file, on the CPU, and the SHA-256 of its bytes.

    `metadata` is what a safetensors file says beside its tensors.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def read_weights(path: Path) -> WeightsFile:
    """Read safetensors, or what torch.save made of a state dict.

    A training checkpoint of the usual form, {"state_dict": ..., "epoch": ...}, gives its state dict. The prefix
    `module.`, which a network trained on several GPUs leaves on every name, is taken off.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        EngineError: damaged, holds no tensors by name, or is a pickle that would have to run code.
    """
    content = _read_bytes(path)
    sha256 = hashlib.sha256(content).hexdigest()
    if is_pickle(content):
        return WeightsFile(path, sha256, without_prefix(_as_tensors(path, _load_torch(path, content)), "module."))
    try:
        tensors, metadata = load_safetensors(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineError(f"{path}: damaged, or no file of weights (safetensors, torch.save): {error}") from error
    return WeightsFile(path, sha256, without_prefix(tensors, "module."), metadata)


def without_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take `prefix` off all names, if all have it."""
    if not all(name.startswith(prefix) for name in tensors):
        return tensors
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def is_pickle(content: bytes) -> bool:
    """Tell whether the bytes are what torch.save writes, and no safetensors."""
    # Of safetensors, JSON follows the header's length, 8 bytes of any value: one in 32 begins like a pickle.
    return content.startswith(_TORCH_HEADS) and content[8:9] != b"{"


def load_safetensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, and what the file says beside them.

    The library's `safe_open`, which tells both, takes a path only; but hash, tensors and metadata have to be of the
    same bytes. So its `load` checks all of the header first, and what it leaves out is then taken from there.

    Raises:
        SafetensorError: the bytes are none.
    """
    tensors = safetensors.torch.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tensors, dict(header.get("__metadata__") or {})


def _read_bytes(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise UsageError(f"{path}: weights cannot be read: {error.strerror}") from error


def _load_torch(path: Path, content: bytes) -> object:
    try:
        with warnings.catch_warnings():
            # About old or odd pickles that it reads all the same.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EngineError(
            f"{path}: damaged, or a pickle of more than tensors, which could run any code when loaded, and is refused. "
            f"Where you trust it, load it and write its tensors alone: torch.save(model.state_dict(), 'weights.pt')"
        ) from error
    except _DAMAGE as error:
        raise EngineError(f"{path}: damaged, or not what torch.save writes: {error}") from error


def _as_tensors(path: Path, loaded: object) -> dict[str, Tensor]:
    found: Any = loaded
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not found:
        raise EngineError(f"{path}: holds a {type(found).__name__}, not a state dict: tensors by their names.")
    foreign = [name for name, value in found.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if foreign:
        raise EngineError(f"{path}: not a state dict: {foreign[0]!r} is no tensor. Save model.state_dict() alone.")
    return dict(found)
