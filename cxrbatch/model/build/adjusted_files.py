"""What an adjustment changes, and the files that it makes of an engine's. Start at `take_files`.

What does not change is taken along without a second copy; the old engine's folder is only read.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.deferred_gate import PARITY_ROLE, DeferredGate, load_gate, save_gate
from cxrbatch.engine.manifest import Adjustment, EngineFile
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.errors import EngineError
from cxrbatch.model.build.decision import Decision
from cxrbatch.model.build.gate import score_by_reference
from cxrbatch.model.build.int8 import ROLE as INT8_ROLE
from cxrbatch.model.build.local_images import LocalImages
from cxrbatch.model.build.onnx_calibration import write_calibration
from cxrbatch.model.build.place import entry_of
from cxrbatch.model.network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cxrbatch.records import Scores
from cxrbatch.system import durable

CHECKPOINT_ROLE = "checkpoint"
_ONNX_ROLES = ("onnx", "onnx_fp16", INT8_ROLE)


@dataclass(frozen=True, slots=True)
class Change:
    """Everything that makes the new engine: the old one, what decides before and after, and what is told of it."""

    old: EngineBundle
    before: Decision
    after: Decision
    local: LocalImages | None
    adjustment: Adjustment

    @property
    def recalibrates(self) -> bool:
        """Whether the graphs have to be written anew."""
        return self.before.calibration != self.after.calibration

    @property
    def judges_anew(self) -> bool:
        """Whether a verdict may differ from the old engine's, so that what the gate counted is out of date."""
        points = [[label.operating_point for label in decision.labels] for decision in (self.before, self.after)]
        return self.recalibrates or points[0] != points[1]

    def recalibrate(self, scores: Scores) -> Scores:
        """Calibrate scores anew; how far the members of an ensemble then disagree does not follow from them."""
        probabilities = self.after.calibration.probabilities(scores.logits, self.before.task)
        return replace(scores, probabilities=probabilities, disagreement=None)

    def checkpoint(self) -> Checkpoint | None:
        """Return the old engine's checkpoint with what is changed; None where it has none."""
        old = self.old
        if CHECKPOINT_ROLE not in old.manifest.files:
            return None
        loaded = load_checkpoint(old.folder / old.file(CHECKPOINT_ROLE).path, old.read_verified(CHECKPOINT_ROLE))
        self.after.calibration.apply_to(loaded.network)
        adjustments = (*old.manifest.adjustments, self.adjustment)
        return replace(loaded, facts=replace(loaded.facts, labels=self.after.labels, adjustments=adjustments))


def take_files(change: Change, folder: Path) -> dict[str, EngineFile]:
    """Put the files of the new engine into its folder: written anew where the calibration changes, else the same."""
    files: dict[str, EngineFile] = {}
    for role, entry in change.old.manifest.files.items():
        if role == CHECKPOINT_ROLE or role in change.adjustment.dropped:
            continue
        target = folder / Path(entry.path).name
        if change.recalibrates and role in _ONNX_ROLES:
            _rewrite(change, role, target)
            files[role] = entry_of(target, entry.precision)
        elif change.recalibrates and role == PARITY_ROLE:
            gate = load_gate(change.old)
            save_gate(target, replace(gate, reference=_recalibrated_gate(change, gate)))
            files[role] = entry_of(target, entry.precision)
        else:
            _link(change.old, role, target)
            files[role] = replace(entry, path=target.name)
    return files | _keep_checkpoint(change, folder)


def _rewrite(change: Change, role: str, target: Path) -> None:
    try:
        durable.replace_bytes(target, write_calibration(change.old.read_verified(role), change.after.calibration))
    except ValueError as error:
        raise EngineError(f"{change.old.folder}: its {role} cannot be calibrated: {error}.") from error


def _link(old: EngineBundle, role: str, target: Path) -> None:
    """Take a file along as it is, without a second copy where the disk allows; its hash is checked in its new place."""
    source = old.verified_file(role).resolve()
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        target.chmod(durable.FILE_MODE)
    if sha256_of_file(target) != old.file(role).sha256:
        raise EngineError(f"{source}: changed while it was taken along. {old.mend}")


def _recalibrated_gate(change: Change, gate: DeferredGate) -> Scores:
    """Return what the reference says now; what an ensemble's members say of the images only its checkpoint can tell."""
    checkpoint = None if gate.reference.disagreement is None else change.checkpoint()
    if checkpoint is None:
        return change.recalibrate(gate.reference)
    return score_by_reference(checkpoint.network, gate.pixels)


def _keep_checkpoint(change: Change, folder: Path) -> dict[str, EngineFile]:
    """Write the checkpoint with what was changed: whatever is built of it later is this engine, not the old one."""
    checkpoint = change.checkpoint()
    if checkpoint is None:
        return {}
    path = folder / Path(change.old.file(CHECKPOINT_ROLE).path).name
    save_checkpoint(path, checkpoint)
    return {CHECKPOINT_ROLE: entry_of(path, "fp32")}
