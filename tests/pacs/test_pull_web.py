"""`cxrbatch pull --dicomweb` where a service misbehaves: one of the test's own, that answers as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode
from tests.pacs.conftest import radiograph


@dataclass(slots=True)
class Service:
    """What is answered to the first requests, in this order, and then always: studies, series, objects, their bytes."""

    url: str = ""
    first: list[tuple[int, bytes]] = field(default_factory=list)
    sent: list[Dataset] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    page: int = 1000
    cut: int = 0
    gone: str = ""
    gone_status: int = 404

    def answer(self, path: str) -> tuple[int, str, bytes]:
        if self.first:
            status, body = self.first.pop(0)
            return status, "text/html", body
        place, _, query = path.partition("?")
        offset = int(dict(part.split("=") for part in query.split("&") if part).get("offset", 0)) if query else 0
        if place.endswith("/studies"):
            return 200, "application/dicom+json", _json([{"0020000D": "1.2.3"}])
        if place.endswith("/series"):
            found = [{"0020000E": "1.2.3.5", "00080060": "CR", "00080070": "maker"}]
            return 200, "application/dicom+json", _json(found)
        if place.endswith("/instances"):
            listed = [{"00080018": f"1.2.3.5.{number}"} for number in range(5)]
            return 200, "application/dicom+json", _json(listed[offset : offset + self.page])
        if self.gone and (place.endswith(self.gone) or (self.gone_status == 500 and "instances" not in place)):
            return self.gone_status, "text/plain", b""
        sent = [each for each in self.sent if not self.gone or place.endswith(each.SOPInstanceUID)]
        return 200, "multipart/related; type=application/dicom; boundary=b", _multipart(sent)


def _json(found: list[dict[str, str]]) -> bytes:
    return json.dumps([{tag: {"vr": "UI", "Value": [value]} for tag, value in each.items()} for each in found]).encode()


def _multipart(sent: list[Dataset]) -> bytes:
    parts = []
    for each in sent:
        stream = BytesIO()
        each.save_as(stream, enforce_file_format=True)
        parts.append(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + stream.getvalue() + b"\r\n")
    return b"".join([*parts, b"--b--"])


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service(sent=[radiograph("1.2.3", f"1.2.3.5.{number}") for number in range(5)])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.headers.append(dict(self.headers))
            status, kind, body = made.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if not made.cut or kind == "application/dicom+json":
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
            self.end_headers()
            self.wfile.write(body[: -made.cut])

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_port}/dicom-web"
    yield made
    server.shutdown()
    server.server_close()


def pull(service: Service, root: Path, *options: str) -> int:
    return run_command_line(["pull", str(root), "--dicomweb", service.url, "--min-free", "0", "--tries", "2", *options])


def lying(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("[!.]*/*"))


def test_pages_are_asked_for_until_one_brings_nothing_new(service: Service, tmp_path: Path) -> None:
    service.page = 2
    assert pull(service, tmp_path) == ExitCode.DONE
    assert lying(tmp_path) == [f"1.2.3.5.{number}.dcm" for number in range(5)]
    for sent in service.sent:
        assert pydicom.dcmread(tmp_path / "1.2.3" / f"{sent.SOPInstanceUID}.dcm") == sent


def test_a_service_that_cannot_now_is_asked_again(
    service: Service, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    service.first = [(503, b"later, Jane Doe")]
    assert pull(service, tmp_path) == ExitCode.DONE
    printed = capfd.readouterr()
    assert "answers 503; tried again in 1 s" in printed.out
    assert "Doe" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((401, b""), "answers 401: it does not let us in. Check token or login"),
        ((404, b""), "answers 404"),
        ((200, b"<html>no JSON, Jane Doe</html>"), "its answer is of no use"),
        ((200, b'{"not": "a list"}'), "its answer is of no use"),
        ((200, b'["Doe", 7]'), "its answer is of no use"),
    ],
)
def test_answers_that_are_none_are_told_without_their_words(
    service: Service, tmp_path: Path, capfd: pytest.CaptureFixture[str], answer: tuple[int, bytes], told: str
) -> None:
    service.first = [answer] * 10
    assert pull(service, tmp_path) == ExitCode.SOME_STUDIES_FAILED
    printed = capfd.readouterr()
    assert told in printed.out
    assert "Doe" not in printed.out + printed.err
    assert not lying(tmp_path)


def test_what_is_not_what_was_asked_for_is_not_taken(
    service: Service, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    service.sent[0].StudyInstanceUID = "6.6.6"
    assert pull(service, tmp_path) == ExitCode.SOME_STUDIES_FAILED
    assert "left for another time: it sent something else than it was asked for" in capfd.readouterr().out
    assert lying(tmp_path) == [f"1.2.3.5.{number}.dcm" for number in range(1, 5)]
    assert not list((tmp_path / ".cxrbatch-incoming").glob("*.dcm"))


def test_what_broke_off_is_not_taken_for_whole_and_comes_the_next_time(
    service: Service, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    service.cut = 1500  # of the last object; nothing but the last delimiter would tell
    assert pull(service, tmp_path, "--tries", "1") == ExitCode.SOME_STUDIES_FAILED
    assert "left for another time" in (printed := capfd.readouterr().out)
    assert "its answer broke off" in printed
    assert lying(tmp_path) == [f"1.2.3.5.{number}.dcm" for number in range(4)]
    assert not list((tmp_path / ".cxrbatch-incoming").glob("*.dcm"))
    service.cut = 0
    assert pull(service, tmp_path) == ExitCode.DONE
    assert pydicom.dcmread(tmp_path / "1.2.3" / "1.2.3.5.4.dcm") == service.sent[4]


def test_an_object_that_is_not_there_holds_up_no_other(
    service: Service, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1.2.3").mkdir()
    service.sent[1].save_as(tmp_path / "1.2.3" / "1.2.3.5.1.dcm", enforce_file_format=True)
    service.gone = "1.2.3.5.0"
    assert pull(service, tmp_path) == ExitCode.SOME_STUDIES_FAILED
    assert "new objects 3, objects still to come 1" in (printed := capfd.readouterr().out)
    assert "it answers 404 for some objects" in printed


def test_an_object_that_the_service_fails_over_holds_up_no_other(
    service: Service, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    service.gone, service.gone_status = "1.2.3.5.2", 500
    assert pull(service, tmp_path) == ExitCode.SOME_STUDIES_FAILED
    assert lying(tmp_path) == [f"1.2.3.5.{number}.dcm" for number in (0, 1, 3, 4)]
    assert "left for another time" in (printed := capfd.readouterr().out)
    assert "answers 500" in printed
    service.gone = ""
    assert pull(service, tmp_path) == ExitCode.DONE
    assert len(lying(tmp_path)) == 5


def test_the_token_comes_from_a_file_or_the_environment(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    assert pull(service, tmp_path / "in", "--token-file", str(tmp_path / "token")) == ExitCode.DONE
    assert {each["Authorization"] for each in service.headers} == {"Bearer s3cret"}
    service.headers.clear()
    monkeypatch.setenv("CXRBATCH_PULL_LOGIN", "me:pass")
    assert pull(service, tmp_path / "in") == ExitCode.DONE
    assert {each["Authorization"] for each in service.headers} == {"Basic bWU6cGFzcw=="}
    assert "s3cret" not in "".join(capfd.readouterr())
