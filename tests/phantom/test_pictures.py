"""Training sets: pictures as drawn, labels as true."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from cxrbatch.phantom import FINDINGS, draw_phantom, windowed, write_phantom_png, write_training_set


def labels(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_window_fills_8_bits() -> None:
    phantom = draw_phantom(2, rows=96)
    low = phantom.window_center - phantom.window_width / 2
    expected = np.clip((phantom.stored - low) / phantom.window_width, 0, 1) * 255
    np.testing.assert_allclose(windowed(phantom), expected, atol=0.51)


@pytest.mark.parametrize(("bits", "dtype", "white"), [(8, np.uint8, 255), (16, np.uint16, 65535)])
def test_a_png_reads_back(tmp_path: Path, bits: Literal[8, 16], dtype: type[np.generic], white: int) -> None:
    phantom = draw_phantom(2, rows=96)
    write_phantom_png(tmp_path / "phantom.png", phantom, bits=bits)
    picture = cv2.imread(str(tmp_path / "phantom.png"), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    assert picture.dtype == dtype
    np.testing.assert_allclose(picture / white, windowed(phantom) / 255, atol=0.003)


def test_labels_tell_what_was_drawn(tmp_path: Path) -> None:
    write_training_set(tmp_path / "set", n=20, seed=4, size_px=64, workers=1)
    rows = labels(tmp_path / "set")
    assert len(rows) == 20
    for index, row in enumerate(rows):
        phantom = draw_phantom(4_000_000 + index, rows=64)
        assert tuple(name for name in FINDINGS if row[name] == "1") == phantom.findings
        assert row["finding_labels"] == ("|".join(phantom.findings) or "No Finding")
        assert (row["age"], row["sex"], row["view"]) == (str(phantom.age), phantom.sex, "PA")
        picture = cv2.imread(str(tmp_path / "set" / row["image_index"]), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(picture, windowed(phantom))


def test_every_phantom_is_a_patient_of_its_own_and_splits_are_8_1_1(tmp_path: Path) -> None:
    write_training_set(tmp_path, n=30, seed=4, size_px=48, workers=1)
    rows = labels(tmp_path)
    assert len({row["patient_id"] for row in rows}) == 30
    splits = [row["split"] for row in rows]
    assert (splits.count("train"), splits.count("val"), splits.count("test")) == (24, 3, 3)


def test_more_workers_write_the_same_set(tmp_path: Path) -> None:
    seen: list[int] = []
    write_training_set(tmp_path / "one", n=20, seed=9, size_px=48, workers=1)
    write_training_set(tmp_path / "two", n=20, seed=9, size_px=48, workers=2, progress=seen.append)
    assert seen == [16, 20]
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_columns_are_those_of_the_nih_subsets(tmp_path: Path) -> None:
    write_training_set(tmp_path, n=1, seed=1, size_px=48, workers=1)
    head = ["image_index", "patient_id", "age", "sex", "view", "finding_labels", "split"]
    assert (tmp_path / "labels.csv").read_text().splitlines()[0].split(",") == [*head, *FINDINGS]


def test_a_set_too_large_for_its_seeds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most"):
        write_training_set(tmp_path, n=1_000_001, seed=1, size_px=48)
