"""Activation maps that are kept as numbers: what they hold, whenever they are asked for, and through kills."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode
from cxrbatch.records import Float32, Geometry
from cxrbatch.upkeep.repair import repair_output
from tests.factories.engine import GAIN, write_tiny_bundle
from tests.factories.faulted import FaultedRuns
from tests.factories.judged import disagreements
from tests.factories.outputs import read_results
from tests.factories.studies import read_rows, run_quietly, write_image

BARE: dict[str, Any] = {"html": False, "pdf": False, "pictures": False}
GREYS = (20, 60, 120, 240)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("base")
    write_image(base / "images" / "a.png", *GREYS)
    write_image(base / "images" / "b.png", 200, 10, 10, 10)
    write_tiny_bundle(base / "engines")
    run_quietly(base / "images", base / "plain", engine=str(base / "engines/tiny"))
    return base


def maps_of(out: Path, path: str) -> Float32:
    (result,) = [each for each in read_results(out) if each.images[0].path == path]
    maps: Float32 = np.load(out / "reports" / result.study_key / result.images[0].maps_file, allow_pickle=False)
    return maps


@pytest.mark.parametrize("settings", [{}, BARE], ids=["with pictures", "bare"])
def test_a_later_run_that_keeps_maps_scores_again_and_no_row_moves(
    base: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    out = Path(shutil.copytree(base / "plain", tmp_path / "out"))
    before = [{k: v for k, v in row.items() if not k.endswith("_at")} for row in read_rows(out / "studies.csv")]
    engine = str(base / "engines/tiny")
    assert not list(out.rglob("*.npy"))
    kept = run_quietly(base / "images", out, engine=engine, keep_maps=True, **settings)
    assert (kept.studies_this_run, kept.studies) == (2, {"reported": 2})
    after = [{k: v for k, v in row.items() if not k.endswith("_at")} for row in read_rows(out / "studies.csv")]
    if not settings:
        assert after == before
    maps = maps_of(out, "a.png")
    assert (maps.dtype, maps.shape) == (np.dtype("float32"), (4, 2, 2))
    # The tiny engine's map of label i is what its quadrant's brightness adds, in that quadrant alone.
    expected = np.zeros((4, 2, 2), np.float32)
    for label, grey in enumerate(GREYS):
        expected[label, label // 2, label % 2] = 4 * GAIN * grey / 255
    np.testing.assert_allclose(maps, expected, rtol=1e-5)
    assert read_results(out)[0].images[0].geometry == Geometry(128, 128, 32, 0.25, 0.25, 0.0, 0.0)
    assert disagreements(out) == []
    assert run_quietly(base / "images", out, engine=engine, keep_maps=True, **settings).studies_this_run == 0
    # Without the option what is there stays; asked for again, only what lacks its maps is scored.
    assert run_quietly(base / "images", out, engine=engine, **settings).studies_this_run == 0
    assert run_quietly(base / "images", out, engine=engine, keep_maps=True, **settings).studies_this_run == 0


def test_a_repaired_ledger_knows_them(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_quietly(base / "images", out, engine=str(base / "engines/tiny"), keep_maps=True)
    (out / "ledger.sqlite").write_bytes(b"no database" * 100)
    assert repair_output(out).studies == 2
    assert run_quietly(base / "images", out, engine=str(base / "engines/tiny"), keep_maps=True).studies_this_run == 0
    assert disagreements(out) == []


def test_maps_that_are_lost_are_made_again(base: Path, tmp_path: Path) -> None:
    out, engine = tmp_path / "out", str(base / "engines/tiny")
    run_quietly(base / "images", out, engine=engine, keep_maps=True)
    (out / "ledger.sqlite").write_bytes(b"no database" * 100)
    next(out.rglob("maps-1-*.npy")).unlink()
    assert repair_output(out).retried == 1
    assert run_quietly(base / "images", out, engine=engine, keep_maps=True).studies_this_run == 1
    assert disagreements(out) == []


def test_a_run_that_is_killed_leaves_maps_that_are_whole(base: Path, tmp_path: Path) -> None:
    images, engine = base / "images", str(base / "engines/tiny")
    with FaultedRuns() as runs:
        for place, fault in enumerate(["report-written", "ledger-commit", "files-rename", "tidy"]):
            out = tmp_path / f"out-{place}"
            shutil.copytree(base / "plain", out)
            assert runs.run(images, out, engine, "--keep-maps", fault=f"{fault}=kill").exit_code == -9
            assert runs.run(images, out, engine, "--keep-maps").exit_code == ExitCode.DONE
            assert disagreements(out) == []
            assert len(list(out.rglob("maps-1-*.npy"))) == 2


def test_names_taken_out_keep_the_maps(base: Path, tmp_path: Path) -> None:
    out, engine = tmp_path / "out", str(base / "engines/tiny")
    run_quietly(base / "images", out, engine=engine, keep_maps=True)
    run_quietly(base / "images", out, engine=engine, keep_maps=True, deidentify_existing=True)
    assert len(list(out.rglob("maps-1-*.npy"))) == 2
    assert disagreements(out) == []


def test_a_dry_run_says_what_would_be_scored_for_them(
    base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")
    engine = str(base / "engines/tiny")
    arguments = ["run", str(base / "images"), "-o", str(base / "plain"), "-e", engine, "--no-pdf", "--dry-run"]
    assert run_command_line([*arguments, "--keep-maps"]) == 0
    assert "2 studies, 2 images" in capsys.readouterr().out
    assert run_command_line(arguments) == 0
    assert "0 studies, 0 images" in capsys.readouterr().out
