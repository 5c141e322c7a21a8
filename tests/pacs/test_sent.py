"""`sent.sqlite`: what is kept of each object, read beside whoever writes it; damaged or newer it says so."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cxrbatch.errors import OutputLocked, OutputNotWritable, RunError
from cxrbatch.output.sent import SentObject, SentObjects, forget_sent
from cxrbatch.output.sent_facts import SENT_FILE, PeerFacts, read_sent, sent_in_words, sent_or_trouble

KEY, OTHER = "0" * 16, "1" * 16


def row(uid: str, status: str = "stored", *, study_key: str = KEY, attempts: int = 1) -> SentObject:
    return SentObject(uid, study_key, 1, "sr", status, "0000", attempts)  # type: ignore[arg-type]  # each is one


def test_what_was_noted_is_there_for_the_next_one_and_for_who_only_looks(tmp_path: Path) -> None:
    assert read_sent(tmp_path) == []
    with SentObjects(tmp_path, "A@host:1") as sent:
        sent.note(row("2.25.1"), row("2.25.2", "waiting", attempts=3))
        sent.note_peer(1, "it is gone", reached=True)
        (facts,) = read_sent(tmp_path)
        assert (facts.objects, facts.studies_left, facts.trouble) == ({"stored": 1, "waiting": 1}, 1, "it is gone")
        assert facts.reached_at
        assert sent_in_words(facts) == "1 stored, 1 waiting; 1 studies left. it is gone"
        with pytest.raises(OutputLocked, match="A@host:1"), SentObjects(tmp_path, "A@host:1"):
            pass
        with SentObjects(tmp_path, "B@host:1") as other, SentObjects(tmp_path, "A@host:1", only_to_read=True) as look:
            assert other.of_study(KEY) == {}
            assert look.of_study(KEY)["2.25.2"].attempts == 3
    with SentObjects(tmp_path, "A@host:1") as sent:
        assert sent.tried() == {KEY}
        assert sent.of_study(OTHER) == {}
        sent.note_peer(0, "", reached=False)
    assert (tmp_path / SENT_FILE).stat().st_mode & 0o777 == 0o640
    assert read_sent(tmp_path)[0].reached_at == facts.reached_at
    assert {path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")} == {SENT_FILE}


def test_settling_ends_what_an_earlier_revision_waited_for(tmp_path: Path) -> None:
    with SentObjects(tmp_path, "A") as sent:
        sent.note(row("2.25.1", "waiting"), row("2.25.2"), row("2.25.3", "waiting", study_key=OTHER))
        sent.settle(KEY, 17)
        assert sent.settled() == {KEY: 17}
        assert set(sent.of_study(KEY)) == {"2.25.2"}
        assert sent.tried() == {OTHER}


def test_what_was_refused_is_let_be_tried_again(tmp_path: Path) -> None:
    with SentObjects(tmp_path, "A") as sent:
        sent.note(row("2.25.1", "refused"), row("2.25.2"))
        sent.settle(KEY, 17)
        assert sent.retry_refused() == 1
        assert sent.settled() == {}
        assert {uid: each.status for uid, each in sent.of_study(KEY).items()} == {
            "2.25.1": "waiting",
            "2.25.2": "stored",
        }


def test_a_study_that_is_no_more_is_forgotten_for_every_peer(tmp_path: Path) -> None:
    for peer in ("A", "B"):
        with SentObjects(tmp_path, peer) as sent:
            sent.note(row("2.25.1"), row("2.25.2", study_key=OTHER))
            sent.settle(KEY, 1)
            sent.ask_commitment(f"1.2.{ord(peer)}", ["2.25.1", "2.25.2"])
    forget_sent(tmp_path, [KEY])
    with SentObjects(tmp_path, "B") as sent:
        assert sent.of_study(KEY) == {}
        assert sent.settled() == {}
        assert sent.note_commitment("1.2.66", ["2.25.1", "2.25.2"], []) == set()
        assert sent.of_study(OTHER)["2.25.2"].status == "committed"


def test_a_file_that_is_damaged_or_newer_is_not_written(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / SENT_FILE)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(RunError, match="newer"), SentObjects(tmp_path, "A"):
        pass
    (tmp_path / SENT_FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(OutputNotWritable, match="sent again"), SentObjects(tmp_path, "A"):
        pass
    ((told),) = sent_or_trouble(tmp_path)
    assert told == PeerFacts("archives", {}, trouble=told.trouble)
    assert SENT_FILE in told.trouble
