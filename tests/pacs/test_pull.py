"""`cxrbatch pull` from Orthanc, by C-MOVE and by WADO: what is wanted comes as it is stored, once, whatever happens."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode
from cxrbatch.output.dicom.encapsulated_pdf import DOCUMENT_SERIES_NUMBER
from cxrbatch.output.dicom.overlay import OVERLAY_SERIES_NUMBER
from cxrbatch.output.dicom.sr import SR_SERIES_NUMBER
from cxrbatch.pacs.archive import OWN_SERIES_NUMBERS, Archive, SeriesFound
from cxrbatch.pacs.peer import Patience, Peer
from cxrbatch.pacs.pull import Outcome, Pull, Wish
from cxrbatch.pacs.pulled import PullInbox
from cxrbatch.pacs.query import DicomArchive
from cxrbatch.pacs.receive import Reception, listening
from cxrbatch.pacs.stow import WebPeer
from cxrbatch.pacs.web_archive import WebArchive
from tests.factories.certificates import HERE, WHY_NOT as WHY_NO_CERTIFICATES, make_authority, sign
from tests.factories.orthanc import AET, WHY_NOT, Orthanc, is_here, running_orthanc
from tests.factories.ports import free_port
from tests.pacs.conftest import PATIENCE_S, radiograph, wait_for

pytestmark = [
    pytest.mark.skipif(not is_here(), reason=WHY_NOT),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

WAYS = ("dicom", "web")


US = "CXRBATCH"
A_DAY = Wish(timedelta(hours=24), tries=1)


def taken(study: str, number: int, *, hours_ago: float = 1, **attributes: Any) -> Dataset:
    """Make an object that was taken some time ago; a series for each study and modality."""
    made = radiograph(study, f"{study}.9.{number}", number)
    when = datetime.now() - timedelta(hours=hours_ago)  # noqa: DTZ005  # as an archive beside us dates it
    made.StudyDate, made.StudyTime = f"{when:%Y%m%d}", f"{when:%H%M%S}"
    made.SeriesInstanceUID, made.PatientID = f"{study}.5", "7"
    for name, value in attributes.items():
        setattr(made, name, value)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    return made


def store(orthanc: Orthanc, folder: Path, objects: Sequence[Dataset]) -> None:
    paths = [folder / f"{each.SOPInstanceUID}.dcm" for each in objects]
    for path, each in zip(paths, objects, strict=True):
        each.save_as(path, enforce_file_format=True)
    orthanc.put(paths)


@dataclass(slots=True)
class Counted:
    """An archive that notes what was fetched from it."""

    whole: Archive
    fetched: list[tuple[str, tuple[str, ...], bool]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def fetch(self, series: SeriesFound, uids: Sequence[str], *, is_all: bool) -> str:
        self.fetched.append((series.uid, tuple(uids), is_all))
        return self.whole.fetch(series, uids, is_all=is_all)


@contextmanager
def opened(orthanc: Orthanc, way: str, root: Path, aet: str = US) -> Iterator[tuple[Counted, PullInbox]]:
    with PullInbox(root) as inbox:
        if way == "web":
            yield Counted(WebArchive(WebPeer(orthanc.dicomweb_url), inbox)), inbox
            return
        port = free_port()
        orthanc.know(US, port)
        with listening(inbox, Reception(port=port, aet=US), lambda _: None):
            peer = Peer("127.0.0.1", orthanc.dicom_port, AET, US, patience=Patience(answer_s=20))
            yield Counted(DicomArchive(peer, aet)), inbox


def pull(orthanc: Orthanc, way: str, root: Path, wish: Wish = A_DAY) -> tuple[Outcome, Counted]:
    with opened(orthanc, way, root) as (archive, inbox):
        return Pull(archive, inbox, wish, print).round(), archive


def lying(root: Path) -> dict[str, Path]:
    """Return every file that a walk of INPUT could meet, by its SOP Instance UID."""
    found = list(root.glob("[!.]*/*"))
    uids = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in found}
    assert len(uids) == len(found)  # nothing is there twice
    return uids


@pytest.mark.parametrize("way", WAYS)
def test_what_is_wanted_comes_as_it_is_stored_and_comes_once(orthanc: Orthanc, way: str, tmp_path: Path) -> None:
    orthanc.empty()
    wanted = [
        taken("1.2.1", 1),
        taken("1.2.1", 2),
        taken("1.2.2", 1, Modality="DX", hours_ago=20),
        taken("1.2.3", 1, SOPClassUID=SecondaryCaptureImageStorage, ConversionType="WSD", hours_ago=-0.5),
    ]
    others = [
        taken("1.2.4", 1, Modality="CT"),
        taken("1.2.1", 3, Modality="PX", SeriesInstanceUID="1.2.1.6"),
        taken("1.2.5", 1, hours_ago=49),
        # Our own: by their maker, and where an archive wrote another one there.
        taken("1.2.1", 4, Manufacturer="cxrbatch", SeriesInstanceUID="1.2.1.7"),
        taken("1.2.1", 5, SeriesNumber=9902, SeriesInstanceUID=f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, 'x').int}"),
    ]
    store(orthanc, tmp_path, wanted + others)
    outcome, _ = pull(orthanc, way, tmp_path / "in")
    assert outcome.is_done, outcome.reasons
    assert (outcome.came, outcome.own) == (4, 2)
    there = lying(tmp_path / "in")
    assert sorted(there) == sorted(str(each.SOPInstanceUID) for each in wanted)
    for each in wanted:
        found = pydicom.dcmread(there[each.SOPInstanceUID])
        assert found == pydicom.dcmread(tmp_path / f"{each.SOPInstanceUID}.dcm")
        assert found.file_meta.TransferSyntaxUID == each.file_meta.TransferSyntaxUID
        assert there[each.SOPInstanceUID].stat().st_mode & 0o777 == 0o640

    outcome, archive = pull(orthanc, way, tmp_path / "in")
    assert (outcome.came, archive.fetched) == (0, [])
    for path in there.values():
        path.unlink()  # whoever scored them moved them away
    store(orthanc, tmp_path, [taken("1.2.1", 6)])
    outcome, archive = pull(orthanc, way, tmp_path / "in")
    assert archive.fetched == [("1.2.1.5", ("1.2.1.9.6",), False)]
    assert list(lying(tmp_path / "in")) == ["1.2.1.9.6"]
    outcome, archive = pull(orthanc, way, tmp_path / "in", Wish(timedelta(days=7), ("CT",)))
    assert sorted(lying(tmp_path / "in")) == ["1.2.1.9.6", "1.2.4.9.1"]
    assert not list((tmp_path / "in" / ".cxrbatch-incoming").glob("*.dcm"))


def test_any_modality_never_means_our_own_and_their_numbers_are_those_that_are_written(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    orthanc.empty()
    store(
        orthanc, tmp_path, [taken("1.3.1", 1, Modality="PX"), taken("1.3.2", 1, Manufacturer="CXRbatch", Modality="OT")]
    )
    outcome, _ = pull(orthanc, "dicom", tmp_path / "in", Wish(timedelta(hours=24), ()))
    assert (outcome.came, outcome.own) == (1, 1)
    assert {SR_SERIES_NUMBER, OVERLAY_SERIES_NUMBER, DOCUMENT_SERIES_NUMBER} == OWN_SERIES_NUMBERS
    assert not SeriesFound("1", f"2.25.{uuid.uuid4().int}", number="9901").is_own
    assert not SeriesFound("1", "1.2.3", number="9901").is_own


def command(orthanc: Orthanc, way: str, root: Path, *options: str) -> list[str]:
    start = [sys.executable, "-m", "cxrbatch", "pull", str(root), "--min-free", "0", *options]
    if way == "web":
        return [*start, "--dicomweb", orthanc.dicomweb_url]
    port = free_port()
    orthanc.know(US, port)
    return [*start, "127.0.0.1", str(orthanc.dicom_port), "--called", AET, "--listen-port", str(port)]


@pytest.mark.parametrize("way", WAYS)
def test_killed_in_the_middle_nothing_is_missing_or_doubled_afterwards(
    orthanc: Orthanc, way: str, tmp_path: Path
) -> None:
    orthanc.empty()
    objects = [taken(f"1.4.{study}", number) for study in range(12) for number in range(2)]
    store(orthanc, tmp_path, objects)
    root = tmp_path / "in"
    # However late it is killed, it has not come to the end.
    unfinished = ("--most-per-hour", str(len(objects) - 2))
    with subprocess.Popen(command(orthanc, way, root, *unfinished), stdout=subprocess.PIPE) as process:
        wait_for(lambda: len(list(root.glob("[!.]*/*"))) >= 7)
        process.kill()
    before = lying(root)
    assert 7 <= len(before) < len(objects)
    times = {path: path.stat().st_mtime_ns for path in before.values()}
    again = subprocess.run(command(orthanc, way, root), capture_output=True, text=True, check=False)
    assert again.returncode == ExitCode.DONE, again.stdout + again.stderr
    assert f"new objects {len(objects) - len(before)}" in again.stdout
    assert sorted(lying(root)) == sorted(str(each.SOPInstanceUID) for each in objects)
    assert {path: path.stat().st_mtime_ns for path in before.values()} == times


def test_a_stop_ends_it_at_once_and_the_same_command_goes_on(orthanc: Orthanc, tmp_path: Path) -> None:
    orthanc.empty()
    store(orthanc, tmp_path, [taken(f"1.8.{study}", number) for study in range(4) for number in range(2)])
    root = tmp_path / "in"
    options = ("--most-per-hour", "5")
    with subprocess.Popen(
        command(orthanc, "dicom", root, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: len(list(root.glob("[!.]*/*"))) >= 4)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=PATIENCE_S)  # the rest of the hour is longer
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command goes on where it was" in told
    assert len(lying(root)) == 4  # two for each study, five at most
    assert pull(orthanc, "dicom", root)[0].came == 4


def test_as_a_daemon_it_fetches_what_comes_later_until_it_is_stopped(orthanc: Orthanc, tmp_path: Path) -> None:
    orthanc.empty()
    store(orthanc, tmp_path, [taken("1.9.1", 1)])
    root = tmp_path / "in"
    with subprocess.Popen(command(orthanc, "web", root, "--every", "1s"), stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: len(list(root.glob("[!.]*/*"))) == 1)
        store(orthanc, tmp_path, [taken("1.9.1", 2), taken("1.9.2", 1)])
        wait_for(lambda: len(list(root.glob("[!.]*/*"))) == 3)
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == ExitCode.DONE
    assert sum(int(line.rsplit("new objects ")[1].split(",")[0]) for line in told.splitlines()) <= 3
    assert "studies 1, series 1, new objects 1" in told.splitlines()[0]
    with opened(orthanc, "web", root):  # and holds nothing any more
        pass


def test_an_archive_that_limits_its_answers_is_asked_for_less(tmp_path: Path) -> None:
    objects = [taken(f"1.5.{study}", 1, hours_ago=study / 2) for study in range(9)]
    with running_orthanc(tmp_path / "orthanc", LimitFindResults=3) as limited:
        store(limited, tmp_path, objects)
        outcome, _ = pull(limited, "dicom", tmp_path / "in")
        assert outcome.is_done, outcome.reasons
        assert len(lying(tmp_path / "in")) == 9
        one = taken("1.6.0", 1, hours_ago=9)
        same = {"StudyDate": one.StudyDate, "StudyTime": one.StudyTime}
        store(limited, tmp_path, [taken(f"1.6.{study}", 1, **same) for study in range(5)])
        outcome, _ = pull(limited, "dicom", tmp_path / "in")
        assert outcome.reasons == ["the archive tells only some of the studies of a minute"]


@pytest.mark.skipif(not HERE, reason=WHY_NO_CERTIFICATES)
def test_questions_and_objects_go_by_tls(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    authority = make_authority(tmp_path, "department")
    archive, ours = sign(tmp_path, "archive", authority), sign(tmp_path, "ours", authority)
    secured = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(archive.certificate),
        "DicomTlsPrivateKey": str(archive.key),
        "DicomTlsTrustedCertificates": str(authority.certificate),
    }
    port = free_port()
    with running_orthanc(tmp_path / "orthanc", **secured) as orthanc:
        store(orthanc, tmp_path, [taken("1.10.1", 1)])
        orthanc.know(US, port, tls=True)
        where = [str(tmp_path / "in"), "127.0.0.1", str(orthanc.dicom_port), "--called", AET, "--min-free", "0"]
        ask = ["pull", *where, "--listen-port", str(port), "--tls-ca", str(authority.certificate), "--tries", "1"]
        own = ["--tls-cert", str(ours.certificate), "--tls-key", str(ours.key)]
        assert run_command_line([*ask]) == ExitCode.SOME_STUDIES_FAILED  # without a certificate of our own
        assert run_command_line([*ask, *own, "--listen-tls"]) == ExitCode.DONE
        assert list(lying(tmp_path / "in")) == ["1.10.1.9.1"]
    assert "new objects 1" in capfd.readouterr().out


def test_what_an_archive_does_not_know_or_send_is_told(orthanc: Orthanc, tmp_path: Path) -> None:
    orthanc.empty()
    store(orthanc, tmp_path, [taken("1.7.1", 1)])
    with opened(orthanc, "dicom", tmp_path / "in", aet="NOBODY") as (archive, inbox):
        outcome = Pull(archive, inbox, A_DAY, print).round()
    assert (outcome.came, outcome.left) == (0, 1)
    # Others answer A801; Orthanc only this.
    assert outcome.reasons == ["it cannot (status C000)"]
    outcome, _ = pull(orthanc, "dicom", tmp_path / "in")
    assert outcome.came == 1


@pytest.mark.parametrize("way", WAYS)
def test_an_absent_archive_is_tried_again_and_left_with_exit_code_3(way: str, tmp_path: Path) -> None:
    absent = Orthanc(free_port(), free_port(), tmp_path)
    start = [sys.executable, "-m", "cxrbatch", "pull", str(tmp_path / "in"), "--tries", "2"]
    where = ["--dicomweb", absent.dicomweb_url] if way == "web" else ["127.0.0.1", str(absent.dicom_port)]
    port = ["--listen-port", str(free_port())]
    done = subprocess.run([*start, *where, *port], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.SOME_STUDIES_FAILED
    assert "cannot be reached: Connection refused; tried again in 1 s" in done.stdout
    assert "left for another time: " in done.stdout
