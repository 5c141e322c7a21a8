"""From boxes in a table to the verdict on an engine's maps, in what evaluate writes and in the engine of adjust."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.engine.bundle import load_bundle
from cxrbatch.errors import ExitCode
from tests.factories.engine import write_tiny_bundle
from tests.factories.stripes import write_stripes, write_stripes_bundle

Boxes = list[tuple[str, tuple[int, int, int, int]]]


def write_boxes(path: Path, boxes: Boxes, label: str = "Upright") -> Path:
    rows = [f"{image},{label},{','.join(map(str, box))}" for image, box in boxes]
    path.write_text("\n".join(["image,label,x,y,w,h", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Boxes]:
    """Forty-two images of twenty-one patients, in folders with the same two file names."""
    folder = tmp_path_factory.mktemp("stripes")
    return folder, write_stripes(folder, 42)


def evaluate(tmp_path: Path, engine: Path, data: Path, boxes: Path) -> dict[str, object]:
    arguments = ["evaluate", str(engine), str(data), "-o", str(tmp_path / "out"), "--boxes", str(boxes)]
    assert run_command_line([*arguments, "--bootstrap", "0"]) == ExitCode.DONE
    (pointing,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["pointing"]
    assert isinstance(pointing, dict)
    return pointing


def test_an_engine_whose_maps_point_is_validated_and_stays_as_it_was(
    tmp_path: Path, data: tuple[Path, Boxes], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, boxes = data
    engine = write_stripes_bundle(tmp_path)
    before = (engine / "engine.json").read_bytes()
    check = evaluate(tmp_path, engine, folder, write_boxes(tmp_path / "boxes.csv", boxes))["check"]
    assert isinstance(check, dict)
    assert (check["validated"], check["hits"], check["images"], check["patients"]) == (True, 1.0, 42, 21)
    assert check["chance"] == pytest.approx(1 / 64, abs=0.004)
    assert check["same_place"] < 0.2
    assert check["shuffled_hits"] < 0.7
    assert check["likeness"] <= check["likeness_limit"]
    assert "Heatmaps of Upright, 42 images with boxes: validated (hits 1.000" in capsys.readouterr().out.replace(
        "\n", " "
    )
    assert "Always the same place" in (tmp_path / "out" / "evaluation.html").read_text()
    assert (engine / "engine.json").read_bytes() == before


def test_adjust_keeps_the_verdict_in_a_new_engine(tmp_path: Path, data: tuple[Path, Boxes]) -> None:
    folder, boxes = data
    old = load_bundle(write_stripes_bundle(tmp_path))
    arguments = ["adjust", str(old.folder), "-n", "checked", "--engines", str(tmp_path), "--data", str(folder)]
    assert run_command_line([*arguments, "--boxes", str(write_boxes(tmp_path / "b.csv", boxes))]) == ExitCode.DONE
    new = load_bundle(tmp_path / "checked")
    (label,) = new.labels
    assert label.maps is not None
    assert (label.has_validated_maps, label.maps.images) == (True, 42)
    assert label.maps.source == f"all images of {folder.name}"
    assert load_bundle(old.folder).labels[0].maps is None
    # Boxes alone calibrate nothing: on images that were chosen for their boxes, that would be wrong.
    assert (new.folder / "model.onnx").read_bytes() == (old.folder / "model.onnx").read_bytes()
    assert not new.manifest.adjustments[-1].calibrated
    assert new.describe("onnx", "").sha256 == old.describe("onnx", "").sha256
    card = (new.folder / "MODEL_CARD.md").read_text()
    assert "| Upright | 42 | 21 | 1.000 |" in card
    assert "Heatmaps checked on boxes: Upright" in card


def test_boxes_without_data_are_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = write_stripes_bundle(tmp_path)
    boxes = write_boxes(tmp_path / "b.csv", [("a.png", (0, 0, 9, 9))])
    arguments = ["adjust", str(engine), "-n", "new", "--engines", str(tmp_path), "--boxes", str(boxes)]
    assert run_command_line(arguments) == ExitCode.USAGE
    assert "name it with --data" in capsys.readouterr().err


def test_a_file_name_that_several_patients_have_takes_no_ones_box(
    tmp_path: Path, data: tuple[Path, Boxes], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = data
    boxes = write_boxes(tmp_path / "boxes.csv", [("a.png", (0, 0, 16, 16))])
    arguments = ["evaluate", str(write_stripes_bundle(tmp_path)), str(folder), "-o", str(tmp_path / "out")]
    assert run_command_line([*arguments, "--boxes", str(boxes)]) == ExitCode.USAGE
    error = " ".join(capsys.readouterr().err.split())
    assert "a.png is the name of 21 images. Write its path below the data's folder." in error


def test_boxes_of_no_image_of_the_data_are_a_usage_error(
    tmp_path: Path, data: tuple[Path, Boxes], capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = write_boxes(tmp_path / "boxes.csv", [("p0/c.png", (0, 0, 16, 16))])
    arguments = ["evaluate", str(write_stripes_bundle(tmp_path)), str(data[0]), "-o", str(tmp_path / "out")]
    assert run_command_line([*arguments, "--boxes", str(boxes)]) == ExitCode.USAGE
    assert "no such image: p0/c.png" in " ".join(capsys.readouterr().err.split())


def test_an_engine_that_always_looks_at_one_place_is_not_validated(tmp_path: Path) -> None:
    generator, rows, boxes = np.random.default_rng(0), ["path,patient,split,TopLeft"], []
    for number in range(24):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), generator.integers(150, 250, (128, 128)).astype(np.uint8))
        rows.append(f"{number}.png,p{number},test,{int(number < 22)}")
        boxes += [(f"{number}.png", (8, 8, 48, 48))] if number < 22 else []
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    engine = write_tiny_bundle(tmp_path / "engines", labels=("TopLeft", "TopRight"))
    pointing = evaluate(tmp_path, engine, tmp_path, write_boxes(tmp_path / "boxes.csv", boxes, "TopLeft"))
    check = pointing["check"]
    assert isinstance(check, dict)
    assert (check["hits"], check["same_place"], check["validated"]) == (1.0, 1.0, False)
    assert "no more than always pointing at the same place" in check["reason"]
