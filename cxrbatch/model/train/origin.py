"""What a training's page says of its settings, and of how it came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxrbatch.model.data.labelled import LAYOUT_NAMES
from cxrbatch.model.train.record import TrainingRun
from cxrbatch.output.report.content import SHORT_HASH, Fact
from cxrbatch.pages import wording
from cxrbatch.pages.language import gettext as _, localised, msgid, whole
from cxrbatch.pages.retelling import retold

SETTING_NAMES: dict[str, str] = {
    "epochs": msgid("epochs"),
    "batch_size": msgid("batch size"),
    "accumulate": msgid("accumulate"),
    "learning_rate": msgid("learning rate"),
    "optimizer": msgid("optimizer"),
    "weight_decay": msgid("weight decay"),
    "schedule": msgid("schedule"),
    "warm_up": msgid("warm up"),
    "loss": msgid("loss"),
    "augmentation": msgid("augmentation"),
    "freeze": msgid("freeze"),
    "unfreeze_after": msgid("unfreeze after"),
    "patience": msgid("patience"),
    "small_epochs": msgid("small epochs"),
    "small_scale": msgid("small scale"),
    "average": msgid("average"),
    "keep": msgid("keep"),
    "balance": msgid("balance"),
    "region_weight": msgid("region weight"),
    "precision": msgid("precision"),
    "devices": msgid("devices"),
    "nodes": msgid("nodes"),
    "operating_point": msgid("operating point"),
    "shift": msgid("shift"),
    "zoom": msgid("zoom"),
    "rotation_deg": msgid("rotation deg"),
    "contrast": msgid("contrast"),
    "brightness": msgid("brightness"),
    "noise": msgid("noise"),
    "flip": msgid("flip"),
}
"""What the options of a training, by name, are called on its page; one that is not here is called by its name."""


def describe_settings(run: TrainingRun) -> Iterator[Fact]:
    """Yield every setting that the weights depend on."""
    facts, spec = run.facts, run.facts.input
    yield from (
        Fact(_("architecture"), facts.architecture),
        Fact(_("output stride"), str(facts.output_stride)),
        Fact(_("pooling"), facts.pooling),
        Fact(_("image size"), f"{spec.size_px} px, {spec.fit}"),
        Fact(_("seed"), str(facts.training.seed)),
        Fact(_("grey mean and deviation"), f"{_figure(spec.mean)}, {_figure(spec.std)}"),
    )
    for name, value in _flat(facts.training.options):
        if name != "seed":
            yield Fact(name, value)


def _flat(options: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Yield names and values in words; those of an inner record under its name."""
    for name, value in options.items():
        said = _(SETTING_NAMES[name]) if name in SETTING_NAMES else name.replace("_", " ")
        words = f"{within} {said}".strip()
        if isinstance(value, Mapping):
            yield from _flat(value, words)
        else:
            shown = _figure(value) if isinstance(value, float) else wording.plain(str(value))
            yield words, shown or _("the usual one")


def _figure(value: float) -> str:
    return localised(f"{value:g}")


def describe_origin(run: TrainingRun) -> Iterator[str]:
    """Yield which data, first weights, recipe, patients and libraries made this, in sentences."""
    training = run.facts.training
    layout = _(LAYOUT_NAMES[run.layout]) if run.layout in LAYOUT_NAMES else run.layout
    data = _("Data: {name}, {layout}, SHA-256 {digest}.")
    yield data.format(name=wording.plain(Path(run.data).name), layout=layout, digest=run.data_sha256[:SHORT_HASH])
    if training.init:
        yield wording.plain(retold(training.init), longest=400)
    if training.recipe:
        recipe = _("Recipe {digest}: the same data, options and network give the same weights.")
        yield recipe.format(digest=training.recipe[:SHORT_HASH])
    if training.patients:
        digests = ", ".join(f"{part} {digest[:SHORT_HASH]}" for part, digest in training.patients.items())
        yield _("Patients of each part, as digests that name nobody: {digests}.").format(digests=digests)
    if run.resamples:
        intervals = _("Intervals are 95 %, by bootstrap over patients: {resamples} resamples, percentile method.")
        yield intervals.format(resamples=whole(run.resamples))
    libraries = ", ".join(f"{name} {version}" for name, version in training.libraries.items())
    yield f"cxrbatch {run.cxrbatch_version}{f'; {libraries}' if libraries else ''}."
