"""Opening a checkpoint or a bundle, by path or name, as an `Engine`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cxrbatch.config import Backend, PrecisionChoice
from cxrbatch.engine.contract import Engine
from cxrbatch.engine.installed import find_bundle
from cxrbatch.engine.open import open_engine
from cxrbatch.engine.torch_engine import BACKEND, TorchEngine
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.errors import UsageError
from cxrbatch.model.data.known_images import KnownImages
from cxrbatch.model.network.checkpoint import CHECKPOINT_SUFFIX, CheckpointFacts, load_checkpoint, read_known_images
from cxrbatch.records import EngineDescription, usual_rule


def open_model(
    model: str, *, backend: Backend = "auto", precision: PrecisionChoice = "auto", threads: int = 0
) -> Engine:
    """Open what `cxrbatch evaluate` is given.

    Args:
        model: a checkpoint (*.safetensors), which runs in PyTorch on the CPU in FP32; or an engine bundle.
        backend: where a bundle runs.
        precision: which of a bundle's files runs.
        threads: how many cores a bundle may use; 0 takes all.

    Raises:
        EngineError: it is missing, damaged, or cannot run here.
        UsageError: a checkpoint is asked to run on another backend than PyTorch.
    """
    if not model.endswith(CHECKPOINT_SUFFIX):
        return open_engine(find_bundle(model), backend=backend, precision=precision, threads=threads)
    if backend not in {"auto", BACKEND}:
        raise UsageError(
            f"{model}: a checkpoint runs in PyTorch only. Leave --backend out, or build an engine of it: "
            f"cxrbatch build {model} -n NAME"
        )
    if precision not in {"auto", "fp32"}:
        raise UsageError(f"{model}: a checkpoint runs in FP32; build an engine of it for {precision}.")
    path = Path(model)
    checkpoint = load_checkpoint(path)
    return TorchEngine(checkpoint.network, describe_checkpoint(path, checkpoint.facts))


def find_known_images(model: str) -> tuple[KnownImages, ...]:
    """Return whom the model was trained on, from its checkpoint, which a bundle holds a copy of; () where not told.

    Raises:
        EngineError: the checkpoint is damaged, or not the one the bundle was built of.
    """
    if model.endswith(CHECKPOINT_SUFFIX):
        return read_known_images(Path(model))
    bundle = find_bundle(model)
    entry = bundle.manifest.files.get("checkpoint")
    if entry is None or not (bundle.folder / entry.path).exists():
        return ()
    return read_known_images(bundle.verified_file("checkpoint"))


def locate_model(model: str) -> Path:
    """Return where that lies: the checkpoint, or the engine's folder.

    Raises:
        EngineError: there is no such engine.
    """
    return Path(model).resolve() if model.endswith(CHECKPOINT_SUFFIX) else find_bundle(model).folder.resolve()


def describe_checkpoint(path: Path, facts: CheckpointFacts) -> EngineDescription:
    """Describe the engine that runs a checkpoint itself; its identity is the file's SHA-256."""
    return EngineDescription(
        name=path.stem,
        sha256=sha256_of_file(path),
        backend=BACKEND,
        precision="fp32",
        architecture=facts.architecture,
        task=facts.task,
        labels=facts.labels,
        input=facts.input,
        created=facts.created,
        notice=facts.notice,
        training=msgspec.to_builtins(facts.training),
        verdict=usual_rule(facts.task, facts.labels),
        cells=facts.cells,
        extra_outputs=facts.extra_outputs,
    )
