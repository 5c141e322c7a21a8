"""How many threads libraries start in this process."""

from __future__ import annotations

import os
import sys


def keep_numpy_to_one_thread() -> None:
    """Let numpy's linear algebra (OpenBLAS) start no threads; to be called before numpy is loaded.

    It would start one for every further core as it is loaded. They compute nothing, since nothing that runs an engine
    multiplies matrices with numpy, but spin for a while: 50 ms of computing on a machine of two cores. What somebody
    set stays. OpenMP is left alone: a torch engine computes with it.
    """
    if "numpy" not in sys.modules:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
