"""Pictures are as large as lets a report end on one page; what a PDF is, beside a picture of the page."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cxrbatch.config import PaperSize, PdfVariant
from cxrbatch.locales import locales
from cxrbatch.output.report.content import report_content
from cxrbatch.output.report.manner import Manner
from cxrbatch.output.report.paper import arrange, render_paper
from cxrbatch.output.report.paper_pictures import PaperPictures
from cxrbatch.output.report.pdf import PictureFetcher, render_pdf
from cxrbatch.output.report.pictures import draw_study
from cxrbatch.output.report.report import PRINT_STYLES, print_study
from cxrbatch.output.report.report_files import is_report_of
from cxrbatch.pages.language import speaking
from cxrbatch.records import Label, PriorStudy, StudyResult
from tests.factories.output import STUDY_KEY, make_header, make_pixels, make_study_result
from tests.factories.validated import VALIDATED

if TYPE_CHECKING:
    from cxrbatch.output.report.paper_pictures import PictureRows

RESULT = make_study_result(((0.9, 0.2, 0.1),))
# WeasyPrint leaves the colour profile that PDF/A holds to the garbage collector to close.
leaves_a_file_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
STYLES = (Path(__file__).parents[3] / "templates" / "report-print.css").read_text()


def study(*calls: int, labels: int = 9, notice: str = "") -> tuple[StudyResult, dict[str, bytes]]:
    """Return a drawn study with so many findings called in each image."""
    known = tuple(Label(f"Finding_{n}", 0.5, maps=VALIDATED) for n in range(labels))
    rows = [[0.9 - n / 100 if n < called else 0.1 for n in range(labels)] for called in calls]
    drawn = draw_study(make_study_result(rows, labels=known, notice=notice), [make_pixels(labels) for _ in rows])
    return drawn.result, dict(drawn.pictures)


def laid_out(*calls: int) -> PaperPictures:
    return arrange(report_content(study(*calls)[0])).pictures


def shape(rows: PictureRows) -> tuple[str, list[int]]:
    return rows.width_class, [len(row) for row in rows.rows]


@pytest.mark.parametrize(
    ("called", "width", "rows"),
    [
        (1, "two", [2]),
        (2, "lead", [1, 1]),
        (3, "lead", [2, 1]),
        (4, "lead", [2, 2]),
        (5, "three", [3, 3]),
        (6, "four", [4, 3]),
        (7, "four", [4, 4]),
        (8, "three", [3, 3, 3]),
    ],
)
def test_rows_have_few_gaps(called: int, width: str, rows: list[int]) -> None:
    (image,) = laid_out(called).images
    assert shape(image) == (width, rows)
    assert (image.lead is not None) == (width == "lead")


def test_of_several_images_none_is_larger_than_the_others() -> None:
    assert [shape(image) for image in laid_out(3, 2).images] == [("four", [4]), ("three", [3])]


@pytest.mark.parametrize("calls", [(1,), (2,), (4,), (5,), (8,), (1, 1), (3, 3), (2, 2, 2)])
def test_pictures_are_as_large_as_the_page_lets_them(calls: tuple[int, ...]) -> None:
    pictures = laid_out(*calls)
    for height in (pictures.row_mm, pictures.beside_mm):
        assert f".h{height} {{ max-height: {height}mm; }}" in STYLES
    with_more = arrange(report_content(study(*calls, notice="Much to be said. " * 30)[0])).pictures
    assert with_more.row_mm <= pictures.row_mm or with_more.row_mm in {74, 50}, "where it takes two pages"


@pytest.mark.parametrize("locale", locales())
@pytest.mark.parametrize("calls", [(1,), (4,), (5,), (1, 1)])
def test_a_usual_report_is_one_page(calls: tuple[int, ...], locale: str, read_pdf: Callable[[bytes], bytes]) -> None:
    result, pictures = study(*calls, notice="Knows phantoms only. " * 5)
    with speaking(locale):
        pdf = render_pdf(render_paper(result), PictureFetcher(pictures), styles=PRINT_STYLES)
    assert read_pdf(pdf).count(b"/Type /Page/") == 1


@pytest.mark.skipif(shutil.which("pdfinfo") is None, reason="pdfinfo of poppler-utils is not installed")
@pytest.mark.parametrize("called", [1, 4])
def test_letter_has_the_same_page_of_the_same_template(tmp_path: Path, called: int) -> None:
    papers: tuple[PaperSize, ...] = ("a4", "letter")
    texts = {}
    for paper in papers:
        result, _ = study(called, notice="Knows phantoms only. " * 5)
        print_study(result, [make_pixels(9)], tmp_path / paper, html=False, pdf=True, manner=Manner(paper=paper))
        pdf = tmp_path / paper / "reports" / STUDY_KEY / "report.pdf"
        told = subprocess.run(["pdfinfo", pdf], capture_output=True, check=True).stdout.decode()
        assert f"({paper})" in told.lower()
        assert re.search(r"Pages: +1\n", told), "pictures are as large as lets it end on one page, on either"
        texts[paper] = subprocess.run(["pdftotext", pdf, "-"], capture_output=True, check=True).stdout.split()
    assert sorted(texts["a4"]) == sorted(texts["letter"])


@pytest.mark.parametrize("locale", locales())
@pytest.mark.parametrize(("called", "priors"), [(1, 5), (4, 5)])
def test_earlier_studies_take_no_second_page(
    called: int, priors: int, locale: str, read_pdf: Callable[[bytes], bytes]
) -> None:
    result, pictures = study(called, notice="Knows phantoms only. " * 5)
    compared = tuple(label.name for label in result.engine.labels[:4])
    known = PriorStudy(
        "0" * 16, "20230405", "urgent", "demo", result.engine.sha256, (0.999, *([0.62] * 8)), compared, "report.html"
    )
    same_day = replace(known, study_date=result.header.study_date)
    earlier = [same_day, *(replace(known, study_key=str(n) * 16) for n in range(1, priors))]
    with speaking(locale):
        pdf = render_pdf(render_paper(result, priors=earlier), PictureFetcher(pictures), styles=PRINT_STYLES)
    assert read_pdf(pdf).count(b"/Type /Page/") == 1


def pdf_of(tmp_path: Path, variant: PdfVariant, locale: str = "en") -> Path:
    print_study(
        RESULT,
        [make_pixels()],
        tmp_path,
        html=False,
        pdf=True,
        manner=Manner(pdf_variant=variant, locale=locale),
    )
    return tmp_path / "reports" / STUDY_KEY / "report.pdf"


@leaves_a_file_open
def test_a_pdf_declares_the_language_that_it_is_printed_in(tmp_path: Path, read_pdf: Callable[[bytes], bytes]) -> None:
    assert b"/Lang (de)" in read_pdf(pdf_of(tmp_path, "plain", "de").read_bytes())


@leaves_a_file_open
@pytest.mark.parametrize("variant", ["plain", "pdf/ua-1", "pdf/a-3b"])
def test_every_variant_has_title_language_and_bookmarks(
    tmp_path: Path, variant: PdfVariant, read_pdf: Callable[[bytes], bytes]
) -> None:
    path = pdf_of(tmp_path, variant)
    pdf = read_pdf(path.read_bytes())
    for text in (f"Chest radiograph report {STUDY_KEY}", "/Lang (en)", "/Outlines"):
        assert text.encode() in pdf
    titles = re.findall(rb"/Title \((.*?)\)", pdf)
    assert {b"Chest radiograph report", b"Radiographs and heatmaps", b"Findings"} <= set(titles)
    assert b"Doe" not in pdf, "a bookmark is no place for a name"
    assert (b"/StructTreeRoot" in pdf) == (variant == "pdf/ua-1")
    assert {"pdf/ua-1": b"pdfuaid", "pdf/a-3b": b"pdfaid"}.get(variant, b"") in pdf
    assert is_report_of(path, draw_study(RESULT, [make_pixels()]).result)


@pytest.mark.skipif(shutil.which("pdfinfo") is None, reason="pdfinfo of poppler-utils is not installed")
def test_other_programs_see_the_tags(tmp_path: Path) -> None:
    told = subprocess.run(["pdfinfo", pdf_of(tmp_path, "pdf/ua-1")], capture_output=True, check=True).stdout.decode()
    assert re.search(r"Tagged: +yes", told)
    tags = ["pdfinfo", "-struct-text", str(pdf_of(tmp_path, "pdf/ua-1"))]
    structure = subprocess.run(tags, capture_output=True, check=True).stdout.decode()
    for element in ("H1", "H2", "Table", "Figure"):
        assert re.search(rf"^ *{element}\b", structure, re.MULTILINE), element


@leaves_a_file_open
def test_the_same_result_prints_the_same_bytes_in_every_variant(tmp_path: Path) -> None:
    variants: tuple[PdfVariant, ...] = ("pdf/ua-1", "pdf/a-3b")
    for variant in variants:
        first, second = (pdf_of(tmp_path / str(n), variant).read_bytes() for n in range(2))
        assert first == second


def test_long_texts_and_hostile_names_stay_within_two_pages(read_pdf: Callable[[bytes], bytes]) -> None:
    result, pictures = study(4)
    header = make_header(patient_name="W" * 10_000, study_description="x" * 10_000, patient_id="漢" * 10_000)
    result = replace(result, images=tuple(replace(image, header=header) for image in result.images))
    pdf = render_pdf(render_paper(result), PictureFetcher(pictures), styles=PRINT_STYLES)
    assert read_pdf(pdf).count(b"/Type /Page/") <= 2
