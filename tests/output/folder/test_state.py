"""Where ledger and lock lie: found again by every command, never shared, and safe on a network file system."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path

import pytest

from cxrbatch.config import MARKER_FILE
from cxrbatch.errors import LedgerDamaged, OutputLocked, OutputNotWritable, UsageError
from cxrbatch.output.folder.fence import FENCE_FILE
from cxrbatch.output.folder.lock import LOCK_FILE
from cxrbatch.output.folder.marker import read_marker
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.folder.state import find_state
from cxrbatch.output.ledger import store as ledger_store
from cxrbatch.output.ledger.ledger import LEDGER_FILE, Ledger
from tests.output.ledger.test_ledger import finish_all, indexed

ROLLBACK, WAL = 1, 2


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "var" / "state"


def fill(out: Path, state: Path | str = "") -> None:
    with open_output(out, state=str(state)) as ledger:
        ledger.index.record([indexed("a.dcm", "s1")])


def paths_in(out: Path, state: Path | str = "") -> list[str]:
    with open_output(out, state=str(state)) as ledger:
        return [row.path for row in ledger.results.file_rows()]


def journal_of(ledger: Path) -> int:
    """Return the file format's write version (sqlite.org/fileformat2.html, offset 18)."""
    return ledger.read_bytes()[18]


def test_ledger_and_lock_lie_in_the_state_folder_and_nothing_of_them_in_out(out: Path, state: Path) -> None:
    fill(out, state)
    assert sorted(os.listdir(out)) == sorted([MARKER_FILE, FENCE_FILE, "cxrbatch.log"])
    assert {LEDGER_FILE, LOCK_FILE} <= set(os.listdir(state))
    assert stat.S_IMODE(state.stat().st_mode) == 0o750
    assert stat.S_IMODE((state / LEDGER_FILE).stat().st_mode) == 0o640


def test_without_the_option_the_state_is_found_where_out_says(out: Path, state: Path) -> None:
    fill(out, state)
    assert paths_in(out) == paths_in(out, state) == ["a.dcm"]
    assert find_state(out) == state.resolve()
    assert not (out / LEDGER_FILE).exists()


def test_a_relative_state_is_found_from_every_folder(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(out, "here")
    monkeypatch.chdir("/")
    assert paths_in(out) == ["a.dcm"]


def test_a_run_on_one_state_excludes_another_whatever_it_says(out: Path, state: Path) -> None:
    fill(out, state)
    with open_output(out), pytest.raises(OutputLocked, match=f"process {os.getpid()}"):
        fill(out, state)


def test_a_state_that_is_not_there_is_told_with_the_option_and_no_new_ledger_begins(out: Path, state: Path) -> None:
    fill(out, state)
    shutil.move(state, state.with_name("unmounted"))
    for wanted in ("", str(state)):
        with pytest.raises(UsageError, match="--state DIR"):
            fill(out, wanted)
    assert not (out / LEDGER_FILE).exists()
    assert paths_in(out, state.with_name("unmounted")) == ["a.dcm"]
    assert paths_in(out) == ["a.dcm"]


def test_a_ledger_in_out_is_not_left_behind_for_an_empty_one(out: Path, state: Path) -> None:
    fill(out)
    with pytest.raises(UsageError, match="there first, while nothing runs"):
        fill(out, state)
    state.mkdir(parents=True)
    (out / LEDGER_FILE).rename(state / LEDGER_FILE)
    assert paths_in(out, state) == ["a.dcm"]
    assert paths_in(out) == ["a.dcm"]


def test_a_ledger_comes_back_into_out(out: Path, state: Path) -> None:
    fill(out, state)
    with pytest.raises(UsageError, match="its ledger lies in"):
        fill(out, out)
    (state / LEDGER_FILE).rename(out / LEDGER_FILE)
    assert paths_in(out, out) == ["a.dcm"]
    assert read_marker(out).state == ""


def test_two_outputs_never_share_a_state(out: Path, state: Path, tmp_path: Path) -> None:
    fill(out, state)
    with pytest.raises(UsageError, match=r"holds the ledger of .*/out\. Every output folder"):
        fill(tmp_path / "second", state)
    assert paths_in(out) == ["a.dcm"]
    shutil.copytree(out, tmp_path / "copy")
    with pytest.raises(UsageError, match="Every output folder needs a --state of its own"):
        fill(tmp_path / "copy")
    shutil.rmtree(out)
    shutil.rmtree(tmp_path / "copy")
    with pytest.raises(UsageError, match="Every output folder"):
        fill(tmp_path / "third", state)


def test_an_output_that_was_moved_is_known_again(out: Path, state: Path, tmp_path: Path) -> None:
    fill(out, state)
    out.rename(tmp_path / "moved")
    assert paths_in(tmp_path / "moved") == ["a.dcm"]
    with pytest.raises(UsageError, match="Every output folder"):
        fill(out, state)


def test_a_copy_of_an_output_with_its_ledger_inside_goes_its_own_way(out: Path, tmp_path: Path) -> None:
    fill(out)
    shutil.copytree(out, tmp_path / "copy")
    assert paths_in(tmp_path / "copy") == paths_in(out) == ["a.dcm"]


def test_killed_before_out_says_where_its_state_is_it_is_found_by_the_option(out: Path, state: Path) -> None:
    fill(out, state)
    (out / MARKER_FILE).unlink()
    assert paths_in(out, state) == ["a.dcm"]
    assert paths_in(out) == ["a.dcm"]


def test_a_marker_that_cannot_be_understood_stops_the_run(out: Path) -> None:
    fill(out)
    (out / MARKER_FILE).write_text("{")
    with pytest.raises(LedgerDamaged, match="cxrbatch repair OUT"):
        fill(out)


# --------------------------------------------------------------------------- network file systems


@pytest.fixture
def on_nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the kernel says is an NFS mount."""
    share = tmp_path / "share"
    share.mkdir()
    info = tmp_path / "mountinfo"
    info.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {share.resolve()} rw - nfs4 host:/x rw\n")
    monkeypatch.setattr(ledger_store, "MOUNTINFO", info)
    return share


def test_on_a_network_file_system_the_ledger_has_a_rollback_journal_that_waits_for_the_disk(on_nfs: Path) -> None:
    with Ledger(on_nfs) as ledger:
        ledger.index.record([indexed("a.dcm")])
        assert finish_all(ledger) == ["s1"]
        assert ledger.store.value("PRAGMA synchronous") == 2  # FULL
    assert journal_of(on_nfs / LEDGER_FILE) == ROLLBACK
    assert os.listdir(on_nfs) == [LEDGER_FILE]


def test_on_a_local_one_it_has_a_write_ahead_log(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        assert ledger.store.value("PRAGMA synchronous") == 1  # NORMAL
    assert journal_of(tmp_path / LEDGER_FILE) == WAL


def test_a_ledger_changes_its_journal_with_its_place(on_nfs: Path, out: Path) -> None:
    fill(out)
    assert journal_of(out / LEDGER_FILE) == WAL
    shutil.move(out, on_nfs / "out")
    assert paths_in(on_nfs / "out") == ["a.dcm"]
    assert journal_of(on_nfs / "out" / LEDGER_FILE) == ROLLBACK


def test_an_output_on_a_share_with_its_state_on_a_local_disk_has_a_write_ahead_log(on_nfs: Path, state: Path) -> None:
    fill(on_nfs / "out", state)
    assert journal_of(state / LEDGER_FILE) == WAL


def test_a_file_system_without_locks_is_told_with_the_way_out(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OutputNotWritable, match="--state DIR"):
        fill(out)
