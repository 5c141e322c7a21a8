"""Printing a report's page as PDF; nothing is fetched from anywhere."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import cache
from typing import Any
from xml.etree import ElementTree as ET

from cxrbatch.config import PdfVariant
from cxrbatch.errors import StudyFailed
from cxrbatch.output.report.load_weasyprint import load_weasyprint
from cxrbatch.pages.page import asset

load_weasyprint()  # first of all: how it is imported decides what that costs
from cssselect2 import ElementWrapper  # noqa: E402
from weasyprint import CSS, HTML  # noqa: E402
from weasyprint.text.fonts import FontConfiguration  # noqa: E402
from weasyprint.urls import FatalURLFetchingError, URLFetcher, URLFetcherResponse  # noqa: E402

# Never resolved: ".invalid" is reserved (RFC 2606). Relative names in the HTML become addresses below it.
_BASE_URL = "https://report.invalid/"

# What no XML may hold of what a page may (XML 1.0, 2.2); controls are written out by the template.
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class PictureFetcher(URLFetcher):  # type: ignore[misc]
    """Serves the pictures of one study from memory and refuses every other address.

    A refusal ends the printing. The template names nothing but those pictures and escapes every text, so a
    foreign address means that one of the two is broken, and then there must be no report.
    """

    def __init__(self, pictures: Mapping[str, bytes]) -> None:
        super().__init__(allowed_protocols=[], allow_redirects=False, fail_on_errors=True)
        self._pictures = pictures
        self.served: list[str] = []
        self.refused: list[str] = []

    def fetch(self, url: str, headers: Any = None) -> URLFetcherResponse:  # noqa: ARG002 - WeasyPrint's signature
        """Return the picture of this address, or refuse."""
        name = url.removeprefix(_BASE_URL)
        if name == url or name not in self._pictures:
            self.refused.append(url)
            raise PermissionError("not a picture of this study")
        self.served.append(name)
        return URLFetcherResponse(url, self._pictures[name], {"Content-Type": "image/jpeg"})


class ParsedPage(HTML):  # type: ignore[misc]
    """A page that is well-formed XML, as WeasyPrint takes it.

    WeasyPrint's parser repairs whatever the web holds, and its style sheet knows all of HTML: of a report they take
    6 ms of a core each. What this page uses, its own style sheet tells.
    """

    def __init__(self, page: str, fetcher: PictureFetcher) -> None:
        # Not HTML's own, which parses.
        root = ET.fromstring(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", page))  # noqa: S314  # our own template
        self.wrapper_element = ElementWrapper.from_html_root(root, content_language=None)
        self.etree_element = self.wrapper_element.etree_element
        self.base_url = _BASE_URL
        self.url_fetcher = fetcher
        self.media_type = "print"

    def _ua_stylesheets(self, forms: bool = False) -> list[CSS]:  # noqa: ARG002 - WeasyPrint's signature
        return []


def render_pdf(
    page: str, fetcher: PictureFetcher, *, styles: tuple[str, ...], mark: str = "", variant: PdfVariant = "plain"
) -> bytes:
    """Print a page.

    Args:
        page: the page as XML, without a style of its own.
        fetcher: serves its pictures.
        styles: its style sheets in templates/.
        variant: `pdf/ua-1` has tags for who listens to it (ISO 14289-1), `pdf/a-3b` all that it needs to look the
            same in many years (ISO 19005-3). Tags take a fifteenth more computing, so that a plain PDF has none.
        mark: what becomes the file's identifier (ISO 32000-1, 14.4), readable without a PDF library.

    Raises:
        StudyFailed: the page asks for something that is not a picture of this study.
    """
    _silence_weasyprint()
    try:
        content: bytes = ParsedPage(page, fetcher).write_pdf(
            font_config=_font_configuration(),
            stylesheets=[_parsed_style(asset(name)) for name in styles],
            pdf_identifier=mark.encode() or None,
            pdf_variant=None if variant == "plain" else variant,
        )
    except FatalURLFetchingError:
        content = b""
    except ET.ParseError as error:
        from cxrbatch.pages.template_rules import refuse_malformed

        refuse_malformed(error)
        raise
    # Asked again: inside an SVG image WeasyPrint swallows even that error.
    if fetcher.refused:
        raise StudyFailed("the report asks for something that is not a picture of its study; not printed")
    return content


@cache
def _font_configuration() -> FontConfiguration:
    """Return this process's fonts: looking them up again costs each report several milliseconds."""
    return FontConfiguration()


@cache
def _parsed_style(style: str) -> CSS:
    """Return a style sheet, parsed once a process: inside the page it would cost every report 20 ms."""
    return CSS(string=style, font_config=_font_configuration())


@cache
def _silence_weasyprint() -> None:
    """Keep WeasyPrint from logging: its warnings could quote a patient's name."""
    for name in ("weasyprint", "weasyprint.progress", "fontTools"):
        logging.getLogger(name).disabled = True
