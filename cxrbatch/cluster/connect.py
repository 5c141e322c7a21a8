"""Finding a cluster: N processes on this machine, or a scheduler of dask.distributed that somebody started."""

from __future__ import annotations

import logging
import re
import tempfile
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbatch.cluster.local_tls import local_security
from cxrbatch.cluster.processor import ClusterProcessor
from cxrbatch.config import available_cores
from cxrbatch.errors import RunError, UsageError
from cxrbatch.run.batch import Means
from cxrbatch.run.elsewhere import DescribedSlot

if TYPE_CHECKING:
    from cxrbatch.run.processor import Workplace
    from cxrbatch.system.workers import WorkerPool

_LOCAL = re.compile(r"local:(?P<nodes>[1-9]\d{0,2})")
_ADDRESS = re.compile(r"(tcp|tls)://[^\s/]+:\d+")
_CONNECT_S = 30
# A chunk is worked on while the next one waits beside it.
_THREADS = 2


class Cluster:
    """A cluster that is connected to when it is first needed; leaving the context leaves it, and ends a local one."""

    def __init__(self, where: str) -> None:
        """Understand what `--cluster` says.

        Args:
            where: `local:N`, `tcp://HOST:PORT`, `tls://HOST:PORT`, or the file that a scheduler wrote.

        Raises:
            UsageError: it is none of these, or dask.distributed is not installed.
        """
        self.where = where
        found = _LOCAL.fullmatch(where)
        self.nodes_here = int(found["nodes"]) if found else 0
        if not found and not _ADDRESS.fullmatch(where) and not Path(where).is_file():
            raise UsageError(
                f"--cluster {where}: neither local:N, nor tcp://HOST:PORT (or tls://), nor the file of a scheduler "
                "(`dask scheduler --scheduler-file FILE`)."
            )
        try:
            import distributed  # noqa: F401  # is it there
        except ImportError as error:
            raise UsageError("--cluster needs dask.distributed: pip install 'cxrbatch[cluster]'") from error
        self._stack = ExitStack()
        self._client: Any = None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def means(self, workers: WorkerPool | None = None) -> Means:
        """Return what does the work of a run on this cluster, whose driver opens no engine.

        It is connected to as the first new file is met: who mistyped its address is not told of that after an hour of
        indexing.
        """
        return Means(workers, self.processor, partial(DescribedSlot, on_news=self.client))

    def processor(self, at: Workplace) -> ClusterProcessor:
        """Return what processes studies on this cluster."""
        cores = available_cores()
        return ClusterProcessor(at, self.client, share=max(1, cores // self.nodes_here) if self.nodes_here else 0)

    def client(self) -> Any:
        """Return the client of the scheduler.

        Raises:
            RunError: none answers.
        """
        if self._client is None:
            self._client = self._connected()
        return self._client

    def _connected(self) -> Any:
        import dask
        from distributed import Client

        # Each has a level of its own, and what they tell of a scheduler that is lost is told below in plain words.
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._stack.enter_context(dask.config.set({"distributed.worker.daemon": False}))
        how: dict[str, Any] = {"timeout": _CONNECT_S, "set_as_default": False}
        try:
            if self.nodes_here:
                client = Client(self._started_here(), **how)  # type: ignore[no-untyped-call]
            elif _ADDRESS.fullmatch(self.where):
                client = Client(self.where, **how)  # type: ignore[no-untyped-call]
            else:
                client = Client(scheduler_file=self.where, **how)  # type: ignore[no-untyped-call]
        except Exception as error:  # a time-out is an OSError; of what is no scheduler's answer dask makes anything
            raise RunError(
                f"--cluster {self.where}: no scheduler answers ({type(error).__name__}). Is it started, can it "
                "be reached from here, and does it speak the same protocol (tcp:// or tls://)?"
            ) from error
        self._stack.callback(_close, client)
        return client

    def _started_here(self) -> Any:
        """Start a scheduler in this process and nodes beside it; all of it is heard on 127.0.0.1 only."""
        from distributed import LocalCluster

        folder = self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        cluster = LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=self.nodes_here,
            threads_per_worker=_THREADS,
            processes=True,
            host="127.0.0.1",
            # Without any, dask takes a port of its own choice.
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            memory_limit=0,
            local_directory=folder,
            silence_logs=logging.CRITICAL,
            **local_security(Path(folder)),
        )
        self._stack.callback(_close, cluster)
        return cluster


def _close(what: Any) -> None:
    # It is over: whatever does not answer any more is not waited for.
    with suppress(Exception):
        what.close(timeout=10)
