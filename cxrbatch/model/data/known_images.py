"""Whom a model was trained on, in a form that names nobody: keyed digests of patients and of pictures.

A checkpoint carries them, so that `cxrbatch evaluate` finds the model's own patients in other data, whatever folder,
table or part they come in there. Each is an HMAC-SHA-256 (RFC 2104), cut to 8 bytes, under a key that is drawn for this
one model and lies beside. So no ID can be read out, no list made for one model serves for another, and two models
cannot be asked whom they share. It is no secret from somebody who holds the file and can guess: who tries every ID of a
hospital finds which are in.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cxrbatch.engine.training_facts import CHOOSING_PART
from cxrbatch.model.data.labelled import LabelledImages, Sample

Mask = NDArray[np.bool_]

_DIGEST_BYTES, _KEY_BYTES = 8, 32

SHORT_ID = 5
"""An ID of fewer signs than this is anybody's: collections count their patients from 1."""


@dataclass(frozen=True, slots=True)
class KnownPart:
    """One part of the data: the digests of its patients and of its pictures, sorted, in base64.

    `of_unknown` counts images of nobody knows whom: those are known by their pictures alone.
    """

    patients: str = ""
    pictures: str = ""
    of_unknown: int = 0


@dataclass(frozen=True, slots=True)
class KnownImages:
    """What one training saw, by part (train, val, calibration, test), under one key (hex).

    `chose` names the parts on which it chose the epoch, the calibration or the operating points.
    """

    key: str
    parts: dict[str, KnownPart] = field(default_factory=dict)
    chose: tuple[str, ...] = (CHOOSING_PART,)

    def require_sound(self) -> None:
        """Refuse what cannot be digests under a key.

        Raises:
            ValueError: it is none.
        """
        bytes.fromhex(self.key)
        for part in self.parts.values():
            for packed in (part.patients, part.pictures):
                if len(base64.b64decode(packed, validate=True)) % _DIGEST_BYTES:
                    raise ValueError("digests of known images that are cut off")


def remember(images: LabelledImages, pictures: Sequence[str], chose: tuple[str, ...] = (CHOOSING_PART,)) -> KnownImages:
    """Make the digests of a data set.

    Args:
        images: split into its parts.
        pictures: the SHA-256 of what the network sees of each image (`hash_pixels`), in their order.
        chose: the parts on which anything was chosen.
    """
    key = secrets.token_bytes(_KEY_BYTES)
    parts = {}
    for part in sorted({sample.split for sample in images.samples}):
        chosen = [at for at, sample in enumerate(images.samples) if sample.split == part]
        samples = [images.samples[at] for at in chosen]
        parts[part] = KnownPart(
            patients=_packed(_digest(key, form) for sample in samples for form in _learned_forms(sample)),
            pictures=_packed(_digest(key, ("picture", pictures[at])) for at in chosen) if pictures else "",
            of_unknown=sum(not sample.patient_id for sample in samples),
        )
    return KnownImages(key.hex(), parts, chose)


def recognise_patients(known: KnownImages, part: str, samples: Sequence[Sample]) -> Mask:
    """Tell which images, bool [N], are of patients of a part; never where nobody knows whose an image is.

    An ID is the same with and without zeros in front, and in any case. Where both sides say who gave it, that must be
    the same, too; where one does not, the ID alone decides.
    """
    key, digests = bytes.fromhex(known.key), _unpacked(known.parts.get(part, KnownPart()).patients)
    return np.array([any(_digest(key, form) in digests for form in _asked_forms(sample)) for sample in samples], bool)


def recognise_pictures(known: KnownImages, part: str, pictures: Sequence[str]) -> Mask:
    """Tell which pictures, by the SHA-256 of what the network sees, bool [N], are of a part."""
    key, digests = bytes.fromhex(known.key), _unpacked(known.parts.get(part, KnownPart()).pictures)
    return np.array([_digest(key, ("picture", picture)) in digests for picture in pictures], bool)


def has_telling_id(sample: Sample) -> bool:
    """Tell whether the patient's ID is long enough, or says who gave it, so that another's would hardly be the same."""
    return bool(sample.issuer) or len(_plain_id(sample)) >= SHORT_ID


def _learned_forms(sample: Sample) -> tuple[tuple[str, ...], ...]:
    if not sample.patient_id:
        return ()
    patient = _plain_id(sample)
    return ("id", patient), (("issuer", sample.issuer, patient) if sample.issuer else ("no issuer", patient))


def _asked_forms(sample: Sample) -> tuple[tuple[str, ...], ...]:
    if not sample.patient_id:
        return ()
    patient = _plain_id(sample)
    return (("issuer", sample.issuer, patient), ("no issuer", patient)) if sample.issuer else (("id", patient),)


def _plain_id(sample: Sample) -> str:
    plain = sample.patient_id.strip().casefold()
    return plain.lstrip("0") or plain if plain.isdigit() else plain


def _digest(key: bytes, form: tuple[str, ...]) -> bytes:
    # No ID holds a zero byte; one may hold what is not UTF-8, which Python keeps as lone surrogates.
    return hmac.digest(key, "\0".join(form).encode("utf-8", "surrogateescape"), "sha256")[:_DIGEST_BYTES]


def _packed(digests: Iterable[bytes]) -> str:
    return base64.b64encode(b"".join(sorted(set(digests)))).decode()


def _unpacked(packed: str) -> frozenset[bytes]:
    content = base64.b64decode(packed, validate=True)
    return frozenset(content[at : at + _DIGEST_BYTES] for at in range(0, len(content), _DIGEST_BYTES))
