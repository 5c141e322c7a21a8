"""An archive without labels becomes pixels to learn from, by the same intake as a run. Start at `read_archive`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrbatch.config import Settings
from cxrbatch.errors import UsageError
from cxrbatch.intake.discover import index_file, walk
from cxrbatch.intake.patient import identify
from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.model.data.image_facts import PatientFinder, source_of
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.data.pixel_cache import fill_cache
from cxrbatch.model.data.pixels import ReportProgress
from cxrbatch.model.data.splits import hash_pixels
from cxrbatch.records import Header, InputSpec
from cxrbatch.system.stopping import stop_if_asked

UNREADABLE = "unreadable"
"""A file or folder that could not be opened; the other reasons are those of a run."""

# The part of the data that digests of patients are kept for: who looks for a model's patients looks there.
_PART = "train"


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """One file that nothing is learned from: its path below the archive, the reason's code, and the reason in words."""

    path: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Archive:
    """The radiographs of a folder.

    `images` has one for each picture, none of them labelled, all in the part "train". `pixels` are theirs, and
    `digests` (`hash_pixels`) too, in their order. `files` were met: images + refused + duplicates.
    """

    images: LabelledImages
    pixels: PixelSet
    digests: tuple[str, ...]
    files: int
    refused: tuple[RefusedFile, ...]
    duplicates: int

    @property
    def reasons(self) -> dict[str, int]:
        """How many files were refused, by reason, the most frequent first."""
        return dict(Counter(each.reason for each in self.refused).most_common())

    @property
    def sha256(self) -> str:
        """Identify the pictures, in their order."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()


def read_archive(
    folder: Path,
    spec: InputSpec,
    *,
    patient_pattern: str = "",
    workers: int = 0,
    report: ReportProgress | None = None,
) -> Archive:
    """Read every frontal chest radiograph below a folder; what a run would refuse is counted and left out.

    Args:
        folder: walked as INPUT of a run is: DICOM, PNG and JPEG by their content.
        spec: the input that they are fitted to.
        patient_pattern: finds the patient in a path where the file does not tell; "" knows the public collections.
        workers: processes; 0 takes one per core.
        report: told (images ready, images in all).

    Raises:
        UsageError: the folder cannot be listed.
        OutputNotWritable: the cache of prepared pixels cannot be written to.
    """
    samples, refused = _index(folder, PatientFinder(patient_pattern))
    files = len(samples) + len(refused)
    if not samples:
        return Archive(_unlabelled(folder, ()), _pixels(spec, ()), (), files, tuple(refused), 0)
    paths = [sample.path for sample in samples]
    pixels, bad = fill_cache(paths, spec, workers=workers, report=report, check=True)
    refused += [RefusedFile(_below(folder, each.path), each.code or UNREADABLE, each.reason) for each in bad]
    spoilt = {each.path for each in bad}
    rows: dict[str, int] = {}
    for row, path in enumerate(paths):
        if path not in spoilt:
            # The first of those that show the same picture, in the order of the walk.
            rows.setdefault(hash_pixels(pixels[row : row + 1])[0], row)
    kept = np.array(list(rows.values()), np.int64)
    return Archive(
        images=_unlabelled(folder, [samples[row] for row in rows.values()]),
        pixels=PixelSet(pixels, np.zeros((len(kept), 0), np.float32), rows=kept),
        digests=tuple(rows),
        files=files,
        refused=tuple(refused),
        duplicates=len(paths) - len(spoilt) - len(kept),
    )


def _index(folder: Path, finder: PatientFinder) -> tuple[list[Sample], list[RefusedFile]]:
    samples: list[Sample] = []
    refused: list[RefusedFile] = []
    settings, root = Settings(), folder.resolve()

    def unlistable(error: OSError) -> None:
        name = _below(root, Path(str(error.filename or root)))
        refused.append(RefusedFile(name, UNREADABLE, f"the folder cannot be listed: {error.strerror}"))

    try:
        for file in walk(root, on_error=unlistable):
            stop_if_asked()
            try:
                indexed = index_file(root, file, settings)
            except OSError as error:
                refused.append(RefusedFile(file.path, UNREADABLE, f"cannot be opened: {error.strerror}"))
                continue
            if indexed.rejection is not None:
                rejection = indexed.rejection
                refused.append(RefusedFile(file.path, rejection.reason.value, rejection.message))
            else:
                samples.append(_describe(root, root / file.path, indexed.header, finder))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be listed ({error.strerror}). Check that it is there.") from error
    return samples, refused


def _describe(root: Path, path: Path, header: Header, finder: PatientFinder) -> Sample:
    identity = identify(header)
    return Sample(
        path=path,
        split=_PART,
        targets=(),
        patient_id=identity.patient_id or finder.find(path),
        issuer=identity.issuer or identity.universal_issuer,
        source=source_of(path, root),
    )


def _unlabelled(folder: Path, samples: Sequence[Sample]) -> LabelledImages:
    return LabelledImages(folder.resolve(), (), tuple(samples))


def _pixels(spec: InputSpec, samples: Sequence[Sample]) -> PixelSet:
    return PixelSet(np.zeros((len(samples), *spec.shape), np.uint8), np.zeros((len(samples), 0), np.float32))


def _below(folder: Path, path: Path) -> str:
    root = folder.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
