"""Checkpoints: one safetensors file that holds the weights and, in its metadata, everything that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import safetensors
import safetensors.torch

from cxrbatch.engine.cells import earlier_cells
from cxrbatch.engine.manifest import MOST_MEMBERS, Adjustment, Member
from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.engine.untrusted import read_file, require_input, require_labels, require_schema
from cxrbatch.errors import EngineError, UsageError
from cxrbatch.model.data.known_images import KnownImages
from cxrbatch.model.network.ensemble import EnsembleNetwork
from cxrbatch.model.network.mirror import MirroredNetwork
from cxrbatch.model.network.network import ChestNetwork, ScoringNetwork
from cxrbatch.model.network.weights_file import is_pickle, load_safetensors
from cxrbatch.records import CellGrid, ExtraOutput, InputSpec, Label, Pooling, Task, TrainingReference
from cxrbatch.system import durable

CHECKPOINT_SUFFIX = ".safetensors"
SCHEMA = 1
_METADATA_KEY, _KNOWN_KEY = "cxrbatch", "cxrbatch_known"
PRETRAINED_KEY = "cxrbatch_pretraining"
"""What files of pretrained weights say of themselves, which have no head (pretraining_file.py)."""

# What safetensors itself reads at most, in bytes.
_LONGEST_HEADER = 100_000_000

# What is raised over bytes that are not what they claim to be; a RecursionError is a RuntimeError, too.
_DAMAGE = (safetensors.SafetensorError, msgspec.MsgspecError, ValueError, LookupError, TypeError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """What a checkpoint says of its weights; with it the file stands alone.

    `cells` says where the maps' cells lie in the input square, `extra_outputs` what the network answers beyond
    probabilities, logits and maps. Both are filled in where a checkpoint is saved or loaded.
    `reference` is what the validation images were like.
    `members` are the networks of an ensemble, in the order of the weights; `mirror` tells that the network, or each
    member, also looks at every image's mirror image.
    """

    schema: int = SCHEMA
    created: str
    architecture: str
    task: Task
    labels: tuple[Label, ...]
    input: InputSpec
    output_stride: int = 32
    pooling: Pooling = "average"
    training: TrainingFacts = field(default_factory=TrainingFacts)
    notice: str = ""
    adjustments: tuple[Adjustment, ...] = ()
    cells: CellGrid | None = None
    extra_outputs: tuple[ExtraOutput, ...] = ()
    reference: TrainingReference | None = None
    members: tuple[Member, ...] = ()
    mirror: bool = False

    def __post_init__(self) -> None:
        if len(self.members) > MOST_MEMBERS:
            raise ValueError(f"there are {len(self.members)} members; at most {MOST_MEMBERS} are possible")

    @property
    def is_composed(self) -> bool:
        """Tell whether it is more than the one network that was trained: an ensemble, or mirrored."""
        return bool(self.members) or self.mirror


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network, in evaluation mode, and the facts about it.

    `known` are digests of whom it was trained on, and then of whom those weights were that its training began with.
    Not among the facts, which every report carries: these are as long as the data.
    """

    network: ScoringNetwork
    facts: CheckpointFacts
    known: tuple[KnownImages, ...] = ()


def build_network(facts: CheckpointFacts) -> ChestNetwork:
    """Build the one network that the facts describe, with random weights, and without its mirror."""
    network = ChestNetwork(
        facts.architecture,
        len(facts.labels),
        spec=facts.input,
        task=facts.task,
        output_stride=facts.output_stride,
        pooling=facts.pooling,
    )
    if "distance" in facts.extra_outputs:
        network.expect_novelty()
    network.gives_embedding = "embedding" in facts.extra_outputs and not facts.members
    return network


def build_scoring_network(facts: CheckpointFacts) -> ScoringNetwork:
    """Build what the facts describe, with random weights: a network, a mirrored one, or an ensemble of either."""
    single = (
        replace(facts, architecture=member.architecture, output_stride=member.output_stride) for member in facts.members
    )
    networks = [build_network(each) for each in (single if facts.members else (facts,))]
    parts = [MirroredNetwork(network) if facts.mirror else network for network in networks]
    return EnsembleNetwork(parts) if facts.members else parts[0]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint to `path`, whole or not at all."""
    durable.replace_bytes(path, encode_checkpoint(checkpoint))


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Return what the checkpoint's file holds."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.network.state_dict().items()}
    network = checkpoint.network
    facts = replace(_with_cells(checkpoint.facts, network), extra_outputs=network.extra_outputs)
    metadata = {_METADATA_KEY: msgspec.json.encode(facts).decode()}
    metadata |= encode_known(checkpoint.known)
    encoded: bytes = safetensors.torch.save(tensors, metadata=metadata)
    return encoded


def load_checkpoint(path: Path, content: bytes | None = None) -> Checkpoint:
    """Read a checkpoint, or its `content` that was read before; nothing in the file is ever executed.

    Raises:
        EngineError: missing, a pickle, damaged, of a newer cxrbatch, or its weights do not fit its facts.
    """
    if content is None:
        content = read_checkpoint(path)
    if is_pickle(content):
        raise EngineError(
            f"{path}: looks like a pickle (torch.save), which can run any code when loaded, and is refused. "
            f"Checkpoints are safetensors files as `cxrbatch train` writes them."
        )
    try:
        tensors, metadata = load_safetensors(content)
        _refuse_pretrained(path, metadata)
        facts = _read_facts(path, metadata[_METADATA_KEY])
        require_labels(facts.labels)
        require_input(facts.input)
        known = read_known(metadata)
        network = build_scoring_network(facts)
        network.load_state_dict(tensors)
    except _DAMAGE as error:
        raise EngineError(f"{path}: damaged, or no cxrbatch checkpoint: {error}. Train or copy it again.") from error
    except UsageError as error:  # what training was never asked for
        raise EngineError(f"{path}: no cxrbatch checkpoint: {error}") from error
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise EngineError(f"{path}: its weights do not fit its own description: {error}") from error
    return Checkpoint(network.eval(), _with_cells(_of_earlier(facts), network), known)


def read_known_images(path: Path) -> tuple[KnownImages, ...]:
    """Return whom the weights of a checkpoint were trained on; its tensors stay unread. Older ones don't say.

    Raises:
        EngineError: missing, or damaged.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = msgspec.json.decode(stream.read(min(length, _LONGEST_HEADER)))
        return read_known(header.get("__metadata__") or {})
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}") from error
    except (*_DAMAGE, AttributeError) as error:
        raise EngineError(f"{path}: damaged, or no cxrbatch checkpoint: {error}. Train or copy it again.") from error


def encode_known(known: tuple[KnownImages, ...]) -> dict[str, str]:
    """Return the metadata of a file that tell whom its weights learned from; none where nobody is told."""
    return {_KNOWN_KEY: msgspec.json.encode(known).decode()} if known else {}


def read_known(metadata: dict[str, str]) -> tuple[KnownImages, ...]:
    """Return whom the weights of a file learned from, by its metadata.

    Raises:
        ValueError: it says so in no form that can be read.
    """
    known = msgspec.json.decode(metadata.get(_KNOWN_KEY, "[]"), type=tuple[KnownImages, ...])
    for images in known:
        images.require_sound()
    return known


def _refuse_pretrained(path: Path, metadata: dict[str, str]) -> None:
    if PRETRAINED_KEY in metadata:
        raise EngineError(
            f"{path}: holds pretrained weights, which know no labels. Train with them first: "
            f"cxrbatch train DATA -o CHECKPOINT --init {path}"
        )


def read_checkpoint(path: Path) -> bytes:
    """Return the bytes of a checkpoint.

    Raises:
        EngineError: missing, or it cannot be read.
    """
    try:
        return read_file(path)
    except FileNotFoundError:
        raise EngineError(f"{path}: no such checkpoint. `cxrbatch train DATA -o {path}` makes one.") from None
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}") from error


def _of_earlier(facts: CheckpointFacts) -> CheckpointFacts:
    if facts.cells is not None:
        return facts
    return replace(facts, cells=earlier_cells(facts.architecture, facts.output_stride, facts.training.data))


def _with_cells(facts: CheckpointFacts, network: ScoringNetwork) -> CheckpointFacts:
    return facts if facts.cells is not None else replace(facts, cells=network.cells)


def _read_facts(path: Path, encoded: str) -> CheckpointFacts:
    schema = msgspec.json.decode(encoded, type=_SchemaOnly).schema
    require_schema(path, schema, SCHEMA)
    return msgspec.json.decode(encoded, type=CheckpointFacts)


@dataclass(frozen=True, slots=True)
class _SchemaOnly:
    schema: int
