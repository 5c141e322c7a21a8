"""What tables, file names and DICOM headers tell of a patient, in the words of a `Sample`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from cxrbatch.config import Settings
from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.kind import Kind
from cxrbatch.intake.patient import age_years, identify
from cxrbatch.intake.read import inspect_file
from cxrbatch.model.data.labelled import Sample

RASTER_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
# The NIH table of 2017 has ages up to 414, typing errors all of them.
OLDEST_YEARS = 120.0

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "calibration": "calibration",
    "calibrate": "calibration",
    "calib": "calibration",
    "test": "test",
    "testing": "test",
}
_PATIENT_PATTERNS = (
    re.compile(r"(?:^|/)(\d{8})_\d{3}\.\w+$"),  # NIH ChestX-ray14: 00000150_002.png
    re.compile(r"(?:^|/)(patient\d{5,})/"),  # CheXpert: patient00001/study1/view1_frontal.jpg
    re.compile(r"(?:^|/)(p\d{8})/s\d{8}/"),  # MIMIC-CXR: p10000032/s50414267/02aa804e.jpg
    # Kermany et al. 2018 number bacterial and viral cases apart: person12_bacteria_46.jpeg
    re.compile(r"(?:^|/)(person\d+_(?:bacteria|virus))_\d+\.\w+$"),
)
# Collections of published cases, such as that of Cohen et al. 2020, name the publication before figure and panel. The
# figures of one are often of one patient on different days, so they stay together; whose they are nobody says.
_FOUR_DIGITS = r"(?=(?:[^/]*?\d){4})"
_PUBLICATIONS = (
    re.compile(r"^(1-s2\.0-S[\dX]{16})"),  # Elsevier: 1-s2.0-S0929664620300449-gr2_lrg-a.jpg
    re.compile(r"^([^/]+?)\.pdf-\d{3}"),  # a page of a file: ciaa199.pdf-001-a.jpg
    # ryct.2020200034.fig5-day0, 41591_2020_819_Fig1_HTML.webp-day10, nejmoa2001191_f1-PA, kjr-21-e24-g001-l-a
    re.compile(rf"^{_FOUR_DIGITS}([^/]*?\d[^/]*?)[-_.](?:fig(?:ure)?|gr?|f)[-_]?\d", re.IGNORECASE),
    re.compile(r"^auntminnie-[a-z]-([^/]+)\.\w+$"),  # auntminnie-b-2020_01_28_23_51_6665_2020_01_28_Vietnam.jpg
    re.compile(r"^([a-z-]*covid-19-pneumonia-\d+)\b"),  # a case of Radiopaedia: covid-19-pneumonia-15-PA.jpg
    # Not published, but numbered likewise: IM-0115-0001.jpeg, NORMAL2-IM-0376-0001-0002.jpeg of Kermany et al. 2018.
    re.compile(r"^((?:NORMAL2-)?IM-\d{4})-\d{4}(?:-\d{4})?\.\w+$"),
)


@dataclass(frozen=True, slots=True)
class PatientFinder:
    """Finds the patient in an image's path: by one's own pattern, or those of the public collections."""

    pattern: str = ""

    def find(self, path: PurePath) -> str:
        """Return the patient's id, or "" where the path does not tell."""
        patterns = (re.compile(self.pattern),) if self.pattern else _PATIENT_PATTERNS
        found = (pattern.search(path.as_posix()) for pattern in patterns)
        return next((match[1] for match in found if match), "")

    def find_group(self, path: PurePath) -> str:
        """Return the publication that the image is a figure of, or "" where its name does not tell."""
        if self.pattern:
            return ""
        found = (pattern.search(path.name) for pattern in _PUBLICATIONS)
        return next((match[1].casefold() for match in found if match), "")


def split_of(name: str) -> str:
    """Return the part that a folder, a table or a cell names, or "" if it names none."""
    return _SPLIT_NAMES.get(name.strip().casefold(), "")


def age_of(text: str) -> float | None:
    """Return an age in years, from `58`, `58.0` or DICOM's `058Y`; None where it makes no sense."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*Y?\s*", text, re.IGNORECASE)
    years = float(match[1]) if match else None
    return years if years is not None and years <= OLDEST_YEARS else None


def sex_of(text: str) -> str:
    """Return M, F, or "" where it is neither."""
    return letter if (letter := text.strip()[:1].upper()) in {"M", "F"} else ""


def view_of(text: str) -> str:
    """Return a view position in capitals, such as PA or LATERAL."""
    return text.strip().upper()


def is_lateral(view: str) -> bool:
    """Tell whether a table calls this view no frontal one; inference would refuse it, so training does too."""
    return view in {"L", "LL", "RL", "LAT", "LATERAL"}


def describe_dicom(sample: Sample) -> Sample | None:
    """Add what the image's DICOM header tells; None for a lateral image and for a file that is no image at all.

    A damaged image stays: preparing its pixels will name it. PNG and JPEG tell nothing.
    """
    if sample.path.suffix.lower() in RASTER_SUFFIXES:
        return sample
    try:
        kind, inspection = inspect_file(sample.path, Settings())
    except ImageRejected:
        return sample if sample.path.suffix.lower() in {".dcm", ".dicom"} else None
    if kind is not Kind.DICOM:
        return sample
    if inspection.rejection and inspection.rejection.reason is Reason.NOT_FRONTAL:
        return None
    header = inspection.header
    identity = identify(header)
    return replace(
        sample,
        patient_id=sample.patient_id or identity.patient_id,
        issuer=sample.issuer or identity.issuer or identity.universal_issuer,
        study=sample.study or header.study_instance_uid,
        age=sample.age if sample.age is not None else age_years(header),
        sex=sample.sex or sex_of(header.patient_sex),
        view=sample.view or view_of(header.view),
    )


def source_of(path: Path, root: Path) -> str:
    """Return the folder below `root` that an image lies in; "" at its top."""
    folder = path.parent
    return "" if folder == root else (folder.relative_to(root) if folder.is_relative_to(root) else folder).as_posix()
