from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrbatch.errors import StudyFailed
from cxrbatch.output.report.heatmap import activation_on_display, peak_in_stored
from cxrbatch.output.report.pictures import draw_study, heatmap_file_names, labels_to_draw
from cxrbatch.output.report.report_files import (
    are_pictures_whole,
    is_named_by_content,
    picture_names,
    read_pictures,
    remove_stale_pictures,
)
from cxrbatch.records import ImagePixels, Label
from cxrbatch.system.durable import replace_files
from tests.factories.output import (
    LABELS,
    as_earlier_version,
    make_engine,
    make_geometry,
    make_pixels,
    make_study_result,
    plain,
)


def decoded(content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_each_image_gets_its_pictures() -> None:
    drawn = draw_study(make_study_result(((0.9, 0.2, 0.6), (0.1, 0.3, 0.2))), [make_pixels(), make_pixels()])
    assert [plain(name) for name in sorted(drawn.pictures)] == [
        "heatmap-1-Effusion.jpg",
        "heatmap-1-Pneumothorax.jpg",
        "heatmap-2-Nodule.jpg",
        "image-1.jpg",
        "image-2.jpg",
        "thumb-1.jpg",
        "thumb-2.jpg",
    ]
    first, second = drawn.result.images
    assert (plain(first.image_file), plain(first.thumbnail_file)) == ("image-1.jpg", "thumb-1.jpg")
    assert set(drawn.pictures) == set(picture_names(drawn.result))
    assert [heatmap.label for heatmap in first.heatmaps] == ["Pneumothorax", "Effusion"], "urgent first"
    (highest,) = second.heatmaps
    assert plain(highest.file) == "heatmap-2-Nodule.jpg", "the highest where none is called"


def test_pictures_show_the_display_image() -> None:
    pixels = make_pixels()
    drawn = draw_study(make_study_result(), [pixels])
    pictures = {plain(name): content for name, content in drawn.pictures.items()}
    radiograph = decoded(pictures["image-1.jpg"]).astype(int)
    assert radiograph.shape == pixels.display.shape, "grey, at the display's size"
    assert np.abs(radiograph - pixels.display).mean() < 2
    assert max(decoded(pictures["thumb-1.jpg"]).shape) == 160
    assert decoded(pictures["heatmap-1-Effusion.jpg"]).shape == (*pixels.display.shape, 3)


def test_the_peak_of_a_heatmap_is_that_of_its_map() -> None:
    pixels = make_pixels()
    heatmap = draw_study(make_study_result(), [pixels]).result.images[0].heatmaps[0]
    activation = activation_on_display(pixels.cams[0], pixels.geometry, pixels.display.shape)
    assert (heatmap.peak_x, heatmap.peak_y) == peak_in_stored(activation, pixels.geometry)
    assert not heatmap.faint


def test_a_map_without_evidence_is_faint() -> None:
    display = np.zeros((64, 64), np.uint8)
    pixels = ImagePixels(display, np.full((3, 7, 7), -1, np.float32), make_geometry(64, 64))
    assert draw_study(make_study_result(), [pixels]).result.images[0].heatmaps[0].faint


def test_a_class_that_means_nothing_found_gets_no_heatmap() -> None:
    labels = (Label("Normal", 0.5, normal=True), Label("Pneumonia", 0.5))
    image = make_study_result(((0.9, 0.1),), labels=labels).images[0]
    assert labels_to_draw(image, make_engine(labels)) == [1]


def test_file_names_hold_nothing_unsafe_and_stay_different() -> None:
    names = heatmap_file_names(1, [Label(name) for name in ("../x y", "A/B", "A_B", "a-b", "山", "x" * 300)])
    assert all(re.fullmatch(r"heatmap-1-[A-Za-z0-9_]+\.jpg", name) for name in names)
    assert len({name.lower() for name in names}) == len(names)
    assert names[:3] == ["heatmap-1-x_y.jpg", "heatmap-1-A_B.jpg", "heatmap-1-A_B_3.jpg"]


def test_one_set_of_pixels_per_image_is_needed() -> None:
    with pytest.raises(ValueError, match="zip"):
        draw_study(make_study_result(), [])


def test_pictures_of_an_earlier_revision_go(tmp_path: Path) -> None:
    earlier = draw_study(make_study_result(((0.9, 0.9, 0.9), (0.9, 0.9, 0.9))), [make_pixels(), make_pixels()])
    replace_files(tmp_path, earlier.pictures)
    current = draw_study(make_study_result(((0.1, 0.9, 0.1),)), [make_pixels()])
    replace_files(tmp_path, current.pictures)
    remove_stale_pictures(current.result, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(current.pictures)


def test_a_missing_picture_says_what_to_do(tmp_path: Path) -> None:
    drawn = draw_study(make_study_result(), [make_pixels()])
    replace_files(tmp_path, drawn.pictures)
    assert read_pictures(drawn.result, tmp_path) == drawn.pictures
    (heatmap,) = tmp_path.glob("heatmap-1-Effusion-*.jpg")
    heatmap.unlink()
    with pytest.raises(StudyFailed, match=r"heatmap-1-Effusion-[0-9a-f]{12}\.jpg is missing.*cxrbatch run"):
        read_pictures(drawn.result, tmp_path)


@pytest.mark.hostile("9.1 report and ledger")
@pytest.mark.parametrize("kind", ["image", "thumb", "heatmap"])
def test_a_picture_that_is_not_the_one_that_was_drawn_is_refused(tmp_path: Path, kind: str) -> None:
    drawn = draw_study(make_study_result(), [make_pixels()])
    replace_files(tmp_path, drawn.pictures)
    other = draw_study(make_study_result(), [make_pixels(display=np.full((256, 200), 90, np.uint8))])
    (target,) = tmp_path.glob(f"{kind}-*.jpg")
    (source,) = [name for name in other.pictures if name.startswith(kind)]
    target.write_bytes(other.pictures[source])
    with pytest.raises(StudyFailed, match=f"{target.name} is not the picture.*cxrbatch run"):
        read_pictures(drawn.result, tmp_path)
    assert not are_pictures_whole(drawn.result, tmp_path)


def test_pictures_of_earlier_versions_are_read_by_their_plain_names(tmp_path: Path) -> None:
    labels = (Label("deadbeefcafe"), Label("B"), Label("C"))
    drawn = draw_study(make_study_result(labels=labels), [make_pixels()])
    old = as_earlier_version(drawn.result)
    assert all(not is_named_by_content(name) for name in picture_names(old))
    assert all(is_named_by_content(name) for name in picture_names(drawn.result))
    contents = {plain(name): content for name, content in drawn.pictures.items()}
    replace_files(tmp_path, contents)
    assert read_pictures(old, tmp_path) == contents


def test_a_result_that_was_never_printed_says_so(tmp_path: Path) -> None:
    with pytest.raises(StudyFailed, match="never printed"):
        read_pictures(make_study_result(labels=LABELS), tmp_path)
