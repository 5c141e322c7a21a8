from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.patient import age_years
from cxrbatch.intake.screen import ScreenFacts, screen_header, screen_pixels
from cxrbatch.records import Header

CHEST_PA = Header(modality="CR", body_part="CHEST", view="PA")


NOTHING_SAID = ScreenFacts()
SETTINGS = Settings()


def screen(facts: ScreenFacts = NOTHING_SAID, settings: Settings = SETTINGS, **changes: Any) -> tuple[Flag, ...]:
    return screen_header(replace(CHEST_PA, **changes), facts, settings)


def refusal(facts: ScreenFacts = NOTHING_SAID, settings: Settings = SETTINGS, **changes: Any) -> Reason:
    with pytest.raises(ImageRejected) as caught:
        screen(facts, settings, **changes)
    return caught.value.reason


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "dx"])
def test_radiography_is_accepted(modality: str) -> None:
    assert screen(modality=modality) == ()


@pytest.mark.parametrize("modality", ["CT", "MR", "MG", "US", "OT", "SR", "PX", "IO", "XA", "DOC", ""])
def test_other_modalities_are_refused(modality: str) -> None:
    assert refusal(modality=modality) is Reason.NOT_RADIOGRAPH


def test_a_missing_modality_is_forgiven_where_the_class_says_it() -> None:
    assert screen(modality="", sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1") == ()


@pytest.mark.parametrize(
    "part", ["CHEST", "Chest", "THORAX", "CHEST PA", "PORT CHEST", "TORAX", "TÓRAX THORAX", "LUNGS", "CHEST_ABDOMEN"]
)
def test_chests_in_several_words_are_accepted(part: str) -> None:
    assert screen(body_part=part) == ()


@pytest.mark.parametrize("part", ["HAND", "EXTREMITY", "BREAST", "HIP", "SKULL", "ABDOMEN", "SPINE", "TSPINE"])
def test_other_body_parts_are_refused(part: str) -> None:
    assert refusal(body_part=part) is Reason.NOT_CHEST


@pytest.mark.parametrize("part", ["", " ", "UNKNOWN", "N/A"])
def test_an_untold_body_part_is_flagged(part: str) -> None:
    assert screen(body_part=part) == (Flag.NO_BODY_PART,)


def test_the_anatomic_region_speaks_where_the_body_part_is_silent() -> None:
    assert screen(ScreenFacts(region_meanings=("Chest",)), body_part="") == ()
    assert refusal(ScreenFacts(region_meanings=("Knee",)), body_part="") is Reason.NOT_CHEST


@pytest.mark.parametrize("view", ["PA", "AP", "pa", "AP ERECT", "AP_SUPINE", "PORTABLE AP", "PA VIEW", "FRONTAL"])
def test_frontal_views_are_accepted(view: str) -> None:
    assert screen(view=view) == ()


@pytest.mark.parametrize(
    "view",
    ["LATERAL", "LAT", "LL", "RL", "LLD", "RLD", "RLL", "LLO", "RAO", "LPO", "OBLIQUE", "AP OBLIQUE", "PA/LAT", "MLO"],
)
def test_other_views_are_refused(view: str) -> None:
    assert refusal(view=view) is Reason.NOT_FRONTAL


@pytest.mark.parametrize("view", ["", "ERECT", "SUPINE", "STANDING"])
def test_an_untold_view_is_flagged(view: str) -> None:
    assert screen(view=view) == (Flag.NO_VIEW,)


@pytest.mark.parametrize("meaning", ["postero-anterior", "antero-posterior", "Frontal"])
def test_the_view_code_speaks_where_the_view_is_silent(meaning: str) -> None:
    assert screen(ScreenFacts(view_meanings=(meaning,), view_codes=("",)), view="") == ()


@pytest.mark.parametrize("meaning", ["left lateral", "antero-posterior oblique", "Lateral projection"])
def test_a_lateral_view_code_is_refused(meaning: str) -> None:
    assert refusal(ScreenFacts(view_meanings=(meaning,), view_codes=("",)), view="") is Reason.NOT_FRONTAL


@pytest.mark.parametrize(
    ("orientation", "flags"), [(("L", "F"), ()), (("R", "F"), ()), (("LH", "F"), ()), (("", ""), (Flag.NO_VIEW,))]
)
def test_rows_from_side_to_side_are_frontal(orientation: Any, flags: tuple[Flag, ...]) -> None:
    assert screen(ScreenFacts(orientation=orientation), view="") == flags


@pytest.mark.parametrize("orientation", [("A", "F"), ("P", "F"), ("AL", "F")])
def test_rows_from_front_to_back_are_lateral(orientation: Any) -> None:
    assert refusal(ScreenFacts(orientation=orientation), view="") is Reason.NOT_FRONTAL


def test_a_stated_view_wins_over_the_orientation() -> None:
    assert screen(ScreenFacts(orientation=("A", "F")), view="PA") == ()


@pytest.mark.parametrize(
    "description",
    [
        *("CHEST PA", "XR Chest 2 views", "CXR portable", "RX TORACE", "Rx Tórax", "RADIOGRAFIA DE TORAX PA"),
        *("Thorax p.a.", "Röntgen Brustkorb", "Radio pulmonaire", "Poumons face", "klatka piersiowa", "hrudník"),
        *("AKCİĞER GRAFİSİ", "Органы грудной клетки", "胸部正面", "胸片", "흉부", "ΘΩΡΑΚΑΣ", "Keuhkot"),
    ],
)
@pytest.mark.parametrize("farther", [False, True], ids=["series", "study"])
def test_descriptions_in_many_languages_tell_a_chest(description: str, farther: bool) -> None:
    facts = NOTHING_SAID if farther else ScreenFacts(descriptions=(description,))
    assert screen(facts, body_part="", study_description=description if farther else "") == ()


@pytest.mark.parametrize(
    "description",
    [
        *("Hand links", "Left knee", "BEKKEN", "Pelvis AP", "Abdomen stehend", "Schädel", "BWS", "Thoracic spine"),
        *("Hüfte", "ÉPAULE droite", "Rodilla", "Brustwirbelsäule", "Columna dorsal", "Mammography", "Dental"),
    ],
)
def test_descriptions_tell_other_parts_of_the_body(description: str) -> None:
    assert refusal(ScreenFacts(descriptions=(description,)), body_part="") is Reason.NOT_CHEST


@pytest.mark.parametrize("description", ["Chest and abdomen", "Routine", "Main hospital", "Thorax + Hand"])
def test_a_description_of_several_parts_or_none_decides_nothing(description: str) -> None:
    assert screen(ScreenFacts(descriptions=(description,)), body_part="") == (Flag.NO_BODY_PART,)


def test_the_nearest_description_decides() -> None:
    facts = ScreenFacts(descriptions=("", "Thorax pa"))
    assert screen(facts, body_part="", study_description="Hand") == ()
    assert refusal(ScreenFacts(descriptions=("Hand", "Thorax")), body_part="") is Reason.NOT_CHEST


def test_a_stated_body_part_wins_over_every_description() -> None:
    assert screen(ScreenFacts(descriptions=("Hand",))) == ()
    assert refusal(ScreenFacts(descriptions=("Thorax",)), body_part="HAND") is Reason.NOT_CHEST


@pytest.mark.parametrize(("code", "frontal"), [("399348003", True), ("R-10214", True), ("R-10236", False)])
def test_a_view_code_needs_no_meaning_in_english(code: str, frontal: bool) -> None:
    facts = ScreenFacts(view_codes=(code,), view_meanings=("Aufnahme",))
    if frontal:
        assert screen(facts, view="") == ()
    else:
        assert refusal(facts, view="") is Reason.NOT_FRONTAL


@pytest.mark.parametrize(
    ("description", "flags"),
    [
        ("Thorax p.a.", ()),
        ("Chest A.P. supine", ()),
        ("Torax frente", ()),
        ("Thorax face", ()),
        ("胸部 正面", ()),
        ("Chest PA/LAT", (Flag.NO_VIEW,)),
        ("Thorax 2 Ebenen", (Flag.NO_VIEW,)),
    ],
)
def test_a_description_tells_the_view_where_nothing_else_does(description: str, flags: Any) -> None:
    assert screen(ScreenFacts(descriptions=(description,)), view="") == flags


@pytest.mark.parametrize(
    "description", ["Thorax seitlich", "Torax perfil", "Chest Lateral", "胸部 側面", "Thorax profil"]
)
def test_a_description_tells_a_lateral_view(description: str) -> None:
    assert refusal(ScreenFacts(descriptions=(description,)), view="") is Reason.NOT_FRONTAL


def test_the_study_description_names_views_of_other_images_and_is_not_asked() -> None:
    assert screen(view="", study_description="Thorax pa und seitlich") == (Flag.NO_VIEW,)


def test_any_view_can_be_accepted_and_is_flagged() -> None:
    any_view = Settings(accept_view="any")
    assert screen(settings=any_view, view="LATERAL") == (Flag.OTHER_VIEW,)
    assert screen(settings=any_view) == ()


def test_missing_tags_can_be_refused() -> None:
    strict = Settings(missing_tags="refuse")
    assert refusal(settings=strict, body_part="") is Reason.NOT_CHEST
    assert refusal(settings=strict, view="") is Reason.NOT_FRONTAL
    assert screen(settings=strict) == ()


def test_the_lists_of_modalities_and_body_parts_are_settings() -> None:
    assert refusal(settings=Settings(accept_modality="DX")) is Reason.NOT_RADIOGRAPH
    assert screen(settings=Settings(accept_modality="cr, ot"), modality="OT") == ()
    assert screen(settings=Settings(accept_body_part="Abdomen,babygram"), body_part="BABYGRAM") == ()


@pytest.mark.parametrize(
    "facts",
    [ScreenFacts(conversion="SD"), ScreenFacts(conversion="DRW"), ScreenFacts(image_type=("DERIVED", "SCREEN SAVE"))],
    ids=["scanned paper", "drawing", "screenshot"],
)
def test_papers_and_screenshots_are_refused(facts: ScreenFacts) -> None:
    assert refusal(facts) is Reason.NOT_RADIOGRAPH
    assert screen(ScreenFacts(conversion="WSD", image_type=("DERIVED", "SECONDARY"))) == ()


def test_raw_detector_data_are_refused() -> None:
    assert refusal(ScreenFacts(intent="FOR PROCESSING")) is Reason.NOT_FOR_PRESENTATION
    assert screen(ScreenFacts(intent="FOR PRESENTATION")) == ()


def test_localizers_are_refused() -> None:
    assert refusal(ScreenFacts(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))) is Reason.NOT_RADIOGRAPH


@pytest.mark.parametrize("modality", ["SR", "OT", "DOC", "CR"])
def test_own_objects_are_recognised_before_anything_else(modality: str) -> None:
    assert refusal(ScreenFacts(manufacturer="CXRbatch"), modality=modality) is Reason.OWN_OUTPUT


@pytest.mark.parametrize(
    ("syntax", "stated", "lossy"),
    [
        ("1.2.840.10008.1.2.1", "", False),
        ("1.2.840.10008.1.2.1", "01", True),
        ("1.2.840.10008.1.2.4.50", "", True),
        ("1.2.840.10008.1.2.4.50", "00", True),
        ("1.2.840.10008.1.2.4.91", "", True),
        ("1.2.840.10008.1.2.4.91", "00", False),
        ("1.2.840.10008.1.2.4.90", "", False),
    ],
)
def test_lossy_is_flagged(syntax: str, stated: str, lossy: bool) -> None:
    assert (Flag.LOSSY in screen(ScreenFacts(lossy=stated), transfer_syntax=syntax)) is lossy


@pytest.mark.parametrize(
    ("age", "born", "made", "years"),
    [
        ("034Y", "", "", 34),
        ("006M", "", "", 0.5),
        ("002W", "", "", 14 / 365.25),
        ("58", "", "", None),
        ("", "20100615", "20260614", 15.9999),
        ("", "20100615", "20260615", 16),
        ("58", "19600101", "20200101", 60),
        ("", "19600101", "", None),
        ("", "20300101", "20200101", None),
    ],
)
def test_age(age: str, born: str, made: str, years: float | None) -> None:
    found = age_years(Header(patient_age=age, patient_birth_date=born, study_date=made))
    assert found == (None if years is None else pytest.approx(years, abs=0.01))


def test_children_under_sixteen_are_flagged() -> None:
    assert screen(patient_age="015Y") == (Flag.PAEDIATRIC,)
    assert screen(patient_age="016Y") == ()


@pytest.mark.parametrize("level", [0, 100, 255])
def test_constant_images_are_blank(level: int) -> None:
    with pytest.raises(ImageRejected) as caught:
        screen_pixels(np.full((100, 80), level, np.uint8))
    assert caught.value.reason is Reason.BLANK


def test_a_black_image_with_a_label_is_blank() -> None:
    display = np.zeros((1000, 1000), np.uint8)
    display[10:30, 10:90] = 255
    with pytest.raises(ImageRejected):
        screen_pixels(display)


def test_sixteen_levels_are_something_to_see() -> None:
    screen_pixels(np.tile(np.array([100, 116], np.uint8), (100, 50)))
    with pytest.raises(ImageRejected):
        screen_pixels(np.tile(np.array([100, 115], np.uint8), (100, 50)))
