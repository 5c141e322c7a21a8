"""The option that has a run's studies processed by a cluster, and what it makes of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cxrbatch.run.batch import Means
    from cxrbatch.system.workers import WorkerPool

cluster_option = click.option(
    "--cluster",
    metavar="WHERE",
    help="Process studies on a cluster: local:N, tcp://HOST:PORT, or a dask scheduler's file.  [default: this process]",
)


@contextmanager
def means_on(cluster: str | None, workers: WorkerPool) -> Iterator[Means]:
    """Yield what does the work of a run: this process, or the cluster that is named, which is left in the end."""
    if cluster is None:
        from cxrbatch.run.batch import Means

        yield Means(workers)
        return
    from cxrbatch.cluster.connect import Cluster

    with Cluster(cluster) as found:
        yield found.means(workers)
