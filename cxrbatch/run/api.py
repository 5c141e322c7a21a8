"""What a notebook uses: open an engine and score images, run a folder, read results; as data frames and arrays.

`import cxrbatch` offers all of it by name: `cxrbatch.open_engine`, `cxrbatch.run`, `cxrbatch.read_results`. pandas is
imported where a table is made, and no sooner. docs/api.md shows how it is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxrbatch.config import Settings
from cxrbatch.errors import EngineError, Flag, ImageRejected, Reason, UsageError
from cxrbatch.intake.anatomy import check_anatomy
from cxrbatch.intake.preprocess import fit_image, reading_for, source_side
from cxrbatch.intake.read import read_radiograph
from cxrbatch.output.run_json import RUN_FILE
from cxrbatch.output.tables import IMAGES_CSV, LIST_SEPARATOR, STUDIES_CSV, read_table, score_columns
from cxrbatch.records import EngineDescription, Float32, Gray8, Label, judge_study
from cxrbatch.run.batch import run_batch
from cxrbatch.run.engine_slot import EngineSlot
from cxrbatch.run.score import ImageScore, Scorer, images_per_call, score_pixels
from cxrbatch.settings_sources import load_settings
from cxrbatch.system.progress import RunProgress

if TYPE_CHECKING:
    import pandas as pd

Image = str | Path | NDArray[Any]

NO_NUMBER = "the engine gave no number for this image"
_COUNTS = frozenset({"rows", "columns", "revision", "n_images", "n_scored", "n_judged", "n_labels"})


@dataclass(frozen=True, slots=True)
class _Prepared:
    """One image on its way to the engine: `pixels`, uint8 [1,S,S], unless it was `refused`."""

    name: str | int
    pixels: Gray8 | None = None
    flags: tuple[str, ...] = ()
    refused: ImageRejected | None = None


def open_engine(engine: str | Path = "", *, backend: str = "auto", precision: str = "auto") -> ScoringEngine:
    """Open an engine that scores images one by one or in lists.

    Args:
        engine: a folder, or a name that `cxrbatch engines` lists; empty takes the only one that is installed.
        backend: auto, onnxruntime, tensorrt, tensorrt-rtx or torch.
        precision: auto, fp32, fp16 or int8.

    Raises:
        EngineError: there is none, or it cannot run here.
        ConfigurationError: backend or precision is none of these.
    """
    settings = load_settings({"engine": str(engine), "backend": backend, "precision": precision})
    slot = EngineSlot(settings, opens_soon=True)
    slot.open()
    return ScoringEngine(slot, settings)


class ScoringEngine:
    """An opened engine that takes files and arrays. Close it, or use it in a `with` block."""

    def __init__(self, slot: EngineSlot, settings: Settings) -> None:
        self._slot, self._settings = slot, settings

    def __enter__(self) -> ScoringEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def description(self) -> EngineDescription:
        """Which engine this is, where it runs and what it knows."""
        return self._slot.description

    @property
    def labels(self) -> tuple[Label, ...]:
        """What it scores."""
        return self.description.labels

    def score(self, images: Image | Iterable[Image]) -> pd.DataFrame:
        """Score images; whatever is refused has a row with its reason and no scores.

        Args:
            images: paths of DICOM, PNG or JPEG files, read as `cxrbatch run` reads them; or display images, uint8
                [H,W], 0..255, air black and bone white; one of them, or any number.

        Returns:
            A row per image, in their order: `image` (its path, or its place in the list), `reason`, `message`, `flags`,
            `priority`, `findings`, `n_judged`, `n_labels` and `distance` as in studies.csv, of this image alone,
            `prob_<Label>` (0 to 1) and `positive_<Label>` (missing where there is no score, or nobody may judge); of an
            ensemble also `disagreement_<Label>`, the standard deviation of its members' probabilities.

        Raises:
            OSError: a file cannot be opened.
            ValueError: an array is none of this kind.
        """
        import pandas as pd

        prepared = (self._prepare(number, image) for number, image in enumerate(_listed(images)))
        rows: list[dict[str, Any]] = []
        while batch := list(islice(prepared, self._batch_size)):
            rows += self._score_batch(batch)
        columns = score_columns(self.description)
        positives = [column for column in columns if column.startswith("positive_")]
        numbers = [column for column in columns if column not in positives]
        named = ["image", "reason", "message", "flags", "priority", "findings", "n_judged", "n_labels", "distance"]
        frame = pd.DataFrame(rows, columns=[*named, *columns])
        kinds = {"priority": "str", "findings": "str", "n_judged": "Int64", "n_labels": "Int64", "distance": "float64"}
        return frame.astype(kinds | dict.fromkeys(numbers, "float64") | dict.fromkeys(positives, "boolean"))

    def maps(self, image: Image) -> Float32:
        """Return the class activation maps of one image, float32 [C,h,w], labels in the order of `labels`.

        They lie over the engine's input square; the mean of a map plus the label's bias is its logit.

        Raises:
            ImageRejected: the image gets no score.
            EngineError: the engine gives no number for it.
            OSError, ValueError: as `score`.
        """
        prepared = self._prepare(0, image)
        if prepared.pixels is None:
            assert prepared.refused is not None, "or there would be pixels"
            raise prepared.refused
        (score,) = self._score([prepared.pixels])
        if not score.is_number:
            raise EngineError(f"engine {self.description.name}: {NO_NUMBER}")
        return np.asarray(score.scores.cams[0], np.float32)

    def close(self) -> None:
        """Release what the engine holds; a second call does nothing."""
        self._slot.close()

    @property
    def _batch_size(self) -> int:
        return images_per_call(self._settings, self.description)

    def _score(self, pixels: list[Gray8]) -> list[ImageScore]:
        scorer = Scorer(self._slot.open(), self._slot.open_exact)
        return score_pixels(scorer, pixels, self._batch_size)

    def _score_batch(self, batch: Sequence[_Prepared]) -> Iterator[dict[str, Any]]:
        scores = iter(self._score([image.pixels for image in batch if image.pixels is not None]))
        for image in batch:
            if image.refused is not None:
                yield _row(image.name, image.refused.reason.value, image.refused.message)
            elif not (score := next(scores)).is_number:
                yield _row(image.name, Reason.UNEXPECTED_ERROR.value, NO_NUMBER)
            else:
                flags = (*image.flags, *(flag.value for flag in score.flags))
                yield _row(image.name, flags=flags) | self._cells(score)

    def _cells(self, score: ImageScore) -> dict[str, str | int | float | bool | None]:
        probabilities = score.scores.probabilities[0].tolist()
        unlike_training = Flag.OUT_OF_DISTRIBUTION in score.flags
        verdict = judge_study(self.description, [probabilities], unlike_training=unlike_training)
        cells: dict[str, str | int | float | bool | None] = {
            "distance": score.distance,
            "priority": verdict.priority,
            "findings": LIST_SEPARATOR.join(label.name for label in verdict.findings),
            "n_judged": len(verdict.judged),
            "n_labels": len(verdict.asked),
        }
        for label, probability, call in zip(self.labels, probabilities, verdict.calls, strict=True):
            cells[f"prob_{label.name}"] = probability
            if call is not None:
                cells[f"positive_{label.name}"] = call
        if score.scores.disagreement is not None:
            spreads = score.scores.disagreement[0].tolist()
            cells |= {f"disagreement_{label.name}": spread for label, spread in zip(self.labels, spreads, strict=True)}
        return cells

    def _prepare(self, number: int, image: Image) -> _Prepared:
        spec, settings = self.description.input, self._settings
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 2 or not image.size:
                raise ValueError(f"an image is uint8 [H,W], not {image.dtype} {list(image.shape)}")
            return _Prepared(number, fit_image(image, spec, *image.shape)[0])
        try:
            reading = reading_for(settings, spec)
            radiograph = read_radiograph(Path(image), reading, source_px=source_side(spec))
            radiograph = check_anatomy(radiograph, settings)
        except ImageRejected as rejected:
            return _Prepared(str(image), refused=rejected)
        pixels, _ = fit_image(radiograph.judged, spec, radiograph.rows, radiograph.columns)
        return _Prepared(str(image), pixels, tuple(flag.value for flag in radiograph.flags))


def run(input_path: str | Path, out: str | Path, **settings: Any) -> Results:
    """Score every study below a folder, or one file, as `cxrbatch run` does, and return the results.

    A second call with the same `out` does only what is new, changed, failed before, or scored by another engine.

    Args:
        input_path: the folder, or a single file.
        out: where the results go.
        settings: any key of `cxrbatch.toml`, such as engine="demo" or pdf=False.

    Raises:
        RunError: the run cannot start or go on; its subclasses tell why, as UsageError does of an `input_path` that
            is not there.
    """
    from rich.console import Console

    if not Path(input_path).exists():
        raise UsageError(f"{input_path}: not there. Name a folder of images, or one file.")
    chosen = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    with RunProgress(Console(quiet=True), counts=False) as progress:
        run_batch(Path(input_path), Path(out), load_settings(chosen), progress)
    return read_results(out)


@dataclass(frozen=True, slots=True)
class Results:
    """What an output folder holds: a row per file, a row per study, and what run.json says."""

    out: Path
    images: pd.DataFrame
    studies: pd.DataFrame
    report: Mapping[str, Any]


def read_results(out: str | Path) -> Results:
    """Read the tables of an output folder: text as it was in the files, identifiers never as numbers.

    Raises:
        UsageError: there are none.
        OSError: they cannot be read.
    """
    folder = Path(out)
    try:
        report = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        return Results(folder, _read_frame(folder / IMAGES_CSV), _read_frame(folder / STUDIES_CSV), report)
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise UsageError(f"{out}: no {missing} there. Name the output folder of a run.") from error


def _read_frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    columns, *rows = read_table(path)
    frame = pd.DataFrame(rows, columns=columns)
    for column in columns:
        if column.startswith(("prob_", "disagreement_")) or column == "distance":
            frame[column] = pd.to_numeric(frame[column]).astype("float64")
        elif column.startswith("positive_"):
            frame[column] = frame[column].map({"1": True, "0": False}).astype("boolean")
        elif column in _COUNTS:
            frame[column] = pd.to_numeric(frame[column]).astype("Int64")
    return frame


def _row(image: str | int, reason: str = "", message: str = "", flags: Sequence[str] = ()) -> dict[str, Any]:
    empty = {"priority": "", "findings": ""}
    return {"image": image, "reason": reason, "message": message, "flags": LIST_SEPARATOR.join(flags), **empty}


def _listed(images: Image | Iterable[Image]) -> Iterator[Image]:
    if isinstance(images, (str, Path)) or (isinstance(images, np.ndarray) and images.ndim == 2):
        yield images
    else:
        yield from images
