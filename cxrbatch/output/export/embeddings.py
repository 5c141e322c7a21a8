"""Embeddings as a run with `keep_embeddings` left them: read, checked, and written out as tables or NumPy files.

Which images lie near each other says something only among those that one engine scored: each row names it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrbatch.errors import StudyFailed
from cxrbatch.output.export.tables import Add, OpenTable, csv_table
from cxrbatch.output.report.report_files import read_kept
from cxrbatch.records import Float32, ImageResult, StudyResult
from cxrbatch.system.durable import make_folder, replace_files

AddEmbedding = Callable[[StudyResult, int, Float32], None]

EMBEDDINGS = "embeddings"
INDEX = "embedding_files.csv"


@dataclass(frozen=True, slots=True)
class EmbeddingRow:
    """The embedding of one image, D numbers: the mean of the engine's last feature map over its cells."""

    study_key: str
    image: int
    path: str
    sop_uid: str
    engine: str
    engine_sha256: str
    precision: str
    scored_at: str
    embedding: Float32


@dataclass(frozen=True, slots=True)
class EmbeddingValueRow:
    """One number of it, counted from 0."""

    study_key: str
    image: int
    engine_sha256: str
    dimension: int
    value: float


@dataclass(frozen=True, slots=True)
class EmbeddingFileRow:
    """One file of an embedding, float32 [D], D being `dimensions`."""

    file: str
    study_key: str
    image: int
    path: str
    sop_uid: str
    dimensions: int
    engine: str
    engine_sha256: str
    precision: str
    scored_at: str


@dataclass(slots=True)
class EmbeddingWriter:
    """Writes embeddings in one form, begun with the first one: an OUT without any leaves no file.

    `written` counts the images whose embedding is there, `damaged` those of which it was kept and is not as it was.
    """

    begin: Callable[[], AddEmbedding]
    add: AddEmbedding | None = None
    written: int = 0
    damaged: int = 0

    def write(self, result: StudyResult, folder: Path) -> None:
        """Add the embeddings of one study whose report lies in `folder`."""
        for number, image in enumerate(result.images, start=1):
            embedding = load_embedding(folder, image)
            if embedding is None:
                self.damaged += bool(image.embedding_file)
                continue
            self.add = self.add or self.begin()
            self.add(result, number, embedding)
            self.written += 1


def embedding_writer(
    stack: ExitStack, target: Path, form: str, tables: dict[str, tuple[OpenTable, str]]
) -> EmbeddingWriter:
    """Return what writes embeddings as `form` has scores: a row per image (parquet), per number (csv-long), or files.

    What an earlier export left of them goes.
    """
    suffix = tables[form][1] if form in tables else ""
    path = target / (f"{EMBEDDINGS}.{suffix}" if suffix else INDEX)
    path.unlink(missing_ok=True)
    if not suffix:
        for file in (target / EMBEDDINGS).glob("*.npy"):
            file.unlink(missing_ok=True)
        return EmbeddingWriter(lambda: _into_files(target, stack.enter_context(csv_table(path, EmbeddingFileRow))))
    open_table = tables[form][0]
    if form == "parquet":
        return EmbeddingWriter(lambda: _by_image(stack.enter_context(open_table(path, EmbeddingRow))))
    return EmbeddingWriter(lambda: _by_number(stack.enter_context(open_table(path, EmbeddingValueRow))))


def load_embedding(folder: Path, image: ImageResult) -> Float32 | None:
    """Return the embedding that was kept of an image, float32 [D]; None where none was, or it is not whole."""
    if not image.embedding_file:
        return None
    try:
        content = read_kept(folder / image.embedding_file, folder.name)
    except StudyFailed:
        return None
    embedding = np.load(io.BytesIO(content), allow_pickle=False)
    return np.asarray(embedding, np.float32) if embedding.ndim == 1 and np.isfinite(embedding).all() else None


def _by_image(add: Add) -> AddEmbedding:
    def write(result: StudyResult, number: int, embedding: Float32) -> None:
        image, engine = result.images[number - 1], result.engine
        add(
            EmbeddingRow(
                result.study_key, number, image.path, image.header.sop_instance_uid, engine.name, engine.sha256,
                engine.precision, result.scored_at, embedding,
            )
        )  # fmt: skip

    return write


def _by_number(add: Add) -> AddEmbedding:
    def write(result: StudyResult, number: int, embedding: Float32) -> None:
        for dimension, value in enumerate(embedding.tolist()):
            add(EmbeddingValueRow(result.study_key, number, result.engine.sha256, dimension, value))

    return write


def _into_files(target: Path, add: Add) -> AddEmbedding:
    make_folder(target / EMBEDDINGS)

    def write(result: StudyResult, number: int, embedding: Float32) -> None:
        image, engine, name = result.images[number - 1], result.engine, f"{result.study_key}-{number}.npy"
        content = io.BytesIO()
        np.save(content, np.ascontiguousarray(embedding, "<f4"), allow_pickle=False)
        replace_files(target / EMBEDDINGS, {name: content.getvalue()})
        add(
            EmbeddingFileRow(
                f"{EMBEDDINGS}/{name}", result.study_key, number, image.path, image.header.sop_instance_uid,
                len(embedding), engine.name, engine.sha256, engine.precision, result.scored_at,
            )
        )  # fmt: skip

    return write
