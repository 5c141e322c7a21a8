from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from cxrbatch.errors import Flag
from cxrbatch.output.tables import harmless, write_tables
from cxrbatch.records import FileRow, Label, StudyRow
from tests.factories.output import (
    LABELS,
    STUDY_KEY,
    make_engine,
    make_file_row,
    make_header,
    make_study_result,
    make_study_row,
)

IMAGE_COLUMNS = [
    "path",
    "status",
    "reason",
    "message",
    "study_key",
    "study_uid",
    "series_uid",
    "sop_uid",
    "patient_id",
    "accession_number",
    "study_date",
    "modality",
    "body_part",
    "view",
    "rows",
    "columns",
    "photometric",
    "transfer_syntax",
    "flags",
    "engine",
    "engine_sha256",
    "backend",
    "precision",
    "prob_Effusion",
    "prob_Nodule",
    "prob_Pneumothorax",
    "positive_Effusion",
    "positive_Nodule",
    "positive_Pneumothorax",
    "scored_at",
    "distance",
    "places",
]
STUDY_COLUMNS = [
    "study_key",
    "study_uid",
    "patient_id",
    "accession_number",
    "study_date",
    "revision",
    "status",
    "n_images",
    "n_scored",
    "priority",
    "findings",
    "n_judged",
    "n_labels",
    "prob_Effusion",
    "prob_Nodule",
    "prob_Pneumothorax",
    "positive_Effusion",
    "positive_Nodule",
    "positive_Pneumothorax",
    "report_html",
    "report_pdf",
    "reported_at",
    "distance",
]


def written(
    out: Path,
    files: tuple[FileRow, ...] = (),
    studies: tuple[StudyRow, ...] = (),
    labels: tuple[Label, ...] = LABELS,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    write_tables(out, files, studies, make_engine(labels))
    images, table = (pd.read_csv(out / name, keep_default_na=False) for name in ("images.csv", "studies.csv"))
    return images, table


def test_columns_are_those_of_the_contract(tmp_path: Path) -> None:
    images, studies = written(tmp_path)
    assert list(images.columns) == IMAGE_COLUMNS
    assert list(studies.columns) == STUDY_COLUMNS


def test_images_go_through_pandas_and_back(tmp_path: Path) -> None:
    scored = make_file_row(flags=(Flag.LOSSY, Flag.NO_VIEW), probabilities=(0.9, 0.25, 1 / 3))
    refused = make_file_row(
        "b.dcm", status="rejected", reason="not_chest", message='body part is "HAND", not CHEST', engine=""
    )
    images, _ = written(tmp_path, (scored, refused))
    first, second = images.to_dict("records")
    assert (first["path"], first["status"], first["flags"]) == ("night/1.dcm", "scored", "lossy|no_view")
    assert (first["rows"], first["columns"]) == (512, 400)
    assert [float(first[f"prob_{label.name}"]) for label in LABELS] == [0.9, 0.25, 0.333333]
    assert [first[f"positive_{label.name}"] for label in LABELS] == ["1", "0", "0"]
    assert second["message"] == 'body part is "HAND", not CHEST'
    assert [second[column] for column in IMAGE_COLUMNS if column.startswith(("prob_", "positive_"))] == [""] * 6


def test_a_study_has_its_maximum_and_its_findings(tmp_path: Path) -> None:
    result = make_study_result(((0.9, 0.2, 0.1), (0.3, 0.1, 0.6)))
    unscored = make_study_row(study_key="f" * 16, reasons=("not_frontal",))
    _, studies = written(tmp_path, studies=(make_study_row(result), unscored))
    first, second = studies.to_dict("records")
    assert (first["findings"], first["priority"], first["n_scored"]) == ("Effusion|Pneumothorax", "urgent", 2)
    assert [float(first[f"prob_{label.name}"]) for label in LABELS] == [0.9, 0.2, 0.6]
    assert first["report_html"] == f"reports/{STUDY_KEY}/report.html"
    assert (second["status"], second["priority"], second["findings"]) == ("unscored", "unscored", "")
    assert second["prob_Nodule"] == ""


def test_without_an_operating_point_there_is_no_verdict(tmp_path: Path) -> None:
    labels = (Label("Nodule", None),)
    images, _ = written(tmp_path, (make_file_row(probabilities=(0.7,)),), labels=labels)
    assert (str(images["prob_Nodule"][0]), images["positive_Nodule"][0]) == ("0.7", "")
    assert "0.700000" in (tmp_path / "images.csv").read_text()


def test_what_another_engine_scored_has_no_scores_in_these_columns(tmp_path: Path) -> None:
    result = make_study_result()
    other = replace(result, engine=replace(result.engine, sha256="0" * 64))
    images, studies = written(tmp_path, (make_file_row(engine_sha256="0" * 64),), (make_study_row(other),))
    assert studies["prob_Effusion"][0] == images["prob_Effusion"][0] == ""
    assert studies["positive_Effusion"][0] == images["positive_Effusion"][0] == ""
    assert studies["findings"][0] == "Effusion"


def test_two_paths_never_become_one_cell(tmp_path: Path) -> None:
    images, _ = written(tmp_path, (make_file_row("a\nb.png"), make_file_row(r"a\x0ab.png")))
    assert images["path"].nunique() == 2


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_formulas_are_inert(tmp_path: Path, start: str) -> None:
    evil = f"{start}cmd|' /C calc'!A0"
    row = make_file_row(evil, message=evil, header=make_header(patient_id=evil, accession_number=evil))
    study = make_study_row(None, header=make_header(patient_id=evil))
    write_tables(tmp_path, (row,), (study,), make_engine())
    for name in ("images.csv", "studies.csv"):
        with (tmp_path / name).open(encoding="utf-8", newline="") as stream:
            cells = [cell for line in csv.reader(stream) for cell in line]
        assert not [cell for cell in cells if cell.startswith(start)]
        assert [cell for cell in cells if cell.startswith("'") and "cmd|" in cell]


@given(st.text())
def test_harmless_text_is_one_line_and_no_formula(text: str) -> None:
    cell = harmless(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert len(cell.splitlines()) <= 1
    assert cell.encode("utf-8").decode() == cell


def test_ordinary_text_and_names_of_all_scripts_stay_as_they_are() -> None:
    for text in ("CR", "a=b", "Müller", "山田", "x'y", "1.2.840.10008.1.2", ""):
        assert harmless(text) == text


def test_one_row_is_one_line_whatever_stands_in_it(tmp_path: Path) -> None:
    row = make_file_row("a\nb\rc\x00d\u202e.dcm", header=make_header(patient_id="x\u2028y" + "z" * 10_000))
    images, _ = written(tmp_path, (row,))
    assert images["path"][0] == r"a\x0ab\x0dc\x00d\u202e.dcm"
    assert len(images["patient_id"][0]) == 10_000 + len(r"x\u2028y")
    assert len((tmp_path / "images.csv").read_text(encoding="utf-8").splitlines()) == 2


def test_bytes_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    images, _ = written(tmp_path, (make_file_row(os.fsdecode(b"a\xff.dcm")),))
    assert images["path"][0] == r"a\xff.dcm"


def test_a_failing_row_leaves_the_old_table(tmp_path: Path) -> None:
    write_tables(tmp_path, (make_file_row(),), (), make_engine())
    before = (tmp_path / "images.csv").read_bytes()
    with pytest.raises(ValueError, match="zip"):
        write_tables(tmp_path, (make_file_row(probabilities=(0.5,)),), (), make_engine())
    assert (tmp_path / "images.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.csv", "studies.csv"]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_tables_are_readable_by_owner_and_group_only(tmp_path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        write_tables(tmp_path, (), (), make_engine())
    finally:
        os.umask(previous)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("images.csv", "studies.csv")] == [0o640] * 2


def test_how_much_was_judged_stands_beside_the_priority(tmp_path: Path) -> None:
    labels = (Label("Effusion", 0.5), Label("Hernia", None), Label("No Finding", 0.5, normal=True))
    result = make_study_result(((0.1, 0.99, 0.9),), labels=labels)
    row = make_file_row(probabilities=(0.1, 0.99, 0.9))
    images, studies = written(tmp_path, (row,), (make_study_row(result), make_study_row(status="failed")), labels)
    first, second = studies.to_dict("records")
    assert (first["priority"], first["findings"], first["n_judged"], first["n_labels"]) == ("incomplete", "", "1", "2")
    assert [first[f"positive_{label.name}"] for label in labels] == ["0", "", "1"]
    assert [images[f"positive_{label.name}"][0] for label in labels] == [0, "", 1]
    assert (second["n_judged"], second["n_labels"]) == ("", "")


def test_classes_that_exclude_each_other_are_positive_once_an_image(tmp_path: Path) -> None:
    labels = (Label("covid", 0.3, urgent=True), Label("normal", 0.3, normal=True), Label("viral", 0.3))
    engine = replace(make_engine(labels), task="multiclass")
    probabilities = ((0.35, 0.4, 0.25), (0.3, 0.3, 0.4))
    result = replace(make_study_result(probabilities, labels=labels), engine=engine)
    files = tuple(make_file_row(f"{n}.dcm", probabilities=each) for n, each in enumerate(probabilities))
    write_tables(tmp_path, files, (make_study_row(result),), engine)
    images, studies = (pd.read_csv(tmp_path / name) for name in ("images.csv", "studies.csv"))
    columns = [f"positive_{label.name}" for label in labels]
    assert images[columns].to_numpy().tolist() == [[0, 1, 0], [0, 0, 1]]
    # The study's probabilities are each the highest of its images; its verdict follows from the images, not from those.
    assert studies[columns].to_numpy().tolist() == [[0, 0, 1]]
    assert (studies["priority"][0], studies["findings"][0]) == ("abnormal", "viral")
    assert studies["prob_normal"][0] == studies["prob_viral"][0] == 0.4
