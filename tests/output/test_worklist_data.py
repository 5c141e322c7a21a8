"""The rows that the worklist's script reads: all of them, in shards that are written only where something changed."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.output import worklist_data
from cxrbatch.output.worklist import write_worklist
from cxrbatch.output.worklist_data import NOW_JS, read_version, read_worklist
from cxrbatch.output.worklist_lines import worklist_line
from cxrbatch.records import StudyRow
from cxrbatch.system.durable import TEMPORARY_PREFIX
from tests.factories.output import make_engine, make_header, make_study_result, make_study_row
from tests.factories.worklist import made_up_studies

KEY, ARRIVED, DATE, ACCESSION, MARKS, FOUND = 0, 2, 3, 4, 8, 13


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worklist_data, "SHARD_ROWS", 10)


def write(out: Path, studies: Iterable[StudyRow], at: str = "2024-02-01T06:00:00+00:00") -> dict[str, Any]:
    write_worklist(out, studies, engine=make_engine(), generated_at=at)
    return dict(called(out / "worklist" / NOW_JS, "now("))


def called(script: Path, function: str) -> Any:
    """Return what the script hands to the page, read as the JSON that it is."""
    head, _, rest = script.read_text(encoding="ascii").partition(function)
    assert head == "cxrbatchWorklist."
    return json.loads(rest.removesuffix(");\n").partition(",")[2] if function == "rows(" else rest.removesuffix(");\n"))


def rows(out: Path, stamp: dict[str, Any]) -> list[list[Any]]:
    found = []
    for name in stamp["shards"]:
        shard = called(out / "worklist" / f"rows-{name}.js", "rows(")
        found += [[*row, shard["texts"]] for row in shard["rows"]]
    return found


def written_since(out: Path, before: dict[Path, int]) -> set[str]:
    return {path.name for path, inode in inodes(out).items() if before.get(path) != inode}


def inodes(out: Path) -> dict[Path, int]:
    """Return what tells a file that was replaced from one that was left alone."""
    return {path: path.stat().st_ino for path in out.rglob("*") if path.is_file()}


def test_every_study_is_there_once_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    stamp = write(tmp_path, made_up_studies(35))
    studies = list(made_up_studies(35))
    found = rows(tmp_path, stamp)
    assert len(stamp["shards"]) == 4
    assert [row[KEY] for row in found] == [study.study_key for study in studies]
    assert [row[ACCESSION] for row in found] == [study.header.accession_number for study in studies]
    assert [row[-1][row[DATE]] for row in found] == ["2024-01-01"] * 35
    assert {row[ARRIVED] % 60 for row in found} == {0}
    refused, flagged = (sum((row[MARKS] & bit) > 0 for row in found) for bit in (2, 1))
    assert (refused, flagged) == (4, 2)
    assert [row[-1][row[FOUND][0]] for row in found if row[FOUND]].count("Pneumothorax") == 4


def test_a_rerun_without_news_writes_nothing(tmp_path: Path) -> None:
    first = write(tmp_path, made_up_studies(35))
    before = inodes(tmp_path)
    assert write(tmp_path, made_up_studies(35), at="2024-02-02T06:00:00+00:00") == first
    assert inodes(tmp_path) == before
    assert first["changed"] == "2024-02-01 06:00 UTC"


def test_new_studies_touch_the_last_shard_only_and_what_it_was_is_removed(tmp_path: Path) -> None:
    first, before = write(tmp_path, made_up_studies(35)), inodes(tmp_path)
    second = write(tmp_path, made_up_studies(42), at="2024-02-02T06:00:00+00:00")
    assert first["shards"][:3] == second["shards"][:3]
    new = {f"rows-{name}.js" for name in second["shards"][3:]}
    assert written_since(tmp_path, before) == {*new, NOW_JS, "index.html"}
    assert {path.name for path in (tmp_path / "worklist").iterdir()} == {
        NOW_JS,
        *(f"rows-{name}.js" for name in second["shards"]),
    }
    assert (second["version"] != first["version"], second["changed"]) == (True, "2024-02-02 06:00 UTC")


def test_a_shard_that_was_tampered_with_or_cut_short_is_written_anew(tmp_path: Path) -> None:
    stamp = write(tmp_path, made_up_studies(12))
    shard = tmp_path / "worklist" / f"rows-{stamp['shards'][0]}.js"
    whole = shard.read_bytes()
    for broken in (whole[:-9], whole.replace(b"ACC", b"XXX")):
        shard.write_bytes(broken)
        (tmp_path / "worklist" / f"{TEMPORARY_PREFIX}killed.js").touch()
        write(tmp_path, made_up_studies(12))
        assert shard.read_bytes() == whole
    assert not list(tmp_path.rglob(f"{TEMPORARY_PREFIX}*"))


def test_killed_between_shards_and_stamp_the_former_list_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(tmp_path, made_up_studies(20))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(worklist_data.ShardWriter, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, made_up_studies(25))
    assert called(tmp_path / "worklist" / NOW_JS, "now(") == first
    assert [row[KEY] for row in rows(tmp_path, first)] == [study.study_key for study in made_up_studies(20)]
    assert len(rows(tmp_path, write(tmp_path, made_up_studies(25)))) == 25


@pytest.mark.parametrize("evil", ["</script><script>alert(1)</script>", "\u2028);alert(1);(", '`${alert(1)}`\\"'])
def test_foreign_text_stays_inside_its_string(tmp_path: Path, evil: str) -> None:
    row = make_study_row(make_study_result(), header=make_header(accession_number=evil, study_date=evil))
    row = replace(row, thumbnail=f"elsewhere/{evil}.jpg")
    (found,) = rows(tmp_path, write(tmp_path, [row]))
    assert found[ACCESSION] == " ".join(evil.replace("\u2028", " ").split())[:40]
    assert "<" not in next(cell for cell in found if isinstance(cell, str) and cell.startswith("../../elsewhere"))


def test_memory_holds_a_shard_and_not_all_studies(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        write(tmp_path / str(count), made_up_studies(count))
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return reached

    for count in (50, 400, 1600):
        (tmp_path / str(count)).mkdir()
    peak(50)
    few, many = peak(400), peak(1600)
    assert many - few < 1200 * 250, "of 1,200 more studies less than a name and a number each stays"


def test_what_was_written_is_read_again_as_it_was(tmp_path: Path) -> None:
    odd = make_study_row(make_study_result(study_key="9" * 16), thumbnail="elsewhere/x.jpg", report_pdf="")
    write(tmp_path, [*made_up_studies(35), odd])
    read = read_worklist(tmp_path / "worklist")
    assert read.lines == tuple(worklist_line(row) for row in [*made_up_studies(35), odd])
    assert (read.version, read.changed_at) == (read_version(tmp_path / "worklist"), "2024-02-01T06:00:00+00:00")
    assert read_version(tmp_path) == ""
