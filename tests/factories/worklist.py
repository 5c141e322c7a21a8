"""Made-up studies for a worklist, as many as one likes, made as they are drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from cxrbatch.errors import Flag
from cxrbatch.records import StudyRow
from tests.factories.output import make_header, make_study_result, make_study_row

BEGIN = datetime(2024, 1, 1, tzinfo=timezone.utc)


def made_up_studies(count: int, *, before: int = 0) -> Iterator[StudyRow]:
    """Yield `count` studies in the order in which they came, a minute apart; the first `before` are left out.

    Of every ten the first is urgent, the second and third are abnormal, the fourth could not be scored. None has a
    thumbnail.
    """
    scored = make_study_result(((0.1, 0.2, 0.1),))
    for number in range(before, count):
        key = hashlib.sha256(str(number).encode()).hexdigest()[:16]
        came = BEGIN + timedelta(minutes=number)
        header = make_header(accession_number=f"ACC-{number:07}", study_date=f"{came:%Y%m%d}")
        if number % 10 == 3:
            reasons = ("not_frontal",)
            row = make_study_row(None, study_key=key, header=header, reasons=reasons, n_images=1, n_scored=0)
        else:
            weak = (number % 97) / 1000
            probabilities = {0: (0.6, 0.1, 0.9 + weak), 1: (0.8, 0.1, weak), 2: (0.1, 0.5 + weak, weak)}
            flags = (Flag.POLARITY_SUSPECT,) if number % 25 == 0 else ()
            image = replace(
                scored.images[0], probabilities=probabilities.get(number % 10, (weak, weak, weak)), flags=flags
            )
            result = replace(scored, study_key=key, images=(image,))
            row = make_study_row(result, header=header)
        yield replace(row, thumbnail="", arrived_at=came.isoformat(timespec="seconds"))
