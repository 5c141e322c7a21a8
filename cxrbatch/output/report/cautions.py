"""What a reader must know before trusting the verdict; it stands directly under it. Start at `cautions`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cxrbatch.errors import Flag
from cxrbatch.output.report.findings import contested_sentence, novelty
from cxrbatch.pages import wording
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
            source = f"Image{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}" if len(result.images) > 1 else ""
            yield Remark(source, wording.FLAG_SENTENCES[flag])


def unscored_sentence(result: StudyResult) -> str:
    """Say that images of the study went unscored; a copy of one that was scored is not missing."""
    missing = sum(image.status != "duplicate" for image in result.refused)
    if not missing:
        return ""
    whole = missing + len(result.images)
    have = "has" if missing == 1 else "have"
    return f"{missing} of {wording.counted(whole, 'image')} of this study {have} no score; the reasons stand below."
