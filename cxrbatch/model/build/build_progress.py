"""How far TensorRT is with a plan, and asking it to give up: what its builder tells, and is told, while it works."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cxrbatch.system.stopping import stop_was_asked

if TYPE_CHECKING:
    import tensorrt as trt

BuildProgress = Callable[[str, int, int], None]
"""Told (phase, step, steps)."""


class BuildPhases:
    """The phases that TensorRT goes through, nested: tells of the outermost ones and those right inside them."""

    def __init__(self, report: BuildProgress) -> None:
        self._report = report
        self._outermost: set[str] = set()
        self._steps: dict[str, int] = {}

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        if parent is None:
            self._outermost.add(phase)
        if steps > 0 and (parent is None or parent in self._outermost):
            self._steps[phase] = steps

    def complete(self, phase: str, step: int) -> None:
        """A step, counted from 0, is done; the last one is told as the phase ends."""
        if step + 1 < self._steps.get(phase, 0):
            self._report(phase, step + 1, self._steps[phase])

    def finish(self, phase: str) -> None:
        """A phase ends."""
        if steps := self._steps.pop(phase, 0):
            self._report(phase, steps, steps)


def open_monitor(trt: Any, report: BuildProgress) -> trt.IProgressMonitor:
    """Return what a builder reports to, and asks after each step whether to go on."""
    phases = BuildPhases(report)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a class of a library without types
        """Passes phases on, and asks TensorRT to give up once a signal has come."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.complete(phase_name, step)
            return not stop_was_asked()

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
