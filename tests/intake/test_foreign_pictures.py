"""What is no chest: photographs, drawings, pages and limbs, in colour, in grey and as negatives."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected
from cxrbatch.intake.anatomy import check_anatomy, measure_anatomy
from cxrbatch.intake.raster.read_raster import coloured_share
from cxrbatch.intake.read import read_radiograph
from cxrbatch.phantom.draw import draw_phantom
from cxrbatch.phantom.pictures import windowed
from cxrbatch.records import Gray8
from tests.factories.anatomy import BODY_PARTS, draw_body_part
from tests.factories.intake import png_bytes, write_dicom

pytestmark = pytest.mark.hostile("9.10 what is no chest")

SETTINGS = Settings()
SHARED = Path(os.environ.get("CXRBATCH_SHARED_DATA", "/nowhere"))
needs_shared_data = pytest.mark.skipif(not SHARED.is_dir(), reason="CXRBATCH_SHARED_DATA is not set")
PHOTOGRAPHS = (
    *(("sklearn", f"datasets/images/{name}.jpg") for name in ("china", "flower")),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("matplotlib", "mpl-data/sample_data/Minduka_Present_Blue_Pack.png"),
    *(
        ("skimage", f"data/{name}.png")
        for name in ("astronaut", "camera", "chelsea", "coffee", "coins", "page", "horse")
    ),
)
Colours = NDArray[np.uint8]


def verdict(file: bytes | Path, folder: Path) -> str:
    """Return the reason or the flags that matter, as a run would say."""
    path = file if isinstance(file, Path) else folder / "a"
    if isinstance(file, bytes):
        path.write_bytes(file)
    try:
        flags = check_anatomy(read_radiograph(path, SETTINGS), SETTINGS).flags
    except ImageRejected as rejected:
        return rejected.reason.value
    matters = (Flag.ANATOMY_SUSPECT, Flag.POLARITY_SUSPECT, Flag.VETERINARY)
    return " ".join(flag.value for flag in flags if flag in matters)


def photograph(package: str, name: str) -> Colours:
    found = find_spec(package)
    if found is None or found.origin is None or not (path := Path(found.origin).parent / name).is_file():
        pytest.skip(f"{package} is not here, or came without {name}")
    return np.asarray(Image.open(path).convert("RGB"))


def grey(colours: Colours) -> Gray8:
    return np.asarray(cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY), np.uint8)


def negative(colours: Colours) -> Gray8:
    return np.asarray(255 - grey(colours), np.uint8)


def deep(colours: Colours) -> NDArray[np.uint16]:
    return np.asarray(grey(colours).astype(np.uint16) * 16 + 7, np.uint16)


def enlarged(colours: Colours) -> Gray8:
    return np.asarray(cv2.resize(grey(colours), (1024, 1024), interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.fixture(scope="module")
def chest() -> Gray8:
    return windowed(draw_phantom(5, rows=512))


@pytest.mark.parametrize(("package", "name"), PHOTOGRAPHS)
@pytest.mark.parametrize("made", [np.asarray, grey, negative, deep, enlarged])
def test_photographs_are_refused_or_flagged_with_and_without_their_colour(
    made: Callable[[Colours], NDArray[np.integer]], package: str, name: str, tmp_path: Path
) -> None:
    assert verdict(png_bytes(made(photograph(package, name))), tmp_path) in ("not_chest", "anatomy_suspect")


def page() -> Gray8:
    """Return a page of text."""
    white = np.full((700, 500), 255, np.uint8)
    for line in range(30):
        cv2.putText(white, f"{line} lorem ipsum dolor sit amet", (30, 40 + 21 * line), 0, 0.6, 0, 1)
    return white


def plot() -> Gray8:
    """Return a curve in a box."""
    white = np.full((480, 640), 255, np.uint8)
    cv2.rectangle(white, (80, 50), (580, 430), 0, 1)
    points = [(80 + x, 240 - int(150 * np.sin(x / 60))) for x in range(500)]
    cv2.polylines(white, [np.array(points, np.int32)], False, 0, 2)
    return white


def smiley() -> Gray8:
    """Return a bright disc with two dark ones, where lungs would be, and a mouth."""
    dark = np.zeros((400, 400), np.uint8)
    cv2.circle(dark, (200, 200), 180, 230, -1)
    for x in (130, 270):
        cv2.ellipse(dark, (x, 160), (30, 60), 0, 0, 360, 20, -1)
    cv2.ellipse(dark, (200, 280), (90, 40), 0, 0, 180, 20, 6)
    return np.asarray(cv2.GaussianBlur(dark, (0, 0), 3), np.uint8)


def gradient() -> Gray8:
    """Return a ramp from the top to the bottom."""
    return np.tile(np.linspace(0, 255, 300).astype(np.uint8)[:, np.newaxis], (1, 256))


def noise() -> Gray8:
    """Return clouds."""
    clouds = cv2.GaussianBlur(np.random.default_rng(4).normal(0, 1, (300, 300)), (0, 0), 20)
    return np.asarray(255 * (clouds - clouds.min()) / np.ptp(clouds), np.uint8)


def window() -> Gray8:
    """Return a screen with a window, its title and buttons."""
    screen = np.full((480, 640), 60, np.uint8)
    cv2.rectangle(screen, (60, 40), (580, 440), 240, -1)
    cv2.rectangle(screen, (60, 40), (580, 70), 120, -1)
    cv2.putText(screen, "Settings", (70, 62), 0, 0.6, 255, 1)
    for row in range(5):
        cv2.rectangle(screen, (90, 100 + 60 * row), (300, 140 + 60 * row), 200, -1)
    return screen


def tiles() -> Gray8:
    """Return a chess board."""
    return np.kron(np.indices((8, 8)).sum(axis=0) % 2, np.full((40, 40), 255)).astype(np.uint8)


@pytest.mark.parametrize("draw", [page, plot, smiley, gradient, noise, window, tiles])
@pytest.mark.parametrize("is_negative", [False, True])
def test_drawings_are_refused_or_flagged(draw: Callable[[], Gray8], is_negative: bool, tmp_path: Path) -> None:
    drawn = draw()
    found = verdict(png_bytes(np.asarray(255 - drawn, np.uint8) if is_negative else drawn), tmp_path)
    assert found in ("not_chest", "anatomy_suspect")


def sideways(display: Gray8) -> Gray8:
    return np.ascontiguousarray(np.rot90(display))


def upside_down(display: Gray8) -> Gray8:
    return np.ascontiguousarray(display[::-1])


def a_quarter(display: Gray8) -> Gray8:
    height, width = display.shape
    return np.ascontiguousarray(display[: height // 2, : width // 2])


def put_together_wrong(display: Gray8) -> Gray8:
    width = display.shape[1]
    return np.hstack([display[:, width // 2 :], display[:, : width // 2]])


@pytest.mark.parametrize("spoiled", [sideways, upside_down, a_quarter, put_together_wrong])
def test_the_texture_of_a_radiograph_alone_is_no_chest(
    spoiled: Callable[[Gray8], Gray8], chest: Gray8, tmp_path: Path
) -> None:
    assert verdict(png_bytes(spoiled(chest)), tmp_path) in ("not_chest", "anatomy_suspect")


@pytest.mark.parametrize("part", BODY_PARTS)
@pytest.mark.parametrize("is_negative", [False, True])
def test_a_limb_whose_header_says_chest_is_flagged(part: str, is_negative: bool, tmp_path: Path) -> None:
    drawn = draw_body_part(part)
    pixels = (np.asarray(255 - drawn, np.uint8) if is_negative else drawn).astype(np.uint16) << 4
    assert verdict(write_dicom(tmp_path / "a", pixels=pixels), tmp_path) == "anatomy_suspect"


def test_a_chest_whose_header_says_chest_is_not(chest: Gray8, tmp_path: Path) -> None:
    assert verdict(write_dicom(tmp_path / "a", pixels=chest.astype(np.uint16) << 4), tmp_path) == ""


@pytest.mark.parametrize("longer", [(1, 5), (5, 1)])
def test_what_is_much_longer_one_way_is_no_chest(chest: Gray8, longer: tuple[int, int], tmp_path: Path) -> None:
    stretched = cv2.resize(chest, (200 * longer[0], 200 * longer[1]))
    assert verdict(png_bytes(np.asarray(stretched, np.uint8)), tmp_path) == "not_chest"


@pytest.mark.parametrize("shape", [(1, 1), (1, 256), (256, 1), (3, 900), (2000, 2)])
def test_no_shape_of_a_display_image_breaks_the_check(shape: tuple[int, int]) -> None:
    display = np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)
    assert measure_anatomy(display).is_chest is False


# --------------------------------------------------------------------------- colour


def tinted(display: Gray8, *factors: float) -> Colours:
    """Return a scan in one tint: sepia, blue."""
    levels = display.astype(np.float32)[..., np.newaxis] / 255
    return np.rint(255 * levels ** np.array(factors, np.float32)).astype(np.uint8)


def marked(display: Gray8) -> Colours:
    """Return a red side marker and a yellow arrow on a grey radiograph."""
    drawn = np.ascontiguousarray(np.stack([display] * 3, axis=-1))
    cv2.putText(drawn, "R", (30, 80), 0, 2, (230, 20, 20), 4)
    cv2.arrowedLine(drawn, (400, 400), (330, 330), (255, 230, 0), 3)
    return drawn


def overlaid(display: Gray8) -> Colours:
    """Return a heatmap over a radiograph, as our own reports have them."""
    heat = np.asarray(cv2.GaussianBlur(np.eye(display.shape[0], dtype=np.float32), (0, 0), 60))
    colours = cv2.applyColorMap((255 * heat / heat.max()).astype(np.uint8), cv2.COLORMAP_JET)
    return np.asarray(0.5 * colours + 0.5 * display[..., np.newaxis], np.uint8)


@pytest.mark.parametrize("factors", [(0.8, 1.0, 1.3), (1.4, 1.1, 0.8), (1.0, 1.0, 1.0)])
def test_a_tint_is_no_colour(factors: tuple[float, ...], chest: Gray8, tmp_path: Path) -> None:
    scan = tinted(chest, *factors)
    written = cv2.imencode(".jpg", cv2.cvtColor(scan, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()
    assert verdict(png_bytes(scan), tmp_path) == ""
    assert verdict(written, tmp_path) == ""


def test_a_red_marker_is_no_colour_picture(chest: Gray8, tmp_path: Path) -> None:
    assert verdict(png_bytes(marked(chest)), tmp_path) == ""


def test_a_heatmap_over_a_chest_is_flagged(chest: Gray8, tmp_path: Path) -> None:
    assert verdict(png_bytes(overlaid(chest)), tmp_path) == "anatomy_suspect"
    (tmp_path / "b.png").write_bytes(png_bytes(overlaid(chest)))
    assert read_radiograph(tmp_path / "b.png", SETTINGS).coloured_share > 0.3


def test_colour_leaves_no_room_for_doubt(chest: Gray8, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubtful = replace(measure_anatomy(chest), resemblance=0.0)
    monkeypatch.setattr("cxrbatch.intake.anatomy.measure_anatomy", lambda _: doubtful)
    assert verdict(png_bytes(chest), tmp_path) == "anatomy_suspect"
    assert verdict(png_bytes(overlaid(chest)), tmp_path) == "not_chest"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_grey_has_no_colour_in_any_layout(dtype: type[np.integer], channels: int) -> None:
    levels = np.random.default_rng(2).integers(0, np.iinfo(dtype).max, (80, 70, 1)).astype(dtype)
    assert coloured_share(np.repeat(levels, channels, axis=2)) == 0
    assert coloured_share(levels[..., 0]) == 0


def test_what_is_transparent_has_no_colour() -> None:
    colours = np.random.default_rng(3).integers(0, 255, (64, 64, 4)).astype(np.uint8)
    colours[..., 3] = 255
    assert coloured_share(colours) > 0.5
    colours[..., 3] = 0
    assert coloured_share(colours) == 0


# --------------------------------------------------------------------------- animals and real radiographs


@needs_shared_data
@pytest.mark.parametrize("name", ["transfer_syntaxes/RG3_UNC", "not_chest/MG1_J2KI"])
def test_a_real_tibia_and_a_real_breast_with_a_chests_header_are_flagged(name: str, tmp_path: Path) -> None:
    import pydicom

    stored = pydicom.dcmread(SHARED / "dicom" / name)
    stored.Modality, stored.BodyPartExamined, stored.ViewPosition = "DX", "CHEST", "PA"
    stored.PresentationIntentType = "FOR PRESENTATION"
    stream = BytesIO()
    stored.save_as(stream)
    assert "anatomy_suspect" in verdict(stream.getvalue(), tmp_path)


@needs_shared_data
def test_of_real_radiographs_that_nothing_was_learned_from_next_to_none_is_refused_or_flagged() -> None:
    paths = sorted((SHARED / "nih1024").glob("*.png"))
    images = [check_anatomy(read_radiograph(path, Settings(max_display_px=256)), SETTINGS) for path in paths]
    assert len(images) == 120
    assert sum(Flag.ANATOMY_SUSPECT in image.flags for image in images) <= 2
