"""A folder such as a PACS exports: invented patients' studies, with the troubles such folders have."""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cxrbatch.phantom.dicom import TRANSFER_SYNTAXES, PhantomIdentity, Photometric, View, write_phantom_dicom
from cxrbatch.phantom.draw import Phantom, draw_lateral, draw_phantom
from cxrbatch.phantom.lesions import FINDINGS
from cxrbatch.system.durable import make_folder, replace_text

Expected = Literal["scored", "not_frontal", "truncated_pixels", "not_an_image"]

# Any fixed UUID will do: study, series and instance UIDs are derived from it and the seed (RFC 9562, version 5).
_NAMESPACE = uuid.UUID("6b2d9c52-5df0-4f6a-9c0e-6a8a4f0b7d11")
_SEED_STRIDE = 1_000_000
# Demo studies take seeds from the far end of a seed's range, where no training set reaches.
_FIRST_STUDY = 900_000

_GIVEN_NAMES = {
    "F": (
        "Ada", "Dorothy", "Emmy", "Florence", "Grace", "Hedy", "Katherine", "Marie", "Rosalind", "Sofia", "Ursula",
        "Virginia",
    ),
    "M": (
        "Blaise", "Carl", "Isaac", "Johannes", "Leonhard", "Niels", "Otto", "Pierre", "Tycho", "Wilhelm",
    ),
}  # fmt: skip
_IMAGE_SHAPES = (1.0, 0.83, 1.2)  # columns over rows: square, portrait and landscape detectors


@dataclass(frozen=True, slots=True)
class DemoImage:
    """One file of the demo folder and what is true of it.

    `path` is relative to the folder, `/`-separated. `expected` is "scored" or the reason code with which
    intake must refuse it; `view` and `sop_instance_uid` are empty for a file that is no image.
    """

    path: str
    sop_instance_uid: str
    view: str
    findings: tuple[str, ...]
    expected: Expected


@dataclass(frozen=True, slots=True)
class DemoStudy:
    """One study of the demo folder."""

    study_instance_uid: str
    images: tuple[DemoImage, ...]

    @property
    def findings(self) -> tuple[str, ...]:
        """What is wrong with this patient, as seen on the images to be scored."""
        shown = {name for image in self.images if image.expected == "scored" for name in image.findings}
        return tuple(name for name in FINDINGS if name in shown)


def write_demo_studies(
    folder: Path, *, n_studies: int, seed: int, rows: int = 1024, progress: Callable[[int], None] | None = None
) -> list[DemoStudy]:
    """Write a tree patient/study/series/file of DX studies in both polarities and every transfer syntax.

    Of every eight studies one has a second frontal image, one a lateral view, one a file that broke off
    in its pixel data and one a text that calls itself .dcm.

    Args:
        folder: created where missing.
        n_studies: how many; each is of another patient.
        seed: the same seed writes the same pixels and UIDs.
        rows: height of the images; widths vary.
        progress: called with the number of studies written so far.
    """
    studies = []
    for index in range(n_studies):
        studies.append(_StudyWriter(folder, seed, index, rows).write())
        if progress is not None:
            progress(len(studies))
    return studies


def write_truth(path: Path, studies: list[DemoStudy]) -> None:
    """Write what is true of every demo file as CSV; keep it outside the folder that will be scored."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "study_uid", "sop_uid", "view", "expected", "findings", *FINDINGS])
    for study in studies:
        for image in study.images:
            present = [int(name in image.findings) for name in FINDINGS]
            identity = [image.path, study.study_instance_uid, image.sop_instance_uid, image.view, image.expected]
            writer.writerow([*identity, "|".join(image.findings), *present])
    replace_text(path, table.getvalue())


@dataclass(frozen=True, slots=True)
class _StudyWriter:
    folder: Path
    seed: int
    index: int
    rows: int

    def write(self) -> DemoStudy:
        images = [self._frontal(1)]
        trouble = self.index % 8
        if trouble == 1:
            images.append(self._lateral(2))
        elif trouble == 2:
            images.append(self._frontal(2))
        elif trouble == 4:
            images.append(self._broken_off(2))
        elif trouble == 6:
            images.append(self._text(2))
        return DemoStudy(self._uid("study"), tuple(images))

    @property
    def _phantom_seed(self) -> int:
        return self.seed * _SEED_STRIDE + _FIRST_STUDY + self.index

    @property
    def _columns(self) -> int:
        return round(self.rows * _IMAGE_SHAPES[self.index % len(_IMAGE_SHAPES)])

    @property
    def _photometric(self) -> Photometric:
        # Moves on by one after every round of transfer syntaxes, so that each meets both polarities.
        return "MONOCHROME1" if (self.index + self.index // len(TRANSFER_SYNTAXES)) % 2 else "MONOCHROME2"

    @property
    def _transfer_syntax(self) -> str:
        return list(TRANSFER_SYNTAXES)[self.index % len(TRANSFER_SYNTAXES)]

    def _frontal(self, number: int) -> DemoImage:
        phantom = draw_phantom(self._phantom_seed, rows=self.rows, columns=self._columns, take=number - 1)
        path, identity = self._place(number, "PA", phantom)
        write_phantom_dicom(
            path, phantom, identity, photometric=self._photometric, transfer_syntax=self._transfer_syntax
        )
        return self._described(path, identity, "PA", phantom.findings, "scored")

    def _lateral(self, number: int) -> DemoImage:
        phantom = draw_lateral(self._phantom_seed, rows=self.rows, columns=self._columns)
        path, identity = self._place(number, "LL", phantom)
        write_phantom_dicom(path, phantom, identity, view="LL", transfer_syntax=self._transfer_syntax)
        return self._described(path, identity, "LL", (), "not_frontal")

    def _broken_off(self, number: int) -> DemoImage:
        """Write a frontal image of which, as after a lost connection, only the first part arrived."""
        phantom = draw_phantom(self._phantom_seed, rows=self.rows, columns=self._columns, take=number - 1)
        path, identity = self._place(number, "PA", phantom)
        write_phantom_dicom(path, phantom, identity)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 6 // 10])
        return self._described(path, identity, "PA", phantom.findings, "truncated_pixels")

    def _text(self, number: int) -> DemoImage:
        path = self._series_folder("PA") / f"I{number:04d}.dcm"
        path.write_text("The image could not be retrieved from the archive.\n", encoding="utf-8")
        return DemoImage(path.relative_to(self.folder).as_posix(), "", "", (), "not_an_image")

    def _series_folder(self, view: View) -> Path:
        series = self.folder / f"P{self.index:05d}" / "ST0001" / f"SE{_SERIES_NUMBER[view]:04d}"
        make_folder(series)
        return series

    def _place(self, number: int, view: View, phantom: Phantom) -> tuple[Path, PhantomIdentity]:
        """Return where an image goes and who it is."""
        rng = np.random.default_rng([self.seed, self.index])
        days = int(rng.integers(0, 365))
        taken = np.datetime64("2024-01-01") + np.timedelta64(days, "D")
        born = taken - np.timedelta64(phantom.age * 365 + phantom.age // 4 + int(rng.integers(10, 350)), "D")
        names = _GIVEN_NAMES[phantom.sex]
        given = names[self.index % len(names)]
        identity = PhantomIdentity(
            patient_name=f"Phantom^{given}",
            patient_id=f"PHANTOM-{self.seed}-{self.index:05d}",
            patient_birth_date=str(born).replace("-", ""),
            accession_number=f"A{self.seed % 1000:03d}{self.index:07d}",
            study_date=str(taken).replace("-", ""),
            study_time=f"{7 + self.index // 6 % 12:02d}{10 * (self.index % 6):02d}{number:02d}",
            study_instance_uid=self._uid("study"),
            series_instance_uid=self._uid("series", view),
            sop_instance_uid=self._uid("instance", view, number),
            series_number=_SERIES_NUMBER[view],
            instance_number=number,
        )
        return self._series_folder(view) / f"I{number:04d}.dcm", identity

    def _described(
        self, path: Path, identity: PhantomIdentity, view: View, findings: tuple[str, ...], expected: Expected
    ) -> DemoImage:
        return DemoImage(path.relative_to(self.folder).as_posix(), identity.sop_instance_uid, view, findings, expected)

    def _uid(self, *what: object) -> str:
        name = "/".join(str(part) for part in (self.seed, self.index, *what))
        return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


_SERIES_NUMBER: dict[View, int] = {"PA": 1, "LL": 2}
