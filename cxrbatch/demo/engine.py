"""The demo engine: a ResNet50 that learns from phantoms, is measured and installed. Start at `ensure_demo_engine`."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import msgspec

from cxrbatch.demo.cases import Drawing, draw_cases, to_pixel_set
from cxrbatch.demo.evaluate import DemoFigures, evaluate_demo_engine
from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.model_card import MODEL_CARD, write_model_card
from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.errors import EngineError
from cxrbatch.model.build.build import BuildOptions, BuildReport, build_engine
from cxrbatch.model.build.gate import ParityImages
from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.model.figures.figures import quantiles
from cxrbatch.model.figures.operating_points import choose_operating_point
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, build_network, save_checkpoint
from cxrbatch.model.network.network import ChestNetwork, build_seeded, predict_probabilities
from cxrbatch.model.train.augment import NONE
from cxrbatch.model.train.fit import train_network
from cxrbatch.model.train.novelty import fit_novelty
from cxrbatch.model.train.options import TrainingOptions, resolve_precision
from cxrbatch.model.train.record import Listener
from cxrbatch.model.train.reference import describe_reference
from cxrbatch.pages.retelling import kept
from cxrbatch.phantom import FINDINGS, draw_phantom, windowed
from cxrbatch.records import InputSpec, Label

NAME = "demo"
NOTICE = kept(
    "This demo engine knows synthetic phantoms only. It has never seen a patient's radiograph, "
    "and what it says of one means nothing."
)
URGENT = frozenset({"Pneumothorax"})

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DemoRecipe:
    """What the demo engine is made of; the same recipe gives the same engine.

    `phantoms` of `image_px` are drawn to learn from, with each finding in `prevalence` of them: more than
    in the mix that it is measured on, since an image with three findings teaches more than one with none.
    Their lesions' masks teach the heatmaps. `size_px` is the side of the engine's input. `looked_at_again` of the
    phantoms tell how far an image is from them.
    """

    phantoms: int = 2400
    held_back: int = 320
    phantom_seed: int = 100_000_000
    prevalence: float = 0.4
    image_px: int = 160
    size_px: int = 96
    architecture: str = "resnet50"
    output_stride: int = 16
    looked_at_again: int = 200
    training: TrainingOptions = field(
        default_factory=lambda: TrainingOptions(
            epochs=3,
            small_epochs=2,
            small_scale=2 / 3,
            batch_size=16,
            learning_rate=1e-3,
            warm_up=0.2,
            augmentation=NONE,
        )
    )

    def fingerprint(self) -> str:
        """Return the SHA-256 of the recipe and of how phantoms look now: 64 hex digits."""
        digest = hashlib.sha256(msgspec.json.encode(self))
        # All findings in one image: whatever changes in the drawing shows in its pixels.
        digest.update(windowed(draw_phantom(self.phantom_seed, rows=self.image_px, findings=FINDINGS)).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _TrainingData:
    """`train` is learned from; operating points are chosen, and parity is measured, on `held_back`."""

    train: PixelSet
    held_back: PixelSet


def ensure_demo_engine(engines_folder: Path, *, report: Report, recipe: DemoRecipe | None = None) -> EngineBundle:
    """Return the demo engine of `engines_folder`; train and build it where it is not there or is of another recipe.

    Args:
        engines_folder: where bundles lie; created where missing.
        report: told, a sentence at a time, what happens.
        recipe: another one than the default, for tests.

    Raises:
        EngineError: the engine disagrees with its checkpoint.
    """
    recipe = recipe or DemoRecipe()
    installed = _installed(engines_folder / NAME, recipe.fingerprint())
    if installed is not None and all(label.maps is not None for label in installed.labels):
        report(f"using the demo engine that is there, {installed.folder}")
        return installed
    if installed is not None:
        report(f"using the demo engine that is there, {installed.folder}; nobody has checked its heatmaps yet")
        bundle = installed
    else:
        with tempfile.TemporaryDirectory(prefix="cxrbatch-demo-") as work:
            bundle = _make_engine(Path(work), engines_folder, recipe, report)
    figures = evaluate_demo_engine(bundle)
    report(
        f"on {figures.images} phantoms never seen: macro AUROC {figures.macro_auroc:.3f}, heatmap peak on the "
        f"lesion in {figures.pointing_rate:.0%} of {figures.true_positives} true positives"
    )
    for name, maps in figures.maps.items():
        place = "" if maps.same_place is None else f", one fixed place {maps.same_place:.0%}"
        hits = f"peak on {maps.hits:.0%} of {maps.images} lesions, chance {maps.chance:.0%}{place}"
        report(f"heatmaps of {name}: {hits}; {maps.in_words}")
    return _keep_figures(bundle, figures)


def _installed(folder: Path, fingerprint: str) -> EngineBundle | None:
    """Return the bundle if it is whole and of this recipe."""
    try:
        bundle = load_bundle(folder)
        for role in bundle.manifest.files:
            bundle.verified_file(role)
    except EngineError:
        return None
    # Figures are stored last; a bundle without them was left by a run that was interrupted.
    facts = bundle.manifest.training
    return bundle if facts.recipe == fingerprint and facts.figures else None


def _make_engine(work: Path, engines_folder: Path, recipe: DemoRecipe, report: Report) -> EngineBundle:
    started = time.monotonic()
    data = _draw_training_data(recipe, report)
    network = _train(data.train, recipe, report)
    facts = _describe(network, data, recipe, seconds=time.monotonic() - started)
    save_checkpoint(work / "demo.safetensors", Checkpoint(network, facts))
    images = ParityImages(data.held_back.pixels[:64], "validation phantoms")
    return build_engine(
        work / "demo.safetensors",
        NAME,
        engines_folder=engines_folder,
        options=BuildOptions(choose_gate_images=lambda _: images),
        report=BuildReport(say=report),
    )


def _draw_training_data(recipe: DemoRecipe, report: Report) -> _TrainingData:
    report(f"drawing {recipe.phantoms + recipe.held_back} phantoms to learn from")
    spec, first = InputSpec(recipe.size_px), recipe.phantom_seed
    train = [Drawing(seed, recipe.image_px, spec, recipe.prevalence) for seed in range(first, first + recipe.phantoms)]
    next_seed = first + recipe.phantoms
    held_back = [Drawing(seed, recipe.image_px, spec) for seed in range(next_seed, next_seed + recipe.held_back)]
    cases = draw_cases([*train, *held_back])
    return _TrainingData(to_pixel_set(islice(cases, recipe.phantoms)), to_pixel_set(cases))


def _train(data: PixelSet, recipe: DemoRecipe, report: Report) -> ChestNetwork:
    options = recipe.training
    report(f"training {recipe.architecture} from scratch: {options.epochs} epochs of {len(data.pixels)} phantoms")
    network = build_seeded(lambda: build_network(_untrained(recipe)), options.seed)
    train_network(network, data, options, listener=Listener(epoch=lambda figures: report(figures.in_words())))
    return network


def _untrained(recipe: DemoRecipe) -> CheckpointFacts:
    return CheckpointFacts(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        architecture=recipe.architecture,
        task="multilabel",
        labels=tuple(Label(name, urgent=name in URGENT) for name in FINDINGS),
        input=InputSpec(recipe.size_px),
        output_stride=recipe.output_stride,
        notice=NOTICE,
    )


def _describe(network: ChestNetwork, data: _TrainingData, recipe: DemoRecipe, *, seconds: float) -> CheckpointFacts:
    untrained = _untrained(recipe)
    novelty = fit_novelty(network, data.train, data.held_back, most=recipe.looked_at_again)
    scores, truths = predict_probabilities(network, data.held_back.pixels), data.held_back.targets > 0
    labels = tuple(
        replace(
            label,
            operating_point=choose_operating_point(truths[:, index], scores[:, index]),
            reference=quantiles(scores[:, index]),
        )
        for index, label in enumerate(untrained.labels)
    )
    training = TrainingFacts(
        data=f"phantoms that cxrbatch draws, seeds from {recipe.phantom_seed}; their masks taught the heatmaps",
        images={"train": len(data.train.pixels), "val": len(data.held_back.pixels)},
        recipe=recipe.fingerprint(),
        seed=recipe.training.seed,
        seconds=round(seconds, 1),
        options=msgspec.to_builtins(replace(recipe.training, precision=resolve_precision(recipe.training))),
        libraries={name: version(name) for name in ("torch", "torchvision", "lightning")},
        novelty=novelty,
    )
    reference = describe_reference((), data.held_back, labels, scores)
    return replace(untrained, labels=labels, training=training, reference=reference)


def _keep_figures(bundle: EngineBundle, figures: DemoFigures) -> EngineBundle:
    measured = {
        "images": float(figures.images),
        "macro_auroc": figures.macro_auroc,
        "pointing_rate": figures.pointing_rate,
        "true_positives": float(figures.true_positives),
    }
    manifest = replace(
        bundle.manifest,
        labels=tuple(figures.of_label(label) for label in bundle.labels),
        training=replace(
            bundle.manifest.training,
            figures=measured,
            images={**bundle.manifest.training.images, "test": figures.images},
            measured_on="test",
        ),
    )
    write_model_card(bundle.folder / MODEL_CARD, manifest)
    return save_bundle(bundle.folder, manifest)
