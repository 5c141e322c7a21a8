"""`cxrbatch send --dicomweb`: what a server says of each object counts, and nobody else hears of token and patient."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.output.sent_facts import read_sent
from cxrbatch.pacs.stow import NotAsked, judge_answer, read_url
from tests.factories.orthanc import Orthanc
from tests.factories.ports import free_port
from tests.pacs.archives import Finished

UID = "2.25.1"


@dataclass(slots=True)
class WebServer:
    """A server that answers what it is told to, and keeps what it was sent."""

    answer: Callable[[int, str], tuple[int, Any]]
    port: int = 0
    taken: list[tuple[Message, bytes, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    @property
    def uids(self) -> list[str]:
        return [uid for _, _, uid in self.taken]


@contextmanager
def serving(answer: Callable[[int, str], tuple[int, Any]]) -> Iterator[WebServer]:
    kept = WebServer(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            boundary = self.headers["Content-Type"].rpartition("boundary=")[2]
            start, end = body.index(b"\r\n\r\n") + 4, body.rindex(f"\r\n--{boundary}--".encode())
            uid = str(pydicom.dcmread(BytesIO(body[start:end]), stop_before_pixels=True).SOPInstanceUID)
            kept.taken.append((self.headers, body[start:end], uid))
            status, said = kept.answer(len(kept.taken), uid)
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", kept.url)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    kept.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()


def said(uid: str, *, failure: int | None = None, warning: int | None = None) -> dict[str, Any]:
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    if failure is not None:
        return {"00081198": {"vr": "SQ", "Value": [item | {"00081197": {"vr": "US", "Value": [failure]}}]}}
    if warning is not None:
        item["00081196"] = {"vr": "US", "Value": [warning]}
    return {"00081199": {"vr": "SQ", "Value": [item]}}


def send(out: Path, url: str, *options: str) -> int:
    return run_command_line(["send", str(out), "--dicomweb", url, "--pause", "0.01", "--tries", "3", *options])


def objects(out: Path) -> dict[str, int]:
    (facts,) = read_sent(out)
    return facts.objects


def test_everything_is_sent_once_without_what_is_ours(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("secret.token\n")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    with serving(lambda _, uid: (200, said(uid))) as server:
        assert send(finished.out, f"{server.url}/", "--token-file", str(tmp_path / "token")) == ExitCode.DONE
        assert send(finished.out, server.url) == ExitCode.DONE
    assert sorted(server.uids) == finished.uids
    for headers, content, _ in server.taken:
        assert headers["Authorization"] == "Bearer secret.token"
        assert b"cxrbatch-result" not in content
        assert any(path.read_bytes().endswith(content[-500:]) for path in finished.objects)
    assert b"secret" not in b"".join(path.read_bytes() for path in finished.out.glob("*") if path.is_file())


def test_each_object_has_its_own_verdict(finished: Finished) -> None:
    answers: dict[int, Callable[[str], tuple[int, Any]]] = {
        1: lambda uid: (202, said(uid, warning=0xB007)),
        2: lambda uid: (409, said(uid, failure=0xA900)),
        3: lambda uid: (200, said(uid, failure=0xA700)),
        4: lambda _: (413, b""),
        5: lambda _: (503, b"later"),
        6: lambda uid: (409, said(uid, failure=0x0111)),
    }
    with serving(lambda number, uid: answers[number](uid) if number in answers else (200, said(uid))) as server:
        assert send(finished.out, server.url) == ExitCode.SOME_STUDIES_FAILED
    assert objects(finished.out) == {"stored": 5, "refused": 2}
    assert len(server.taken) == 9


@pytest.mark.parametrize(
    ("status", "told"), [(401, "does not let us in"), (302, "nothing can be stored"), (404, "404")]
)
def test_a_wrong_door_is_not_knocked_at_again(
    finished: Finished, status: int, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXRBATCH_SEND_LOGIN", "user:geheim")
    with serving(lambda *_: (status, b"")) as server:
        assert send(finished.out, server.url) == ExitCode.SOME_STUDIES_FAILED
    assert len(server.taken) == 1
    assert server.taken[0][0]["Authorization"] == f"Basic {base64.b64encode(b'user:geheim').decode()}"
    shown = capsys.readouterr()
    assert told in shown.err
    assert "geheim" not in shown.out + shown.err
    assert objects(finished.out) == {}


def test_who_is_not_there_or_goes_away_gets_everything_later(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert send(finished.out, url) == ExitCode.SOME_STUDIES_FAILED
    assert "cannot be reached: Connection refused" in capsys.readouterr().err
    with serving(lambda number, _: (500, b"") if number == 1 else (200, b"<xml/>")) as server:
        assert send(finished.out, server.url) == ExitCode.DONE
    assert sorted(set(server.uids)) == finished.uids


@pytest.mark.parametrize(
    ("status", "content", "verdict", "code"),
    [
        (200, b"", "stored", "HTTP 200"),
        (200, b"\xff\x00 no JSON", "stored", "HTTP 200"),
        (200, b"[" * 50_000, "stored", "HTTP 200"),
        (202, b"[]", "stored", "HTTP 202"),
        (409, b"{}", "refused", "HTTP 409"),
        (200, json.dumps([said(UID, failure=0xC001)]).encode(), "refused", "C001"),
        (200, json.dumps(said(UID, failure=0)).encode(), "refused", "HTTP 200"),
        (409, json.dumps(said("2.25.2", failure=0xC001)).encode(), "refused", "HTTP 409"),
        (200, json.dumps([said(UID), said("2.25.2", failure=0xC001)]).encode(), "stored", "0000"),
        (202, json.dumps(said(UID, warning=0xB000)).encode(), "stored", "B000"),
        (409, b'{"00081198": {"Value": [{"00081155": 7}, 8, null]}}', "refused", "HTTP 409"),
        (200, b'<?xml version="1.0"?><NativeDicomModel/>', "stored", "HTTP 200"),
        (200, b"OK", "stored", "HTTP 200"),
        (202, json.dumps(said(UID, failure=0xA700)).encode(), "waiting", "A700"),
        (409, json.dumps(said(UID, failure=0x0122)).encode(), "refused", "0122"),
    ],
)
def test_answers_whatever_they_look_like(status: int, content: bytes, verdict: str, code: str) -> None:
    answer = judge_answer(status, content, UID)
    assert (answer.verdict, answer.told) == (verdict, code)


@pytest.mark.parametrize(
    ("content", "may_pass"),
    [
        (b"<!DOCTYPE html><title>Please log in</title>", False),
        (b"\n <!-- portal -->\n<HTML lang=en>", False),
        (b'{"error": "session expired"}', False),
        (json.dumps(said("2.25.2")).encode(), True),
        (json.dumps(said("2.25.2", failure=0xC001)).encode(), True),
        (b'{"00081198": {"Value": [{"00081155": 7}, 8, null]}}', True),
    ],
)
def test_an_answer_to_something_else_is_none(content: bytes, may_pass: bool) -> None:
    with pytest.raises(NotAsked) as raised:
        judge_answer(200, content, UID)
    assert raised.value.may_pass is may_pass


def test_a_page_to_log_in_stores_nothing(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda *_: (200, b"<!doctype html><p>Jane Doe, please log in")) as server:
        assert send(finished.out, server.url) == ExitCode.SOME_STUDIES_FAILED
    assert len(server.taken) == 1
    assert "perhaps it is a page to log in" in (told := capsys.readouterr().err)
    assert "Doe" not in told
    assert "stored" not in objects(finished.out)


def test_an_address_says_where_and_nothing_else(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_url("HTTPS://PACS.example.org/dicom-web/studies/".replace("HTTPS", "https")) == (
        "https://pacs.example.org/dicom-web"
    )
    for wrong in (
        "pacs.example.org",
        "ftp://a",
        "http://",
        "http://a b",
        "http://a/?token=1",
        "http://a:x",
        "https://u@a",
    ):
        with pytest.raises(UsageError):
            read_url(wrong)
    assert send(finished.out, "http://192.0.2.1/dicom-web", "--dry-run") == ExitCode.DONE
    assert "not encrypted" in capsys.readouterr().err
    assert send(finished.out, "http://127.0.0.1/dicom-web", "--dry-run") == ExitCode.DONE
    assert "not encrypted" not in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "two words", "one\ntwo"])
def test_a_file_that_holds_no_secret_is_told(finished_once: Finished, tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text(content)
    for option in ("--token-file", "--login-file"):
        code = send(finished_once.out, "https://localhost", option, str(tmp_path / "file"))
        assert code == ExitCode.CONFIGURATION


def test_orthanc_has_the_same_objects_either_way(finished: Finished, orthanc: Orthanc) -> None:
    written = {str(each.SOPInstanceUID): each for each in map(pydicom.dcmread, finished.objects)}
    for door in (["127.0.0.1", str(orthanc.dicom_port), "--called", "ORTHANC"], ["--dicomweb", orthanc.dicomweb_url]):
        orthanc.empty()
        assert run_command_line(["send", str(finished.out), *door]) == ExitCode.DONE
        found = orthanc.objects()
        assert found.keys() == written.keys()
        for uid, content in found.items():
            got = pydicom.dcmread(BytesIO(content))
            assert got == written[uid]
            assert got.file_meta.TransferSyntaxUID == written[uid].file_meta.TransferSyntaxUID
            assert b"cxrbatch-result" not in content
    assert [facts.objects for facts in read_sent(finished.out)] == [{"stored": 7}] * 2
