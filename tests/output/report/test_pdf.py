from __future__ import annotations

import io
import logging
from collections.abc import Callable

import pytest
from PIL import Image

from cxrbatch.errors import StudyFailed
from cxrbatch.output.report.pdf import PictureFetcher, render_pdf

SVG = "http://www.w3.org/2000/svg"


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((64, 48), 40).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def test_own_pictures_are_served_and_embedded_as_they_are(read_pdf: Callable[[bytes], bytes]) -> None:
    picture = jpeg()
    fetcher = PictureFetcher({"image-1.jpg": picture})
    page = "<html><head><title>t</title></head><body><img src='image-1.jpg'/></body></html>"
    pdf = render_pdf(page, fetcher, styles=("report-print.css",))
    assert fetcher.served == ["image-1.jpg"]
    assert fetcher.refused == []
    assert picture in pdf
    assert read_pdf(pdf).count(b"/Type /Page/") == 1


@pytest.mark.parametrize(
    "page",
    [
        "<img src='file:///etc/passwd'/>",
        "<img src='image-2.jpg'/>",
        "<img src='image-1.jpg?x'/>",
        "<img src='http://127.0.0.1:9/x.png'/>",
        "<img src='data:image/png;base64,AAAA'/>",
        "<link rel='stylesheet' href='https://example.com/a.css'/>",
        "<p style='background:url(file:///etc/hostname)'>x</p>",
        "<object data='file:///etc/passwd'></object>",
        "<div><base href='file:///etc/'/><img src='passwd'/></div>",
        f"<svg xmlns='{SVG}' width='9' height='9'><image href='file:///etc/passwd' width='9' height='9'/></svg>",
    ],
)
def test_everything_else_is_refused_and_there_is_no_report(page: str) -> None:
    fetcher = PictureFetcher({"image-1.jpg": jpeg()})
    with pytest.raises(StudyFailed, match="not a picture of its study"):
        render_pdf(f"<html><body>{page}</body></html>", fetcher, styles=())
    assert fetcher.served == []
    assert len(fetcher.refused) == 1


def test_printing_is_silent(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.DEBUG):
        render_pdf("<p style='no-such-property:1;colour:red'>Doe^Jane</p>", PictureFetcher({}), styles=())
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")
