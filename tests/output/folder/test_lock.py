"""Who works on an output folder now: told while it does, and without being in anybody's way."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from cxrbatch.errors import OutputNotWritable
from cxrbatch.output.folder.lock import LOCK_FILE, process_at_work
from cxrbatch.output.folder.opening import open_output


def test_a_folder_that_nobody_ever_worked_on_is_free_and_stays_untouched(tmp_path: Path) -> None:
    assert process_at_work(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_process_that_works_on_a_folder_is_named_as_long_as_it_does(tmp_path: Path) -> None:
    with open_output(tmp_path):
        assert process_at_work(tmp_path) == str(os.getpid())
    assert process_at_work(tmp_path) is None
    assert (tmp_path / LOCK_FILE).read_text() == str(os.getpid())


def test_whoever_asks_does_not_keep_a_run_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_output(tmp_path):
        pass
    asking = os.open(tmp_path / LOCK_FILE, os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    answered: list[float] = []

    def answer(seconds: float) -> None:
        answered.append(seconds)
        if len(answered) == 1:
            os.close(asking)

    monkeypatch.setattr("cxrbatch.output.folder.lock.time.sleep", answer)
    with open_output(tmp_path):
        assert len(answered) == 1


def test_a_share_that_is_gone_hides_no_reason_why_the_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = os.close

    def fail(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OutputNotWritable, match="the ledger says so"), open_output(tmp_path):
        monkeypatch.setattr("cxrbatch.system.durable.os.close", fail)
        raise OutputNotWritable("the ledger says so")
