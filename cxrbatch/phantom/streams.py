"""Random streams of one phantom: what is drawn from one never shifts what another gives."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Numbers are part of what a seed means: append, never renumber."""

    PATIENT = 0
    POSE = 1
    VESSELS = 2
    TEXTURE = 3
    EXPOSURE = 4
    NOISE = 5
    FINDINGS = 6
    CARDIOMEGALY = 10
    EFFUSION = 11
    PNEUMOTHORAX = 12
    NODULE = 13
    CONSOLIDATION = 14


def open_stream(seed: int, stream: Stream, take: int = 0) -> np.random.Generator:
    """Return the generator of one stream of the phantom `seed`; `take` numbers its exposures."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(stream), take))))
