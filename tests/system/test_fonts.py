"""What no font can show is noticed; what some font can is in the PDF, letter by letter."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrbatch.errors import Flag
from cxrbatch.output.report.report import print_study
from cxrbatch.system import fonts
from cxrbatch.upkeep import doctor
from tests.factories.output import STUDY_KEY, make_header, make_pixels, make_study_result

NAMES = {
    "Japanese": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "Korean": "Hong^Gildong=洪^吉洞=홍^길동",
    "Chinese": "Wang^XiaoDong=王^小東",
    "Thai": "สมชาย^ใจดี",
    "Devanagari": "शर्मा^राम",
    "Arabic": "قباني^لنزار",
    "Hebrew": "כהן^דוד",
    "Greek": "Διονυσιος",
    "Cyrillic": "Щукин^Юлия",
}
NO_FONT = "\U0010fffd\ue123"  # private use, which no font of a distribution has


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    fonts._is_shown.cache_clear()
    yield
    fonts._is_shown.cache_clear()


def test_latin_names_never_ask_for_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_knows", lambda: pytest.fail("asked"))
    assert fonts.missing_glyphs("Müller^Zoë^Łukasz, ½ ± Åse \N{EN DASH} \N{BLACK UP-POINTING TRIANGLE}") == ""
    assert fonts.missing_glyphs("Doe^Jane\u200d\ufe0f\u2003") == ""


def test_what_no_font_has_stands_as_its_code() -> None:
    assert fonts.missing_glyphs(f"Do{NO_FONT}e{NO_FONT}") == "\ue123\U0010fffd"
    assert fonts.with_codes(f"Do{NO_FONT}e") == "Do\\U0010fffd\\ue123e"
    assert fonts.with_codes("Doe") == "Doe"


def test_without_fontconfig_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise OSError("libfontconfig.so.1: cannot open shared object file")

    monkeypatch.setattr(fonts, "_knows", absent)
    assert fonts.missing_glyphs(NO_FONT) == ""


def test_doctor_names_the_scripts_and_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._fonts().state in {"ok", "missing"}
    has = {ord(letter) for script, (letters, _) in fonts.SCRIPTS.items() if script != "Thai" for letter in letters}
    monkeypatch.setattr(fonts, "_knows", lambda: has.__contains__)
    fonts._is_shown.cache_clear()
    found = doctor._fonts()
    assert (found.state, found.needed) == ("missing", False)
    assert found.detail == ("names in Thai stand as codes in report.pdf. Debian: apt-get install fonts-noto-core")


def test_the_flag_tells_of_a_name_that_no_font_can_show(tmp_path: Path) -> None:
    header = make_header(patient_name=f"Do{NO_FONT}e^Jane")
    result = make_study_result(((0.9, 0.2, 0.1),), header=header, flags=(Flag.LOSSY,))
    printed = print_study(result, [make_pixels()], tmp_path, html=True, pdf=False)
    assert printed.result.images[0].flags == (Flag.LOSSY,)
    printed = print_study(result, [make_pixels()], tmp_path, html=True, pdf=True)
    assert printed.result.images[0].flags == (Flag.LOSSY, Flag.MISSING_GLYPHS)
    page = (tmp_path / printed.report_html).read_text()
    assert "in no font of the machine that printed report.pdf" in page
    assert NO_FONT in page, "whoever looks at it may have a font"
    assert "Do\\U0010fffd\\ue123e, Jane" in pdf_text(tmp_path)


@pytest.fixture(scope="module")
def printed_names(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the text of one PDF whose header holds names in all scripts that this machine has a font for."""
    out = tmp_path_factory.mktemp("names")
    there = [name for script, name in NAMES.items() if script not in fonts.scripts_without_font()]
    header = make_header(patient_name="", study_description="")
    result = make_study_result([(0.9, 0.2, 0.1)] * len(there), header=header)
    images = tuple(
        type(image)(f"{name}.dcm", header, (), image.probabilities, image.stored_sha256)
        for image, name in zip(result.images, there, strict=True)
    )
    result = type(result)(STUDY_KEY, 1, result.engine, images, (), result.scored_at, "1")
    printed = print_study(result, [make_pixels() for _ in images], out, html=False, pdf=True)
    assert all(Flag.MISSING_GLYPHS not in image.flags for image in printed.result.images)
    return pdf_text(out)


def pdf_text(out: Path) -> str:
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext of poppler-utils is not installed")
    pdf = out / "reports" / STUDY_KEY / "report.pdf"
    return subprocess.run(["pdftotext", "-enc", "UTF-8", pdf, "-"], capture_output=True, check=True).stdout.decode()


@pytest.mark.parametrize("script", NAMES)
def test_names_can_be_copied_from_the_pdf(printed_names: str, script: str) -> None:
    if package := fonts.scripts_without_font().get(script):
        pytest.skip(f"no font for {script} is installed: apt-get install {package}")
    letters = {letter for letter in NAMES[script] if letter.isalpha()}
    assert letters - set(printed_names) == set()
