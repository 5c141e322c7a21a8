"""Choosing a backend for a bundle and opening it, never with a silent fallback. Start at `open_engine`."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from cxrbatch.config import Backend, PrecisionChoice
from cxrbatch.engine.backends import FASTEST_FIRST, look_at_backend
from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.contract import Engine
from cxrbatch.engine.int8_gate import INT8, int8_obstacle
from cxrbatch.engine.tensorrt_flavour import FLAVOURS
from cxrbatch.errors import EngineError
from cxrbatch.records import EngineDescription

log = logging.getLogger(__name__)

# Which file of a bundle a backend runs at a precision, the one it prefers first.
ROLES: dict[str, dict[str, str]] = {
    "tensorrt": {"fp16": "plan"},
    "tensorrt-rtx": {"fp16": "plan_rtx"},
    "torch": {"fp16": "onnx_fp16", "fp32": "onnx"},
    "onnxruntime": {"fp32": "onnx", "fp16": "onnx_fp16", "int8": INT8},
}


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Where a bundle runs, which of its files and at what precision, and why in words."""

    backend: str
    role: str
    precision: str
    why: str


def plan_engine(
    bundle: EngineBundle,
    *,
    backend: Backend = "auto",
    precision: PrecisionChoice = "auto",
    opens_soon: bool = False,
    verifies: bool = True,
) -> EngineDescription:
    """Describe the engine that `open_engine` would open, without opening it: a run with nothing to score needs none.

    Its file is verified. Where it `opens_soon`, the verified bytes are kept until then, and not read and hashed again;
    where it may not be opened at all, that would cost memory, and half as much computing again, for nothing. Whoever
    sees to that later asks for no verification now.

    Raises:
        EngineError: the backend cannot run here, or the bundle's file for it is missing or not the one it was
            built with.
    """
    choice = choose_engine(bundle, backend=backend, precision=precision)
    if opens_soon:
        bundle.keep_verified(choice.role)
    elif verifies:
        bundle.verified_file(choice.role)
    return bundle.describe(choice.role, choice.backend)


def open_engine(
    bundle: EngineBundle, *, backend: Backend = "auto", precision: PrecisionChoice = "auto", threads: int = 0
) -> Engine:
    """Open the bundle on the backend asked for; "auto" takes the fastest one that can run here, and logs why.

    Args:
        bundle: the engine to open.
        backend: where to run it.
        precision: which of its files; "auto" takes the one that the backend prefers, on the CPU INT8 where that passed
            its gate, else FP32.
        threads: how many cores a CPU backend may use; 0 takes all that this process has.

    Raises:
        EngineError: the backend cannot run here, the bundle has no file for it, or is damaged.
    """
    choice = choose_engine(bundle, backend=backend, precision=precision)
    engine = open_choice(bundle, choice, threads=threads)
    log.info("engine %s runs on %s in %s (%s)", bundle.name, choice.backend, choice.precision, choice.why)
    return engine


def open_choice(bundle: EngineBundle, choice: EngineChoice, *, threads: int = 0) -> Engine:
    """Open exactly what was chosen."""
    # Each is imported where it was chosen, and nowhere else: a run with nothing to score needs none.
    if choice.backend in FLAVOURS:
        from cxrbatch.engine.tensorrt_engine import open_tensorrt

        return open_tensorrt(bundle, FLAVOURS[choice.backend])
    if choice.backend == "torch":
        from cxrbatch.engine.torch_cuda_engine import open_torch

        return open_torch(bundle, role=choice.role)
    from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle, role=choice.role, threads=threads)


def choose_engine(bundle: EngineBundle, *, backend: Backend, precision: PrecisionChoice) -> EngineChoice:
    """Choose where and at what precision the bundle runs.

    Raises:
        EngineError: the backend cannot run here, or the bundle lacks the file.
    """
    if backend != "auto":
        state = look_at_backend(backend)
        if not state.runs:
            raise EngineError(f"backend {backend} cannot run here: {state.detail}. Run with --backend onnxruntime.")
        return _choose_file(bundle, backend, precision, why="asked for")
    choices = [choice for choice in runnable(bundle) if precision in {"auto", choice.precision}]
    # On none that runs here is there such a file: ONNX Runtime, which always runs, says which and how to get it.
    return choices[0] if choices else _choose_file(bundle, "onnxruntime", precision, why="")


def runnable(bundle: EngineBundle) -> tuple[EngineChoice, ...]:
    """Return everything of the bundle that can run here, the fastest backend first."""
    choices: list[EngineChoice] = []
    why = "auto: the fastest that can run here"
    for backend in FASTEST_FIRST:
        held = {precision: role for precision, role in _roles(bundle, backend).items() if role in bundle.manifest.files}
        if not held:
            continue
        if obstacle := _find_obstacle(bundle, backend):
            why = f"{why}; not {backend}: {obstacle}"
            continue
        choices += [EngineChoice(backend, role, precision, why) for precision, role in held.items()]
    return tuple(choices)


def go_on_with(bundle: EngineBundle, chosen: EngineDescription, scored_by: str) -> PrecisionChoice:
    """Return the precision that "auto" means for an output folder whose studies an engine has scored before.

    Where that was the FP32 file of the same engine, it is that again: an INT8 file that would run where nobody has
    scored yet is no reason to score everything anew.

    Args:
        bundle: the engine.
        chosen: what "auto" would run.
        scored_by: the identity of the engine that scored; '' where none did.
    """
    if chosen.precision != "int8" or "onnx" not in bundle.manifest.files:
        return "auto"
    return "fp32" if bundle.describe("onnx", chosen.backend).sha256 == scored_by else "auto"


def _roles(bundle: EngineBundle, backend: str) -> dict[str, str]:
    """Return the role of each precision that a backend runs, the preferred one first."""
    roles = ROLES[backend]
    takes_int8 = "int8" in roles and not int8_obstacle(bundle.manifest)
    return {"int8": roles["int8"], **roles} if takes_int8 else roles


def _find_obstacle(bundle: EngineBundle, backend: str) -> str:
    """Say why the backend cannot run this bundle here; empty where it can. A graph fits any machine, a plan one."""
    state = look_at_backend(backend)
    if not state.runs:
        return state.detail
    if backend in FLAVOURS:
        from cxrbatch.engine.tensorrt_engine import find_machine

        try:
            find_machine(bundle, FLAVOURS[backend])
        except EngineError as error:
            return str(error)
    return ""


def _choose_file(bundle: EngineBundle, backend: str, precision: str, *, why: str) -> EngineChoice:
    roles = _roles(bundle, backend)
    if precision == "auto":
        precision = next((name for name, role in roles.items() if role in bundle.manifest.files), next(iter(roles)))
    if precision not in roles:
        raise EngineError(f"backend {backend} does not run {precision}; it runs {', '.join(roles)}.")
    if backend in FLAVOURS:
        from cxrbatch.engine.tensorrt_engine import find_machine

        find_machine(bundle, FLAVOURS[backend])
    else:
        bundle.file(roles[precision])
    return EngineChoice(backend, roles[precision], precision, why)
