"""How far the embeddings of two engines are from each other."""

from __future__ import annotations

import numpy as np

from cxrbatch.errors import EngineError
from cxrbatch.records import Scores


def embedding_change(answered: Scores, reference: Scores) -> float | None:
    """Return the largest length of a change of an embedding, as a share of the length of the reference's.

    None where the reference gives none: then there is nothing to compare. NaN where a number is none.

    Raises:
        EngineError: only the reference gives one, or theirs are not equally wide.
    """
    wanted, given = reference.embedding, answered.embedding
    if wanted is None:
        return None
    if given is None or given.shape != wanted.shape:
        shape = "no embedding" if given is None else f"embeddings of {list(given.shape)}"
        raise EngineError(f"the engine gives {shape}; its reference {list(wanted.shape)}")
    lengths = np.linalg.norm(wanted.astype(np.float64), axis=1)
    changes = np.linalg.norm(given.astype(np.float64) - wanted, axis=1)
    # An image without any feature has length 0: there a change counts as it is.
    return float(np.max(changes / np.where(lengths > 0, lengths, 1.0), initial=0.0))
