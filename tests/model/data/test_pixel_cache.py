"""Prepared pixels are kept, and made again only where they have to be."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cxrbatch.config import Settings
from cxrbatch.errors import ExitCode, OutputNotWritable, UsageError
from cxrbatch.intake.read import read_radiograph
from cxrbatch.model.data import pixels
from cxrbatch.model.data.pixel_cache import CACHE_VARIABLE, PIXELS_FILE, cache_folder, fill_cache, prepare_cached
from cxrbatch.records import Gray8, InputSpec, Radiograph
from tests.factories.labelled import write_image, write_images

SPEC = InputSpec(64)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "images"
    return [folder / name for name in write_images(folder, 40)]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which images were decoded, by name, in this process."""
    names: list[str] = []

    def counting(path: Path, settings: Settings, *, source_px: int) -> Radiograph:
        names.append(path.name)
        return read_radiograph(path, settings, source_px=source_px)

    monkeypatch.setattr(pixels, "read_radiograph", counting)
    return names


def prepare(paths: list[Path], tmp_path: Path, spec: InputSpec = SPEC) -> Gray8:
    return prepare_cached(paths, spec, folder=tmp_path / "cache", workers=1)


def test_the_second_time_nothing_is_decoded(images: list[Path], tmp_path: Path, decoded: list[str]) -> None:
    first = prepare(images, tmp_path)
    assert decoded == [image.name for image in images]
    second = prepare(images, tmp_path)
    assert len(decoded) == len(images)
    assert first.shape == (40, 1, 64, 64)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(second, prepare_cached(images, SPEC, folder=tmp_path / "other", workers=2))


def test_pixels_are_mapped_and_cannot_be_written_to(images: list[Path], tmp_path: Path) -> None:
    pixels = prepare(images, tmp_path)
    assert isinstance(pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0, 5, 5] = 0


def test_an_interrupted_run_goes_on_where_it_stopped(images: list[Path], tmp_path: Path, decoded: list[str]) -> None:
    def interrupt(done: int, total: int) -> None:
        assert (done, total) == (32, 40)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_cache(images, SPEC, folder=tmp_path / "cache", workers=1, report=interrupt)
    assert len(decoded) == 32
    told = list[tuple[int, int]]()
    pixels, bad = fill_cache(
        images, SPEC, folder=tmp_path / "cache", workers=1, report=lambda done, total: told.append((done, total))
    )
    assert decoded == [image.name for image in images]
    assert told == [(40, 40)]
    assert bad == ()
    assert pixels.any(axis=(1, 2, 3)).all()


def test_a_changed_file_is_decoded_again_alone(images: list[Path], tmp_path: Path, decoded: list[str]) -> None:
    before = np.array(prepare(images, tmp_path))
    write_image(images[7], seed=1007)
    decoded.clear()
    after = prepare(images, tmp_path)
    assert decoded == ["007.png"]
    assert [row for row in range(40) if (before[row] != after[row]).any()] == [7]


def test_a_file_of_the_same_size_and_another_time_is_decoded_again(
    images: list[Path], tmp_path: Path, decoded: list[str]
) -> None:
    prepare(images, tmp_path)
    decoded.clear()
    os.utime(images[3], ns=(1, 1))
    prepare(images, tmp_path)
    assert decoded == ["003.png"]


@pytest.mark.parametrize("spec", [InputSpec(48), InputSpec(64, fit="crop"), InputSpec(64, preprocess_version=2)])
def test_another_way_of_preparing_is_another_entry(
    images: list[Path], tmp_path: Path, decoded: list[str], spec: InputSpec
) -> None:
    prepare(images, tmp_path)
    decoded.clear()
    prepare(images, tmp_path, spec)
    assert len(decoded) == 40
    prepare(images, tmp_path)
    assert len(decoded) == 40


def test_mean_and_deviation_do_not_matter(images: list[Path], tmp_path: Path, decoded: list[str]) -> None:
    prepare(images, tmp_path)
    prepare(images, tmp_path, InputSpec(64, mean=0.4, std=0.2))
    assert len(decoded) == 40


def test_another_list_of_images_keeps_its_own_order(images: list[Path], tmp_path: Path) -> None:
    forward, backward = prepare(images, tmp_path), prepare(images[::-1], tmp_path)
    np.testing.assert_array_equal(forward, backward[::-1])


def test_every_bad_image_is_named_once_all_others_are_ready(
    images: list[Path], tmp_path: Path, decoded: list[str]
) -> None:
    images[2].write_bytes(b"not an image")
    images[38].unlink()
    with pytest.raises(UsageError) as refusal:
        prepare(images, tmp_path)
    lines = str(refusal.value).splitlines()
    assert lines[0].startswith("2 images cannot be trained on.")
    assert "002.png: not_an_image" in lines[1]
    assert "038.png: cannot be opened: No such file or directory" in lines[2]
    write_image(images[2], 2)
    write_image(images[38], 38)
    decoded.clear()
    prepare(images, tmp_path)
    assert decoded == ["002.png", "038.png"]


def test_a_damaged_entry_is_made_anew(images: list[Path], tmp_path: Path, decoded: list[str]) -> None:
    before = np.array(prepare(images, tmp_path))
    (array,) = (tmp_path / "cache").glob(f"*/{PIXELS_FILE}")
    array.write_bytes(array.read_bytes()[:500])
    decoded.clear()
    np.testing.assert_array_equal(prepare(images, tmp_path), before)
    assert len(decoded) == 40


def test_a_cache_that_cannot_be_written_says_how_to_move_it(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OutputNotWritable, match=rf"No space left on device.*{CACHE_VARIABLE}") as refusal:
        prepare(images, tmp_path)
    assert refusal.value.exit_code is ExitCode.OUTPUT_NOT_WRITABLE


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path / "pixels"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "cxrbatch" / "pixels"
