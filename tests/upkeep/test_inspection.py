"""What `cxrbatch inspect` says of a file: what a run would do with it, and why."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, UsageError
from cxrbatch.phantom.draw import draw_phantom
from cxrbatch.upkeep.inspection import explain_file, print_inspection
from tests.factories.anatomy import draw_body_part
from tests.factories.intake import lut_item, png_bytes, write_dicom

SETTINGS = Settings()


@pytest.fixture(scope="module")
def chest() -> Any:
    return draw_phantom(3, rows=256)


def write_chest(path: Path, chest: Any, **keywords: Any) -> Path:
    look = {"WindowCenter": chest.window_center, "WindowWidth": chest.window_width, "BitsStored": 12}
    return write_dicom(path, pixels=chest.stored, **(look | keywords))


def test_an_accepted_image_is_explained_step_by_step(tmp_path: Path, chest: Any) -> None:
    found = explain_file(write_chest(tmp_path / "a", chest, WindowCenter=[1500, 9], WindowWidth=[2000, 9]), SETTINGS)
    assert (found.verdict, found.reason, found.flags) == ("scored", "", ())
    assert found.pixels is not None
    assert found.pixels.decoder == "none needed (native pixels)"
    assert found.pixels.stored == f"12 of 16 bits, unsigned, {chest.stored.min()} to {chest.stored.max()}"
    assert found.pixels.modality == "rescale: stored x 1 + 0"
    assert found.pixels.voi == "window center 1500, width 2000, LINEAR, the first of 2"
    assert found.pixels.padding == "none"
    assert found.pixels.polarity.startswith("not inverted: Photometric Interpretation MONOCHROME2")
    assert found.pixels.decode_ms >= 0
    assert found.anatomy is not None
    assert found.anatomy.is_chest


def test_tables_padding_and_inversion_are_named(tmp_path: Path, chest: Any) -> None:
    entries = np.linspace(1023, 0, 4096).astype(np.uint16)
    path = write_chest(
        tmp_path / "a",
        chest,
        VOILUTSequence=lut_item(entries, 0, 10),
        PixelPaddingValue=0,
        PresentationLUTShape="INVERSE",
    )
    account = explain_file(path, SETTINGS).pixels
    assert account is not None
    assert account.voi == "VOI LUT Sequence, 4096 entries of 10 bits from 0 on"
    assert account.padding == "stored values 0 to 0, shown black"
    assert account.polarity == "inverted once: Photometric Interpretation MONOCHROME2, Presentation LUT Shape INVERSE"


def test_an_image_that_the_pixels_refuse_is_still_explained(tmp_path: Path) -> None:
    (tmp_path / "hand.png").write_bytes(png_bytes(draw_body_part("hand")))
    found = explain_file(tmp_path / "hand.png", SETTINGS, picture=tmp_path / "looks" / "1-hand.png")
    assert (found.verdict, found.reason) == ("rejected", "not_chest")
    assert found.pixels is not None
    assert (tmp_path / "looks" / "1-hand.png").is_file()


def test_a_swapped_image_is_flagged(tmp_path: Path, chest: Any) -> None:
    path = write_chest(tmp_path / "a", chest, PhotometricInterpretation="MONOCHROME1")
    assert explain_file(path, SETTINGS).flags == (Flag.POLARITY_SUSPECT,)


def test_a_refused_header_needs_no_pixels(tmp_path: Path) -> None:
    found = explain_file(write_dicom(tmp_path / "a", Modality="CT"), SETTINGS)
    assert (found.verdict, found.reason, found.pixels) == ("rejected", "not_radiograph", None)


def test_the_pictures_are_the_display_image_and_the_engines_input(tmp_path: Path, chest: Any) -> None:
    explain_file(write_chest(tmp_path / "a", chest), SETTINGS, picture=tmp_path / "1-a.png")
    display, pixels = (cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED) for name in ("1-a.png", "1-a.input.png"))
    assert display is not None
    assert pixels is not None
    assert (display.shape, pixels.shape) == ((256, 256), (224, 224))


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be opened"):
        explain_file(tmp_path / "gone", SETTINGS)


def test_the_table_and_the_json_say_the_same(tmp_path: Path, chest: Any) -> None:
    found = explain_file(write_chest(tmp_path / "a", chest), SETTINGS)
    console = Console(record=True, width=200, quiet=False, file=(tmp_path / "printed").open("w"))
    print_inspection(console, found, as_json=False)
    text = console.export_text()
    assert "would be scored" in text
    assert "window center" in text
    assert "likeness to a chest" in text
    print_inspection(console, found, as_json=True)
    said = json.loads(console.export_text().replace("\n", ""))
    assert said["pixels"]["voi"].startswith("window center")
    console.file.close()
