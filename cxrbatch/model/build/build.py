"""Building and installing an engine; nothing is installed that disagrees with its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.deferred_gate import PARITY_FILE, PARITY_ROLE
from cxrbatch.engine.manifest import EngineFile, Manifest, Precision
from cxrbatch.engine.model_card import MODEL_CARD, write_model_card
from cxrbatch.engine.tensorrt_flavour import FLAVOURS, Flavour
from cxrbatch.errors import UsageError
from cxrbatch.model.build.build_progress import BuildProgress
from cxrbatch.model.build.gate import Parity, ParityImages, pass_gate, save_deferred_gate, score_by_reference
from cxrbatch.model.build.images import Int8Images, draw_gate_images, draw_int8_images
from cxrbatch.model.build.int8 import add_int8_file
from cxrbatch.model.build.place import entry_of, growing, require_free, require_name
from cxrbatch.model.build.tensorrt_build import PlanBuilder, PlanOptions, open_plan_builder
from cxrbatch.model.data.urgent import mark_urgent
from cxrbatch.model.network.checkpoint import (
    Checkpoint,
    CheckpointFacts,
    encode_checkpoint,
    load_checkpoint,
    read_checkpoint,
)
from cxrbatch.model.network.combine import mirror_checkpoint, read_checkpoints
from cxrbatch.model.network.embedding import with_embedding
from cxrbatch.model.network.export import export_onnx, halve, require_half_weights
from cxrbatch.records import usual_rule
from cxrbatch.system import durable

CHECKPOINT_FILE = "checkpoint.safetensors"
ONNX_FILE = "model.onnx"
ONNX_FP16_FILE = "model.fp16.onnx"

ChooseInt8Images = Callable[[CheckpointFacts], Int8Images]
ChooseGateImages = Callable[[CheckpointFacts], ParityImages]
MeasureCheckpoint = Callable[[Checkpoint], Checkpoint]


@dataclass(frozen=True, slots=True)
class BuildReport:
    """Whom a build tells how far it is: `say` a sentence, `advance` the (phase, step, steps) of a plan."""

    say: Callable[[str], None] = lambda _: None
    advance: BuildProgress = lambda *_: None


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What a bundle is to hold beside the FP32 ONNX graph, which is always there.

    `backends` may name tensorrt and tensorrt-rtx, whose plans are built of the FP16 graph; `precision` "fp16"
    adds that graph alone, "int8" a file for the CPU that is calibrated and judged on what `choose_int8_images`
    chooses. The gate looks at what `choose_gate_images` chooses. `urgent` names the labels that are urgent; None
    leaves that to the checkpoint. `onnx_only` leaves the plans to a machine with a GPU. `mirror` averages over every
    image and its mirror image, at twice the cost. `embeddings` adds the pooled features to what its graphs answer.
    `measure` places the operating points of a new ensemble or mirror on
    labelled images and says what was measured there.
    """

    backends: tuple[str, ...] = ()
    precision: Precision = "fp32"
    choose_gate_images: ChooseGateImages = draw_gate_images
    choose_int8_images: ChooseInt8Images = draw_int8_images
    urgent: tuple[str, ...] | None = None
    onnx_only: bool = False
    mirror: bool = False
    embeddings: bool = False
    measure: MeasureCheckpoint | None = None
    plan: PlanOptions = field(default_factory=PlanOptions)

    @property
    def flavours(self) -> tuple[Flavour, ...]:
        """The flavours of TensorRT that the bundle is for."""
        return tuple(flavour for backend, flavour in FLAVOURS.items() if backend in self.backends)

    @property
    def wants_fp16(self) -> bool:
        """Whether the bundle holds an FP16 graph."""
        return self.precision == "fp16" or bool(self.flavours)


def build_engine(
    checkpoint: Path | Sequence[Path],
    name: str,
    *,
    engines_folder: Path,
    options: BuildOptions = BuildOptions(),
    report: BuildReport = BuildReport(),
) -> EngineBundle:
    """Build the bundle `engines_folder/name` from a checkpoint, or of several as an ensemble; an older one is replaced.

    The bundle grows in a folder beside its place and moves there as the last step, after the gate.

    Args:
        checkpoint: a safetensors file as training writes it, or several; a copy of all stays in the bundle, as one.
        name: the engine's name, which is its folder's name.
        engines_folder: where it is installed; created where missing.
        options: what the bundle holds.
        report: told what happens now.

    Raises:
        UsageError: the name cannot be a folder's name, the options contradict each other, or several checkpoints
            make no ensemble.
        EngineError: the checkpoint cannot be used, a plan cannot be built here, or an engine disagrees with the
            checkpoint (exit code 5).
    """
    require_name(name)
    require_free(engines_folder / name)
    builders = (
        () if options.onnx_only else tuple(open_plan_builder(flavour, options.plan) for flavour in options.flavours)
    )
    loaded, content = _take_checkpoints((checkpoint,) if isinstance(checkpoint, Path) else tuple(checkpoint), options)
    durable.make_folder(engines_folder)
    with growing(engines_folder / name) as folder:
        durable.replace_bytes(folder / CHECKPOINT_FILE, content)
        files = {"checkpoint": entry_of(folder / CHECKPOINT_FILE, "fp32")}
        files |= _export_graphs(loaded, folder, options, report)
        files |= _build_plans(folder, builders, engines_folder, report)
        if options.wants_fp16:
            save_deferred_gate(folder / PARITY_FILE, loaded.network, draw_gate_images(loaded.facts))
            files[PARITY_ROLE] = entry_of(folder / PARITY_FILE, "fp32")
        images = options.choose_gate_images(loaded.facts)
        report.say(f"comparing with the checkpoint on {len(images.pixels)} {images.source}")
        ungated = save_bundle(folder, _describe(loaded, name, files, parity={}))
        parity = pass_gate(ungated, score_by_reference(loaded.network, images.pixels), images, builders)
        bundle = save_bundle(folder, _describe(loaded, name, files, parity=parity))
        if options.precision == "int8":
            report.say("quantising the engine to INT8, and comparing that")
            bundle = add_int8_file(bundle, loaded.network, options.choose_int8_images(loaded.facts))
        write_model_card(folder / MODEL_CARD, bundle.manifest)
    return load_bundle(engines_folder / name)


def _take_checkpoints(paths: tuple[Path, ...], options: BuildOptions) -> tuple[Checkpoint, bytes]:
    """Return what is built, and the bytes of its one checkpoint: where nothing is changed, those of the file."""
    if not paths:
        raise UsageError("no checkpoint to build an engine of.")
    if len(paths) == 1:
        # Read once: what is exported, what is compared and what stays in the bundle are the same bytes.
        content = read_checkpoint(paths[0])
        given = load_checkpoint(paths[0], content)
    else:
        given, content = read_checkpoints(paths), b""
    loaded = mirror_checkpoint(given) if options.mirror else given
    if options.embeddings:
        loaded = with_embedding(loaded)
    if options.measure is not None and loaded.facts.is_composed:
        loaded = options.measure(loaded)
    if options.urgent is not None:
        loaded = replace(loaded, facts=replace(loaded.facts, labels=mark_urgent(loaded.facts.labels, options.urgent)))
    return loaded, content if content and loaded is given else encode_checkpoint(loaded)


def _export_graphs(
    checkpoint: Checkpoint, folder: Path, options: BuildOptions, report: BuildReport
) -> dict[str, EngineFile]:
    size_px = checkpoint.facts.input.size_px
    report.say("exporting the network to ONNX (FP32)")
    export_onnx(checkpoint.network, folder / ONNX_FILE, size_px=size_px)
    files = {"onnx": entry_of(folder / ONNX_FILE, "fp32")}
    if options.wants_fp16:
        report.say("exporting the network to ONNX (FP16)")
        export_onnx(halve(checkpoint.network), folder / ONNX_FP16_FILE, size_px=size_px)
        require_half_weights(folder / ONNX_FP16_FILE)
        files["onnx_fp16"] = entry_of(folder / ONNX_FP16_FILE, "fp16")
    return files


def _build_plans(
    folder: Path, builders: tuple[PlanBuilder, ...], engines_folder: Path, report: BuildReport
) -> dict[str, EngineFile]:
    files: dict[str, EngineFile] = {}
    for builder in builders:
        flavour, path = builder.flavour, folder / builder.flavour.file
        report.say(f"building the {flavour.title} plan (FP16) for {builder.target}")
        # Beside the bundles, not in one: the next build on this machine starts with what this one measured.
        cache = engines_folder / f"timing-{flavour.backend}.cache"
        facts = builder.build((folder / ONNX_FP16_FILE).read_bytes(), path, timing_cache=cache, report=report.advance)
        files[flavour.role] = replace(entry_of(path, "fp16"), plan=facts)
    return files


def _describe(checkpoint: Checkpoint, name: str, files: dict[str, EngineFile], *, parity: Parity) -> Manifest:
    facts = checkpoint.facts
    return Manifest(
        name=name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        architecture=facts.architecture,
        task=facts.task,
        labels=facts.labels,
        input=facts.input,
        files=files,
        output_stride=facts.output_stride,
        pooling=facts.pooling,
        cells=facts.cells,
        training=facts.training,
        parity=parity,
        notice=facts.notice,
        verdict=usual_rule(facts.task, facts.labels),
        adjustments=facts.adjustments,
        extra_outputs=checkpoint.network.extra_outputs,
        members=facts.members,
        mirror=facts.mirror,
        reference=facts.reference,
    )
