"""An engine's bundle: a folder with engine.json and the files it vouches for. Start at `load_bundle`."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import msgspec

from cxrbatch.engine.cells import earlier_cells
from cxrbatch.engine.int8_gate import INT8, int8_in_words
from cxrbatch.engine.manifest import SCHEMA, EngineFile, Manifest
from cxrbatch.engine.untrusted import LARGEST_MANIFEST, read_file, require_schema, sha256_of_file
from cxrbatch.engine.verified_file import VerifiedFile
from cxrbatch.errors import EngineError
from cxrbatch.records import EngineDescription, InputSpec, Label, VerdictRule, usual_rule
from cxrbatch.system import durable

ENGINE_FILE = "engine.json"

# What `cxrbatch build` is told to make a role's file.
_BUILD_OPTIONS = {
    "onnx_fp16": "--precision fp16",
    "onnx_int8": "--precision int8",
    "plan": "--backend tensorrt",
    "plan_rtx": "--backend tensorrt-rtx",
}


@dataclass(frozen=True, slots=True)
class EngineBundle:
    """A bundle on disk: its folder and its manifest. Nothing in it is trusted before `read_verified`."""

    folder: Path
    manifest: Manifest
    _kept: dict[str, VerifiedFile] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        with self.open_verified(role) as verified, _explained(self.folder / self.file(role).path, self.mend):
            return verified.read()

    def open_verified(self, role: str) -> VerifiedFile:
        """Open the role's file, hashed, for a library that loads it by a path; to be closed.

        Raises:
            EngineError: as `read_verified`.
        """
        if (kept := self._kept.pop(role, None)) is not None:
            return kept
        entry = self.file(role)
        path = self._path_inside(entry)
        with _explained(path, self.mend):
            verified = VerifiedFile(path)
        try:
            self._check_sha256(path, entry, verified.sha256)
        except EngineError:
            verified.close()
            raise
        return verified

    def keep_verified(self, role: str) -> None:
        """Verify the role's file and keep it open for the next that opens or reads it, which then hashes nothing.

        Raises:
            EngineError: as `read_verified`.
        """
        self._kept[role] = self.open_verified(role)

    def close(self) -> None:
        """Close what `keep_verified` keeps open for nobody any more."""
        for verified in self._kept.values():
            verified.close()
        self._kept.clear()

    @property
    def verdict_rule(self) -> VerdictRule:
        """How its probabilities become findings."""
        return self.manifest.verdict or usual_rule(self.manifest.task, self.labels)

    def describe(self, role: str, backend: str) -> EngineDescription:
        """Describe the engine that runs the role's file on `backend`.

        Its identity is the SHA-256 of that file's SHA-256 and of everything in the manifest that decides a
        verdict: task, input, the labels without what was measured of them, and the rule. Another operating point is
        another engine. What lies in every result is kept small: only a label without a verdict has its `reference`.
        """
        entry, manifest = self.file(role), self.manifest
        rule = self.verdict_rule
        deciding = (entry.sha256, manifest.task, manifest.input, [_deciding(label) for label in self.labels])
        labels = (
            replace(each, reference=each.reference if each.operating_point is None else ()) for each in self.labels
        )
        return EngineDescription(
            name=manifest.name,
            # Thresholds are what every engine had: those keep the identity under which their studies were scored.
            sha256=hashlib.sha256(
                msgspec.json.encode(deciding if rule == "threshold" else (*deciding, rule))
            ).hexdigest(),
            backend=backend,
            precision=entry.precision,
            architecture=manifest.architecture,
            task=manifest.task,
            labels=tuple(labels),
            input=manifest.input,
            created=manifest.created,
            notice=manifest.notice,
            training=msgspec.to_builtins(manifest.training),
            verdict=rule,
            cells=manifest.cells,
            extra_outputs=manifest.extra_outputs,
            gate=int8_in_words(manifest) if role == INT8 else "",
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


def _deciding(label: Label) -> dict[str, object]:
    """Return what of a label decides a verdict, in the very form of the first version: the identity hangs on it."""
    return {
        "name": label.name,
        "operating_point": label.operating_point,
        "urgent": label.urgent,
        "normal": label.normal,
        "metrics": {},
    }


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
        return EngineBundle(folder, _with_cells(msgspec.json.decode(content, type=Manifest)))
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


def _with_cells(manifest: Manifest) -> Manifest:
    """Give the manifest of an earlier version the grid of its maps."""
    if manifest.cells is not None:
        return manifest
    earlier = earlier_cells(manifest.architecture, manifest.output_stride, manifest.training.data)
    return replace(manifest, cells=earlier)


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
