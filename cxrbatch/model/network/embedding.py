"""Letting a network answer its pooled features, which research compares images by."""

from __future__ import annotations

from dataclasses import replace

from cxrbatch.errors import UsageError
from cxrbatch.model.network.checkpoint import Checkpoint
from cxrbatch.model.network.mirror import MirroredNetwork
from cxrbatch.model.network.network import ChestNetwork


def with_embedding(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint of the same network, which answers the mean of its last feature map, too.

    Of a mirrored network it is the mean of both images'. The network itself is changed; no weight of it is.

    Raises:
        UsageError: it is an ensemble, whose members' features are numbered each in its own way: their mean means
            nothing, and side by side they would be as wide as all of them.
    """
    network = checkpoint.network
    single = network.network if isinstance(network, MirroredNetwork) else network
    if not isinstance(single, ChestNetwork):
        raise UsageError(
            "an ensemble has no embedding: each member has features of its own. Build an engine of one of the "
            "checkpoints for that, or leave --embeddings out."
        )
    single.gives_embedding = True
    return replace(checkpoint)
