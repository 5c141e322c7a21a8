"""The three layouts, detected and read; each wrong table or folder is refused with its name."""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path

import pytest

from cxrbatch.errors import UsageError
from cxrbatch.model.data.dataset import load_data
from cxrbatch.model.data.labelled import LabelledImages
from cxrbatch.model.data.layouts import detect_layout, read_data
from cxrbatch.model.data.options import DataOptions
from tests.factories.intake import write_dicom
from tests.factories.labelled import write_image, write_table

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)
NIH_ROWS = {
    "00000001_000.png": "Cardiomegaly|Effusion,0,1,58,M,PA,2682,2749,0.143,0.143,",
    "00000001_001.png": "No Finding,1,1,414,M,AP,2894,2729,0.143,0.143,",
    "00000002_000.png": "Effusion,0,2,081Y,F,PA,2500,2048,0.171,0.171,",
    "00000003_000.png": "No Finding,0,3,20,F,PA,2500,2048,0.171,0.171,",
}
CHEXPERT_HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Fracture\n"


def write_nih(folder: Path, *, packed: bool = False, table: str = "Data_Entry_2017.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = NIH_HEADER + "".join(f"{name},{row}\n" for name, row in NIH_ROWS.items())
    if packed:
        (folder / f"{table}.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (folder / table).write_text(text)
    return folder


def write_classes(folder: Path, **images: int) -> Path:
    for number, (name, count) in enumerate(images.items()):
        for index in range(count):
            write_image(folder / name.replace("__", "/") / f"{number}-{index}.png", 100 * number + index)
    return folder


def targets(images: LabelledImages) -> dict[str, tuple[float, ...]]:
    return {sample.path.name: sample.targets for sample in images.samples}


# --------------------------------------------------------------------------- NIH


def test_nih_with_some_of_its_images_in_the_folders_it_comes_in(tmp_path: Path) -> None:
    write_nih(tmp_path)
    write_image(tmp_path / "images_001" / "images" / "00000001_000.png", 1)
    write_image(tmp_path / "images_002" / "images" / "00000001_001.png", 2)
    write_image(tmp_path / "images_012" / "images" / "00000002_000.png", 3)
    images = read_data(tmp_path, DataOptions())
    assert (images.layout, images.task, images.labels) == ("nih", "multilabel", ("Cardiomegaly", "Effusion"))
    assert [sample.targets for sample in images.samples] == [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0)]
    assert [sample.patient_id for sample in images.samples] == ["1", "1", "2"]
    assert [sample.age for sample in images.samples] == [58.0, None, 81.0]
    assert [sample.sex for sample in images.samples] == ["M", "M", "F"]
    assert [sample.view for sample in images.samples] == ["PA", "AP", "PA"]
    assert images.samples[2].source == "images_012/images"
    assert images.notes == ("3 of the 4 images of Data_Entry_2017.csv are there.",)


@pytest.mark.parametrize(("packed", "table"), [(True, "Data_Entry_2017.csv"), (True, "Data_Entry_2017_v2020.csv")])
def test_nih_packed_and_as_the_table_itself(tmp_path: Path, packed: bool, table: str) -> None:
    write_nih(tmp_path, packed=packed, table=table)
    write_image(tmp_path / "00000003_000.png")
    by_table, by_folder = (read_data(data, DataOptions()) for data in (tmp_path / f"{table}.gz", tmp_path))
    assert by_table == by_folder
    assert [sample.path.name for sample in by_table.samples] == ["00000003_000.png"]


def test_nih_lists_give_the_test_part_and_val_is_cut_from_the_rest(tmp_path: Path) -> None:
    write_nih(tmp_path)
    for index, name in enumerate(NIH_ROWS):
        write_image(tmp_path / "images" / name, index)
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n00000002_000.png\n")
    (tmp_path / "test_list.txt").write_text("00000003_000.png\n")
    images = load_data(tmp_path, DataOptions(labels=("Cardiomegaly",), seed=1))
    assert [sample.path.name for sample in images.part("test")] == ["00000003_000.png"]
    assert {sample.patient_id for sample in images.part("train")} == {"1"}
    assert {sample.patient_id for sample in images.part("val")} == {"2"}


def test_nih_image_in_neither_list_is_named(tmp_path: Path) -> None:
    write_nih(tmp_path)
    write_image(tmp_path / "00000003_000.png")
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n")
    (tmp_path / "test_list.txt").write_text("")
    with pytest.raises(UsageError, match=r"1 images, such as 00000003_000\.png, are in neither"):
        read_data(tmp_path, DataOptions())


def test_nih_without_any_image_says_where_they_are_looked_for(tmp_path: Path) -> None:
    write_nih(tmp_path)
    with pytest.raises(UsageError, match=r"none of the 4 images of Data_Entry_2017\.csv is there"):
        read_data(tmp_path, DataOptions())


def test_no_finding_can_be_asked_for_though_no_column_holds_it(tmp_path: Path) -> None:
    write_nih(tmp_path)
    for index, name in enumerate(NIH_ROWS):
        write_image(tmp_path / name, index)
    images = read_data(tmp_path, DataOptions(labels=("Effusion", "No Finding")))
    assert images.normal_label == "No Finding"
    assert [sample.targets for sample in images.samples] == [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, 1.0)]
    binary = read_data(tmp_path, DataOptions(binary="No Finding"))
    assert (binary.task, binary.labels) == ("binary", ("Abnormal",))
    assert [sample.targets for sample in binary.samples] == [(1.0,), (0.0,), (1.0,), (0.0,)]


# --------------------------------------------------------------------------- class folders


def test_class_folders_in_one_tree(tmp_path: Path) -> None:
    write_classes(tmp_path, covid=2, normal=3, viral__clinic=1)
    (tmp_path / "covid" / "notes.txt").write_text("no image")
    images = read_data(tmp_path, DataOptions())
    assert (images.layout, images.task, images.normal_label) == ("folders", "multiclass", "normal")
    assert images.labels == ("covid", "normal", "viral")
    assert [sum(column) for column in zip(*(sample.targets for sample in images.samples), strict=True)] == [2, 3, 1]
    assert {sample.split for sample in images.samples} == {""}
    assert targets(images)["2-0.png"] == (0.0, 0.0, 1.0)
    assert [sample.source for sample in images.samples if sample.targets[2]] == ["clinic"]
    assert images.notes == ("1 files left out that are no frontal images.",)


def test_class_folders_below_parts(tmp_path: Path) -> None:
    write_classes(tmp_path, train__A=3, train__B=3, validation__A=1, validation__B=1, test__A=1, other__A=1)
    images = load_data(tmp_path, DataOptions())
    assert [len(images.part(split)) for split in ("train", "val", "test")] == [6, 2, 1]
    assert images.notes == ("Folders left out beside train, val and test: other.",)


def test_two_classes_of_which_one_is_normal_are_one_label(tmp_path: Path) -> None:
    write_classes(tmp_path, NORMAL=1, PNEUMONIA=1)
    images = read_data(tmp_path, DataOptions())
    assert (images.task, images.labels) == ("binary", ("PNEUMONIA",))
    assert targets(images) == {"0-0.png": (0.0,), "1-0.png": (1.0,)}


def test_classes_are_picked_ordered_and_made_binary(tmp_path: Path) -> None:
    write_classes(tmp_path, A=1, B=1, C=1)
    picked = read_data(tmp_path, DataOptions(labels=("C", "A")))
    assert (picked.task, picked.labels) == ("multiclass", ("C", "A"))
    assert targets(picked) == {"0-0.png": (0.0, 1.0), "2-0.png": (1.0, 0.0)}
    assert picked.notes == ("1 images left out: nothing is known of them on C, A.",)
    binary = read_data(tmp_path, DataOptions(binary="B"))
    assert targets(binary) == {"0-0.png": (1.0,), "1-0.png": (0.0,), "2-0.png": (1.0,)}


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("00000150_002.png", "00000150"),
        ("person12_bacteria_46.jpeg", "person12_bacteria"),
        ("person12_virus_46.jpeg", "person12_virus"),
        ("IM-0115-0001.jpg", ""),
    ],
)
def test_patients_are_known_from_names_of_public_collections(tmp_path: Path, name: str, patient: str) -> None:
    write_image(tmp_path / "A" / name)
    write_image(tmp_path / "B" / "x.png")
    assert read_data(tmp_path, DataOptions()).samples[0].patient_id == patient


def test_patients_are_found_by_a_pattern_of_ones_own(tmp_path: Path) -> None:
    write_image(tmp_path / "A" / "MRN7_scan.png")
    write_image(tmp_path / "B" / "x.png")
    found = read_data(tmp_path, DataOptions(patient_pattern=r"/MRN(\d+)_"))
    assert [sample.patient_id for sample in found.samples] == ["7", ""]


def test_dicom_headers_tell_the_patient_and_laterals_are_left_out(tmp_path: Path) -> None:
    write_image(tmp_path / "A" / "x.png")
    (tmp_path / "B").mkdir()
    write_dicom(tmp_path / "B" / "frontal", PatientID="77", PatientAge="040Y", PatientSex="F", ViewPosition="PA")
    write_dicom(tmp_path / "B" / "lateral.dcm", PatientID="77", ViewPosition="LL")
    images = read_data(tmp_path, DataOptions())
    frontal = images.samples[1]
    assert [sample.path.name for sample in images.samples] == ["x.png", "frontal"]
    assert (frontal.patient_id, frontal.age, frontal.sex, frontal.view) == ("77", 40.0, "F", "PA")
    assert images.notes == ("1 files left out that are no frontal images.",)


def test_one_class_and_no_images_are_said(tmp_path: Path) -> None:
    (tmp_path / "B").mkdir()
    write_classes(tmp_path, A=2)
    with pytest.raises(UsageError, match=r"images of one class only \(A\)"):
        read_data(tmp_path, DataOptions())
    for image in (tmp_path / "A").iterdir():
        image.unlink()
    with pytest.raises(UsageError, match=r"no folder holds images"):
        read_data(tmp_path, DataOptions())


# --------------------------------------------------------------------------- CSV


def test_columns_are_known_by_their_usual_names(tmp_path: Path) -> None:
    write_table(
        tmp_path,
        "File Name,Subject-ID,Gender,Patient Age,View Position,Data Split,Mass\n"
        "a.png,7,female,61,pa,training,1\nb.png,8,Male,x,AP,Validation,0\n",
    )
    first, second = read_data(tmp_path, DataOptions()).samples
    assert (first.patient_id, first.sex, first.age, first.view, first.split) == ("7", "F", 61.0, "PA", "train")
    assert (second.patient_id, second.sex, second.age, second.view, second.split) == ("8", "M", None, "AP", "val")


def test_findings_in_one_column(tmp_path: Path) -> None:
    table = write_table(tmp_path, "path,findings\na.png,Mass|Edema\nb.png,No Finding\nc.png,\n", "mine.csv")
    images = read_data(table, DataOptions())
    assert (images.labels, images.task) == (("Edema", "Mass"), "multilabel")
    assert targets(images) == {"a.png": (1.0, 1.0), "b.png": (0.0, 0.0)}
    assert images.notes == ("1 images left out: nothing is known of them on Edema, Mass.",)


def test_classes_in_one_column(tmp_path: Path) -> None:
    write_table(tmp_path, "image,label\na.png,covid\nb.png,normal\nc.png,viral\n")
    images = read_data(tmp_path, DataOptions())
    assert (images.labels, images.task, images.normal_label) == (("covid", "normal", "viral"), "multiclass", "normal")
    assert targets(images)["c.png"] == (0.0, 0.0, 1.0)


def test_a_column_called_label_may_hold_zeros_and_ones(tmp_path: Path) -> None:
    write_table(tmp_path, "image,label\na.png,1\nb.png,0\n")
    images = read_data(tmp_path, DataOptions())
    assert (images.labels, images.task, targets(images)) == (("label",), "binary", {"a.png": (1.0,), "b.png": (0.0,)})


@pytest.mark.parametrize(("uncertain", "value"), [("zeros", 0.0), ("ones", 1.0), ("ignore", math.nan)])
def test_chexpert(tmp_path: Path, uncertain: str, value: float) -> None:
    root = tmp_path / "CheXpert-v1.0-small"
    paths = [f"{part}/patient0000{index}/study1/view1_frontal.jpg" for index, part in enumerate(("train", "valid"))]
    for index, path in enumerate(paths):
        write_image(root / path, index)
    lateral = "CheXpert-v1.0-small/train/patient00000/study1/view2_lateral.jpg,Male,40,Lateral,,,1.0,\n"
    (root / "train.csv").write_text(
        CHEXPERT_HEADER + f"CheXpert-v1.0-small/{paths[0]},Male,40,Frontal,AP,,-1.0,1.0\n" + lateral
    )
    (root / "valid.csv").write_text(CHEXPERT_HEADER + f"CheXpert-v1.0-small/{paths[1]},Female,50,Frontal,PA,1.0,,\n")
    images = read_data(root, DataOptions(uncertain=uncertain))  # type: ignore[arg-type]
    assert images.labels == ("Edema", "Fracture")
    train, val = images.samples
    assert (train.split, val.split) == ("train", "val")
    assert (train.patient_id, train.view, train.sex, train.age) == ("patient00000", "AP", "M", 40.0)
    assert train.targets[0] == pytest.approx(value, nan_ok=True)
    assert (train.targets[1], val.targets) == (1.0, (0.0, 0.0))
    assert images.notes == ("train.csv: 1 images left out that are not frontal.",)
    binary = read_data(root, DataOptions(uncertain=uncertain, binary="No Finding"))  # type: ignore[arg-type]
    assert [sample.targets for sample in binary.samples] == [(1.0,), (0.0,)]


def test_an_empty_cell_means_not_known(tmp_path: Path) -> None:
    write_table(tmp_path, "path,A,B\na.png,1,\nb.png,0,1\n")
    first = read_data(tmp_path, DataOptions()).samples[0]
    assert first.targets[0] == 1.0
    assert math.isnan(first.targets[1])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,split\n", "has no rows"),
        ("", "cannot be read as CSV"),
        ("name of it,A\na.png,1\n", "no column names the image files"),
        ("path,split\na.png,train\n", "no column holds labels"),
        ("path,A\na.png,1\nb.png,2\n", r"must be 0, 1, -1 .*: line 3, A: '2'"),
        ("path,A\na.png,1\nb.png,yes\n", r"line 3, A: 'yes'.*--labels"),
        ("path,A\na.png,1\nlost.png,0\n", r"1 of 2 images are missing, such as .*lost\.png"),
        ("path,A\na.png,1\na.png,0\n", r"listed more than once: .*a\.png"),
        ("path,split,A\na.png,train,1\nb.png,holdout,0\n", "no part is called holdout"),
        ("path,split,A\na.png,train,1\nb.png,,0\n", "column split is empty in line 3"),
        ("path,class\na.png,x\nb.png,\n", "column class is empty in line 3"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_data(write_table(tmp_path, table), DataOptions())


def test_a_stray_column_does_not_matter_once_the_labels_are_named(tmp_path: Path) -> None:
    write_table(tmp_path, "path,visits,A\na.png,1,1\nb.png,17,0\n")
    assert targets(read_data(tmp_path, DataOptions(labels=("A",)))) == {"a.png": (1.0,), "b.png": (0.0,)}


def test_unknown_labels_are_named_with_those_there_are(tmp_path: Path) -> None:
    write_table(tmp_path, "path,A,B\na.png,1,0\nb.png,0,1\n")
    with pytest.raises(UsageError, match=r"there is no label Ghost; there are A, B, No Finding\."):
        read_data(tmp_path, DataOptions(labels=("Ghost",)))
    with pytest.raises(UsageError, match=r"there is no label Healthier"):
        read_data(tmp_path, DataOptions(binary="Healthier"))


def test_tables_of_parts_must_agree(tmp_path: Path) -> None:
    write_table(tmp_path, "path,A\na.png,1\n", "train.csv")
    write_table(tmp_path, "path,B\nb.png,1\n", "valid.csv")
    with pytest.raises(UsageError, match=r"valid\.csv: its labels differ from those of .*train\.csv"):
        read_data(tmp_path, DataOptions())


# --------------------------------------------------------------------------- detection


def test_labels_csv_decides_over_everything_else(tmp_path: Path) -> None:
    write_nih(tmp_path)
    write_classes(tmp_path, A=1, B=1)
    assert detect_layout(tmp_path) == "nih"
    write_table(tmp_path, "path,A\na.png,1\n")
    assert detect_layout(tmp_path) == "csv"
    assert read_data(tmp_path, DataOptions(layout="folders")).labels == ("A", "B")


def test_a_renamed_nih_table_is_known_by_its_columns(tmp_path: Path) -> None:
    write_nih(tmp_path).joinpath("Data_Entry_2017.csv").rename(tmp_path / "mine.csv")
    write_image(tmp_path / "00000003_000.png")
    assert read_data(tmp_path / "mine.csv", DataOptions()).layout == "nih"


def test_nothing_known_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no known layout"):
        detect_layout(tmp_path)
    with pytest.raises(UsageError, match="no such folder or table"):
        read_data(tmp_path / "gone", DataOptions())
    with pytest.raises(UsageError, match=r"holds no NIH table"):
        read_data(tmp_path, DataOptions(layout="nih"))
    with pytest.raises(UsageError, match=r"labels\.csv: not found"):
        read_data(tmp_path, DataOptions(layout="csv"))


# --------------------------------------------------------------------------- real data

SHARED = Path(os.environ.get("CXRBATCH_SHARED_DATA", "/nowhere"))
real = pytest.mark.skipif("CXRBATCH_SHARED_DATA" not in os.environ, reason="needs the real images of shared/data")


@real
def test_the_official_nih_table_with_the_images_of_the_subset(tmp_path: Path) -> None:
    (tmp_path / "Data_Entry_2017_v2020.csv.gz").symlink_to(SHARED / "labels" / "Data_Entry_2017_v2020.csv.gz")
    (tmp_path / "images").symlink_to(SHARED / "nih256")
    images, subset = load_data(tmp_path, DataOptions()), read_data(SHARED / "nih256", DataOptions())
    assert images.notes == ("779 of the 112120 images of Data_Entry_2017_v2020.csv.gz are there.",)
    assert images.labels == tuple(sorted(subset.labels))
    official = {sample.path.name: dict(zip(images.labels, sample.targets, strict=True)) for sample in images.samples}
    curated = {sample.path.name: dict(zip(subset.labels, sample.targets, strict=True)) for sample in subset.samples}
    assert official == curated
    assert {sample.path.name: (sample.patient_id, sample.age, sample.view) for sample in images.samples} == {
        sample.path.name: (sample.patient_id, sample.age, sample.view) for sample in subset.samples
    }
    assert len(images.part("val")) / 779 == pytest.approx(0.2, abs=0.02)


@real
def test_the_nih_subset_has_the_documented_counts() -> None:
    images = load_data(SHARED / "nih256", DataOptions(labels=("Pneumonia",)))
    assert (images.task, len(images.part("train")), len(images.part("val"))) == ("binary", 648, 131)
    assert sum(sample.targets[0] for sample in images.samples) == 397


@real
def test_the_four_classes_have_the_documented_counts() -> None:
    images = load_data(SHARED / "fourclass384", DataOptions(seed=3))
    assert images.labels == ("covid", "normal", "pneumonia_bac", "pneumonia_vir")
    counts = [sum(column) for column in zip(*(sample.targets for sample in images.samples), strict=True)]
    assert counts == [76.0, 80.0, 80.0, 80.0]
    val = [sum(column) for column in zip(*(sample.targets for sample in images.part("val")), strict=True)]
    assert all(abs(count - 16) <= 3 for count in val)
    # Some children of Kermany's set were filmed more than once: a split by file would leak them.
    patients = [sample.patient_id for sample in images.samples if sample.patient_id]
    assert len(set(patients)) < len(patients)
