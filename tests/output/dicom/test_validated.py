"""Every object of every kind, of headers with all sorts of gaps and scripts, as dicom3tools and dcmtk judge it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian

from cxrbatch.intake.dicom.dicom_file import parse_dicom
from cxrbatch.intake.dicom.read_dicom import read_header
from cxrbatch.output.dicom.objects import ObjectParts, render_objects
from cxrbatch.output.report.pictures import draw_study
from cxrbatch.records import Header, Label, StudyResult
from cxrbatch.system.record_json import from_json, to_json
from tests.factories.intake import blobs, dataset
from tests.factories.objects import INSTANCE, SOURCE, errors_in, make_dicom_result, needs_dciodvfy
from tests.factories.output import make_pixels
from tests.output.dicom.test_identity import NAMES

CHEST = Path(os.environ.get("CXRBATCH_SHARED_DATA", "/nowhere")) / "dicom" / "chest"
KINDS = ("sr", "sc", "pdf")
# Attributes of the source that objects copy, or that are of type 2 in what they are made of (PS3.3 A.2.3, A.26.3).
TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "PatientOrientation", "Laterality", "Modality"),
)
# What dcmtk says of UTF-8 and of code extensions: that it cannot check them, and shows them as they are.
KNOWS_NOT = ("The VR checker does not support this Specific Character Set", "unknown/unsupported SpecificCharacterSet")
needs_dcmtk = pytest.mark.skipif(shutil.which("dsrdump") is None, reason="dcmtk is not installed (dsrdump)")


def header_of(source: pydicom.Dataset) -> Header:
    """Return what cxrbatch reads of a source."""
    stream = BytesIO()
    source.save_as(stream)
    return read_header(parse_dicom(stream.getvalue(), stream.tell()))


def real_headers() -> Iterator[tuple[str, Header]]:
    """Yield the header of each radiograph, as it is, with each attribute missing, and with all of them."""
    for path in sorted(CHEST.glob("*.dcm")) if CHEST.is_dir() else []:
        whole = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        for missing in [(), *((keyword,) for keyword in TYPE_2), TYPE_2]:
            source = pydicom.Dataset(whole)
            source.file_meta = pydicom.dataset.FileMetaDataset()
            source.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            source.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID
            source.file_meta.MediaStorageSOPInstanceUID = whole.SOPInstanceUID
            for keyword in missing:
                if keyword in source:
                    del source[keyword]
            yield f"{path.stem} without {'+'.join(missing) or 'nothing'}", header_of(source)


def result_of(header: Header) -> StudyResult:
    made = make_dicom_result(((0.9, 0.2, 0.1),))
    return replace(made, images=(replace(made.images[0], header=header),))


def cases() -> Iterator[tuple[str, StudyResult]]:
    yield from ((name, result_of(header)) for name, header in real_headers())
    for parameters in NAMES:
        terms: Any
        name: Any
        terms, name = parameters.values
        source = replace(SOURCE, character_set=terms, referring_physician=name)
        yield f"name in {parameters.id}", make_dicom_result(patient_name=name, source=source)
        yield (
            f"labels and a name in {parameters.id}",
            make_dicom_result(((0.9,),), labels=[Label("気胸", 0.5)], patient_name=name, source=source),
        )
    two = make_dicom_result(((0.9, 0.2, 0.1), (0.3, 0.4, 0.5)))
    twin = replace(two.images[1], header=replace(two.images[1].header, sop_instance_uid=f"{INSTANCE}.1"))
    yield "two images", two
    yield "two images of one instance", replace(two, images=(two.images[0], twin))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the objects of each case, by its name."""
    root, found = tmp_path_factory.mktemp("objects"), {}
    drawn: dict[tuple[int, int], Any] = {}
    for number, (name, result) in enumerate(cases()):
        shape = len(result.images), len(result.engine.labels)
        if shape not in drawn:
            drawn[shape] = draw_study(result, [make_pixels(shape[1]) for _ in result.images])
        images = [
            replace(image, image_file=like.image_file, heatmaps=like.heatmaps)
            for image, like in zip(result.images, drawn[shape].result.images, strict=True)
        ]
        shown = replace(result, images=tuple(images))
        parts = ObjectParts(drawn[shape].pictures, b"%PDF-1.7 of some odd length")
        # One attribute more or less is the same to all kinds; overlays take time.
        kinds = ("sr", "pdf") if " without " in name and not name.endswith(("nothing", "+Modality")) else KINDS
        objects = render_objects(shown, parts, kinds, "all")
        assert render_objects(shown, parts, ("sr", "pdf"), "all").items() <= objects.items(), "the same bytes again"
        found[name] = root / str(number)
        found[name].mkdir()
        for file, content in objects.items():
            (found[name] / file).write_bytes(content)
    return found


def complaints(program: str, *arguments: str | Path) -> list[str]:
    """Return the errors and warnings that a tool prints of files."""
    judged = subprocess.run([program, *arguments], capture_output=True, check=False)
    lines = judged.stderr.decode("utf-8", "replace").splitlines()
    said = [line for line in lines if line.startswith(("Error", "E:", "W:", "F:"))]
    return said + [f"exit code {judged.returncode}"] * bool(judged.returncode)


@needs_dciodvfy
def test_dciodvfy_finds_no_error_in_any_object(folders: dict[str, Path]) -> None:
    found = {f"{name}: {path.name}": errors_in(path) for name, folder in folders.items() for path in folder.iterdir()}
    assert {name: errors for name, errors in found.items() if errors} == {}
    assert len(found) > 2 * len(folders)


@needs_dciodvfy
def test_dcentvfy_finds_the_objects_of_a_study_at_one(folders: dict[str, Path]) -> None:
    found = {name: complaints("dcentvfy", *sorted(folder.iterdir())) for name, folder in folders.items()}
    assert {name: said for name, said in found.items() if said} == {}


@needs_dcmtk
def test_dsrdump_reads_every_structured_report(folders: dict[str, Path]) -> None:
    paths = [folder / "sr.dcm" for folder in folders.values()]
    assert [line for line in complaints("dsrdump", *paths) if not any(each in line for each in KNOWS_NOT)] == []


@needs_dcmtk
def test_dsrdump_shows_what_the_report_says(folders: dict[str, Path]) -> None:
    shown = subprocess.run(["dsrdump", folders["two images"] / "sr.dcm"], capture_output=True, check=True).stdout
    text = shown.decode("utf-8", "replace")
    assert text.count('NUM:(,,"Certainty of Finding")="90"') == 1
    assert text.count("Tracking Unique Identifier") == 6
    assert "Comprehensive 3D SR Document" in text


METHOD, CODES = "CTP 1.0", (("113100", "DCM", "Basic Application Confidentiality Profile"), ("113105", "DCM", "Clean"))


def removed(**fields: Any) -> StudyResult:
    """Return the result of a radiograph whose identity was removed; `fields` are attributes that say so otherwise."""
    said: dict[str, Any] = {"PatientIdentityRemoved": "YES", "DeidentificationMethod": METHOD}
    items = [pydicom.Dataset() for _ in CODES]
    for item, (value, scheme, meaning) in zip(items, CODES, strict=True):
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    said["DeidentificationMethodCodeSequence"] = items
    with pydicom.config.disable_value_validation():
        source = dataset(blobs(64, 64), transfer_syntax=ImplicitVRLittleEndian, **(said | fields))
        return result_of(header_of(source))


def made_of(result: StudyResult, kind: str, folder: Path) -> pydicom.Dataset:
    """Return an object of this kind, which dciodvfy finds no error in."""
    drawn = draw_study(result, [make_pixels(3) for _ in result.images])
    (content,) = render_objects(drawn.result, ObjectParts(drawn.pictures, b"%PDF-1.7"), [kind], "all").values()
    (folder / kind).write_bytes(content)
    assert errors_in(folder / kind) == []
    return pydicom.dcmread(folder / kind)


@needs_dciodvfy
def test_what_is_of_nobody_says_so_as_its_source_does(tmp_path: Path) -> None:
    result = from_json(to_json(removed()), StudyResult)
    for kind in ("sr", "sc"):
        made = made_of(result, kind, tmp_path)
        assert (made.PatientIdentityRemoved, made.DeidentificationMethod) == ("YES", METHOD)
        codes = made.DeidentificationMethodCodeSequence
        assert tuple((code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) for code in codes) == CODES
    assert "PatientIdentityRemoved" not in made_of(result, "pdf", tmp_path), "its pages name files"


@needs_dciodvfy
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"PatientIdentityRemoved": None}, None, id="it does not say so"),
        pytest.param({"PatientIdentityRemoved": "NO"}, None, id="it says no"),
        pytest.param({"DeidentificationMethod": None, "DeidentificationMethodCodeSequence": None}, None, id="nor how"),
        pytest.param(
            {"DeidentificationMethod": "M" * 65, "DeidentificationMethodCodeSequence": None}, None, id="too long"
        ),
        pytest.param({"DeidentificationMethod": ["A", "B" * 65, "C"]}, ["A", "C"], id="one of three too long"),
        pytest.param(
            {"DeidentificationMethod": ["entfernt für", "ça"], "SpecificCharacterSet": "ISO_IR 100"},
            ["entfernt für", "ça"],
            id="latin 1",
        ),
    ],
)
def test_nothing_is_said_of_identity_that_the_source_does_not_say_how(
    tmp_path: Path, fields: dict[str, Any], said: list[str] | None
) -> None:
    made = made_of(removed(**fields), "sr", tmp_path)
    assert ("PatientIdentityRemoved" in made) == (said is not None)
    assert made.get("DeidentificationMethod") == said


def test_one_image_of_somebody_is_enough_to_say_nothing(tmp_path: Path) -> None:
    one, other = removed().images[0], make_dicom_result().images[0]
    header = replace(other.header, study_instance_uid=one.header.study_instance_uid)
    result = replace(removed(), images=(one, replace(other, header=header)))
    assert "PatientIdentityRemoved" not in made_of(result, "sr", tmp_path)


@needs_dciodvfy
def test_overlays_and_documents_are_of_the_patient_of_their_source(folders: dict[str, Path]) -> None:
    for parameters in NAMES:
        folder, name = folders[f"name in {parameters.id}"], parameters.values[1]
        for path in folder.iterdir():
            made = pydicom.dcmread(path)
            assert (made.PatientName, made.ReferringPhysicianName) == (name, name), path.name
