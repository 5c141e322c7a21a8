"""`cxrbatch serve` itself: a process that listens, answers beside a run, and stops when told to."""

from __future__ import annotations

import json
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ConfigurationError, ExitCode, UsageError
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.folder.settle import remove_as_ordered
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.store import LOCK_WAIT_S
from cxrbatch.output.marks import MARKS_FILE, Marks, forget_marks
from cxrbatch.output.worklist import write_worklist
from cxrbatch.serve.doors import Doors
from cxrbatch.serve.server import address, serve_output
from tests.factories.output import make_engine
from tests.factories.worklist import made_up_studies

TOKEN = "t" * 40


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """An output folder with a ledger and a list, as a run leaves them."""
    out = tmp_path / "out"
    with open_output(out) as ledger:
        remove_as_ordered(out, ledger)
        write_worklist(out, made_up_studies(5), engine=make_engine(), generated_at="2024-02-01T06:00:00+00:00")
    return out


@contextmanager
def serving(out: Path, tmp_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command as a process; yield it and the address that it printed."""
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    command = [sys.executable, "-m", "cxrbatch", "serve", str(out), "--port", "0", "--token-file"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "token"), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http" in line, process.communicate(timeout=60)
        yield process, line.split()[-1].partition("/?token=")[0]
    finally:
        process.kill()
        process.communicate()


def asked(url: str, content: object = None, context: ssl.SSLContext | None = None) -> str:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=60, context=context) as answer:
        return str(answer.read().decode())


def test_it_answers_beside_a_run_which_it_neither_waits_for_nor_holds_up(results: Path, tmp_path: Path) -> None:
    with serving(results, tmp_path) as (process, url), open_output(results) as ledger:
        key = json.loads(asked(f"{url}/api/studies"))["studies"][0]["study_key"]
        with ledger.store.transaction():
            ledger.store.execute("INSERT INTO meta (key, value) VALUES ('test', '')")
            begin = time.monotonic()
            asked(f"{url}/api/marks", {"study_key": key, "revision": 1, "read": True})
            assert key in asked(f"{url}/api/marks")
            assert time.monotonic() - begin < LOCK_WAIT_S, "it did not wait for the ledger, which is locked"
        ledger.store.vacuum()
        write_worklist(results, made_up_studies(9), engine=make_engine(), generated_at="2024-02-01T07:00:00+00:00")
        assert json.loads(asked(f"{url}/api/studies"))["total"] == 9
        listening = urllib.request.Request(f"{url}/api/events", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(listening, timeout=60) as events:
            assert events.readline() == b": listening\n"
            process.send_signal(signal.SIGTERM)
            printed, complained = process.communicate(timeout=60)
    assert (process.returncode, complained) == (ExitCode.DONE, "")
    assert TOKEN not in printed, "beside the address, which was read already, the token is told nowhere"
    assert sorted(path.name for path in results.glob("marks*")) == [MARKS_FILE]


def test_over_tls_it_speaks_to_who_trusts_its_certificate(results: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    try:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"),
                *("-keyout", key, "-out", certificate),
            ],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("needs openssl")
    options = ("--tls-cert", str(certificate), "--tls-key", str(key), "--name", "localhost")
    with serving(results, tmp_path, *options) as (_, url):
        assert url.startswith("https://localhost:")
        trusting = ssl.create_default_context(cafile=str(certificate))
        assert json.loads(asked(f"{url}/api/studies", context=trusting))["total"] == 5


def test_what_cannot_be_served_is_said_before_anything_listens(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    pem = tmp_path / "no.pem"
    pem.write_text("no certificate")
    for doors, where, error, why in (
        (Doors(), tmp_path / "empty", UsageError, "nothing to serve"),
        (Doors("192.0.2.1"), results, UsageError, "others could read"),
        (Doors("192.0.2.1", tls=(pem, pem)), results, ConfigurationError, "cannot be listened on"),
        (Doors(port=0, tls=(pem, pem)), results, ConfigurationError, "no certificate and key"),
    ):
        with pytest.raises(error, match=why):
            serve_output(where, doors, print)
    assert run_command_line(["serve", str(results), "--tls-cert", str(pem)]) == ExitCode.USAGE
    assert "belong together" in capsys.readouterr().err


def test_the_address_is_the_one_that_a_browser_can_open() -> None:
    assert address(Doors(token="t")) == "http://127.0.0.1:8765/?token=t"
    assert address(Doors("::1", token="t")) == "http://[::1]:8765/?token=t"
    assert address(Doors(behind_proxy=True, names=("cxr.example",), token="t")) == "https://cxr.example/?token=t"


def test_marks_of_studies_that_are_no_more_are_forgotten(results: Path) -> None:
    forget_marks(results, ["a"])
    assert not (results / MARKS_FILE).exists()
    marks = Marks(results)
    for key in ("a", "b"):
        marks.mark(key, 1)
        marks.note(key, "Doe, phoned")
    forget_marks(results, ["a"])
    assert ([mark.study_key for mark in marks.marks()], [note.study_key for note in marks.notes()]) == (["b"], ["b"])
    with closing(sqlite3.connect(results / MARKS_FILE)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with Ledger(results) as ledger:
        assert ledger.results.count_studies() == {}
