"""The option that has a run's studies processed by a cluster, and what it makes of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cxrbatch.run.processor import MakeProcessor

cluster_option = click.option(
    "--cluster",
    metavar="WHERE",
    help="Process studies on a cluster: local:N, tcp://HOST:PORT, or a dask scheduler's file.  [default: this process]",
)


@contextmanager
def processors(cluster: str | None) -> Iterator[MakeProcessor]:
    """Yield what makes the processor of a run: here, or on the cluster that is named, which is left in the end."""
    if cluster is None:
        from cxrbatch.run.processor import LocalProcessor

        yield LocalProcessor
        return
    from cxrbatch.cluster.connect import Cluster

    with Cluster(cluster) as found:
        yield found.processor
