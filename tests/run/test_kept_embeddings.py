"""Embeddings that are kept as numbers: what they hold, only when asked for, through export, and of which engines."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.output.report.intent import result_mark
from cxrbatch.records import Float32, StudyResult
from cxrbatch.upkeep.repair import repair_output
from tests.factories.engine import write_tiny_bundle
from tests.factories.output import make_study_result
from tests.factories.outputs import read_results
from tests.factories.studies import read_rows, run_quietly, write_image

GREYS = (20, 60, 120, 240)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("base")
    write_image(base / "images" / "a.png", *GREYS)
    write_image(base / "images" / "b.png", 200, 10, 10, 10)
    write_tiny_bundle(base / "engines", gives_embedding=True)
    write_tiny_bundle(base / "engines", name="mute")
    run_quietly(base / "images", base / "plain", engine=str(base / "engines/tiny"))
    run_quietly(base / "images", base / "kept", engine=str(base / "engines/tiny"), keep_embeddings=True, html=False)
    return base


def results(out: Path) -> dict[str, StudyResult]:
    return {result.images[0].path: result for result in read_results(out)}


def embedding_of(out: Path, path: str) -> Float32:
    result = results(out)[path]
    file = out / "reports" / result.study_key / result.images[0].embedding_file
    kept: Float32 = np.load(file, allow_pickle=False)
    return kept


def test_they_are_kept_only_when_asked_for_and_are_what_the_engine_gave(base: Path) -> None:
    assert not list((base / "plain").rglob("*.npy"))
    assert not any(
        result.keeps_embeddings or result.images[0].embedding_file for result in results(base / "plain").values()
    )
    kept = embedding_of(base / "kept", "a.png")
    assert (kept.dtype, kept.shape) == (np.dtype("float32"), (4,))
    np.testing.assert_allclose(kept, np.array(GREYS) / 255, atol=0.01)


def test_a_later_run_that_keeps_them_scores_again_once_and_no_row_moves(base: Path, tmp_path: Path) -> None:
    out, engine = Path(shutil.copytree(base / "plain", tmp_path / "out")), str(base / "engines/tiny")
    before = [{k: v for k, v in row.items() if not k.endswith("_at")} for row in read_rows(out / "studies.csv")]
    maps = run_quietly(base / "images", out, engine=engine, keep_maps=True)
    both = run_quietly(base / "images", out, engine=engine, keep_maps=True, keep_embeddings=True)
    assert (maps.studies_this_run, both.studies_this_run) == (2, 2)
    assert [{k: v for k, v in row.items() if not k.endswith("_at")} for row in read_rows(out / "studies.csv")] == before
    assert run_quietly(base / "images", out, engine=engine, keep_maps=True, keep_embeddings=True).studies_this_run == 0
    assert sorted(path.name.partition("-")[0] for path in out.rglob("*.npy")) == ["embedding"] * 2 + ["maps"] * 2


def test_an_engine_that_gives_none_is_refused_before_anything_is_scored(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--keep-embeddings: engine mute gives none\. Build it with .* --embeddings"):
        run_quietly(base / "images", tmp_path / "out", engine=str(base / "engines/mute"), keep_embeddings=True)
    assert not (tmp_path / "out" / "reports").exists()


def test_without_pictures_nothing_else_is_kept(base: Path, tmp_path: Path) -> None:
    bare = {"html": False, "pdf": False, "pictures": False}
    run_quietly(base / "images", tmp_path / "out", engine=str(base / "engines/tiny"), keep_embeddings=True, **bare)
    files = {path.suffix for path in (tmp_path / "out" / "reports").rglob("*") if path.is_file()}
    assert files == {".json", ".npy"}
    np.testing.assert_array_equal(embedding_of(tmp_path / "out", "a.png"), embedding_of(base / "kept", "a.png"))


def test_a_rebuilt_ledger_knows_them(base: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(base / "kept", tmp_path / "out"))
    (out / "ledger.sqlite").write_bytes(b"damaged")
    repair_output(out)
    again = run_quietly(base / "images", out, engine=str(base / "engines/tiny"), keep_embeddings=True, html=False)
    assert again.studies == {"reported": 2}
    np.testing.assert_array_equal(embedding_of(out, "a.png"), embedding_of(base / "kept", "a.png"))


def test_results_of_earlier_versions_keep_their_mark() -> None:
    result = make_study_result()
    assert result_mark(result) == "303b05158711bd33d0a8cbaab66ca47c 2024-02-01T03:04:05+00:00"


def test_export_writes_them_as_tables_and_files(base: Path, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "export"
    formats = [part for name in ("parquet", "csv-long", "npy", "coco") for part in ("--format", name)]
    assert run_command_line(["export", str(base / "kept"), "-o", str(target), *formats]) == ExitCode.DONE
    said = json.loads((target / "export.json").read_text())
    assert (said["embeddings"], said["embeddings_damaged"]) == (2, 0)
    table = {row["path"]: row for row in arrow.read_table(target / "embeddings.parquet").to_pylist()}
    result, wanted = results(base / "kept")["a.png"], embedding_of(base / "kept", "a.png")
    assert (table["a.png"]["study_key"], table["a.png"]["engine_sha256"]) == (result.study_key, result.engine.sha256)
    np.testing.assert_array_equal(np.array(table["a.png"]["embedding"], np.float32), wanted)
    with (target / "embeddings.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["study_key"] == result.study_key]
    assert [int(row["dimension"]) for row in rows] == [0, 1, 2, 3]
    np.testing.assert_array_equal(np.array([row["value"] for row in rows], np.float32), wanted)
    files = {row["path"]: row for row in read_rows(target / "embedding_files.csv")}
    assert files["a.png"]["dimensions"] == "4"
    np.testing.assert_array_equal(np.load(target / files["a.png"]["file"]), wanted)

    # Over one of another OUT: what that has none of goes.
    assert run_command_line(["export", str(base / "plain"), "-o", str(target), *formats]) == ExitCode.DONE
    assert not [path for path in target.rglob("*") if path.name.startswith("embedding") and path.is_file()]
    assert json.loads((target / "export.json").read_text())["embeddings"] == 0


def test_one_that_was_changed_is_left_out_and_told(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(base / "kept", tmp_path / "out"))
    file = out / "reports" / results(out)["a.png"].study_key / results(out)["a.png"].images[0].embedding_file
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert run_command_line(["export", str(out), "-o", str(tmp_path / "export"), "--format", "npy"]) == ExitCode.DONE
    assert "1 embeddings are not as they were kept" in capsys.readouterr().out
    assert [row["path"] for row in read_rows(tmp_path / "export" / "embedding_files.csv")] == ["b.png"]
