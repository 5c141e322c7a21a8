"""Tables and worklist are left alone where nothing changed, and written anew where anything did."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cxrbatch.output import tables
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.schema_growth import DERIVED
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import read_rows, run_quietly, write_image

TABLES = ("images.csv", "studies.csv")


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """An output folder with two studies."""
    for name, level in (("one", 20), ("two", 200)):
        write_image(tmp_path / "images" / f"{name}.png", level, 60, 120, 240)
    write_tiny_bundle(tmp_path / "engines")
    again(tmp_path / "out")
    return tmp_path / "out"


def again(out: Path, **options: str) -> None:
    engine = options.pop("engine", str(out.parent / "engines" / "tiny"))
    run_quietly(out.parent / "images", out, engine=engine, **options)


def states(out: Path) -> list[tuple[int, int]]:
    return [((out / name).stat().st_ino, (out / name).stat().st_mtime_ns) for name in TABLES]


def test_a_run_without_news_writes_no_table(scored: Path) -> None:
    before = states(scored)
    again(scored)
    assert states(scored) == before


def add_image(out: Path) -> None:
    write_image(out.parent / "images" / "three.png", 60, 20, 40, 80)


def touch_image(out: Path) -> None:
    os.utime(out.parent / "images" / "one.png", ns=(1, 1))


def add_text(out: Path) -> None:
    (out.parent / "images" / "notes.txt").write_text("no image")


def edit_table(out: Path) -> None:
    with (out / "images.csv").open("a") as table:
        table.write("a line of somebody else\n")


def remove_worklist(out: Path) -> None:
    (out / "index.html").unlink()


def remove_its_data(out: Path) -> None:
    for path in (out / "worklist").glob("rows-*"):
        path.unlink()


@pytest.mark.parametrize("change", [add_image, touch_image, add_text, edit_table, remove_worklist, remove_its_data])
def test_whatever_changes_the_tables_writes_them_anew(scored: Path, change: Callable[[Path], None]) -> None:
    before = states(scored)
    change(scored)
    again(scored)
    assert not set(before) & set(states(scored))
    assert (scored / "index.html").exists()
    assert list((scored / "worklist").glob("rows-*"))
    assert len(read_rows(scored / "images.csv")) == 2 + (change in {add_image, add_text})
    after = states(scored)
    again(scored)
    assert states(scored) == after


def test_another_engine_or_version_writes_them_anew(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = states(scored)
    monkeypatch.setattr(tables, "__version__", "9.9")
    again(scored)
    between = states(scored)
    assert between != before
    write_tiny_bundle(scored.parent / "others", labels=("One", "Two"))
    again(scored, engine=str(scored.parent / "others" / "tiny"))
    assert states(scored) != between
    assert "prob_Two" in read_rows(scored / "images.csv")[0]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE files SET message = 'x'",
        "UPDATE studies SET message = 'x'",
        "DELETE FROM studies",
        "INSERT INTO studies (study_key, status) VALUES ('k', 'pending')",
    ],
)
def test_no_change_of_a_row_goes_unnoticed(scored: Path, statement: str) -> None:
    with Ledger(scored) as ledger:
        assert ledger.fact(DERIVED)
        assert not ledger.changes.since_derived()
        with ledger.store.transaction():
            ledger.store.execute(statement)
        assert ledger.changes.since_derived()
