"""What a reader must know before trusting the verdict; it stands directly under it. Start at `cautions`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cxrbatch.errors import Flag
from cxrbatch.output.report.findings import contested_sentence, novelty
from cxrbatch.pages import wording
from cxrbatch.pages.language import gettext as _, ngettext
from cxrbatch.records import StudyResult, Verdict

CAUTION_FLAGS = (
    Flag.OTHER_VIEW,
    Flag.ANATOMY_SUSPECT,
    Flag.POLARITY_SUSPECT,
    Flag.DAMAGE_SUSPECT,
    Flag.PAEDIATRIC,
    Flag.VETERINARY,
)
"""With these a score itself is in doubt; what the other flags tell stands under the quality of the images."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One sentence about one or more images, and which; `source` is empty where there is no choice."""

    source: str
    sentence: str


def cautions(result: StudyResult, verdict: Verdict, outside: Iterable[Remark] = ()) -> tuple[Remark, ...]:
    """Return what speaks against trusting the verdict, what weighs most first.

    Args:
        result: the study.
        verdict: what it is called.
        outside: what is to be said of heatmaps that peak outside of the lungs.
    """
    sentences = (novelty(result, verdict), contested_sentence(result), unscored_sentence(result))
    unlike, contested, unscored = (Remark("", sentence) if sentence else None for sentence in sentences)
    return tuple(filter(None, (unlike, *flag_remarks(result, CAUTION_FLAGS), *outside, contested, unscored)))


def quality(result: StudyResult) -> tuple[Remark, ...]:
    """Return a remark per flag of the study that is no caution."""
    told = {*CAUTION_FLAGS, Flag.OUT_OF_DISTRIBUTION}
    flagged = dict.fromkeys(flag for image in result.images for flag in image.flags if flag not in told)
    return tuple(flag_remarks(result, tuple(flagged)))


def flag_remarks(result: StudyResult, flags: tuple[Flag, ...]) -> Iterator[Remark]:
    """Yield a remark per flag that the study has, naming its images where there are several."""
    for flag in flags:
        numbers = [str(n) for n, image in enumerate(result.images, start=1) if flag in image.flags]
        if numbers:
            source = ngettext("Image {numbers}", "Images {numbers}", len(numbers)).format(numbers=", ".join(numbers))
            yield Remark(source if len(result.images) > 1 else "", wording.flag_sentence(flag))


def image_name(number: int) -> str:
    """Return what an image of a study is called, by its place."""
    return _("Image {number}").format(number=number)


def unscored_sentence(result: StudyResult) -> str:
    """Say that images of the study went unscored; a copy of one that was scored is not missing."""
    missing = sum(image.status != "duplicate" for image in result.refused)
    if not missing:
        return ""
    whole = missing + len(result.images)
    said = ngettext(
        "{missing} of {count} images of this study has no score; the reasons stand below.",
        "{missing} of {count} images of this study have no score; the reasons stand below.",
        missing,
    )
    return said.format(missing=missing, count=whole)
