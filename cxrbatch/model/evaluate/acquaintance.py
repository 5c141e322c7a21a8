"""Whether the evaluated images are of patients, or are the pictures, that the model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrbatch.model.data.known_images import (
    KnownImages,
    Mask,
    has_telling_id,
    recognise_patients,
    recognise_pictures,
)
from cxrbatch.model.data.labelled import Sample
from cxrbatch.model.evaluate.doubts import TRAINING_PART
from cxrbatch.pages.retelling import kept
from cxrbatch.pages.wording import counted


@dataclass(frozen=True, slots=True)
class Acquaintance:
    """Which of N images the model knows, bool [N] each, by the patient and by the very picture.

    `learned` from, or `chose` by: the parts on which training chose the epoch, the calibration or the operating points.
    `telling` are those whose patient's ID is no number as any collection has. `is_told` where the checkpoint says whom
    it knows at all.
    """

    is_told: bool
    telling: Mask
    learned_patients: Mask
    learned_pictures: Mask
    chose: Mask

    @property
    def learned(self) -> Mask:
        """The images of patients or pictures that the model learned from."""
        return self.learned_patients | self.learned_pictures


def get_acquainted(known: Sequence[KnownImages], samples: Sequence[Sample], pictures: Sequence[str]) -> Acquaintance:
    """Look for the evaluated images among those that the weights were trained on, this time or before.

    Args:
        known: what the checkpoint says; a model that began with another's weights knows that one's patients, too.
        samples: the N images.
        pictures: the SHA-256 of what the model saw of each.
    """
    patients, same, chose = (np.zeros(len(samples), bool) for _ in range(3))
    for images in known:
        patients |= recognise_patients(images, TRAINING_PART, samples)
        same |= recognise_pictures(images, TRAINING_PART, pictures)
        for part in images.chose:
            chose |= recognise_patients(images, part, samples)
            chose |= recognise_pictures(images, part, pictures)
    telling = np.array([has_telling_id(sample) for sample in samples], bool)
    return Acquaintance(bool(known), telling, patients, same, chose & ~patients & ~same)


def describe_learned(found: Acquaintance, samples: Sequence[Sample]) -> str:
    """Say whom of the evaluated images the model learned from; empty where from nobody."""
    if not found.learned.any():
        return ""
    patients = {sample.patient for sample, knows in zip(samples, found.learned_patients.tolist(), strict=True) if knows}
    pictures = int(found.learned_pictures.sum())
    both, of_patients, of_pictures = (
        kept(
            "Of {images} {number} show {patients} and {number_of_pictures} are the very pictures that the model "
            "learned from: its checkpoint knows them by keyed digests."
        ),
        kept(
            "Of {images} {number} show {patients} that the model learned from: its checkpoint knows them by keyed "
            "digests."
        ),
        kept(
            "Of {images} {number_of_pictures} are the very pictures that the model learned from: its checkpoint knows "
            "them by keyed digests."
        ),
    )
    said = (both if pictures else of_patients) if patients else of_pictures
    return said.format(
        images=counted(len(samples), "image"),
        number=int(found.learned_patients.sum()),
        patients=counted(len(patients), "patient"),
        number_of_pictures=pictures,
    )


def is_certain(found: Acquaintance) -> bool:
    """Tell whether an ID that is known can hardly be another patient's: it is long, or a picture is known as well."""
    return bool((found.learned_pictures | (found.learned_patients & found.telling)).any())


def describe_chosen(found: Acquaintance, samples: Sequence[Sample]) -> str:
    """Say that the evaluated images also chose the model's thresholds; empty where they did not."""
    count = int(found.chose.sum())
    if not count:
        return ""
    return kept(
        "Of {images} {number} are of patients on whom training chose the epoch, the calibration or the operating "
        "points: these figures promise a little too much."
    ).format(images=counted(len(samples), "image"), number=count)
