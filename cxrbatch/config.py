"""Settings of one run: defaults < cxrbatch.toml < CXRBATCH_* variables < command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import msgspec

from cxrbatch.errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_FILE = "cxrbatch.toml"
ENVIRONMENT_PREFIX = "CXRBATCH_"

Backend = Literal["auto", "onnxruntime", "tensorrt", "tensorrt-rtx", "torch"]
PrecisionChoice = Literal["auto", "fp32", "fp16", "int8"]
GroupBy = Literal["file", "folder"]
AcceptView = Literal["frontal", "any"]
RetryChoice = Literal["failed", "rejected"]
MissingTags = Literal["accept", "refuse"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is asked to do. Every field is an option, a key of cxrbatch.toml and a CXRBATCH_ variable.

    `retry`: what a run tries again although it did not change: "failed" (always done), or "rejected" files too.
    `state`: folder for the ledger and its lock, on a local disk; empty is the output folder, or where it says.
    `engine`: path or name of an engine bundle; empty takes the only one that is installed.
    `precision`: which of the engine's files runs; "auto" is FP32 on a CPU.
    `workers`: processes that decode and print; 0 takes one per core. `threads`: engine threads, likewise.
    `limit`: at most that many studies in this run; 0 is all.
    `group_by`: a PNG or JPEG file is a study of its own, or all those of one folder are one study.
    `deidentify`: leave whatever names a patient out of all outputs; with `deidentify_existing`, also take it out of
    an output folder that has it.
    `input_emptied`: an input folder that lost all its files at once was emptied, and is no share that is not mounted.
    `max_display_px`: long side of the display image. `max_stored_px`: rows x columns beyond which a file
    is refused before anything is allocated. `min_stored_px`: shorter sides than this are thumbnails.
    `max_images_per_study`: further ones are refused, for the images of a study are in memory together.
    `accept_modality`, `accept_body_part`: comma-separated; modalities to score, and words for body parts to
    score beside the chest. `accept_view`: frontal views only, or any. `missing_tags`: what becomes of a file
    that says neither body part nor view. `pixel_check`: whether what is seen is compared with a chest.
    `decode_memory_mb`: address space that one worker may take for a file, beyond what it starts with.
    `infer_timeout_s`: how long the engine may take for a batch. `newest_first`: studies with the newest files first.
    `settle_s`, `max_wait_s`, `interval_s`, `retry_s`: for `watch`: how long a file must stay the same to count as
    all there; after how long a study is taken even so; how long between two looks at the input where nothing tells
    of news; and after how long what failed is tried again. `reload_engine`: whether `watch` takes up an engine
    that was replaced on disk.
    `metrics_port`: where `watch` answers on 127.0.0.1; None: nowhere.
    `log_max_mb`: size at which cxrbatch.log begins anew. `log_backups`: how many earlier ones are kept.
    """

    engine: str = ""
    backend: Backend = "auto"
    precision: PrecisionChoice = "auto"
    batch_size: int = 8
    threads: int = 0
    workers: int = 0
    limit: int = 0
    input_emptied: bool = False
    html: bool = True
    pdf: bool = True
    deidentify: bool = False
    deidentify_existing: bool = False
    group_by: GroupBy = "file"
    accept_modality: str = "CR,DX,RG"
    accept_body_part: str = ""
    accept_view: AcceptView = "frontal"
    missing_tags: MissingTags = "accept"
    pixel_check: bool = True
    max_display_px: int = 1024
    max_stored_px: int = 100_000_000
    min_stored_px: int = 64
    max_images_per_study: int = 100
    decode_timeout_s: float = 60.0
    print_timeout_s: float = 120.0
    decode_memory_mb: int = 1536
    infer_timeout_s: float = 300.0
    newest_first: bool = False
    settle_s: float = 60.0
    max_wait_s: float = 1800.0
    interval_s: float = 10.0
    retry_s: float = 900.0
    reload_engine: bool = False
    state: str = ""
    retry: RetryChoice = "failed"
    metrics_port: int | None = None
    log_max_mb: int = 20
    log_backups: int = 5

    def __post_init__(self) -> None:
        if self.deidentify_existing:
            object.__setattr__(self, "deidentify", True)
        for name in ("threads", "workers", "limit", "settle_s"):
            _require(getattr(self, name) >= 0, name, "must not be negative")
        for name in (
            "batch_size",
            "decode_timeout_s",
            "print_timeout_s",
            "min_stored_px",
            "decode_memory_mb",
            "max_images_per_study",
            "infer_timeout_s",
            "max_wait_s",
            "interval_s",
            "retry_s",
            "log_max_mb",
            "log_backups",
        ):
            _require(getattr(self, name) > 0, name, "must be greater than 0")
        _require(bool(self.accepted_modalities), "accept_modality", "must name a modality")
        _require(self.max_display_px >= 256, "max_display_px", "must be at least 256")

    @property
    def accepted_modalities(self) -> tuple[str, ...]:
        """The modalities to score, in capitals."""
        return _split(self.accept_modality.upper())

    @property
    def further_body_parts(self) -> tuple[str, ...]:
        """Words for body parts that are scored beside the chest."""
        return _split(self.accept_body_part)

    @property
    def worker_count(self) -> int:
        """How many worker processes to start."""
        return self.workers or available_cores()


def load_settings(
    options: Mapping[str, Any], *, config_file: Path | None = None, environment: Mapping[str, str] = os.environ
) -> Settings:
    """Merge the four sources of settings; in `options`, None means that the command line is silent.

    Args:
        options: what the command line says, by field name.
        config_file: a file named with --config; without it `cxrbatch.toml` in the working folder, if any.
        environment: where to look for CXRBATCH_ variables.

    Raises:
        ConfigurationError: a source is missing, names an unknown key or holds a value that does not fit.
    """
    sources: dict[str, Mapping[str, Any]] = {
        str(config_file or CONFIG_FILE): _read_file(config_file),
        "environment": _read_environment(environment),
        "command line": {name: value for name, value in options.items() if value is not None},
    }
    merged: dict[str, Any] = {}
    for source, values in sources.items():
        merged |= values
        _check(values, source)
    return msgspec.convert(merged, Settings, strict=False)


def _check(values: Mapping[str, Any], source: str) -> None:
    """Refuse values of one source that do not fit, also where a later source would overrule them."""
    try:
        msgspec.convert(values, Settings, strict=False)
    except (msgspec.ValidationError, ConfigurationError) as error:
        raise ConfigurationError(
            f"settings, {source}: {error}. See `cxrbatch run --help` for what each option takes."
        ) from None


def available_cores() -> int:
    """Return how many cores this process may use, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_file(named: Path | None) -> dict[str, Any]:
    path = named or Path(CONFIG_FILE)
    if named is None and not path.is_file():
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read as TOML: {error}") from error
    _refuse_unknown(content, str(path))
    return content


def _read_environment(environment: Mapping[str, str]) -> dict[str, str]:
    known = {f"{ENVIRONMENT_PREFIX}{field.name.upper()}": field.name for field in fields(Settings)}
    return {field: environment[variable] for variable, field in known.items() if variable in environment}


def _refuse_unknown(content: Mapping[str, Any], source: str) -> None:
    known = {field.name for field in fields(Settings)}
    if unknown := sorted(set(content) - known):
        raise ConfigurationError(f"{source}: unknown key {', '.join(unknown)}. Known keys: {', '.join(sorted(known))}.")


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _require(holds: bool, name: str, rule: str) -> None:
    if not holds:
        raise ConfigurationError(f"{name} {rule}")
