"""`watch --send-to`: studies go to the archive as they finish, and no archive holds up or ends the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from cxrbatch.cli import run_command_line
from cxrbatch.config import Settings
from cxrbatch.errors import ConfigurationError, ExitCode
from cxrbatch.output.metrics_prom import write_metrics
from cxrbatch.output.sent_facts import read_sent
from cxrbatch.system.progress import RunProgress
from cxrbatch.watch.daemon import watch_folder
from cxrbatch.watch.sender import Sender, send_command
from tests.factories.ports import free_port
from tests.pacs.archives import Finished, archive, ended, until, write_study

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


def settings_of(made: Finished, port: int, **more: Any) -> Settings:
    given: dict[str, Any] = {
        "engine": made.engine, "workers": 1, "pdf": False, "pixel_check": False, "settle_s": 0.2, "interval_s": 0.2,
        "dicom": "sr,sc", "heatmaps": "all", "send_to": f"ARCHIVE@127.0.0.1:{port}", "send_as": "WATCH",
    }  # fmt: skip
    return Settings(**given | more)


def metrics(text: str) -> dict[str, float]:
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples if sample.name.startswith("cxrbatch_sent")]
    return {" ".join([each.name, each.labels.get("status", "")]).strip(): each.value for each in samples}


def test_a_daemon_sends_what_it_finishes_and_begins_again_what_was_killed(finished: Finished) -> None:
    with archive() as kept:
        command = [
            *(
                sys.executable,
                "-m",
                "cxrbatch",
                "watch",
                str(finished.images),
                "-o",
                str(finished.out),
                "--workers",
                "1",
            ),
            *("-e", finished.engine, "--settle", "0.2", "--interval", "0.2", "--no-pdf", "--dicom=sr,sc", "-q"),
            *("--send-to", f"ARCHIVE@127.0.0.1:{kept.port}", "--send-as", "WATCH", "--heatmaps", "all"),
        ]
        environment = os.environ | {"CXRBATCH_PIXEL_CHECK": "false"}
        daemon = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        until(lambda: len(kept.taken) == 6)
        assert set(kept.associations) == {"WATCH"}
        (child,) = _children(daemon.pid)
        os.kill(child, signal.SIGKILL)
        write_study(finished.images, 4)
        until(lambda: len(kept.taken) == 8)
        (child,) = _children(daemon.pid)
        daemon.send_signal(signal.SIGTERM)
        ended(daemon)
        assert daemon.returncode == ExitCode.DONE
        assert not Path(f"/proc/{child}").exists()
    assert len(set(kept.uids)) == 8
    assert "sending ended; it begins again" in (finished.out / "cxrbatch.log").read_text()


def _children(pid: int) -> list[int]:
    """Return the processes that send for a daemon."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        words = each.read_bytes().split(b"\0") if each.exists() else []
        status = (each.parent / "stat").read_text() if words else ""
        if b"send" in words and status.rpartition(") ")[2].split()[1] == str(pid):
            found.append(int(each.parent.name))
    return found


def test_a_killed_daemon_leaves_nobody_who_sends(finished: Finished) -> None:
    program = (
        "import sys, time; from pathlib import Path; from cxrbatch.config import Settings; "
        "from cxrbatch.watch.sender import Sender\n"
        "with Sender(Path(sys.argv[1]), Settings(dicom='sr', send_to=f'A@127.0.0.1:{sys.argv[2]}')): time.sleep(60)"
    )
    with archive() as kept:
        parent = subprocess.Popen([sys.executable, "-c", program, str(finished.out), str(kept.port)])
        until(lambda: len(kept.taken) == 3)
        (child,) = _children(parent.pid)
        parent.kill()
        parent.wait()
        until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])


def test_looking_once_sends_once_and_an_absent_archive_is_told(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(finished.images, 4)
    with archive() as kept, RunProgress(Console(quiet=True)) as progress:
        settings = settings_of(finished, kept.port)
        report = watch_folder(finished.images, finished.out, lambda: settings, progress, once=True)
        assert report.finished
        assert len(kept.taken) == 8
    told = metrics(write_metrics(finished.out, report))
    assert told["cxrbatch_sent_objects stored"] == 8
    assert (
        told["cxrbatch_sent_objects refused"]
        == told["cxrbatch_sent_studies_left"]
        == told["cxrbatch_sent_trouble"]
        == 0
    )
    assert told["cxrbatch_sent_reached_timestamp_seconds"] > 0
    assert run_command_line(["send", str(finished.out), "127.0.0.1", str(free_port()), "--tries", "1"]) == 3
    capsys.readouterr()
    assert run_command_line(["status", str(finished.out)]) == ExitCode.DONE
    shown = " ".join(capsys.readouterr().out.split())
    assert "8 stored; 0 studies left" in shown
    assert "none; 4 studies left" in shown
    assert "Connection refused" in shown
    assert [each.studies_left for each in read_sent(finished.out)] == [4, 0]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"send_to": "nowhere"}, "HOST:PORT"),
        ({"send_to": "host:99999"}, "HOST:PORT"),
        ({"send_to": ":104"}, "HOST:PORT"),
        ({"send_to": "SEVENTEEN LETTERS@host:104"}, "send_to: 'SEVENTEEN LETTERS' is no AE title"),
        ({"send_to": "@host:104"}, "send_to: '' is no AE title"),
        ({"send_as": "SEVENTEEN LETTERS"}, "send_as: 'SEVENTEEN LETTERS' is no AE title"),
        ({"send_as": ""}, "is no AE title"),
        ({"dicom": ""}, "--dicom"),
    ],
)
def test_what_cannot_be_sent_to_is_told_before_anything_is_done(
    finished_once: Finished, more: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Sender(finished_once.out, settings_of(finished_once, 104, **more))


def test_the_command_names_the_archive_as_it_was_named(tmp_path: Path) -> None:
    made = Finished(tmp_path, tmp_path / "-out", "")
    command = send_command(made.out, settings_of(made, 104, send_to="PACS@[::1]:104", state="/state"))
    assert command[5:] == [
        *("--called", "PACS", "--calling", "WATCH", "--kinds", "sr,sc", "--state", "/state"),
        *("--", str(made.out), "::1", "104"),
    ]
    command = send_command(made.out, settings_of(made, 104, send_to="https://pacs.example.org/dicom-web"))
    assert command[5:] == ["--dicomweb", "https://pacs.example.org/dicom-web", "--kinds", "sr,sc", "--", str(made.out)]
    assert not send_command(made.out, settings_of(made, 104, send_to=""))
