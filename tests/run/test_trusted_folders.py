"""--trust-folder-mtime: folders in which nothing came or went are passed over, and no file is lost by that."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from cxrbatch.intake import folders, walking
from cxrbatch.output.ledger.ledger import Ledger
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import read_rows, run_quietly, write_image

LONG_AGO_NS = (round(time.time()) - 10_000) * 10**9


def age(root: Path) -> None:
    """Let everything in a tree have changed long ago, all at once."""
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    os.utime(root, ns=(LONG_AGO_NS, LONG_AGO_NS))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """An archive that was scored once with trust, and the folders that are listed from then on."""
    images = tmp_path / "images"
    write_image(images / "a" / "x" / "one.png", 20, 60, 120, 240)
    write_image(images / "b" / "two.png", 200, 60, 10, 24)
    (images / "b" / "notes.txt").write_text("no image")
    age(images)
    write_tiny_bundle(tmp_path / "engines")
    listed: list[str] = []
    real = folders.list_sorted

    def noting(folder: str) -> list[os.DirEntry[str]]:
        listed.append(os.path.relpath(folder, images))
        return real(folder)

    monkeypatch.setattr(walking, "list_sorted", noting)
    run(images)
    listed.clear()
    return images, listed


def run(images: Path, *, trust: bool = True, **options: object) -> dict[str, int]:
    engine = str(images.parent / "engines" / "tiny")
    report = run_quietly(images, images.parent / "out", engine=engine, trust_folder_mtime=trust, html=False, **options)
    return report.files


def rows(images: Path) -> dict[str, str]:
    return {row["path"]: row["status"] for row in read_rows(images.parent / "out" / "images.csv")}


def test_nothing_is_listed_where_nothing_changed_and_nothing_is_gone(scene: tuple[Path, list[str]]) -> None:
    images, listed = scene
    before = rows(images)
    assert run(images) == {"scored": 2, "rejected": 1}
    assert listed == []
    assert rows(images) == before
    with Ledger(images.parent / "out") as ledger:
        assert ledger.store.value("SELECT count(*) FROM files WHERE NOT present") == 0
    run(images, trust=False)
    assert listed == [".", "a", "a/x", "b"]


def test_what_comes_goes_and_is_deferred_is_noticed_and_what_is_rewritten_in_place_is_not(
    scene: tuple[Path, list[str]],
) -> None:
    images, listed = scene
    write_image(images / "a" / "x" / "new.png", 10, 90, 40, 90)
    (images / "b" / "notes.txt").unlink()
    (images / "b" / "two.png").write_bytes((images / "b" / "two.png").read_bytes() + b"x")
    os.utime(images / "b", ns=(LONG_AGO_NS + 1, LONG_AGO_NS + 1))
    run(images)
    assert listed == ["a/x", "b"]
    assert rows(images) == {
        "a/x/new.png": "scored",
        "a/x/one.png": "scored",
        "b/notes.txt": "rejected",
        "b/two.png": "scored",
    }
    # `a/x` changed just now, and `b` holds a file that did: both are looked into until they have been quiet for long.
    listed.clear()
    age(images / "a")
    run(images)
    assert listed == ["a/x", "b"]
    listed.clear()
    (images / "a" / "x" / "one.png").write_text("no image any more")
    run(images)
    assert listed == ["b"]
    assert rows(images)["a/x/one.png"] == "scored"
    run(images, trust=False)
    assert rows(images)["a/x/one.png"] == "rejected"


def test_a_folder_that_goes_and_comes_back_is_looked_into(scene: tuple[Path, list[str]]) -> None:
    images, listed = scene
    shutil.move(images / "b", images.parent / "elsewhere")
    run(images)
    with Ledger(images.parent / "out") as ledger:
        assert ledger.store.value("SELECT count(*) FROM files WHERE NOT present") == 2
    shutil.move(images.parent / "elsewhere", images / "b")
    listed.clear()
    run(images)
    assert "b" in listed
    with Ledger(images.parent / "out") as ledger:
        assert ledger.store.value("SELECT count(*) FROM files WHERE NOT present") == 0


def test_other_rules_and_files_that_were_deferred_are_read_all_the_same(scene: tuple[Path, list[str]]) -> None:
    images, listed = scene
    run(images, min_stored_px=65)
    assert listed == [".", "a", "a/x", "b"]
    listed.clear()
    with Ledger(images.parent / "out") as ledger:
        ledger.store.execute("UPDATE files SET mtime_ns = -1 WHERE path = ?", (b"b/two.png",))
    run(images, min_stored_px=65)
    assert listed == ["b"]
