"""The pictures of README and manual are made of an output folder: of the sizes, colours and states that they name."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from selenium.webdriver import Chrome

from scripts.screenshots import PDF_PICTURE, PICTURES, take_pictures
from tests.browser.pages import HIGH, write_list, write_report


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """An output folder with a report of one image, the worklist and a sheet."""
    report = write_report(tmp_path, (HIGH,), key="7" * 16)
    write_list(tmp_path)
    (tmp_path / "runs").mkdir()
    for name, colour in (("2026-01-01-1", "red"), ("2026-01-02-1", "lime")):
        (tmp_path / "runs" / f"{name}.html").write_text(f"<!DOCTYPE html><body style='background: {colour}'>")
    columns = "study_key,n_images,priority,report_html,report_pdf"
    rows = (
        f"{'9' * 16},1,normal,reports/none,",
        f"{'7' * 16},1,urgent,{report.relative_to(tmp_path)},",
        f"{'6' * 16},2,urgent,x,",
    )
    (tmp_path / "studies.csv").write_text("\n".join((columns, *rows)) + "\n")
    return tmp_path


def test_every_picture_is_there_as_large_and_as_dark_as_it_is_to_be(
    browser: Chrome, results: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    made = {path.stem: path for path in take_pictures(browser, results, images)}
    assert set(made) == {picture.name for picture in PICTURES}, "and none of a PDF, for there is none"
    seen = {name: np.asarray(cv2.imread(str(path))) for name, path in made.items()}
    for picture in PICTURES:
        assert seen[picture.name].shape == (picture.height, picture.width, 3)
    for page in ("worklist", "report"):
        assert seen[f"{page}-dark"][:40, :40].mean() < 100
        assert seen[page][:40, :40].mean() > 200
    assert seen["sheet"][500, 500].tolist() == [0, 255, 0], "the latest one"
    assert np.abs(seen["viewer"].astype(int) - cv2.resize(seen["report"], (1280, 860))).mean() > 20
    assert browser.execute_script("return [innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]")[1] is False


def test_one_may_be_asked_for(browser: Chrome, results: Path, tmp_path: Path) -> None:
    assert [path.stem for path in take_pictures(browser, results, tmp_path / "images", ("sheet", PDF_PICTURE))] == [
        "sheet"
    ]
