"""How a report is printed, beyond what its study's result says."""

from __future__ import annotations

from dataclasses import dataclass

from cxrbatch.config import HeatmapChoice, PaperSize, PdfVariant
from cxrbatch.locales import ENGLISH
from cxrbatch.pages.own_templates import PACKAGED, OwnTemplates
from cxrbatch.records import PriorStudy


@dataclass(frozen=True, slots=True)
class Manner:
    """Which heatmaps a report shows, which earlier studies of the patient it names, and what its PDF is like.

    `dicom`: which DICOM objects lie beside it (`OBJECT_KINDS`); `locale`: the language that it is printed in, which
    these never are. `templates`: what an operator put in the place of the package's.
    """

    heatmaps: HeatmapChoice = "validated"
    priors: tuple[PriorStudy, ...] = ()
    pdf_variant: PdfVariant = "plain"
    paper: PaperSize = "a4"
    dicom: tuple[str, ...] = ()
    locale: str = ENGLISH
    templates: OwnTemplates = PACKAGED
