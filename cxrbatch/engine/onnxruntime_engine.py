"""The engine on ONNX Runtime's CPU provider, which is the one every installation has."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort

from cxrbatch.config import available_cores
from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.contract import INPUT, output_shapes, require_pixels, scores_from
from cxrbatch.engine.onnx_file import refers_to_other_files
from cxrbatch.engine.verified_file import VerifiedFile
from cxrbatch.errors import EngineError
from cxrbatch.records import EngineDescription, Gray8, Scores
from cxrbatch.system.memory import give_back_freed_memory, giving_back_at_once

BACKEND = "onnxruntime"

# Errors reach us as exceptions; ONNX Runtime also prints them, and its warnings, on stderr below this level.
_ONLY_FATAL = 4


class OnnxRuntimeEngine:
    """Scores batches with ONNX Runtime on the CPU."""

    def __init__(self, bundle: EngineBundle, *, role: str = "onnx", threads: int = 0) -> None:
        """Load the role's file and check that its graph keeps the contract.

        Args:
            bundle: the engine to open.
            role: which of its ONNX files.
            threads: how many cores one batch may use; 0 takes all that this process has.

        Raises:
            EngineError: the file is not the one that was built, or not the graph that engine.json describes.
        """
        self.description: EngineDescription = bundle.describe(role, BACKEND)
        self._where = f"{bundle.folder / bundle.file(role).path}"
        self._mend = bundle.mend
        self._outputs = list(output_shapes(self.description))
        with bundle.open_verified(role) as verified:
            self._session: ort.InferenceSession | None = self._load(verified, threads)
            verified.check()
        self._check_graph(self._session)
        self._check_scores(self.infer(np.zeros((1, *self.description.input.shape), np.uint8)))

    def infer(self, pixels: Gray8) -> Scores:
        """Score uint8 [N,1,S,S]; see `Engine.infer`."""
        if self._session is None:
            raise EngineError(f"{self._where}: the engine was closed")
        require_pixels(pixels, self.description, self._where)
        try:
            return scores_from(dict(zip(self._outputs, self._session.run(self._outputs, {INPUT: pixels}), strict=True)))
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise EngineError(f"{self._where}: ONNX Runtime failed on a batch of {len(pixels)}: {error}") from error

    def close(self) -> None:
        """Release the session and its memory."""
        self._session = None

    def _load(self, model: VerifiedFile, threads: int) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.inter_op_num_threads = 1
        # Threads that wait by spinning take the cores from the processes that read and print, also within a batch: a
        # ResNet50 at 224 px in batches of 4 computes 50 ms per image without and 69 with it, in INT8 18 and 30, where
        # two cores are shared, and answers sooner. Alone on them, in INT8 at batch 8, spinning was a seventh faster.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = _ONLY_FATAL
        # What was checked is an ONNX model, whole in itself. It must not be taken for ONNX Runtime's own format, and if
        # the check ever let a file's name through, there must be no such file (by default, all of the working folder).
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        self._refuse_other_files(model)
        try:
            # It holds the weights two to three times, piece by piece: 210 MB for a ResNet50, and 260 if what is freed
            # stays.
            with giving_back_at_once():
                session = ort.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise EngineError(f"{self._where}: ONNX Runtime cannot load it: {error}. {self._mend}") from error
        give_back_freed_memory()  # what it built the graph with, 150 MB for a ResNet50
        return session

    def _refuse_other_files(self, model: VerifiedFile) -> None:
        try:
            found = refers_to_other_files(model.content)
        except OSError as error:
            raise EngineError(f"{self._where}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise EngineError(f"{self._where}: no ONNX model: {error}. {self._mend}") from error
        if found:
            raise EngineError(f"{self._where}: keeps weights in another file, which is not verified. {self._mend}")

    def _check_graph(self, session: ort.InferenceSession) -> None:
        found = {node.name: (node.type, node.shape) for node in [*session.get_inputs(), *session.get_outputs()]}
        wanted: dict[str, tuple[str, tuple[int | None, ...]]] = {
            INPUT: ("tensor(uint8)", (None, *self.description.input.shape))
        } | {name: ("tensor(float)", (None, *shape)) for name, shape in output_shapes(self.description).items()}
        if len(session.get_inputs()) != 1 or not wanted.keys() <= found.keys():
            self._refuse(f"its tensors are {', '.join(found)}; wanted {', '.join(wanted)}")
        for name, (kind, shape) in wanted.items():
            found_kind, found_shape = found[name]
            if found_kind != kind or not _fits(found_shape, shape):
                self._refuse(f"{name} is {found_kind} {found_shape}; wanted {kind} {['N', *shape[1:]]}")

    def _check_scores(self, scores: Scores) -> None:
        # Shapes that the graph leaves open show only when it runs; this run also warms the session up.
        classes = len(self.description.labels)
        if scores.probabilities.shape != (1, classes) or scores.logits.shape != (1, classes):
            self._refuse(f"it scores {scores.probabilities.shape[-1]} labels; engine.json names {classes}")
        if scores.cams.ndim != 4 or scores.cams.shape[:2] != (1, classes):
            self._refuse(f"its cams are {list(scores.cams.shape)}; wanted [N,{classes},h,w]")

    def _refuse(self, what: str) -> None:
        raise EngineError(f"{self._where}: not the graph that engine.json describes: {what}. {self._mend}")


def _fits(found: list[int | str | None], wanted: tuple[int | None, ...]) -> bool:
    """Tell whether a declared shape agrees; names and None stand for sizes that are open."""
    if len(found) != len(wanted) or isinstance(found[0], int):
        return False
    pairs = zip(found[1:], wanted[1:], strict=True)
    return all(size == want for size, want in pairs if want is not None and isinstance(size, int))
