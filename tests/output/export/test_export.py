"""`cxrbatch export`: what it writes is what the tables, the results and the kept maps say."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from stat import S_IMODE
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode
from cxrbatch.output.export.coco import coco_file
from cxrbatch.output.export.export import EXPORT_FILE
from cxrbatch.output.report.kept_arrays import keep_arrays
from cxrbatch.output.report.pictures import draw_study
from cxrbatch.pages.cells import restored
from cxrbatch.records import CellGrid, ImagePixels
from tests.factories.output import make_cam, make_geometry, make_pixels, make_study_result
from tests.factories.studies import fingerprint, read_rows
from tests.factories.varied import LABELS, run_varied

NAMES = tuple(label.name for label in LABELS)


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of everything, with maps."""
    return run_varied(tmp_path_factory.mktemp("varied"), keep_maps=True)[0]


@pytest.fixture(scope="module")
def exported(varied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exports") / "all"
    before = fingerprint(varied)
    formats = [part for name in ("parquet", "csv-long", "coco", "npy") for part in ("--format", name)]
    assert run_command_line(["export", str(varied), "-o", str(target), *formats]) == 0
    assert fingerprint(varied) == before
    return target


def export(out: Path, target: Path, *more: str) -> int:
    return run_command_line(["export", str(out), "-o", str(target), *more])


# --------------------------------------------------------------------------- tables


def test_every_scored_image_and_label_has_a_row_with_the_numbers_of_the_tables(varied: Path, exported: Path) -> None:
    tidy = {(row["path"], restored(row["label"])): row for row in read_rows(exported / "image_scores.csv")}
    wide = [row for row in read_rows(varied / "images.csv") if row["status"] == "scored"]
    assert len(tidy) == len(wide) * len(LABELS) == 12
    for row in wide:
        for label in LABELS:
            long, column = tidy[row["path"], label.name], label.name.replace(",=", ",'=")
            assert long["probability"] == row[f"prob_{column}"]
            assert long["positive"] == row[f"positive_{column}"]
            assert long["disagreement"] == row[f"disagreement_{column}"]
            for same in ("study_key", "sop_uid", "patient_id", "flags", "engine_sha256", "scored_at"):
                assert long[same] == row[same]


def test_every_scored_study_and_label_has_a_row_with_the_numbers_of_the_tables(varied: Path, exported: Path) -> None:
    tidy = {(row["study_key"], restored(row["label"])): row for row in read_rows(exported / "study_scores.csv")}
    wide = [row for row in read_rows(varied / "studies.csv") if row["n_scored"] != "0"]
    assert len(tidy) == len(wide) * len(LABELS) == 9
    for row in wide:
        for label in LABELS:
            long, column = tidy[row["study_key"], label.name], label.name.replace(",=", ",'=")
            assert long["probability"] == row[f"prob_{column}"]
            assert long["positive"] == row[f"positive_{column}"]
            for same in ("priority", "n_images", "n_scored", "patient_id", "revision"):
                assert long[same] == row[same]


@pytest.mark.parametrize("table", ["image_scores", "study_scores"])
def test_parquet_says_the_same_in_types(exported: Path, table: str) -> None:
    typed = parquet.read_table(exported / f"{table}.parquet")
    with (exported / f"{table}.csv").open(newline="", encoding="utf-8") as stream:
        names, *rows = csv.reader(stream)
    assert typed.column_names == names
    kinds = {str(field.name): str(field.type) for field in typed.schema}
    assert (kinds["probability"], kinds["positive"], kinds["label"]) == ("double", "bool", "string")
    for row, cells in zip(typed.to_pylist(), rows, strict=True):
        for name, cell in zip(names, cells, strict=True):
            value = row[name]
            if isinstance(value, bool):
                assert cell == str(int(value))
            elif isinstance(value, float):
                assert float(cell) == pytest.approx(value, abs=1e-6)
            else:
                assert cell == ("" if value is None else str(value))
    assert {row["label"] for row in typed.to_pylist() if row["positive"] is None} == {"BottomLeft"}


def test_a_formula_in_a_name_is_inert_and_can_be_had_back(exported: Path) -> None:
    paths = {row["path"] for row in read_rows(exported / "image_scores.csv")}
    assert "'=cmd,;'@x.png" in paths
    assert "=cmd,;@x.png" in set(map(restored, paths))
    assert {row["patient_id"] for row in read_rows(exported / "study_scores.csv")} == {"'-1", ""}
    images = json.loads((exported / "coco.json").read_text())["images"]
    assert "=cmd,;@x.png" in {image["file_name"] for image in images}


def test_an_export_says_what_it_is(exported: Path) -> None:
    said = json.loads((exported / EXPORT_FILE).read_text())
    counted = {"studies": 3, "images": 4, "left_without_result": 1, "maps": 4, "images_without_maps": 0, "peaks": 0}
    assert {name: said[name] for name in counted} == counted
    assert (said["deidentified"], said["maps_not_validated"]) == (False, 2)
    modes = {S_IMODE(path.stat().st_mode) for path in exported.rglob("*") if path.is_file()}
    assert modes == {0o640}


# --------------------------------------------------------------------------- regions and maps


def test_a_region_encloses_what_the_engine_looked_at(exported: Path) -> None:
    coco = json.loads((exported / "coco.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert sorted(names.values()) == sorted(NAMES)
    (region,) = coco["annotations"]
    assert names[region["category_id"]] == "TopLeft"
    assert (region["predicted"], region["maps_validated"], region["iscrowd"]) == (True, True, 0)
    assert region["score"] == pytest.approx(0.96142, abs=1e-5)
    left, top, width, height = region["bbox"]
    # The map is bright in one cell of four, centred at (32, 32) of 128 pixels: half of it is reached half way.
    assert (left, top) == (0, 0)
    assert width == pytest.approx(64, abs=2)
    assert height == pytest.approx(64, abs=2)
    assert region["keypoints"] == [pytest.approx(31.5, abs=1), pytest.approx(31.5, abs=1), 2]
    (outline,) = region["segmentation"]
    assert 0 <= min(outline) <= max(outline) <= left + width
    assert 0.9 * width * height * 0.75 < region["area"] <= width * height
    image = next(each for each in coco["images"] if each["id"] == region["image_id"])
    assert (image["file_name"], image["width"], image["height"]) == ("night/1.dcm", 128, 128)


def test_all_heatmaps_are_annotated_where_that_is_asked_for(varied: Path, tmp_path: Path) -> None:
    assert export(varied, tmp_path / "all", "--format", "coco", "--heatmaps", "all") == 0
    annotations = json.loads((tmp_path / "all" / "coco.json").read_text())["annotations"]
    assert sorted(each["maps_validated"] for each in annotations) == [False, False, True]
    assert [each["id"] for each in annotations] == [1, 2, 3]


def test_two_hills_are_two_regions_in_stored_pixels(tmp_path: Path) -> None:
    """A map with two hills over a portrait image that is padded: each part has its box where the hill is."""
    geometry = make_geometry(1000, 500)
    both = make_cam(row=1.0, column=2.5) + 0.8 * make_cam(row=5.0, column=3.5)
    result = replace(make_study_result(((0.9, 0.1, 0.1),)), keeps_maps=True)
    engine = replace(result.engine, cells=CellGrid(16, 16, 32, 32))
    pixels = ImagePixels(make_pixels().display, np.stack([both] * 3), geometry)
    kept = keep_arrays(replace(result, engine=engine), [pixels])
    for name, content in kept.files.items():
        (tmp_path / name).write_bytes(content)
    with coco_file(tmp_path / "coco.json", "validated", "now") as coco:
        coco.add(kept.result, tmp_path)
    first, second = json.loads((tmp_path / "coco.json").read_text())["annotations"]
    for region, (row, column) in ((first, (1.0, 2.5)), (second, (5.0, 3.5))):
        left, top, width, height = region["bbox"]
        # A cell is 32 of 224 px, which are 1000 rows; 500 columns begin at 56 of 224 px.
        x, y = (16 + 32 * column - 56) * 1000 / 224, (16 + 32 * row) * 1000 / 224
        assert left + width / 2 == pytest.approx(x, abs=40)
        assert top + height / 2 == pytest.approx(y, abs=40)
        assert region["area"] <= width * height
    assert (first["num_keypoints"], second["num_keypoints"]) == (1, 0)
    assert first["peak_share"] == 1 > second["peak_share"] > 0.5


def test_without_kept_maps_a_peak_is_said_alone(tmp_path: Path) -> None:
    drawn = draw_study(make_study_result(((0.9, 0.2, 0.1),)), [make_pixels()])
    with coco_file(tmp_path / "coco.json", "validated", "now") as coco:
        coco.add(drawn.result, tmp_path)
    (peak,) = json.loads((tmp_path / "coco.json").read_text())["annotations"]
    heatmap = drawn.result.images[0].heatmaps[0]
    assert peak["keypoints"] == [round(heatmap.peak_x, 1), round(heatmap.peak_y, 1), 2]
    assert "bbox" not in peak


def test_maps_are_those_of_the_engine_with_their_place(varied: Path, exported: Path) -> None:
    rows = read_rows(exported / "maps.csv")
    assert len(rows) == 4
    for row in rows:
        maps = np.load(exported / row["file"], allow_pickle=False)
        kept = next((varied / "reports" / row["study_key"]).glob(f"maps-{row['image']}-*.npy"))
        np.testing.assert_array_equal(maps, np.load(kept))
        assert maps.shape == (3, 2, 2)
        assert json.loads(restored(row["labels"])) == list(NAMES)
        assert json.loads(row["validated"]) == [True, False, False]
        # Two cells across 128 stored pixels.
        assert [float(row[name]) for name in ("origin_x", "origin_y", "stride_x", "stride_y")] == [32, 32, 64, 64]


def test_maps_that_somebody_changed_are_not_exported(varied: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(varied, tmp_path / "out"))
    for path in out.glob("reports/*/maps-1-*.npy"):
        path.write_bytes(path.read_bytes()[:-4] + b"\1\0\0\0")
    assert export(out, tmp_path / "maps", "--format", "npy", "--format", "coco") == 0
    said = json.loads((tmp_path / "maps" / EXPORT_FILE).read_text())
    assert (said["maps"], said["images_without_maps"], said["regions"], said["peaks"]) == (1, 3, 0, 1)


# --------------------------------------------------------------------------- where to, of what


def test_an_export_replaces_an_earlier_one_and_nothing_else(varied: Path, tmp_path: Path) -> None:
    target = tmp_path / "scores"
    assert export(varied, target, "--format", "npy") == 0
    (target / "maps" / "0000000000000000-1.npy").write_bytes(b"of a study that was pruned")
    assert export(varied, target, "--format", "npy", "--format", "csv-long") == 0
    assert len(list((target / "maps").iterdir())) == 4
    (target / "notes.txt").write_text("mine")
    assert export(varied, target, "--format", "npy") == ExitCode.USAGE
    assert (target / EXPORT_FILE).exists()


@pytest.mark.parametrize("place", ["out", "out/export", "images/export"])
def test_an_export_is_not_put_where_it_would_be_lost_or_met(
    varied: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(varied, varied.parent / place, "--format", "csv-long") == ExitCode.USAGE
    assert "folder of its own" in capsys.readouterr().err
    assert not (varied.parent / place / EXPORT_FILE).exists()


def test_a_folder_that_is_no_output_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tmp_path, tmp_path.with_name("target"), "--format", "csv-long") == ExitCode.USAGE
    assert "Name the output folder of a run" in capsys.readouterr().err


def test_without_pyarrow_parquet_says_what_to_install_and_writes_nothing(
    varied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    target = tmp_path / "scores"
    assert export(varied, target, "--format", "parquet") == ExitCode.CONFIGURATION
    assert "pip install 'cxrbatch[parquet]'" in capsys.readouterr().err
    assert not target.exists()
    assert export(varied, target, "--format", "csv-long") == 0


def test_a_de_identified_output_gives_a_de_identified_export(tmp_path: Path) -> None:
    out, _ = run_varied(tmp_path, keep_maps=True, deidentify=True)
    formats = [part for name in ("parquet", "csv-long", "coco", "npy") for part in ("--format", name)]
    assert export(out, tmp_path / "target", *formats) == 0
    assert json.loads((tmp_path / "target" / EXPORT_FILE).read_text())["deidentified"] is True
    written = b"".join(path.read_bytes() for path in (tmp_path / "target").rglob("*") if path.is_file())
    for canary in (b"Jane", b"1.2.3.4", b"'-1"):
        assert canary not in written
    assert b"night/1.dcm" in written  # paths are the names of rows, as in the tables
    typed = parquet.read_table(tmp_path / "target" / "image_scores.parquet").to_pylist()
    assert {row["patient_id"] for row in typed} == {""}
    assert len(typed) == 12


def test_text_that_is_no_unicode_can_be_written_in_every_format(tmp_path: Path) -> None:
    from cxrbatch.output.export.rows import ImageScoreRow, image_score_rows
    from cxrbatch.output.export.tables import csv_table, parquet_table
    from tests.factories.output import make_study_row

    result = make_study_result()
    odd = replace(result, images=(replace(result.images[0], path="a\udcff\n\u202e.dcm"),))
    for name, table in (("t.csv", csv_table), ("t.parquet", parquet_table)):
        with table(tmp_path / name, ImageScoreRow) as add:
            for row in image_score_rows(make_study_row(odd), odd):
                add(row)
    (cell,) = {row["path"] for row in read_rows(tmp_path / "t.csv")}
    assert restored(cell) == odd.images[0].path
    assert set(parquet.read_table(tmp_path / "t.parquet")["path"].to_pylist()) == {cell}
    with coco_file(tmp_path / "coco.json", "all", "now") as coco:
        coco.add(odd, tmp_path)
    assert json.loads((tmp_path / "coco.json").read_text())["images"][0]["file_name"] == odd.images[0].path


def test_parquet_is_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cxrbatch.output.export import tables
    from cxrbatch.output.export.rows import StudyScoreRow, study_score_rows
    from tests.factories.output import make_study_row

    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 4)
    result = make_study_result()
    with tables.parquet_table(tmp_path / "t.parquet", StudyScoreRow) as add:
        for _ in range(5):
            for row in study_score_rows(make_study_row(result), result):
                add(row)
    written: Any = parquet.ParquetFile(tmp_path / "t.parquet").metadata
    assert (written.num_rows, written.num_row_groups) == (15, 4)
