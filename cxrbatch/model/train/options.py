"""How a network is trained, as a person may say it, and where and in which precision that runs on this machine.

What is usual depends on how many images there are: `usual_batch_size` and what follows it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from cxrbatch.errors import UsageError
from cxrbatch.model.train.augment import LIGHT, Augmentation

Loss = Literal["bce", "weighted-bce", "focal", "ce", "weighted-ce"]
Optimizer = Literal["adamw", "adam", "adamax", "rmsprop", "sgd"]
Schedule = Literal["one-cycle", "cosine", "plateau"]
Precision = Literal["auto", "bf16", "fp32"]
Keep = Literal["auto", "best", "last"]

CLASS_LOSSES: tuple[Loss, ...] = ("ce", "weighted-ce", "focal")
LABEL_LOSSES: tuple[Loss, ...] = ("bce", "weighted-bce", "focal")

# Rates at which a ResNet learns from scratch, one per way of taking steps; sgd has momentum 0.9.
LEARNING_RATES: dict[Optimizer, float] = {"adamw": 1e-3, "adam": 1e-3, "adamax": 2e-3, "rmsprop": 3e-4, "sgd": 0.03}
_PRETRAINED_SHARE = 0.3

# A schedule is steps, not epochs: four classes of 253 images at 128 px came to an accuracy of 0.556 in 112 steps and of
# 0.794 in 540.
MIN_STEPS, _MIN_EPOCHS = 600, 16
# From so many images on, a batch is larger and nothing is mirrored; most epochs see images at half the size, but never
# smaller than that.
_LARGER_BATCH_FROM, _SMALL_EPOCHS_FROM, SMALLEST_SIDE_PX = 2000, 4000, 112
# With fewer validation images the best of many epochs is the luckiest one.
_BEST_EPOCH_FROM = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How a network is trained.

    `epochs` passes over the images end a training, not seconds, so that a slow machine gets the same weights as
    a fast one; 0: as many as make MIN_STEPS steps. `batch_size` images go through the network at once (0: as usual
    for so many images), `accumulate` such batches make a step.
    `learning_rate` is its peak: the schedule rises to it over `warm_up` of all steps, and falls.
    `loss`: "" is bce for labels, ce for classes.
    `freeze` keeps that many stages, counted from the input, as they are, for the first `unfreeze_after` epochs;
    0 keeps them to the end.
    `patience`: stop when so many epochs brought nothing better; 0 goes on to the end.
    `small_epochs`: the first so many see images at `small_scale` of the side; half of it costs a quarter.
    `average` is the decay of an exponential moving average of the weights, per step (Polyak and Juditsky 1992): it is
    what is validated and kept; 0 keeps the weights of the last step. `keep` the best epoch on the validation images, or
    the last; auto: the last where these are few. `balance`: images with a label rarer than this are drawn more often,
    sqrt(balance / share) times (repeat factors, Gupta et al. 2019); 0 draws each once an epoch.
    `region_weight` is how much the place of a finding counts beside its presence, where the data know it.
    `devices`: auto (a GPU if there is one), cpu (or cpu:2 for two processes), a number of GPUs, or which ones
    (0,2); `nodes` machines of as many each.
    """

    epochs: int = 16
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    optimizer: Optimizer = "adamw"
    weight_decay: float = 0.02
    schedule: Schedule = "one-cycle"
    warm_up: float = 0.25
    loss: Loss | Literal[""] = ""
    augmentation: Augmentation = field(default=LIGHT)
    freeze: int = 0
    unfreeze_after: int = 0
    patience: int = 0
    small_epochs: int = 0
    small_scale: float = 0.5
    average: float = 0.0
    keep: Keep = "best"
    balance: float = 0.0
    region_weight: float = 1.0
    seed: int = 0
    precision: Precision = "auto"
    devices: str = "auto"
    nodes: int = 1

    def __post_init__(self) -> None:
        for name in ("accumulate", "learning_rate", "nodes"):
            _require(getattr(self, name) > 0, f"{name} must be greater than 0")
        for name in ("epochs", "batch_size", "weight_decay", "freeze", "unfreeze_after", "patience", "small_epochs"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative")
        _require(math.isfinite(self.learning_rate), "learning_rate must be a number")
        _require(self.batch_size != 1, "batch_size must be at least 2: layers are normalised over a batch")
        _require(0 <= self.warm_up < 1, "warm_up is a part of the training: 0 or more, less than 1")
        _require(0 < self.small_scale <= 1, "small_scale is a part of the side: more than 0, at most 1")
        _require(0 <= self.average < 1, "average is a decay: 0 or more, less than 1")
        _require(0 <= self.balance < 1, "balance is a share of the images: 0 or more, less than 1")
        leaves_one = not self.epochs or self.small_epochs < self.epochs
        _require(leaves_one, "small_epochs: at least one epoch must see whole images")
        devices = re.fullmatch(r"auto|cpu(:[1-9]\d*)?|[1-9]\d*|\d+(,\d+)+", self.devices)
        _require(devices is not None, f"devices {self.devices!r}: use auto, cpu, how many GPUs, or which ones, as 0,2")


def usual_learning_rate(optimizer: Optimizer, *, pretrained: bool) -> float:
    """Return a rate to start with; weights that know something already are changed more gently."""
    return LEARNING_RATES[optimizer] * (_PRETRAINED_SHARE if pretrained else 1.0)


def with_usual_length(options: TrainingOptions, images: int) -> TrainingOptions:
    """Put the usual batch size and epochs for so many training images where they are left open.

    Small sets need steps more than smooth gradients: their batches are smaller, and their epochs make MIN_STEPS steps.
    """
    usual_batch = 16 if images < _LARGER_BATCH_FROM else 32
    options = replace(options, batch_size=options.batch_size or usual_batch)
    steps = max(1, images // (images_per_round(options) * options.accumulate))
    return replace(options, epochs=options.epochs or max(_MIN_EPOCHS, math.ceil(MIN_STEPS / steps)))


def usual_small_epochs(images: int, epochs: int) -> int:
    """Return how many epochs see images at half the size: three of four where there are thousands of them, else none.

    Where the size changes the loss jumps, and a small set has too few steps left to recover.
    """
    return epochs * 3 // 4 if images >= _SMALL_EPOCHS_FROM else 0


def flips_usually(images: int) -> bool:
    """Tell whether every other image is mirrored: where there are so few that they are soon learned by heart.

    It shows the heart on the right, which a larger set is better off without.
    """
    return images < _LARGER_BATCH_FROM


def usual_keep(validation_images: int) -> Keep:
    """Return which epoch to keep: the best one only where that is not just the luckiest one."""
    return "best" if validation_images >= _BEST_EPOCH_FROM else "last"


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise UsageError(f"{rule}.")


def count_processes(options: TrainingOptions) -> int:
    """Return how many processes train together: one per device and node."""
    _, devices = find_devices(options.devices)
    return (devices if isinstance(devices, int) else len(devices)) * options.nodes


def images_per_round(options: TrainingOptions) -> int:
    """Return how many images all processes together take at once: fewer make no epoch."""
    return options.batch_size * count_processes(options)


def find_devices(devices: str) -> tuple[str, int | list[int]]:
    """Return Lightning's accelerator, cpu or gpu, and how many devices of it, or which.

    Raises:
        UsageError: GPUs are asked for that are not there.
    """
    count = torch.cuda.device_count()
    if devices.startswith("cpu") or (devices == "auto" and count == 0):
        return "cpu", int(devices.partition(":")[2] or 1)
    if devices == "auto":
        return "gpu", 1
    wanted: int | list[int] = [int(part) for part in devices.split(",")] if "," in devices else int(devices)
    if count < (wanted if isinstance(wanted, int) else max(wanted) + 1):
        raise UsageError(f"devices {devices}: PyTorch sees {count} GPUs here. Use --devices cpu, or fewer.")
    return "gpu", wanted


def resolve_precision(options: TrainingOptions) -> Precision:
    """Return the precision that "auto" means here: bf16 where the processor computes in it, else fp32."""
    if options.precision != "auto":
        return options.precision
    if find_devices(options.devices)[0] == "gpu":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"
