"""Where and in which precision a training runs on this machine."""

from __future__ import annotations

import torch

from cxrbatch.errors import UsageError
from cxrbatch.model.train.options import Precision, TrainingOptions


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
