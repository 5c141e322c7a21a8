"""Pretrained weights: a safetensors file with a feature extractor and, in its metadata, what it learned from, and how.

No checkpoint: it has no labels and no head, and cannot score anything. `train --init FILE` takes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch

from cxrbatch.engine.untrusted import require_finite, require_input, require_schema
from cxrbatch.errors import EngineError
from cxrbatch.model.data.known_images import KnownImages
from cxrbatch.model.network.checkpoint import PRETRAINED_KEY, encode_known, read_known
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.network.weights_file import WeightsFile
from cxrbatch.records import InputSpec
from cxrbatch.system import durable

SCHEMA = 1

COLLAPSED_BELOW = 0.2
"""A spread of the embeddings below this is a collapse: whatever is on an image, the answer is nearly the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingFacts:
    """What pretrained weights say of themselves.

    `images` of `patients`, and `of_unknown` ones, were learned from; `refused` counts files by reason, `duplicates`
    files that show what another shows. Of the last epoch `spread` is that of the embeddings, 0 (all the same) to about
    1 (as different as they can be), and `recognised` the share of images that were told from the rest of their batch.
    `epochs` were done, of `planned`: fewer where a signal ended it. `recipe` identifies images and options: the same
    recipe gives the same weights.
    """

    schema: int = SCHEMA
    created: str
    architecture: str
    method: str
    input: InputSpec
    images: int
    patients: int = 0
    of_unknown: int = 0
    duplicates: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    epochs: int
    planned: int
    steps: int
    loss: float
    spread: float
    recognised: float
    seed: int = 0
    seconds: float = 0.0
    recipe: str = ""
    init: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_input(self.input)
        require_finite("figures of the pretraining", (self.loss, self.spread, self.recognised, self.seconds))

    @property
    def collapsed(self) -> bool:
        """Whether the network came to answer nearly the same whatever it is shown."""
        return self.spread < COLLAPSED_BELOW


def save_pretrained(path: Path, network: ChestNetwork, facts: PretrainingFacts, known: tuple[KnownImages, ...]) -> None:
    """Write the feature extractor of `network` to `path`, whole or not at all."""
    state = network.features.state_dict()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {PRETRAINED_KEY: msgspec.json.encode(facts).decode(), **encode_known(known)}
    durable.replace_bytes(path, safetensors.torch.save(tensors, metadata=metadata))


def read_pretraining(file: WeightsFile) -> tuple[PretrainingFacts, tuple[KnownImages, ...]]:
    """Return what a file of pretrained weights says of itself, and whom it learned from.

    Raises:
        EngineError: damaged, or of a newer cxrbatch.
    """
    try:
        encoded = file.metadata[PRETRAINED_KEY]
        require_schema(file.path, msgspec.json.decode(encoded, type=_SchemaOnly).schema, SCHEMA)
        return msgspec.json.decode(encoded, type=PretrainingFacts), read_known(file.metadata)
    except (msgspec.MsgspecError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise EngineError(f"{file.path}: damaged, or no pretrained weights: {error}. Copy it again.") from error


@dataclass(frozen=True, slots=True)
class _SchemaOnly:
    schema: int
