import os
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.anatomy import Anatomy, check_anatomy, measure_anatomy
from cxrbatch.intake.discover import walk
from cxrbatch.intake.read import read_radiograph
from cxrbatch.phantom.draw import draw_phantom
from cxrbatch.phantom.pictures import windowed
from cxrbatch.records import Gray8, Header, Radiograph
from tests.factories.anatomy import BODY_PARTS, draw_body_part

SETTINGS = Settings(max_display_px=256)
SHARED = Path(os.environ.get("CXRBATCH_SHARED_DATA", "/nowhere"))
needs_shared_data = pytest.mark.skipif(not SHARED.is_dir(), reason="CXRBATCH_SHARED_DATA is not set")


def radiograph(display: Gray8, *flags: Flag) -> Radiograph:
    rows, columns = display.shape
    return Radiograph(Header(), display, rows, columns, flags, "", "")


def reason(display: Gray8, *flags: Flag) -> Reason | None:
    try:
        check_anatomy(radiograph(display, *flags), SETTINGS)
    except ImageRejected as rejected:
        return rejected.reason
    return None


def anatomy_or_none(display: Gray8) -> tuple[Flag, ...] | None:
    """Return the flags of an image of which nothing says what it is; None where it is refused."""
    try:
        return check_anatomy(radiograph(display, Flag.NO_BODY_PART), SETTINGS).flags
    except ImageRejected:
        return None


@pytest.fixture(scope="module")
def chest() -> Gray8:
    return windowed(draw_phantom(3, rows=256))


@pytest.mark.parametrize("seed", range(6))
def test_phantom_chests_of_any_shape_pass_without_a_flag(seed: int) -> None:
    display = windowed(draw_phantom(seed, rows=256, columns=(256, 212, 307)[seed % 3]))
    assert check_anatomy(radiograph(display), SETTINGS).flags == ()


def test_an_image_with_black_and_white_swapped_is_flagged_and_left_as_it_is(chest: Gray8) -> None:
    swapped = np.asarray(255 - chest, np.uint8)
    checked = check_anatomy(radiograph(swapped), SETTINGS)
    assert checked.flags == (Flag.POLARITY_SUSPECT,)
    np.testing.assert_array_equal(checked.display, swapped)
    assert measure_anatomy(swapped).likeness == pytest.approx(-measure_anatomy(chest).likeness, abs=0.02)


def test_window_and_contrast_do_not_matter(chest: Gray8) -> None:
    curve = np.rint(255 * np.linspace(0, 1, 256) ** 0.6).astype(np.uint8)
    plain, bent = measure_anatomy(chest), measure_anatomy(np.asarray(cv2.LUT(chest, curve), np.uint8))
    assert bent.likeness == pytest.approx(plain.likeness, abs=0.03)


@pytest.mark.parametrize("grey", [0, 255])
@pytest.mark.parametrize("sides", [(40, 40, 40, 40), (0, 90, 0, 0), (60, 0, 0, 70), (0, 0, 110, 0)])
def test_a_frame_around_a_chest_does_not_matter(chest: Gray8, grey: int, sides: tuple[int, int, int, int]) -> None:
    framed = np.asarray(cv2.copyMakeBorder(chest, *sides, cv2.BORDER_CONSTANT, value=grey), np.uint8)
    assert check_anatomy(radiograph(framed, Flag.NO_BODY_PART), SETTINGS).flags == (Flag.NO_BODY_PART,)


@pytest.mark.parametrize("flags", [(), (Flag.NO_BODY_PART,)])
def test_a_doubtful_image_is_flagged_and_not_refused(
    chest: Gray8, flags: tuple[Flag, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrbatch.intake.anatomy.measure_anatomy", lambda _: Anatomy(0.16, 0.2, resemblance=0.0))
    assert check_anatomy(radiograph(chest, *flags), SETTINGS).flags == (*flags, Flag.ANATOMY_SUSPECT)


@pytest.mark.parametrize("part", BODY_PARTS)
def test_other_parts_of_the_body_are_refused_where_nothing_says_what_they_are(part: str) -> None:
    display = draw_body_part(part)
    assert reason(display, Flag.NO_BODY_PART) is Reason.NOT_CHEST
    said = check_anatomy(radiograph(display), SETTINGS)
    assert said.flags == (Flag.ANATOMY_SUSPECT,)


def test_a_constant_image_is_no_chest() -> None:
    assert measure_anatomy(np.full((80, 64), 90, np.uint8)).is_chest is False


def test_the_check_can_be_switched_off() -> None:
    image = radiograph(draw_body_part("hand"), Flag.NO_BODY_PART)
    assert check_anatomy(image, replace(SETTINGS, pixel_check=False)) is image


def test_the_message_says_what_was_measured_and_what_to_do() -> None:
    with pytest.raises(
        ImageRejected, match=r"resemblance -?\d+\.\d, likeness -?0\.\d\d, lung valley -?0\.\d\d.*pixel_check"
    ):
        check_anatomy(radiograph(draw_body_part("knee"), Flag.NO_BODY_PART), SETTINGS)


@needs_shared_data
def test_at_most_one_real_image_in_a_hundred_is_refused() -> None:
    root = SHARED / "nih1024"
    images = [read_radiograph(root / file.path, SETTINGS) for file in walk(root) if file.path.endswith(".png")]
    checked = [anatomy_or_none(image.display) for image in images]
    noticed = [image for image in images if measure_anatomy(np.asarray(255 - image.display, np.uint8)).is_swapped]
    assert len(images) == 120
    assert checked.count(None) <= 1
    assert not [flags for flags in checked if flags and Flag.POLARITY_SUSPECT in flags]
    assert len(noticed) >= 119


@needs_shared_data
def test_at_most_one_real_image_in_a_hundred_is_refused_askew_and_in_a_frame() -> None:
    images = sorted((SHARED / "nih256").rglob("*.png"))
    ways = [(degrees, grey) for degrees in (-10, 0, 10) for grey in (0, 255)]
    refused = 0
    for path, (degrees, grey) in zip(images, cycle(ways), strict=False):
        image = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8)
        turned = cv2.warpAffine(image, cv2.getRotationMatrix2D((128, 128), degrees, 1.0), (256, 256))
        turned[:, 230:] = turned[:20] = grey
        refused += reason(np.asarray(turned, np.uint8), Flag.NO_BODY_PART) is not None
    assert len(images) > 700
    assert refused <= len(images) / 100


@needs_shared_data
def test_the_real_image_whose_tag_was_edited_is_flagged() -> None:
    image = read_radiograph(SHARED / "dicom" / "chest" / "siim_cr_tag_says_monochrome1.dcm", SETTINGS)
    assert Flag.POLARITY_SUSPECT in check_anatomy(image, SETTINGS).flags


@needs_shared_data
@pytest.mark.parametrize("name", ["transfer_syntaxes/RG3_UNC", "not_chest/MG1_J2KI"])
def test_a_real_tibia_and_a_real_breast_do_not_look_like_a_chest(name: str) -> None:
    import pydicom

    stored = pydicom.dcmread(SHARED / "dicom" / name).pixel_array.astype(np.float32)
    low, high = np.percentile(stored, (0.5, 99.5))
    small = cv2.resize(np.clip((stored - low) / (high - low), 0, 1), (200, 256), interpolation=cv2.INTER_AREA)
    assert reason(np.rint(small * 255).astype(np.uint8), Flag.NO_BODY_PART) is Reason.NOT_CHEST
