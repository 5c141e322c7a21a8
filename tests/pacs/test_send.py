"""`cxrbatch send`: each object once, whatever the archive does meanwhile; what is left is told, and goes later."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom import evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made as they are asked for
    EncapsulatedPDFStorage,
    SecondaryCaptureImageStorage,
)

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode
from cxrbatch.output.dicom.encapsulated_pdf import render_document
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.folder.settle import read_result
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.report.intent import Intent, begin_printing, end_printing
from cxrbatch.output.sent import SentObjects, forget_sent
from cxrbatch.output.sent_facts import SENT_FILE, PeerFacts, read_sent
from cxrbatch.pacs.courier import judge
from cxrbatch.pacs.send import Persistence
from cxrbatch.system.durable import replace_bytes
from tests.factories.ports import free_port
from tests.pacs.archives import (
    Archive,
    Finished,
    archive,
    ended,
    needs_dcmtk,
    storescp,
    until,
    write_study,
)

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


def send(out: Path, port: int, *options: str) -> int:
    return run_command_line(["send", str(out), "127.0.0.1", str(port), "--pause", "0.01", *options])


def facts(out: Path) -> PeerFacts:
    (found,) = read_sent(out)
    return found


def test_everything_is_sent_once_as_it_was_written(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    with archive() as kept:
        assert send(finished.out, kept.port, "--dry-run") == ExitCode.DONE
        assert "due are 3 sc, 3 sr, 1 pdf, of 3 studies" in capsys.readouterr().out
        assert not (finished.out / SENT_FILE).exists()
        assert not kept.associations
        assert send(finished.out, kept.port) == ExitCode.DONE
        assert "7 stored, of 3 studies; 0 studies left" in capsys.readouterr().out
        assert sorted(kept.uids) == finished.uids
        assert kept.associations == ["CXRBATCH"]
        for uid, syntax, content in kept.taken:
            assert any(path.read_bytes().endswith(content) for path in finished.objects), uid
            assert b"cxrbatch-result" not in content
            assert syntax in {JPEGBaseline8Bit, ExplicitVRLittleEndian}
        assert send(finished.out, kept.port) == ExitCode.DONE
        assert send(finished.out, kept.port, "--dry-run") == ExitCode.DONE
        assert "due are none" in capsys.readouterr().out
        assert len(kept.taken) == 7
    assert facts(finished.out).objects == {"stored": 7}
    assert not facts(finished.out).trouble


def test_some_kinds_now_and_the_others_later(finished: Finished) -> None:
    with archive() as kept:
        assert send(finished.out, kept.port, "--kinds", "sr") == ExitCode.DONE
        assert len(kept.taken) == 3
        assert send(finished.out, kept.port) == ExitCode.DONE
        assert sorted(kept.uids) == finished.uids


def test_each_peer_gets_everything(finished: Finished) -> None:
    with archive() as one, archive() as other:
        assert send(finished.out, one.port) == send(finished.out, other.port) == ExitCode.DONE
        assert sorted(one.uids) == sorted(other.uids) == finished.uids
        assert send(finished.out, one.port, "--called", "OTHER") == ExitCode.DONE
        assert len(one.taken) == 14
    assert [each.objects for each in read_sent(finished.out)] == [{"stored": 7}] * 3


def test_an_archive_without_jpeg_gets_pixels(finished: Finished) -> None:
    with archive(syntaxes=(ImplicitVRLittleEndian,)) as kept:
        assert send(finished.out, kept.port) == ExitCode.DONE
    assert sorted(kept.uids) == finished.uids
    overlay = next(
        kept.dataset(number) for number in range(7) if kept.dataset(number).SOPClassUID == SecondaryCaptureImageStorage
    )
    assert (overlay.PhotometricInterpretation, overlay.PlanarConfiguration) == ("RGB", 0)
    assert (overlay.LossyImageCompression, overlay.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert overlay.pixel_array.shape == (overlay.Rows, overlay.Columns, 3)
    whole = {str(each.SOPInstanceUID): each for each in map(pydicom.dcmread, finished.objects)}
    written = whole[overlay.SOPInstanceUID]
    assert np.abs(written.pixel_array.astype(int) - overlay.pixel_array).max() <= 2
    written.remove_private_tags()
    changed = {"PixelData", "PhotometricInterpretation", "PlanarConfiguration"}
    assert {each.keyword for each in written if each.value != overlay.get(each.tag).value} <= changed


def test_a_class_that_nobody_takes_is_refused_for_good(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    with archive(classes=(SecondaryCaptureImageStorage, EncapsulatedPDFStorage)) as kept:
        assert send(finished.out, kept.port) == ExitCode.SOME_STUDIES_FAILED
        assert facts(finished.out).objects == {"stored": 4, "refused": 3}
        assert "--retry-refused" in capsys.readouterr().out
        # Told once: a nightly job is not to fail for ever.
        assert send(finished.out, kept.port) == ExitCode.DONE
        port = kept.port
    with archive(port=port) as kept:
        assert send(finished.out, port) == ExitCode.DONE
        assert not kept.taken
        assert send(finished.out, port, "--retry-refused") == ExitCode.DONE
        assert len(kept.taken) == 3
    assert facts(finished.out).objects == {"stored": 7}


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (0x0000, "stored"),
        (0xB000, "stored"),
        (0xB006, "stored"),
        (0xB007, "stored"),
        (0x0111, "stored"),
        (0xA700, "waiting"),
        (0xA702, "waiting"),
        (0x0110, "waiting"),
        (0x0122, "refused"),
        (0x0124, "refused"),
        (0xA900, "refused"),
        (0xC000, "refused"),
        (0xFE00, "refused"),
    ],
)
def test_what_a_status_means(code: int, verdict: str) -> None:
    assert (judge(code).verdict, judge(code).told) == (verdict, f"{code:04X}")


def test_warnings_count_refusals_stay_and_want_of_room_passes(finished: Finished) -> None:
    answers = {1: 0xB007, 2: 0xC123, 3: 0xA700}
    with archive(lambda number: answers.get(number, 0)) as kept:
        assert send(finished.out, kept.port) == ExitCode.SOME_STUDIES_FAILED
    assert facts(finished.out).objects == {"stored": 6, "refused": 1}
    assert Counter(kept.uids)[kept.uids[2]] == 2
    with closing(sqlite3.connect(finished.out / SENT_FILE)) as database:
        rows = dict(database.execute("SELECT uid, code FROM sent"))
        assert [rows[kept.uids[number]] for number in range(3)] == ["B007", "C123", "0000"]
        tried = dict(database.execute("SELECT uid, attempts FROM sent"))
        assert tried[kept.uids[2]] == 2


def test_an_answer_to_another_object_counts_for_none(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    came, associations = list[str](), list[object]()

    def answer(event: evt.Event) -> int:
        request: Any = event.request
        came.append(uid := str(request.AffectedSOPInstanceUID))
        if uid != refused and event.assoc not in associations:
            # A second answer to the first object of each association, or one that names another object.
            associations.append(event.assoc)
            said = C_STORE()
            said.MessageIDBeingRespondedTo, said.Status = request.MessageID, 0x0000
            said.AffectedSOPClassUID = request.AffectedSOPClassUID
            said.AffectedSOPInstanceUID = "1.2.3" if len(came) == 1 else uid
            event.assoc.dimse.send_msg(said, event.context.context_id)
        return 0xA900 if uid == refused else 0x0000

    refused = finished.uids[0]
    with archive(stores=answer) as kept:
        assert send(finished.out, kept.port, "--tries", "3") == ExitCode.SOME_STUDIES_FAILED
    assert "answered for another object than the one on its way" in capsys.readouterr().out
    assert facts(finished.out).objects == {"stored": len(finished.uids) - 1, "refused": 1}
    with SentObjects(finished.out, facts(finished.out).peer, only_to_read=True) as sent:
        known = [sent.of_study(path.parents[1].name) for path in finished.objects]
    assert {uid for each in known for uid, one in each.items() if one.status == "refused"} == {refused}


def test_a_full_archive_is_left_alone_and_gets_the_rest_the_next_time(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    full = True
    with archive(lambda number: 0xA700 if full and number > 2 else 0) as kept:
        assert send(finished.out, kept.port, "--tries", "3") == ExitCode.SOME_STUDIES_FAILED
        assert facts(finished.out).objects["stored"] == 2
        assert facts(finished.out).studies_left
        assert "want of room" in facts(finished.out).trouble
        told = capsys.readouterr()
        assert "Trying again in" in told.out
        assert not any(uid in told.out + told.err for uid in finished.uids)
        full = False
        assert send(finished.out, kept.port) == ExitCode.DONE
    assert facts(finished.out).objects == {"stored": 7}
    assert facts(finished.out).studies_left == 0


def test_an_object_that_ends_associations_holds_up_no_other(finished: Finished) -> None:
    poison: list[str] = []

    def status(number: int) -> int | None:
        if number == 1:
            poison.append(kept.uids[0])
        return None if kept.uids[number - 1] in poison else 0

    with archive(status) as kept:
        assert send(finished.out, kept.port, "--tries", "3") == ExitCode.SOME_STUDIES_FAILED
    assert facts(finished.out).objects["stored"] + len(_same_study(finished, poison[0])) == 7
    assert facts(finished.out).studies_left == 1
    with closing(sqlite3.connect(finished.out / SENT_FILE)) as database:
        ((status_, attempts),) = database.execute("SELECT status, attempts FROM sent WHERE uid = ?", poison).fetchall()
        assert (status_, attempts >= 3) == ("waiting", True)


def _same_study(finished: Finished, uid: str) -> list[Path]:
    (folder,) = {
        path.parent for path in finished.objects if pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID == uid
    }
    return list(folder.iterdir())


def test_who_is_absent_or_does_not_want_us_is_named_and_gets_everything_later(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    assert send(finished.out, port, "--tries", "2") == ExitCode.SOME_STUDIES_FAILED
    assert "cannot be reached: Connection refused" in capsys.readouterr().err
    assert facts(finished.out).studies_left == 3
    assert not facts(finished.out).reached_at
    with archive(port=port) as kept:
        assert send(finished.out, port) == ExitCode.DONE
    assert sorted(kept.uids) == finished.uids
    assert facts(finished.out).reached_at


# --------------------------------------------------------------------------- kills


def sending(out: Path, port: int, *options: str, fault: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cxrbatch", "send", str(out), "127.0.0.1", str(port), "--pause", "0.05", *options]
    environment = os.environ | ({"CXRBATCH_FAULT": fault} if fault else {})
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_killed_between_answer_and_note_it_sends_that_one_again_byte_for_byte(finished: Finished) -> None:
    with archive() as kept:
        for point in ("sent-note:2", "sent-noted:2"):
            assert ended(sending(finished.out, kept.port, fault=f"{point}=kill")) == ""
        assert send(finished.out, kept.port) == ExitCode.DONE
        assert sorted(set(kept.uids)) == finished.uids
        # Of the first kill one object came twice; of the second, which was noted, none.
        twice = [uid for uid, times in Counter(kept.uids).items() if times > 1]
        assert len(twice) == 1
        assert len({content for uid, _, content in kept.taken if uid == twice[0]}) == 1
    assert facts(finished.out).objects == {"stored": 7}


def test_stopped_it_says_how_to_go_on_and_two_do_not_send_to_one_peer(finished: Finished) -> None:
    held = [True]
    with archive(lambda _: 0xA700 if held[0] else 0) as kept:
        first = sending(finished.out, kept.port, "--tries", "1000")
        until(lambda: len(kept.taken) > 1)
        assert send(finished.out, kept.port) == ExitCode.OUTPUT_LOCKED
        first.send_signal(signal.SIGTERM)
        assert "goes on where it was" in ended(first)
        assert first.returncode == 128 + signal.SIGTERM
        held[0] = False
        assert send(finished.out, kept.port) == ExitCode.DONE
    assert facts(finished.out).objects == {"stored": 7}


# --------------------------------------------------------------------------- revisions, and runs at work meanwhile


def test_a_later_revision_is_sent_and_one_that_never_was_is_superseded(finished: Finished) -> None:
    with archive() as kept, archive() as late:
        assert send(finished.out, kept.port) == ExitCode.DONE
        first = finished.uids
        write_study(finished.images, 2, image=2)
        finished.run()
        assert list(finished.out.glob("reports/*/dicom/sr-r1.dcm"))
        assert send(finished.out, kept.port) == send(finished.out, late.port) == ExitCode.DONE
        assert sorted(kept.uids) == sorted({*first, *finished.uids})
        assert len(kept.taken) == len(first) + 3
        assert sorted(late.uids) == finished.uids


def test_another_print_of_the_same_revision_is_sent(finished: Finished) -> None:
    with archive() as kept:
        assert send(finished.out, kept.port) == ExitCode.DONE
        (document,) = (path for path in finished.objects if path.name == "report.dcm")
        result = read_result(document.parents[1])
        assert result is not None
        replace_bytes(document, render_document(result, b"%PDF-1.7 with other priors\n%%EOF\n"))
        assert send(finished.out, kept.port) == ExitCode.DONE
        assert set(finished.uids) <= set(kept.uids)
        assert len(kept.taken) == len(set(kept.uids)) == 8


def test_what_is_being_printed_or_was_changed_waits(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, _ = sorted(path.parent.parent for path in finished.objects if path.name == "sr.dcm")
    begin_printing(finished.out, one.name, Intent())
    (two / "dicom" / "sr.dcm").write_bytes((one / "dicom" / "sr.dcm").read_bytes())
    with archive() as kept:
        assert send(finished.out, kept.port) == ExitCode.SOME_STUDIES_FAILED
        assert facts(finished.out).studies_left == 2
        assert "not those of its result" in capsys.readouterr().err
        end_printing(finished.out, one.name)
        assert send(finished.out, kept.port) == ExitCode.SOME_STUDIES_FAILED
        assert facts(finished.out).studies_left == 1
        assert len(kept.taken) == 7 - len(list((two / "dicom").iterdir()))


def test_a_study_that_waits_or_failed_is_not_sent(finished: Finished) -> None:
    with closing(sqlite3.connect(finished.out / "ledger.sqlite")) as ledger, ledger:
        keys = [key for (key,) in ledger.execute("SELECT study_key FROM studies ORDER BY study_key")]
        for key, status in zip(keys, ("pending", "failed"), strict=False):
            ledger.execute("UPDATE studies SET status = ? WHERE study_key = ?", (status, key))
    with archive() as kept:
        assert send(finished.out, kept.port) == ExitCode.DONE
    with closing(sqlite3.connect(finished.out / SENT_FILE)) as database:
        assert database.execute("SELECT DISTINCT study_key FROM sent").fetchall() == [(keys[2],)]
    assert kept.taken


def test_it_works_beside_a_daemon_and_follows_it(finished: Finished) -> None:
    with archive() as kept:
        with open_output(finished.out) as ledger:  # as a daemon holds it
            last = max(ledger.results.keys_with_report())
            _set_status(ledger, last, "pending")
            follower = sending(finished.out, kept.port, "--follow", "--until-stdin-closes")
            until(lambda: len(kept.taken) == 5)
            _set_status(ledger, last, "reported")
            until(lambda: sorted(kept.uids) == finished.uids)
        assert follower.stdin is not None
        follower.stdin.close()
        follower.stdin = None
        ended(follower)
        assert follower.returncode == ExitCode.DONE
    assert facts(finished.out).objects == {"stored": 7}


def _set_status(ledger: Ledger, study_key: str, status: str) -> None:
    with ledger.store.transaction():
        ledger.store.execute("UPDATE studies SET status = ? WHERE study_key = ?", (status, study_key))


def test_pruned_studies_are_forgotten_and_a_repaired_ledger_forgets_nothing(finished: Finished) -> None:
    with archive() as kept:
        assert send(finished.out, kept.port) == ExitCode.DONE
        (finished.out / "ledger.sqlite").write_bytes(b"no ledger any more")
        assert run_command_line(["repair", str(finished.out)]) == ExitCode.DONE
        assert send(finished.out, kept.port) == ExitCode.DONE
        assert len(kept.taken) == 7
    shutil.rmtree(finished.images)
    finished.images.mkdir()
    with closing(sqlite3.connect(finished.out / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("UPDATE studies SET reported_at = '2020-01-01T00:00:00+00:00'")
        ledger.execute("UPDATE files SET present = 0")
        ledger.execute("INSERT OR REPLACE INTO meta VALUES ('input', ?)", (str(finished.images),))
    prune = ["prune", str(finished.out), "--older-than", "90d", "--yes", "--input-emptied"]
    assert run_command_line(prune) == ExitCode.DONE
    assert not facts(finished.out).objects
    forget_sent(finished.images, ["0" * 16])
    assert not (finished.images / SENT_FILE).exists()


# --------------------------------------------------------------------------- what the command line takes


@pytest.mark.parametrize(
    "arguments",
    [
        ["127.0.0.1"],
        ["127.0.0.1", "99999"],
        ["127.0.0.1", "104", "--kinds", "sr,xx"],
        ["127.0.0.1", "104", "--called", "A" * 17],
        ["127.0.0.1", "104", "--tls-cert", __file__],
        ["127.0.0.1", "104", "--dicomweb", "http://localhost"],
        ["--dicomweb", "ftp://localhost"],
        ["--dicomweb", "https://user:secret@localhost"],
        ["127.0.0.1", "104", "--commit-at", "nowhere"],
    ],
)
def test_what_does_not_fit_is_a_usage_error(
    finished_once: Finished, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["send", str(finished_once.out), *arguments]) == ExitCode.USAGE
    assert "secret" not in capsys.readouterr().err
    assert run_command_line(["send", str(finished_once.images), "localhost", "104"]) == ExitCode.USAGE


def test_pauses_grow_and_differ() -> None:
    persistence = Persistence(first_pause_s=1, longest_pause_s=10)
    pauses = [[persistence.pause_s(failures) for _ in range(50)] for failures in (1, 2, 3, 10, 2000)]
    for longest, found in zip((1, 2, 4, 10, 10), pauses, strict=True):
        assert longest / 2 <= min(found) < max(found) <= longest


# --------------------------------------------------------------------------- dcmtk's server


@needs_dcmtk
def test_dcmtk_takes_it_with_jpeg_and_without(finished: Finished, tmp_path: Path) -> None:
    with storescp(tmp_path / "all", "+xa") as port:
        assert send(finished.out, port) == ExitCode.DONE
    with storescp(tmp_path / "implicit", "+xi") as port:
        assert send(finished.out, port) == ExitCode.DONE
    written = {str(each.SOPInstanceUID): each for each in map(pydicom.dcmread, finished.objects)}
    for folder in ("all", "implicit"):
        found = [pydicom.dcmread(path) for path in (tmp_path / folder).iterdir()]
        assert sorted(str(each.SOPInstanceUID) for each in found) == finished.uids
        for each in found:
            if folder == "all":
                assert each == written[str(each.SOPInstanceUID)]
            else:
                assert each.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian


@needs_dcmtk
@pytest.mark.parametrize("manner", ["--abort-after", "--abort-during", "--refuse"])
def test_dcmtk_aborts_or_refuses_and_nothing_counts_as_sent(
    finished: Finished, tmp_path: Path, manner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with storescp(tmp_path / "kept", manner) as port:
        assert send(finished.out, port, "--tries", "2") == ExitCode.SOME_STUDIES_FAILED
    told = capsys.readouterr().err
    assert ("rejects" if manner == "--refuse" else "aborted the association") in told
    assert "stored" not in facts(finished.out).objects
    assert facts(finished.out).studies_left == 3


@needs_dcmtk
def test_an_archive_that_is_killed_in_the_middle_and_comes_back_has_everything(finished: Finished) -> None:
    kept: list[str] = []
    port = free_port()
    with archive(port=port) as first:
        sender = sending(finished.out, port, "--tries", "100")
        until(lambda: len(first.taken) >= 2)
        kept += first.uids
    with archive(port=port) as second:
        ended(sender)
        kept += second.uids
    assert sender.returncode == ExitCode.DONE
    assert {*kept, *first.uids} == set(finished.uids)
    assert isinstance(first, Archive)
