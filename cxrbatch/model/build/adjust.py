"""Making a new engine of an old one without training: other urgent labels, operating points, calibration.

The old engine's folder is never written to. Start at `adjust_engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cxrbatch.engine.agreement import infer_in_batches
from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.deferred_gate import PARITY_ROLE, TORCH_ROLE, load_gate
from cxrbatch.engine.installed import find_bundle
from cxrbatch.engine.manifest import PENDING, AccuracyFigures, AdjustedLabel, Adjustment, EngineFile, Manifest
from cxrbatch.engine.model_card import MODEL_CARD, write_model_card
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.engine.tensorrt_flavour import FLAVOURS
from cxrbatch.errors import EngineError, UsageError
from cxrbatch.model.build.adjusted_files import Change, take_files
from cxrbatch.model.build.decision import Decision, WantedPoints, carry_points, choose, choose_locally
from cxrbatch.model.build.gate import Parity, ParityImages, pass_gate, score_by_reference
from cxrbatch.model.build.images import VALIDATION_IMAGES, Int8Images, draw_gate_images, draw_int8_images
from cxrbatch.model.build.int8 import ROLE as INT8_ROLE, judge_int8
from cxrbatch.model.build.local_images import LocalData, LocalImages, score_locally
from cxrbatch.model.build.onnx_calibration import read_calibration
from cxrbatch.model.build.place import growing, require_free, require_name
from cxrbatch.model.data.dataset import PixelSet, prepare_pixels
from cxrbatch.model.data.pixels import ReportProgress
from cxrbatch.model.data.urgent import mark_urgent
from cxrbatch.records import Gray8, Label, Scores, now_text
from cxrbatch.system import durable

_PLAN_ROLES = tuple(flavour.role for flavour in FLAVOURS.values())
# What a label's metrics say of an operating point, which another one makes untrue.
_AT_THE_POINT = ("sensitivity", "specificity", "ppv", "npv", "f1")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustOptions:
    """What is to be different: `urgent` None leaves the labels as they are, () makes none urgent.

    With `data`, a rule of `points` is applied to it, and with `calibrate` a local calibration is fitted to it. Boxes
    on its images check the maps of their labels.
    """

    urgent: tuple[str, ...] | None = None
    points: WantedPoints = field(default_factory=WantedPoints)
    data: LocalData | None = None
    calibrate: bool = True


@dataclass(frozen=True, slots=True)
class AdjustReport:
    """Whom an adjustment tells how far it is: `say` a sentence, `images` how many are scored."""

    say: Callable[[str], None] = lambda _: None
    images: ReportProgress = lambda _done, _all: None


def adjust_engine(
    engine: str, name: str, *, engines_folder: Path, options: AdjustOptions, report: AdjustReport = AdjustReport()
) -> EngineBundle:
    """Make the engine `engines_folder/name` of another; it grows beside its place and moves there past the gate.

    Args:
        engine: the old engine's folder or name.
        name: the new engine's name.
        engines_folder: where it is installed; created where missing.
        options: what is to be different.
        report: told what happens now.

    Raises:
        UsageError: nothing is asked for, or it names what is not there, or the data cannot be used.
        EngineError: the old engine is damaged or cannot be adjusted so, or the new one does not pass the gate.
    """
    require_name(name)
    old, place = find_bundle(engine), engines_folder / name
    require_free(place)
    _check(old, place, options)
    change = _decide(old, options, report)
    durable.make_folder(engines_folder)
    with growing(place) as folder:
        files = take_files(change, folder)
        manifest = _describe(change, name, files)
        if change.judges_anew:
            report.say("comparing what was changed with the checkpoint")
            manifest = _pass_gates(change, save_bundle(folder, manifest))
        write_model_card(folder / MODEL_CARD, manifest)
        save_bundle(folder, manifest)
    return load_bundle(place)


def _check(old: EngineBundle, place: Path, options: AdjustOptions) -> None:
    """Find out what cannot be before any image is read."""
    points = options.points
    if options.urgent is None and not points.text and options.data is None:
        raise UsageError("nothing to adjust: name urgent labels, operating points or data.")
    if place.resolve() == old.folder.resolve():
        raise UsageError(f"{place}: is the engine that is adjusted; it stays as it is. Choose another name.")
    names = [label.name for label in old.labels]
    if unknown := [name for name in points.fixed if name not in names]:
        raise UsageError(f"operating point: {', '.join(unknown)}: no such label. There is {', '.join(names)}.")
    if points.needs_data and options.data is None:
        raise UsageError(f"operating point {points.text}: is chosen on labelled images; name them with --data.")
    if options.data is not None and not (options.calibrate or points.needs_data or options.data.boxes):
        raise UsageError("data without calibration: there are no boxes, and no rule of operating points, that need it.")


def _decide(old: EngineBundle, options: AdjustOptions, report: AdjustReport) -> Change:
    manifest = old.manifest
    try:
        calibration = read_calibration(old.read_verified("onnx"), len(old.labels))
    except ValueError as error:
        raise EngineError(f"{old.folder}: cannot be adjusted: {error}.") from error
    before = Decision(old.labels, manifest.task, calibration)
    marked = replace(before, labels=mark_urgent(old.labels, options.urgent))
    local, told = None, dict[str, AdjustedLabel]()
    if options.data is None:
        after = choose(marked, None, options.points, calibrate=False)
    else:
        report.say(f"scoring the images of {options.data.place}")
        local = score_locally(old, options.data, report.images)
        after, told = choose_locally(marked, local, options.points, calibrate=options.calibrate)
    after = replace(after, labels=_with_maps(_without_untrue_metrics(marked, after), local))
    adjustment = Adjustment(
        of=old.name,
        sha256=old.describe("onnx", "").sha256,
        created=now_text(),
        urgent=options.urgent,
        operating_point=options.points.text,
        calibrated=before.calibration != after.calibration,
        data=local.name if local else "",
        maps=tuple(local.maps) if local else (),
        images=len(local.samples) if local else 0,
        patients=len(set(local.patients)) if local else 0,
        labels=told,
        cautions=local.cautions if local else (),
    )
    change = Change(old, before, after, local, adjustment)
    dropped = tuple(role for role in _PLAN_ROLES if role in manifest.files) if change.recalibrates else ()
    return replace(change, adjustment=replace(adjustment, dropped=dropped))


def _without_untrue_metrics(before: Decision, after: Decision) -> tuple[Label, ...]:
    """Return the labels without what was measured at an operating point that is not theirs any more."""
    carried = carry_points(before, after.calibration)
    return tuple(
        label
        if label.operating_point == old and (old is None) == (was.operating_point is None)
        else replace(label, metrics={name: value for name, value in label.metrics.items() if not _is_at_point(name)})
        for label, old, was in zip(after.labels, carried, before.labels, strict=True)
    )


def _with_maps(labels: Sequence[Label], local: LocalImages | None) -> tuple[Label, ...]:
    """Return the labels with what local boxes told of their maps; the others keep what was known of theirs."""
    checks = local.maps if local else {}
    return tuple(replace(label, maps=checks.get(label.name, label.maps)) for label in labels)


def _is_at_point(metric: str) -> bool:
    return metric.removesuffix("_low").removesuffix("_high") in _AT_THE_POINT


def _describe(change: Change, name: str, files: dict[str, EngineFile]) -> Manifest:
    old = change.old.manifest
    return replace(
        old,
        name=name,
        created=now_text(),
        labels=change.after.labels,
        files=files,
        parity={role: figures for role, figures in old.parity.items() if role in files or role == TORCH_ROLE},
        adjustments=(*old.adjustments, change.adjustment),
    )


# --------------------------------------------------------------------------- the gate


def _pass_gates(change: Change, bundle: EngineBundle) -> Manifest:
    """Compare every file that scores with the reference; return the manifest with what was measured.

    What only a GPU can run is compared by the first machine that loads it.

    Raises:
        EngineError: one does not pass.
    """
    images = _gate_images(change)
    parity = pass_gate(bundle, _reference(change, images.pixels), images)
    waiting = [role for role in _PLAN_ROLES if role in bundle.manifest.files and PARITY_ROLE in bundle.manifest.files]
    parity |= dict.fromkeys(waiting, PENDING)
    kept: Parity = {
        role: figures
        for role, figures in bundle.manifest.parity.items()
        if role not in {INT8_ROLE, TORCH_ROLE} and role in bundle.manifest.files
    }
    accuracy: dict[str, AccuracyFigures] = {}
    if INT8_ROLE in bundle.manifest.files:
        judged = _int8_images(change)
        parity[INT8_ROLE], loss = judge_int8(bundle, _reference(change, judged.judged.pixels), judged)
        accuracy = {INT8_ROLE: loss} if loss else {}
    return replace(bundle.manifest, parity=kept | parity, accuracy=accuracy)


def _gate_images(change: Change) -> ParityImages:
    if PARITY_ROLE in change.old.manifest.files:
        gate = load_gate(change.old)
        return ParityImages(gate.pixels, gate.source)
    return draw_gate_images(change.old.manifest)


def _int8_images(change: Change) -> Int8Images:
    """Return what judges INT8: local images where there are any, else phantoms; calibrated it is already."""
    if change.local is None:
        return draw_int8_images(change.old.manifest)
    count = len(change.local.samples)
    rows = np.unique(np.linspace(0, count - 1, min(count, VALIDATION_IMAGES)).round().astype(int))
    pixels = prepare_pixels([change.local.samples[row] for row in rows], change.old.input).pixels
    return Int8Images(pixels[:0], PixelSet(pixels, change.local.targets[rows]), f"images of {change.local.name}")


def _reference(change: Change, pixels: Gray8) -> Scores:
    """Return what the checkpoint says with the new calibration; without one, what the old FP32 graph says with it."""
    if (checkpoint := change.checkpoint()) is not None:
        return score_by_reference(checkpoint.network, pixels)
    engine = OnnxRuntimeEngine(change.old)
    try:
        return change.recalibrate(infer_in_batches(engine, pixels, 8))
    finally:
        engine.close()
