"""Engine bundles: a folder with engine.json and the files it vouches for. Start at `load_bundle`."""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec
import platformdirs

from cxrbatch.engine.bundle_file import (
    LARGEST_MANIFEST,
    read_file,
    require_schema,
    sha256_of_file as sha256_of_file,  # noqa: PLC0414  # asked for here by all
)
from cxrbatch.engine.plausible import require_file, require_finite, require_input, require_labels, require_name
from cxrbatch.errors import EngineError
from cxrbatch.records import EngineDescription, InputSpec, Label, Task
from cxrbatch.system import durable

ENGINE_FILE = "engine.json"
SCHEMA = 1
ENGINES_VARIABLE = "CXRBATCH_ENGINES"

Precision = Literal["fp32", "fp16", "int8"]
PENDING: Literal["pending"] = "pending"

# What `cxrbatch build` is told to make a role's file.
_BUILD_OPTIONS = {
    "onnx_fp16": "--precision fp16",
    "onnx_int8": "--precision int8",
    "plan": "--backend tensorrt",
    "plan_rtx": "--backend tensorrt-rtx",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchProfile:
    """The batch sizes that a plan takes, and the one it is fastest at."""

    min: int = 1
    opt: int = 32
    max: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ValueError(f"batch sizes must be 1 <= min <= opt <= max, not {self.min}, {self.opt}, {self.max}")


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What a TensorRT plan was built with, and the only GPUs and versions that it runs on.

    `compute_capabilities` such as ("8.9",). `gpu` names the GPU of the building machine; empty: built without one.
    `version_compatible` plans also run on later versions, `hardware_compatible` ones on any GPU from Ampere on.
    """

    tensorrt_version: str
    compute_capabilities: tuple[str, ...]
    gpu: str
    profile: BatchProfile
    version_compatible: bool = False
    hardware_compatible: bool = False


@dataclass(frozen=True, slots=True)
class EngineFile:
    """One file of a bundle: where it lies, relative to the bundle folder, and the SHA-256 of its bytes."""

    path: str
    sha256: str
    precision: Precision
    plan: PlanFacts | None = None

    def __post_init__(self) -> None:
        require_file(self.path, self.sha256)


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What the weights learned from, and how; kept in the checkpoint, copied to every bundle built of it.

    `images` counts per part of the data, e.g. {"train": 2000, "val": 400}. `recipe` identifies the data and
    the options: the same recipe gives the same weights. `options` are those of the training, by name.
    `figures` holds what was measured over all labels, e.g. {"macro_auroc": 0.97}, on the images that `measured_on`
    names, e.g. "val". `patients` identifies the patients of each part by a digest
    (`cxrbatch.model.data.labelled.patients_sha256`). `data_sha256` identifies the images, their labels and their
    parts. `init` says what the weights started from.
    """

    data: str = ""
    images: dict[str, int] = field(default_factory=dict)
    recipe: str = ""
    seed: int = 0
    seconds: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    measured_on: str = ""
    data_sha256: str = ""
    init: str = ""


@dataclass(frozen=True, slots=True)
class ParityFigures:
    """How far one file of the bundle is from the PyTorch FP32 reference, over `images` images.

    Changes are absolute differences of probabilities; `limit` is the largest change the gate lets pass.
    `heatmap_correlation` is the lowest Pearson correlation of a class activation map with the reference's; None
    where no map has any structure. `decision_flips` counts the verdicts that differ, `farthest_flip` is how far
    the reference's probability of such a verdict is from its operating point. `device` names the GPU, if any.
    """

    images: int
    source: str
    max_probability_change: float
    mean_probability_change: float
    limit: float
    heatmap_correlation: float | None = None
    decision_flips: int = 0
    farthest_flip: float = 0.0
    device: str = ""


@dataclass(frozen=True, slots=True)
class AccuracyFigures:
    """What one file of the bundle loses against the PyTorch FP32 reference on `images` labelled images.

    `auroc` is the mean over the labels that the images can tell, `auroc_reference` that of the reference; `limit`
    is the largest drop that the gate lets pass, `worst_drop` the largest drop of a single label.
    """

    images: int
    source: str
    auroc_reference: float
    auroc: float
    worst_drop: float
    limit: float

    @property
    def drop(self) -> float:
        """How much mean AUROC is lost; negative where some is won."""
        return self.auroc_reference - self.auroc


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What engine.json says; `files`, `parity` and `accuracy` are keyed by role.

    Roles: onnx, onnx_fp16, onnx_int8, plan, plan_rtx, checkpoint, and parity_images for what the gate looks at on
    the machine that first loads a plan whose parity is "pending": the machine that built it could not run it.
    """

    schema: int = SCHEMA
    name: str
    created: str
    architecture: str
    task: Task
    labels: tuple[Label, ...]
    input: InputSpec
    files: dict[str, EngineFile]
    output_stride: int = 32
    training: TrainingFacts = field(default_factory=TrainingFacts)
    parity: dict[str, ParityFigures | Literal["pending"]] = field(default_factory=dict)
    accuracy: dict[str, AccuracyFigures] = field(default_factory=dict)
    notice: str = ""

    def __post_init__(self) -> None:
        require_name("the engine", self.name)
        require_labels(self.labels)
        require_input(self.input)
        if not 1 <= self.output_stride <= self.input.size_px:
            raise ValueError("output_stride must be from 1 to the input's size_px")
        require_finite("figures", self.training.figures.values())


@dataclass(frozen=True, slots=True)
class EngineBundle:
    """A bundle on disk: its folder and its manifest. Nothing in it is trusted before `read_verified`."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The engine's name, as reports print it."""
        return self.manifest.name

    @property
    def labels(self) -> tuple[Label, ...]:
        """The findings, in the order of the graph's outputs."""
        return self.manifest.labels

    @property
    def input(self) -> InputSpec:
        """What the engine wants to see."""
        return self.manifest.input

    def file(self, role: str) -> EngineFile:
        """Return the manifest's entry for `role`.

        Raises:
            EngineError: this bundle has no such file.
        """
        if role not in self.manifest.files:
            has = ", ".join(sorted(self.manifest.files)) or "no files"
            mend = self.rebuild_with(role) if role in _BUILD_OPTIONS else self.mend
            raise EngineError(f"{self.folder}: engine {self.name} has no {role} file (it has {has}). {mend}")
        return self.manifest.files[role]

    def verified_file(self, role: str) -> Path:
        """Return the path of the role's file after checking that it is the one the bundle was built with.

        Raises:
            EngineError: missing, outside the bundle folder, or its SHA-256 differs.
        """
        entry = self.file(role)
        path = self._path_inside(entry)
        with _explained(path, self.mend):
            found = sha256_of_file(path)
        self._check_sha256(path, entry, found)
        return path

    def read_verified(self, role: str) -> bytes:
        """Return the bytes of the role's file; the very bytes that were hashed, so none can be swapped in between.

        Raises:
            EngineError: missing, outside the bundle folder, or their SHA-256 differs.
        """
        entry = self.file(role)
        path = self._path_inside(entry)
        with _explained(path, self.mend):
            content = read_file(path)
        self._check_sha256(path, entry, hashlib.sha256(content).hexdigest())
        return content

    def describe(self, role: str, backend: str) -> EngineDescription:
        """Describe the engine that runs the role's file on `backend`.

        Its identity is the SHA-256 of that file's SHA-256 and of everything in the manifest that decides a
        verdict: task, input, and the labels without their metrics. Another operating point is another engine.
        """
        entry, manifest = self.file(role), self.manifest
        deciding = (entry.sha256, manifest.task, manifest.input, [replace(label, metrics={}) for label in self.labels])
        return EngineDescription(
            name=manifest.name,
            sha256=hashlib.sha256(msgspec.json.encode(deciding)).hexdigest(),
            backend=backend,
            precision=entry.precision,
            architecture=manifest.architecture,
            task=manifest.task,
            labels=manifest.labels,
            input=manifest.input,
            created=manifest.created,
            notice=manifest.notice,
            training=msgspec.to_builtins(manifest.training),
        )

    @property
    def mend(self) -> str:
        """The sentence that says how to get this bundle whole again."""
        return f"Build it again: cxrbatch build CHECKPOINT -n {shlex.quote(self.name)}"

    def rebuild_with(self, role: str) -> str:
        """Return the sentence that says how to build this bundle with the role's file on this machine."""
        options = [_BUILD_OPTIONS[role]]
        checkpoint = "CHECKPOINT"
        if entry := self.manifest.files.get("checkpoint"):
            checkpoint = shlex.quote(str(self.folder / entry.path))
            options.insert(0, f"--engines {shlex.quote(str(self.folder.parent))}")
        return f"Build it again here: cxrbatch build {checkpoint} -n {shlex.quote(self.name)} {' '.join(options)}"

    def _path_inside(self, entry: EngineFile) -> Path:
        relative = PurePosixPath(entry.path)
        path = self.folder / relative
        try:
            inside = path.resolve().is_relative_to(self.folder.resolve())
        except (OSError, RuntimeError):  # a link that leads back to itself
            inside = False
        if relative.is_absolute() or ".." in relative.parts or not inside:
            raise EngineError(f"{self.folder / ENGINE_FILE}: file {entry.path} lies outside the bundle. {self.mend}")
        return path

    def _check_sha256(self, path: Path, entry: EngineFile, found: str) -> None:
        if found != entry.sha256:
            raise EngineError(
                f"{path}: not the file this engine was built with (SHA-256 {found[:16]}, "
                f"expected {entry.sha256[:16]}). {self.mend}"
            )


def load_bundle(folder: Path) -> EngineBundle:
    """Read the manifest of the bundle in `folder`.

    Raises:
        EngineError: no engine.json there, it cannot be understood, or a newer cxrbatch wrote it.
    """
    path = folder / ENGINE_FILE
    try:
        content = read_file(path, largest=LARGEST_MANIFEST)
        schema = msgspec.json.decode(content, type=_SchemaOnly).schema
        require_schema(path, schema, SCHEMA)
        return EngineBundle(folder, msgspec.json.decode(content, type=Manifest))
    except FileNotFoundError:
        raise EngineError(
            f"{folder}: no engine here (no {ENGINE_FILE}). `cxrbatch engines` lists those found."
        ) from None
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        again = f"cxrbatch build CHECKPOINT -n {shlex.quote(folder.name)}"
        raise EngineError(f"{path}: damaged: {error}. Build the engine again: {again}") from None


def save_bundle(folder: Path, manifest: Manifest) -> EngineBundle:
    """Write engine.json, the last file of a bundle: a folder without it is no engine."""
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    durable.replace_bytes(folder / ENGINE_FILE, content + b"\n")
    return EngineBundle(folder, manifest)


def find_bundle(name_or_path: str) -> EngineBundle:
    """Look an engine up: as a path, then by name in `engine_folders()`; empty is the only one installed.

    Raises:
        EngineError: none or, for an empty name, several are there; or the one found is damaged.
    """
    if not name_or_path:
        return _only_bundle()
    named = Path(name_or_path)
    if _is_engine(named):
        return load_bundle(named)
    for folder in engine_folders():
        # A name is one step below an engines folder; with separators in it, it is a path.
        if named.name == name_or_path and _is_engine(folder / named):
            return load_bundle(folder / named)
    raise EngineError(f"no engine {name_or_path}. {_what_is_installed()}")


def installed_folders() -> list[Path]:
    """Return the folders of all bundles, in the order of the look-up; a name found earlier hides a later one."""
    found: dict[str, Path] = {}
    for folder in engine_folders():
        for manifest in sorted(folder.glob(f"*/{ENGINE_FILE}")):
            found.setdefault(manifest.parent.name, manifest.parent)
    return list(found.values())


def installed_bundles() -> list[EngineBundle]:
    """Return every installed bundle that can be read; a damaged one is logged and left out."""
    loaded = (_load_or_log(folder) for folder in installed_folders())
    return [bundle for bundle in loaded if bundle is not None]


def engine_folders() -> list[Path]:
    """Return where bundles are looked up by name: $CXRBATCH_ENGINES, ./engines, the user's data folder."""
    from_environment = os.environ.get(ENGINES_VARIABLE, "")
    named = [Path(entry) for entry in from_environment.split(os.pathsep) if entry]
    return [*named, Path("engines"), user_engines_folder()]


def user_engines_folder() -> Path:
    """Return the engines folder that belongs to this user."""
    return platformdirs.user_data_path("cxrbatch") / "engines"


@dataclass(frozen=True, slots=True)
class _SchemaOnly:
    schema: int


class _explained:  # noqa: N801  # reads as a clause of the with statement it opens
    """Turn an OSError about an engine file into an EngineError that says how to mend it."""

    def __init__(self, path: Path, mend: str) -> None:
        self._path, self._mend = path, mend

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise EngineError(f"{self._path}: missing from its engine bundle. {self._mend}") from None
        if isinstance(error, OSError):
            raise EngineError(f"{self._path}: cannot be read: {error.strerror}") from error


def _is_engine(folder: Path) -> bool:
    try:
        return (folder / ENGINE_FILE).is_file()
    except (OSError, ValueError):  # a name that no folder can have
        return False


def _only_bundle() -> EngineBundle:
    folders = installed_folders()
    if len(folders) != 1:
        asked = "several engines are installed; choose one with --engine" if folders else "no engine is installed"
        raise EngineError(f"{asked}. {_what_is_installed()}")
    return load_bundle(folders[0])


def _what_is_installed() -> str:
    if folders := installed_folders():
        return "Installed: " + ", ".join(f"{folder.name} ({folder})" for folder in folders) + "."
    looked_in = ", ".join(str(folder) for folder in engine_folders())
    return (
        f"Looked in {looked_in}. `cxrbatch demo` makes a demo engine, "
        f"`cxrbatch build CHECKPOINT -n NAME` builds one from a checkpoint."
    )


def _load_or_log(folder: Path) -> EngineBundle | None:
    try:
        return load_bundle(folder)
    except EngineError as error:
        log.warning("%s", error)
        return None
