"""How a network is trained, as a person may say it, and where and in which precision that runs on this machine.

The defaults suit hundreds to ten thousands of images.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

import torch

from cxrbatch.errors import UsageError
from cxrbatch.model.train.augment import LIGHT, Augmentation

Loss = Literal["bce", "weighted-bce", "focal", "ce", "weighted-ce"]
Optimizer = Literal["adamw", "adam", "adamax", "rmsprop", "sgd"]
Schedule = Literal["one-cycle", "cosine", "plateau"]
Precision = Literal["auto", "bf16", "fp32"]

CLASS_LOSSES: tuple[Loss, ...] = ("ce", "weighted-ce", "focal")
LABEL_LOSSES: tuple[Loss, ...] = ("bce", "weighted-bce", "focal")

# Rates at which a ResNet learns from scratch, one per way of taking steps; sgd has momentum 0.9.
LEARNING_RATES: dict[Optimizer, float] = {"adamw": 1e-3, "adam": 1e-3, "adamax": 2e-3, "rmsprop": 3e-4, "sgd": 0.03}
_PRETRAINED_SHARE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How a network is trained.

    `epochs` passes over the images end a training, not seconds, so that a slow machine gets the same weights as
    a fast one. `batch_size` images go through the network at once, `accumulate` such batches make a step.
    `learning_rate` is its peak: the schedule rises to it over `warm_up` of all steps, and falls.
    `loss`: "" is bce for labels, ce for classes.
    `freeze` keeps that many stages, counted from the input, as they are, for the first `unfreeze_after` epochs;
    0 keeps them to the end.
    `patience`: stop when so many epochs brought nothing better; 0 goes on to the end.
    `small_epochs`: the first so many see images at `small_scale` of the side; half of it costs a quarter.
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
    region_weight: float = 1.0
    seed: int = 0
    precision: Precision = "auto"
    devices: str = "auto"
    nodes: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "learning_rate", "nodes"):
            _require(getattr(self, name) > 0, f"{name} must be greater than 0")
        for name in ("weight_decay", "freeze", "unfreeze_after", "patience", "small_epochs"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative")
        _require(math.isfinite(self.learning_rate), "learning_rate must be a number")
        _require(self.batch_size > 1, "batch_size must be at least 2: layers are normalised over a batch")
        _require(0 <= self.warm_up < 1, "warm_up is a part of the training: 0 or more, less than 1")
        _require(0 < self.small_scale <= 1, "small_scale is a part of the side: more than 0, at most 1")
        _require(self.small_epochs < self.epochs, "small_epochs: at least one epoch must see whole images")
        devices = re.fullmatch(r"auto|cpu(:[1-9]\d*)?|[1-9]\d*|\d+(,\d+)+", self.devices)
        _require(devices is not None, f"devices {self.devices!r}: use auto, cpu, how many GPUs, or which ones, as 0,2")


def usual_learning_rate(optimizer: Optimizer, *, pretrained: bool) -> float:
    """Return a rate to start with; weights that know something already are changed more gently."""
    return LEARNING_RATES[optimizer] * (_PRETRAINED_SHARE if pretrained else 1.0)


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
