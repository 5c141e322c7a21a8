"""Radiographs of animals, by what their headers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxrbatch.config import Settings
from cxrbatch.errors import Flag
from cxrbatch.intake.read import inspect_file
from cxrbatch.intake.vocabulary import SpeciesFacts, is_animal
from tests.factories.intake import write_dicom

pytestmark = pytest.mark.hostile("9.10 what is no chest")


def code(value: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return Sequence([item])


def is_flagged(folder: Path, **keywords: Any) -> bool:
    inspection = inspect_file(write_dicom(folder / "a", **keywords), Settings())[1]
    assert inspection.rejection is None
    return Flag.VETERINARY in inspection.flags


@pytest.mark.parametrize(
    "keywords",
    [
        {"PatientSpeciesDescription": "Canine"},
        {"PatientSpeciesDescription": "Felis catus"},
        {"PatientSpeciesCodeSequence": code("448771007", "Canis lupus familiaris")},
        {"PatientBreedDescription": "Beagle"},
        {"PatientBreedCodeSequence": code("42453004", "Boxer")},
        {"PatientSexNeutered": "ALTERED"},
        {"ResponsiblePerson": "Smith^J", "ResponsiblePersonRole": "OWNER"},
        {"StudyDescription": "Dog thorax VD"},
        {"SeriesDescription": "CANINE CHEST"},
        {"ProtocolName": "Thorax Hund"},
    ],
    ids=str,
)
def test_whatever_says_that_it_is_an_animal_flags_the_image(keywords: dict[str, Any], tmp_path: Path) -> None:
    assert is_flagged(tmp_path, **keywords)


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"PatientSpeciesDescription": "Human"},
        {"PatientSpeciesDescription": "HOMO SAPIENS", "PatientSexNeutered": "UNALTERED"},
        {"PatientSpeciesDescription": "Unknown"},
        {"PatientSpeciesCodeSequence": code("337915000", "Homo sapiens")},
        {"PatientSpeciesCodeSequence": code("L-85B00", "")},
        {"PatientSpeciesDescription": "", "PatientBreedDescription": "N/A", "PatientSexNeutered": ""},
        {"ResponsiblePerson": "Smith^J", "ResponsiblePersonRole": "PARENT"},
        {"StudyDescription": "Chest, before CAT scan"},
        {"StudyDescription": "Chest, porcine valve, Dr. Katz"},
    ],
    ids=str,
)
def test_a_human_patient_is_not(keywords: dict[str, Any], tmp_path: Path) -> None:
    assert not is_flagged(tmp_path, **keywords)


def test_a_header_that_says_human_is_believed() -> None:
    facts = SpeciesFacts(species=("Human",), marks=("Beagle",), responsible="OWNER")
    assert not is_animal(facts, ("Dog bite",))
