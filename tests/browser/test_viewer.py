"""A report in use: pictures are clicked, moved, zoomed, windowed and faded; keys lead to the next study."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from cxrbatch.records import Label
from tests.browser.pages import FINDINGS, HIGH, LOW, write_report
from tests.factories.validated import VALIDATED

STUDIES = ("0" * 16, "1" * 16, "2" * 16, "3" * 16)
ORDER = "localStorage.setItem('cxrbatch.order:' + new URL('../../', location).href, arguments[0])"
BEYOND = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
Look = Callable[[str], "Viewer"]


class Viewer:
    """The enlarged picture of a report that is open in the browser."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def is_open(self) -> bool:
        return bool(self.browser.execute_script("return document.getElementById('viewer').open"))

    def finds(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def press(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()

    def slide(self, name: str, value: int) -> None:
        """Put a slider on a value, as a hand would: the page hears of it by its input event."""
        self.browser.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', { bubbles: true }))",
            self.find(f"#viewer-{name}"),
            value,
        )

    def placed(self) -> tuple[float, float, float]:
        """Return (scale, left, top) of the first picture, as the browser computed it."""
        matrix = self.find(".plane").value_of_css_property("transform")
        scale, _, _, _, left, top = map(float, matrix.removeprefix("matrix(").removesuffix(")").split(","))
        return scale, left, top

    def window(self) -> tuple[float, float] | None:
        """Return slope and intercept of the window in force; None where the picture is shown as it is."""
        if self.find(".greys").value_of_css_property("filter") == "none":
            return None
        curve = self.find("#viewer-window feFuncG")
        return float(curve.get_attribute("slope") or 0), float(curve.get_attribute("intercept") or 0)

    def opacity(self) -> float:
        return float(self.find(".overlay").value_of_css_property("opacity"))

    def pictures(self) -> list[list[str]]:
        """Return the files of each pane, without the hash of their content."""
        files = self.browser.execute_script(
            "return [...arguments[0].querySelectorAll('.plane')]"
            "  .map((plane) => [...plane.firstElementChild.children].map((image) => image.src))",
            self.find("#viewer-panes"),
        )
        return [[re.sub(r".*/|-[0-9a-f]{12}\.jpg", "", each) for each in pane] for pane in files]

    def pixels(self) -> NDArray[np.uint8]:
        """Return what of the first picture is on the screen, uint8 [H,W,3], BGR."""
        self.browser.execute_async_script(
            "const done = arguments[1];"
            "Promise.all([...arguments[0].querySelectorAll('img')].map((image) => image.decode()))"
            "  .then(() => requestAnimationFrame(() => requestAnimationFrame(done)))",
            self.find("#viewer-panes"),
        )
        shot = np.frombuffer(self.find("#viewer-panes").screenshot_as_png, np.uint8)
        # Without its border, where the ring is that shows where the focus is.
        return np.asarray(cv2.imdecode(shot, cv2.IMREAD_COLOR), np.uint8)[4:-4, 4:-4]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "OUT with space"
    for key, scores in zip(STUDIES[:3], ((HIGH, LOW), (LOW,), (HIGH,)), strict=True):
        write_report(folder, scores, key=key)
    unchecked = [Label(label.name, label.operating_point) for label in FINDINGS]
    write_report(folder, (HIGH,), key=STUDIES[3], labels=unchecked)
    return folder


@pytest.fixture
def look(browser: Chrome, out: Path) -> Iterator[Look]:
    """Open a study's report; nothing may have been said on the console in the end."""

    def at(key: str) -> Viewer:
        browser.get(page(out, key))
        return Viewer(browser)

    yield at
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]  # selenium leaves this one untyped


def page(out: Path, key: str) -> str:
    return (out / "reports" / key / "report.html").as_uri()


def test_a_picture_opens_by_click_and_key_and_closes_again(look: Look) -> None:
    viewer = look(STUDIES[0])
    links = viewer.browser.find_elements(By.CSS_SELECTOR, "a.enlarge")
    assert all(
        link.get_attribute("href") == link.find_element(By.TAG_NAME, "img").get_attribute("src") for link in links
    )
    links[1].click()
    assert viewer.is_open()
    beside = "return document.documentElement.clientWidth - arguments[0].getBoundingClientRect().right"
    close = viewer.find(".viewer [data-act=close]")
    assert viewer.browser.execute_script(beside, close) >= 8, "the page's scroll bar lies over no button"
    assert viewer.find("#viewer-name").text.startswith("Pneumothorax 0.80")
    assert viewer.pictures() == [["image-1", "heatmap-1-Pneumothorax"]]
    assert "Heatmap of Pneumothorax over the radiograph" in (viewer.find(".overlay").get_attribute("alt") or "")
    viewer.press(Keys.ESCAPE)
    assert not viewer.is_open()
    assert viewer.browser.switch_to.active_element == links[1]
    viewer.press(Keys.ENTER)
    assert viewer.is_open()
    viewer.find(".viewer [data-act=close]").click()
    assert not viewer.is_open()


def test_zoom_keeps_what_lies_under_the_mouse_and_the_picture_stays_in_sight(look: Look) -> None:
    viewer = look(STUDIES[2])
    viewer.find("a.enlarge").click()
    panes = viewer.find("#viewer-panes")
    fitting, left, top = viewer.placed()
    room = panes.size
    assert fitting == pytest.approx(min(room["width"], room["height"]) / 400, rel=0.01)
    assert left == pytest.approx((room["width"] - 400 * fitting) / 2, abs=1)

    viewer.press(*"++++")
    before, left, top = viewer.placed()
    assert before == pytest.approx(1.25**4 * fitting)
    x, y = 150, -100  # from the middle
    point = (room["width"] / 2 + x - left) / before, (room["height"] / 2 + y - top) / before
    ActionChains(viewer.browser).scroll_from_origin(ScrollOrigin.from_element(panes, x, y), 0, -500).perform()
    scale, left, top = viewer.placed()
    assert scale == pytest.approx(before * np.exp(0.6), rel=0.01)  # a wheel's step counts up to 300 px
    assert (room["width"] / 2 + x - left) / scale == pytest.approx(point[0], abs=1)
    assert (room["height"] / 2 + y - top) / scale == pytest.approx(point[1], abs=1)

    ActionChains(viewer.browser).move_to_element(panes).click_and_hold().move_by_offset(30, 20).release().perform()
    assert viewer.placed() == pytest.approx((scale, left + 30, top + 20), abs=0.01)
    viewer.press(Keys.ARROW_RIGHT)
    assert viewer.placed()[1] == pytest.approx(left - 30, abs=0.01)
    viewer.press("1")
    assert viewer.placed()[0] == pytest.approx(1)  # the picture's own pixels: display images are larger than this one
    viewer.press(*"++++++++++++++")
    assert viewer.placed()[0] == pytest.approx(8)
    viewer.press(*[Keys.ARROW_LEFT] * 100)
    assert viewer.placed()[1] == pytest.approx(0, abs=0.01)  # its left border, no further
    viewer.press("f")
    assert viewer.placed()[0] == pytest.approx(fitting)
    ActionChains(viewer.browser).double_click(panes).perform()
    assert viewer.placed()[0] == pytest.approx(2 * fitting)
    viewer.find("[data-act=reset]").click()
    middle = viewer.browser.execute_script(
        "const b = arguments[0].getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]", panes
    )
    viewer.browser.execute_cdp_cmd(
        "Input.synthesizePinchGesture",
        {"x": middle[0], "y": middle[1], "scaleFactor": 2, "relativeSpeed": 4000, "gestureSourceType": "touch"},
    )
    assert viewer.placed()[0] == pytest.approx(2 * fitting, rel=0.25)


def test_a_window_is_a_true_line_by_slider_mouse_and_key(look: Look) -> None:
    viewer = look(STUDIES[2])
    viewer.find("a.enlarge").click()
    plain = viewer.pixels().astype(float)
    assert viewer.window() is None
    viewer.slide("width", 128)
    viewer.slide("level", 100)
    assert viewer.window() == pytest.approx((2, 0.5 - 2 * 100 / 256))
    _, left, top = viewer.placed()
    inside = np.s_[int(top) + 20 : -20, int(left) + 20 : int(left) + 500]  # of what is shown of the picture
    expected = np.clip(2 * plain + 255 * (0.5 - 200 / 256), 0, 255)
    assert np.abs(viewer.pixels().astype(float) - expected)[inside].max() < 3
    assert viewer.pixels()[:, : int(left) - 6].max() == 0  # what is no picture stays black
    assert expected[inside].std() > plain[inside].std()

    viewer.press("r")
    assert viewer.window() is None
    ActionChains(viewer.browser).move_to_element(viewer.find("#viewer-panes")).key_down(
        Keys.SHIFT
    ).click_and_hold().move_by_offset(-56, 40).release().key_up(Keys.SHIFT).perform()
    assert viewer.find("#viewer-width-value").text == "200"
    assert viewer.find("#viewer-level-value").text == "148"
    viewer.press("r")
    chord = ActionChains(viewer.browser).key_down(Keys.SHIFT)
    chord.send_keys(Keys.ARROW_LEFT, Keys.ARROW_UP).key_up(Keys.SHIFT).perform()
    assert viewer.window() == pytest.approx((256 / 248, 0.5 - 124 / 248))
    viewer.press("r", "i")
    assert viewer.window() == pytest.approx((-1, 1))
    assert np.abs(255 - plain - viewer.pixels())[inside].max() < 3


def test_a_heatmap_fades_and_all_of_them_move_together(look: Look) -> None:
    viewer = look(STUDIES[0])
    viewer.browser.find_elements(By.CSS_SELECTOR, "a.enlarge")[1].click()
    shown = []
    for value in (100, 0, 50):
        viewer.slide("opacity", value)
        assert viewer.opacity() == value / 100
        shown.append(viewer.pixels().astype(float))
    heatmap, radiograph, half = shown
    assert np.ptp(heatmap, axis=2).max() > 60
    assert np.ptp(radiograph, axis=2).max() == 0  # grey, nothing of the map is left
    assert np.abs(half - (heatmap + radiograph) / 2).max() < 3
    viewer.press("]")
    assert viewer.opacity() == 0.6
    assert all(each.value_of_css_property("opacity") == "0.6" for each in viewer.finds(".overlay"))

    choice = Select(viewer.find("#viewer-map"))
    assert [each.text for each in choice.options] == [
        "None",
        "Pneumothorax 0.80",
        "Effusion 0.90",
        "Nodule 0.70",
        "All, side by side",
    ]
    viewer.press("m")
    assert viewer.pictures() == [["image-1", "heatmap-1-Effusion"]]
    viewer.press("a")
    maps = [["image-1", f"heatmap-1-{name}"] for name in ("Pneumothorax", "Effusion", "Nodule")]
    assert viewer.pictures() == [["image-1"], *maps]
    viewer.press("+")
    places = {
        plane.value_of_css_property("transform") for plane in viewer.browser.find_elements(By.CSS_SELECTOR, ".plane")
    }
    assert len(places) == 1
    viewer.press("n")
    assert viewer.pictures() == [["image-1"]]
    assert not viewer.find("#viewer-opacity").is_enabled()
    choice.select_by_visible_text("Nodule 0.70")
    assert viewer.pictures() == [["image-1", "heatmap-1-Nodule"]]
    viewer.find("#viewer-invert").click()
    assert viewer.pictures() == [["image-1"]]
    viewer.find("#viewer-panes").click()
    viewer.press(Keys.PAGE_DOWN)
    assert viewer.pictures() == [["image-2"]]
    assert Select(viewer.find("#viewer-image")).first_selected_option.text == "Image 2"


def test_a_window_leaves_the_colours_of_a_heatmap(look: Look) -> None:
    viewer = look(STUDIES[2])
    viewer.finds("a.enlarge")[1].click()
    edge = int(viewer.placed()[1]) + 4
    plain = viewer.pixels()[:, edge:-edge].astype(float)
    viewer.slide("width", 128)
    windowed = viewer.pixels()[:, edge:-edge].astype(float)
    weights = np.array([0.11, 0.59, 0.3])  # of blue, green and red
    grey = np.clip(2 * (plain @ weights) - 127.5, 0, 255)
    # As light as the window says, and of the same hue: set_lum of Compositing and Blending 1, 10.2.
    assert np.abs(windowed @ weights - grey).max() < 6
    moved = plain + (grey - plain @ weights)[..., np.newaxis]
    inside = (moved.min(axis=2) > 0) & (moved.max(axis=2) < 255)
    assert np.ptp(plain, axis=2)[inside].max() > 60
    assert np.abs(windowed - moved)[inside].max() < 6


def test_keys_are_listed_and_letters_can_be_switched_off(look: Look) -> None:
    viewer = look(STUDIES[2])
    viewer.press("?")
    listed = viewer.find("#keys")
    assert listed.is_displayed()
    assert "next heatmap" in listed.text
    viewer.press(Keys.ESCAPE)
    assert not listed.is_displayed()
    viewer.find("a.enlarge").click()
    viewer.press("?")
    viewer.find("#keys-letters").click()
    viewer.press(Keys.ESCAPE)
    assert viewer.is_open()
    before = viewer.placed()
    viewer.press("+")
    assert viewer.placed() == before
    viewer.browser.refresh()
    viewer.press("?")
    assert not viewer.find("#keys").is_displayed()
    viewer.find("#enlarge-hint button").click()
    viewer.find("#keys-letters").click()
    viewer.press(Keys.ESCAPE, "?")
    assert viewer.find("#keys").is_displayed()


def test_reports_lead_on_in_the_order_of_the_worklist(look: Look, out: Path) -> None:
    viewer = look(STUDIES[0])
    assert viewer.find("#way-list").get_attribute("href") == (out / "index.html").as_uri()
    assert not viewer.find("#way-order").is_displayed()
    viewer.press("j")
    assert viewer.browser.current_url == page(out, STUDIES[0])
    foreign = ["javascript:alert(1)", "../../../etc", 7, None]
    viewer.browser.execute_script(ORDER, json.dumps([*foreign, STUDIES[1], STUDIES[0], STUDIES[2]]))
    viewer.browser.refresh()
    assert viewer.find("#way-place").text == "2 of 3"
    viewer.press("j")
    assert viewer.browser.current_url == page(out, STUDIES[2])
    assert viewer.find("#way-next").get_attribute("href") is None
    viewer.press("j", Keys.ARROW_LEFT)
    assert viewer.browser.current_url == page(out, STUDIES[0])
    viewer.find("#way-previous").click()
    assert viewer.browser.current_url == page(out, STUDIES[1])
    viewer.find("a.enlarge").click()
    viewer.press("j", "k", Keys.ARROW_RIGHT)  # in a picture these are no ways
    assert (viewer.is_open(), viewer.browser.current_url) == (True, page(out, STUDIES[1]))
    for order in ([STUDIES[0]], {"a": 1}, "not even JSON"):
        viewer.browser.execute_script(ORDER, order if isinstance(order, str) else json.dumps(order))
        viewer.browser.refresh()
        assert not viewer.find("#way-order").is_displayed()


@pytest.mark.parametrize("width", [1280, 400, 320])
@pytest.mark.parametrize("study", [0, 3])
def test_pictures_fit_the_page_and_print_without_what_is_for_the_screen(look: Look, study: int, width: int) -> None:
    viewer = look(STUDIES[study])
    shape = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    viewer.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    assert viewer.browser.execute_script("return innerWidth") == width
    assert viewer.browser.execute_script(BEYOND) == 0
    # No tile is larger than its picture and caption: nothing black is empty.
    for tile in viewer.browser.find_elements(By.TAG_NAME, "figure"):
        filled = sum(tile.find_element(By.TAG_NAME, name).size["height"] for name in ("img", "figcaption"))
        assert filled <= tile.size["height"] < filled + 20
        drawn = tile.find_element(By.TAG_NAME, "img").size
        assert drawn["width"] == pytest.approx(drawn["height"], abs=2)  # nor are there bars beside it
        assert tile.size["width"] < drawn["width"] + 20
    viewer.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    for screen_only in (".way", "#enlarge-hint", "#viewer", "#keys"):
        assert viewer.find(screen_only).value_of_css_property("display") == "none"


def test_strange_names_and_many_heatmaps_break_nothing(browser: Chrome, tmp_path: Path) -> None:
    evil = (
        "<img src=x onerror=alert(1)>" + "x" * 10_000,
        '"><script>alert(2)</script>',
        "\N{RIGHT-TO-LEFT OVERRIDE}" * 9,
    )
    names = (*evil, *(f"Finding_{n}" for n in range(7)))
    labels = [Label(name, 0.1, maps=VALIDATED) for name in names]
    browser.get(write_report(tmp_path, ((0.9,) * len(labels),), labels=labels, shape=(500, 300)).as_uri())
    viewer = Viewer(browser)
    for link in browser.find_elements(By.CSS_SELECTOR, "a.enlarge")[:4]:
        link.click()
        assert viewer.find("#viewer-panes").size["height"] > 400
        viewer.press("a")
        panes = browser.find_elements(By.CSS_SELECTOR, ".pane")
        assert len(panes) == 1 + len(labels)
        assert min(pane.size["height"] for pane in panes) > 100
        viewer.press(Keys.ESCAPE)
    assert browser.execute_script(BEYOND) == 0
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]  # selenium leaves this one untyped
