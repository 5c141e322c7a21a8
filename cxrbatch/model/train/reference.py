"""What the validation images were like, for the engine to take along: runs measure their drift against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.model.data.labelled import Sample
from cxrbatch.model.figures.figures import quantiles
from cxrbatch.records import Float32, Label, TrainingReference, call_image
from cxrbatch.records.reference import age_band, view_of

_AT_ONCE = 256


def describe_reference(
    samples: Sequence[Sample], images: PixelSet, labels: Sequence[Label], probabilities: Float32
) -> TrainingReference:
    """Describe validation images: their grey levels, what is known of views and ages, and how often classes win.

    Args:
        samples: what tables and headers say of them; empty where nothing does.
        images: their pixels.
        labels: with their operating points.
        probabilities: of them, calibrated, float32 [N,C].
    """
    count = len(images)
    batches = (np.arange(start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE))
    greys = np.concatenate([images.pixels_of(batch).mean(axis=(1, 2, 3)) for batch in batches])
    winners = Counter(
        label.name
        for row in probabilities.tolist()
        for label, call in zip(labels, call_image(labels, "argmax", row), strict=True)
        if call
    )
    return TrainingReference(
        images=count,
        grey=quantiles(greys),
        views=dict(Counter(filter(None, (view_of(sample.view) for sample in samples)))),
        ages=dict(Counter(filter(None, (age_band(sample.age) for sample in samples)))),
        called={label.name: round(winners[label.name] / count, 4) for label in labels},
    )
