"""Most tests of building ask what becomes of a graph, not what it computes: a network of few weights, exported once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cxrbatch.model.build import build as builds
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts
from cxrbatch.model.network.export import export_onnx
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.system import durable
from tests.factories.model import build_unlike_defaults, tiny_architecture


def _identity(network: ChestNetwork, size_px: int) -> str:
    digest = hashlib.sha256(f"{network.task} {size_px} {network.spec} {network.extra_outputs}".encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """Let "tiny" name an architecture."""
    with tiny_architecture():
        yield


@pytest.fixture(scope="module")
def facts(facts: CheckpointFacts) -> CheckpointFacts:
    return replace(facts, architecture="tiny", output_stride=32)


@pytest.fixture(scope="module")
def network(facts: CheckpointFacts, tiny: None) -> ChestNetwork:
    return build_unlike_defaults(facts)


@pytest.fixture(scope="module")
def checkpoint(network: ChestNetwork, facts: CheckpointFacts) -> Checkpoint:
    return Checkpoint(network, facts)


@pytest.fixture(scope="module", autouse=True)
def exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what was exported; a later build of the same network gets a copy of it."""
    kept = tmp_path_factory.mktemp("exported")

    def export(network: ChestNetwork, path: Path, *, size_px: int) -> None:
        file = kept / f"{_identity(network, size_px)}.onnx"
        if not file.exists():
            export_onnx(network, file, size_px=size_px)
        durable.replace_bytes(path, file.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builds, "export_onnx", export)
        yield
