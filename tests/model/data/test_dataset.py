"""Labelled data becomes arrays, through intake; what one cannot train on is refused before any training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxrbatch.config import Settings
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.intake.preprocess import prepare
from cxrbatch.intake.read import read_radiograph
from cxrbatch.model.data.dataset import load_data, load_folds, prepare_folds, prepare_pixels
from cxrbatch.model.data.layouts import read_data
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.pixel_cache import CACHE_VARIABLE
from cxrbatch.phantom import FINDINGS, write_training_set
from cxrbatch.records import InputSpec
from tests.factories.labelled import write_images, write_table

CSV = DataOptions(layout="csv")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_training_set(folder, n=40, seed=5, size_px=96, workers=1)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def test_phantoms_come_with_their_findings_and_parts(phantoms: Path) -> None:
    table = read_data(phantoms, CSV)
    assert table.labels == FINDINGS
    assert [len(table.part(split)) for split in ("train", "val", "test")] == [32, 4, 4]
    assert {target for sample in table.samples for target in sample.targets} == {0.0, 1.0}
    assert {sample.view for sample in table.samples} == {"PA"}


def test_pixels_are_those_that_inference_would_see(phantoms: Path) -> None:
    samples, spec = read_data(phantoms, CSV).samples, InputSpec(64)
    pixels = prepare_pixels(samples, spec, workers=2)
    assert pixels.pixels.shape == (40, 1, 64, 64)
    for row in (0, 17, 39):
        expected = prepare(read_radiograph(samples[row].path, Settings()), spec).pixels
        np.testing.assert_array_equal(pixels.pixels[row], expected)
        assert tuple(pixels.targets[row]) == samples[row].targets


def test_workers_change_nothing_and_progress_is_told(phantoms: Path) -> None:
    samples, told = read_data(phantoms, CSV).samples, list[tuple[int, int]]()
    alone = prepare_pixels(samples, InputSpec(64), workers=1, report=lambda done, total: told.append((done, total)))
    together = prepare_pixels(samples, InputSpec(64), workers=2)
    np.testing.assert_array_equal(alone.pixels, together.pixels)
    assert told == [(32, 40), (40, 40)]


def test_labels_are_picked_and_ordered(phantoms: Path) -> None:
    every, picked = (
        read_data(phantoms, CSV),
        read_data(phantoms, DataOptions(layout="csv", labels=("Nodule", "Effusion"))),
    )
    nodule, effusion = FINDINGS.index("Nodule"), FINDINGS.index("Effusion")
    expected = [(sample.targets[nodule], sample.targets[effusion]) for sample in every.samples]
    assert [sample.targets for sample in picked.samples] == expected
    assert picked.sha256 != every.sha256


def test_the_cache_gives_the_same_parts_as_memory(phantoms: Path) -> None:
    images, spec = load_data(phantoms, DataOptions()), InputSpec(64)
    (prepared,) = prepare_folds([images], spec, workers=1)
    for split in ("train", "val", "test"):
        cached, decoded = prepared.part(split), prepare_pixels(images.part(split), spec, workers=1)
        assert isinstance(cached.pixels, np.memmap)
        np.testing.assert_array_equal(cached.pixels_of(np.arange(len(cached))), decoded.pixels)
        np.testing.assert_array_equal(cached.targets, decoded.targets)


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_table(tmp_path, "image_index,split,A\na.png,train,1\nb.png,train,0\n")
    with pytest.raises(UsageError, match=r"no image belongs to the part val; there are train\."):
        read_data(tmp_path, CSV).part("val")


def test_every_damaged_image_is_named(tmp_path: Path) -> None:
    write_table(tmp_path, "image_index,split,A\na.png,train,1\nb.png,val,0\nc.png,train,0\n")
    (tmp_path / "b.png").write_bytes(b"not an image")
    (tmp_path / "c.png").write_bytes(b"")
    message = r"2 images cannot be trained on(.|\n)*b\.png: not_an_image(.|\n)*c\.png: not_an_image"
    with pytest.raises(UsageError, match=message):
        prepare_pixels(read_data(tmp_path, CSV).samples, InputSpec(64), workers=1)
    with pytest.raises(UsageError, match=message):
        prepare_folds([read_data(tmp_path, CSV)], InputSpec(64), workers=1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.png,test,p,1\nb.png,test,q,0\n", r"all images belong to test; none is left to train on"),
        ("a.png,train,p,1\nb.png,val,q,0\n", r"training images are all with A"),
        ("a.png,train,p,0\nb.png,val,q,1\n", r"training images are all without A"),
        ("a.png,,p,1\nb.png,,p,0\n", r"too few patients \(1\) to split their images into train, val"),
        (
            "a.png,train,p,1\nb.png,train,q,0\nc.png,val,p,0\n",
            r"Patients with images in two parts: 1 \(a\.png in train, c\.png in val\)",
        ),
    ],
)
def test_what_one_cannot_train_on_is_refused(tmp_path: Path, rows: str, message: str) -> None:
    write_table(tmp_path, "path,split,patient,A\n" + rows)
    with pytest.raises(UsageError, match=message) as refusal:
        load_data(tmp_path, DataOptions())
    assert refusal.value.exit_code is ExitCode.USAGE


def test_a_leak_that_is_allowed_is_written_down(tmp_path: Path) -> None:
    write_table(tmp_path, "path,split,patient,A\na.png,train,p77,1\nb.png,train,q,0\nc.png,val,p77,0\n")
    with pytest.raises(UsageError) as refusal:
        load_data(tmp_path, DataOptions())
    assert "p77" not in str(refusal.value)
    images = load_data(tmp_path, DataOptions(allow_leak=True))
    assert images.leaks == ("Patients with images in two parts: 1 (a.png in train, c.png in val).",)
    assert len(images.samples) == 3


def test_the_same_picture_in_two_parts_is_refused_though_its_files_differ(tmp_path: Path) -> None:
    write_table(tmp_path, "path,split,A\na.png,train,1\nb.png,train,0\nc.png,val,0\n")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "c.png").write_bytes(content + b"trailing bytes that no reader looks at")
    images = load_data(tmp_path, DataOptions())
    message = r"Pictures that are in two parts: 1 \(a\.png in train, c\.png in val\)"
    with pytest.raises(UsageError, match=message):
        prepare_folds([images], InputSpec(64), workers=1)
    (kept,) = prepare_folds([images], InputSpec(64), allow_leak=True, workers=1)
    assert kept.images.leaks == ("Pictures that are in two parts: 1 (a.png in train, c.png in val).",)
    assert kept.rows("val").tolist() == [2]


def test_folds_validate_on_each_image_once_and_keep_the_test_part_out(tmp_path: Path) -> None:
    names = write_images(tmp_path, 30)
    rows = "".join(
        f"{name},{'test' if index >= 24 else 'train'},p{index // 2},{index % 2}\n" for index, name in enumerate(names)
    )
    (tmp_path / "labels.csv").write_text("path,split,patient,A\n" + rows)
    folds = load_folds(tmp_path, DataOptions(folds=3))
    validated = [sample.path.name for fold in folds for sample in fold.part("val")]
    assert sorted(validated) == names[:24]
    for fold in folds:
        assert [sample.path.name for sample in fold.part("test")] == names[24:]
        assert sum(sample.targets[0] for sample in fold.part("val")) == 4.0
    assert len({fold.sha256 for fold in folds}) == 3


def test_without_folds_there_is_one_split(phantoms: Path) -> None:
    assert load_folds(phantoms, DataOptions()) == (load_data(phantoms, DataOptions()),)
