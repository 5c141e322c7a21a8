"""Opening an output folder is one protocol: its marker is read as seldom as is safe, written when a fact changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from cxrbatch.config import MARKER_FILE
from cxrbatch.errors import ExitCode
from cxrbatch.output.folder import lock, marker, opening
from cxrbatch.output.folder.marker import HeldMarker, Marker, read_marker
from cxrbatch.output.folder.opening import held_output, open_output
from cxrbatch.system import durable
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import run_quietly

Counts = Callable[[], tuple[int, int]]


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Return how often a marker was read, and replaced, since the last time this was asked."""
    read, replaced = [0], [0]
    read_text, replace_text = Path.read_text, durable.replace_text

    def reading(path: Path, *args: str | None, **options: str | None) -> str:
        read[0] += path.name == MARKER_FILE
        return read_text(path, *args, **options)

    def replacing(path: Path, content: str) -> None:
        replaced[0] += path.name == MARKER_FILE
        replace_text(path, content)

    def since() -> tuple[int, int]:
        counted = read[0], replaced[0]
        read[0] = replaced[0] = 0
        return counted

    monkeypatch.setattr(Path, "read_text", reading)
    monkeypatch.setattr(marker, "replace_text", replacing)
    return since


@pytest.mark.parametrize("state", ["", "elsewhere"])
def test_the_marker_is_read_before_the_lock_and_under_it(tmp_path: Path, uses: Counts, state: str) -> None:
    out, where = tmp_path / "out", str(tmp_path / state) if state else ""
    with open_output(out, state=where):
        assert uses() == (1, 2), "there is none to read under the lock; it gets its id, then its session"
    for _ in range(2):
        with open_output(out, state=where):
            assert uses() == (2, 1), "a session of its own"
        assert uses() == (0, 0)


def test_a_run_reads_it_no_oftener_than_opening_does(tmp_path: Path, uses: Counts) -> None:
    images, engine = tmp_path / "images", str(write_tiny_bundle(tmp_path / "engines"))
    images.mkdir()
    for expected in ((1, 4), (2, 1), (2, 1)):
        assert run_quietly(images, tmp_path / "out", engine=engine, html=False).exit_code == ExitCode.DONE
        assert uses() == expected, "what the first run adds: whose results these are, and how its files were indexed"


def test_what_is_known_is_neither_read_nor_written_again(tmp_path: Path, uses: Counts) -> None:
    held = HeldMarker(tmp_path)
    held.update(index_rules="1")
    held.update(index_rules="1")
    assert uses() == (1, 1)
    held.update(session="s")
    assert uses() == (0, 1)
    assert read_marker(tmp_path) == held.known == Marker(index_rules="1", session="s")


def test_what_another_process_wrote_before_the_lock_was_had_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_output(tmp_path) as ledger:
        identity = ledger.home.marker.known.output_id

    had = lock.locked

    def locked_once_the_other_ended(state: Path) -> AbstractContextManager[None]:
        HeldMarker(tmp_path).update(index_rules="its rules", session="its session")
        return had(state)

    monkeypatch.setattr(opening, "locked", locked_once_the_other_ended)
    for may_be_missing in (False, True):
        with held_output(tmp_path, may_be_missing=may_be_missing) as home:
            home.marker.update(input_sha256="mine")
        known = Marker("", identity, "mine", "its rules", "its session")
        assert read_marker(tmp_path) == home.marker.known == known
