"""The page that shows what labelled data is: right counts, every trouble named, nobody's identity."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.model.data.labelled import UNKNOWN
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.pixel_cache import CACHE_VARIABLE
from cxrbatch.model.describe.describe import describe_data
from tests.factories.labelled import write_image, write_images
from tests.factories.studies import read_rows

CANARY = "Mustermann"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve images of seven patients; image 3 is image 2 again, in another part with other labels; 11 is broken."""
    folder = tmp_path / "data"
    names = write_images(folder, 12)
    (folder / names[3]).write_bytes((folder / names[2]).read_bytes())
    (folder / names[11]).write_bytes(b"not an image")
    write_image(folder / names[10], seed=10, size_px=96)
    rows = "".join(
        f"{name},{'val' if index in {3, 8, 9} else 'train'},{CANARY}{99 if index == 3 else index // 2},"
        f"{20 * (index % 5)},{'FM'[index % 2]},{'PA' if index < 8 else 'AP'},{index % 2},{int(index % 3 == 0)}\n"
        for index, name in enumerate(names)
    )
    (folder / "labels.csv").write_text(f"path,split,patient,age,sex,view,Mass,=Edema <b>\n{rows}")
    return folder


def test_counts(data: Path, tmp_path: Path) -> None:
    summary = describe_data(data, DataOptions(), tmp_path / "out", workers=1)
    assert [(part.name, part.images, part.patients) for part in summary.parts] == [("train", 9, 5), ("val", 3, 2)]
    mass, edema = summary.lines
    assert (mass.positive, mass.negative, mass.unknown, mass.share) == (6, 6, 0, 0.5)
    assert mass.prevalence == pytest.approx((4 / 9, 2 / 3))
    assert (edema.positive, edema.patients) == (4, 4)
    np.testing.assert_array_equal(summary.together, [[6, 2], [2, 4]])
    assert summary.neither == 4
    groups = {(line.column, line.value): (line.images, line.prevalence[0]) for line in summary.groups}
    assert groups["Sex", "F"] == (6, 0.0)
    assert groups["Sex", "M"] == (6, 1.0)
    assert groups["View", "AP"] == (4, 0.5)
    assert groups["Age", "18-39"][0] == 3
    assert ("Source", UNKNOWN) not in groups
    assert [(size.rows, size.columns, count) for size, count in summary.sizes] == [(64, 64, 10), (96, 96, 1)]


def test_every_trouble_is_shown(data: Path, tmp_path: Path) -> None:
    summary = describe_data(data, DataOptions(), tmp_path / "out", workers=1)
    (double,) = summary.doubles
    assert (double.names, double.splits, double.differ) == (("002.png", "003.png"), ("train", "val"), True)
    assert [image.path.name for image in summary.bad] == ["011.png"]
    assert summary.leaks == ("Pictures that are in two parts: 1 (002.png in train, 003.png in val).",)
    page = (tmp_path / "out" / "index.html").read_text()
    for shown in ("The split leaks.", "002.png", "labels differ", "in train and val", "011.png", "not_an_image"):
        assert shown in page


def test_the_page_is_whole_escaped_and_names_nobody(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    describe_data(data, DataOptions(), out, workers=1)
    page = (out / "index.html").read_text()
    linked = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert linked == {path.name for path in out.iterdir()} - {"index.html"}
    assert "<b>" not in page.replace("<i><b ", "").split("<main>")[1].split("Images that show")[0]
    assert "=Edema &lt;b&gt;" in page
    for written in out.iterdir():
        assert CANARY.encode() not in written.read_bytes()


def test_tables_hold_what_the_page_shows(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    describe_data(data, DataOptions(), out, workers=1)
    counts = read_rows(out / "label_counts.csv")
    assert [row["label"] for row in counts] == ["Mass", "'=Edema <b>"]
    assert (counts[0]["positive"], counts[0]["share_train"], counts[0]["share_val"]) == ("6", "0.4444", "0.6667")
    images = read_rows(out / "images.csv")
    assert len(images) == 12
    assert images[10] == {
        "path": "010.png",
        "split": "train",
        "age": "0",
        "sex": "F",
        "view": "AP",
        "rows": "96",
        "columns": "96",
        "Mass": "0",
        "'=Edema <b>": "0",
    }
    assert read_rows(out / "duplicates.csv")[1] == {"group": "1", "path": "003.png", "labels_differ": "1"}
    assert [row["reason"].split(":")[0] for row in read_rows(out / "unreadable.csv")] == ["not_an_image"]


def test_the_same_data_gives_the_same_files(data: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        describe_data(data, DataOptions(), tmp_path / out, workers=1)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_data_without_a_split_is_shown_as_training_would_split_it(tmp_path: Path) -> None:
    for index in range(20):
        write_image(tmp_path / "data" / ("normal" if index % 2 else "sick") / f"{index}.png", index)
    summary = describe_data(tmp_path / "data", DataOptions(), tmp_path / "out", workers=1)
    assert [(part.name, part.images) for part in summary.parts] == [("train", 16), ("val", 4)]
    assert "drawn by patient, stratified, seed 0, as train would" in (tmp_path / "out" / "index.html").read_text()
    assert not (tmp_path / "out" / "together.svg").exists()


def test_data_that_cannot_be_split_is_shown_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_images(folder, 2)
    (folder / "labels.csv").write_text("path,patient,A\n000.png,p,1\n001.png,p,0\n")
    summary = describe_data(folder, DataOptions(), tmp_path / "out", workers=1)
    assert [part.name for part in summary.parts] == [""]
    assert "cannot be split for training" in summary.notes[-1]


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run_command_line(["describe", str(data), "-o", str(out), "--labels", "Mass", "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"12 images of 7 patients: {out / 'index.html'}" in printed
    assert "Pictures that are in two parts: 1" in printed
    assert len(read_rows(out / "label_counts.csv")) == 1


def test_what_cannot_be_read_at_all_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no known layout") as refusal:
        describe_data(tmp_path, DataOptions(), tmp_path / "out")
    assert refusal.value.exit_code is ExitCode.USAGE
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif("CXRBATCH_SHARED_DATA" not in os.environ, reason="needs the real images of shared/data")
def test_the_nih_subset(tmp_path: Path) -> None:
    summary = describe_data(Path(os.environ["CXRBATCH_SHARED_DATA"]) / "nih256", DataOptions(), tmp_path / "out")
    assert (summary.images, summary.patients, summary.bad, summary.leaks) == (779, 527, (), ())
    pneumonia = next(line for line in summary.lines if line.name == "Pneumonia")
    assert (pneumonia.positive, pneumonia.negative) == (397, 382)
    assert [(size.rows, count) for size, count in summary.sizes] == [(256, 779)]
