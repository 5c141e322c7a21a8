"""The gate on the machine that first runs what could not run where it was built: a plan, or the FP16 graph on a GPU.

A plan for a workstation may be built on a machine without a GPU, and one plan may run on several models. What the
gate compares is therefore kept in the bundle: phantoms, never a patient's image, and what the PyTorch reference says
of them. A machine whose GPU, or TensorRT, is not the one that was compared last compares before it scores anything
(`settle_parity`), and writes the figures into engine.json and the model card.
"""

from __future__ import annotations

import io
import logging
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from cxrbatch.engine.agreement import FP16_LIMITS, Limits, compare_scores, infer_in_batches, refuse_disagreement
from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.contract import EXTRA_OUTPUTS, OUTPUTS, Engine, scores_from
from cxrbatch.engine.manifest import PENDING
from cxrbatch.engine.model_card import MODEL_CARD, write_model_card
from cxrbatch.errors import EngineError
from cxrbatch.records import Gray8, Scores
from cxrbatch.system import durable

PARITY_ROLE = "parity_images"
PARITY_FILE = "parity.npz"
TORCH_ROLE = "torch_fp16"
"""Where engine.json keeps how far the FP16 graph is from the reference when torch runs it on a GPU: in other kernels
than ONNX Runtime, which the build compared, and with other roundings."""

# What numpy and its zip file raise over bytes that are not what they claim to be.
_DAMAGE = (ValueError, KeyError, TypeError, OSError, EOFError, MemoryError, BadZipFile, zlib.error, NotImplementedError)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeferredGate:
    """Images for the gate, uint8 [N,1,S,S], what the reference says of them, and how far an engine may be off."""

    pixels: Gray8
    reference: Scores
    source: str
    limit: float

    @property
    def limits(self) -> Limits:
        """All limits: what was built before the others were asked for is held to them, too."""
        return replace(FP16_LIMITS, change=self.limit)


def save_gate(path: Path, gate: DeferredGate) -> None:
    """Write the gate to `path`, a compressed .npz without any pickled object."""
    content = io.BytesIO()
    extra = {name: scores for name in EXTRA_OUTPUTS if (scores := getattr(gate.reference, name)) is not None}
    np.savez_compressed(
        content,
        **extra,
        pixels=gate.pixels,
        probabilities=gate.reference.probabilities,
        logits=gate.reference.logits,
        cams=gate.reference.cams,
        source=np.array(gate.source),
        limit=np.array(gate.limit),
    )
    durable.replace_bytes(path, content.getvalue())


def load_gate(bundle: EngineBundle) -> DeferredGate:
    """Read the gate of a bundle; nothing in the file is ever executed.

    Raises:
        EngineError: missing, not the file that was built, or damaged.
    """
    content = bundle.read_verified(PARITY_ROLE)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            reference = scores_from({name: arrays[name] for name in (*OUTPUTS, *EXTRA_OUTPUTS) if name in arrays})
            return DeferredGate(arrays["pixels"], reference, str(arrays["source"]), float(arrays["limit"]))
    except _DAMAGE as error:
        where = bundle.folder / bundle.file(PARITY_ROLE).path
        raise EngineError(f"{where}: cannot be read: {error}. {bundle.mend}") from error


def is_unproven(bundle: EngineBundle, role: str, device: str) -> bool:
    """Tell whether the role has yet to be compared on `device`, and the bundle holds what it takes."""
    figures = bundle.manifest.parity.get(role)
    if figures == PENDING:
        return True
    if figures is None:
        # Of a plan the build says at least that it is pending.
        return role == TORCH_ROLE and PARITY_ROLE in bundle.manifest.files
    return figures.device != device and PARITY_ROLE in bundle.manifest.files


def settle_parity(bundle: EngineBundle, role: str, engine: Engine, *, device: str) -> EngineBundle:
    """Run the gate on this machine, and write the figures into engine.json and the model card.

    Args:
        bundle: where the files lie.
        role: a plan's, or `TORCH_ROLE`.
        engine: it, opened.
        device: what it runs on, for engine.json.

    Raises:
        EngineError: it disagrees with its checkpoint, and is not used.
    """
    log.info("engine %s: comparing its %s with its checkpoint first, on %s", bundle.name, role, device)
    gate = load_gate(bundle)
    comparison = compare_scores(
        infer_in_batches(engine, gate.pixels, 8), gate.reference, bundle.labels, bundle.verdict_rule
    )
    figures = comparison.figures(gate.source, gate.limits, device)
    description = engine.description
    refuse_disagreement(
        comparison,
        figures,
        f"engine {bundle.name} ({description.backend}, {device})",
        "it is not used. Run it in FP32, with --backend onnxruntime",
    )
    # What engine.json says now: another process may have settled another plan in the meantime.
    manifest = load_bundle(bundle.folder).manifest
    settled = EngineBundle(bundle.folder, replace(manifest, parity={**manifest.parity, role: figures}))
    try:
        write_model_card(settled.folder / MODEL_CARD, settled.manifest)
        return save_bundle(settled.folder, settled.manifest)
    except OSError as error:
        log.warning("%s: cannot be written (%s); the next run compares again", bundle.folder, error.strerror)
        return settled
