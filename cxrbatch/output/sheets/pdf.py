"""A sheet as PDF; runs in a worker, which has loaded what prints. Nothing is fetched from anywhere."""

from __future__ import annotations

from typing import Any

from cxrbatch.output.report.pdf import PictureFetcher
from cxrbatch.system.durable import encode


def print_sheet(page: str) -> bytes:
    """Return the page of a sheet as PDF/UA, A4.

    Raises:
        PermissionError: the page asks for something; its template names nothing.
    """
    from weasyprint import HTML  # after `report.pdf`, which decides how it is imported

    document: Any = HTML(
        string=encode(page).decode(), base_url="https://sheet.invalid/", url_fetcher=PictureFetcher({})
    )
    printed: bytes = document.write_pdf(pdf_variant="pdf/ua-1")
    return printed
