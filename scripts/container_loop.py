"""The services of docs/deploy/compose.yaml in containers, around an Orthanc of this machine: one radiograph, all round.

Their command lines are those of the compose file; names of hosts and ports become this machine's, and waits become
short. Start at `run_loop`.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import yaml

from scripts.container_machine import Machine, Mount
from tests.factories.orthanc import Orthanc, is_here, running_orthanc

DEPLOY = Path(__file__).parents[1] / "docs" / "deploy"
SERVICES = ("receive", "watch", "send")
_PATIENCE_S = 120.0


class LoopBroken(Exception):
    """What was sent did not come back; says what did."""


def run_loop(machine: Machine, radiograph: Path, mounts: list[Mount], work: Path) -> str:
    """Give Orthanc a radiograph, wait for its objects to lie beside it, and tell what came.

    Raises:
        LoopBroken: they did not come in time.
    """
    if not is_here():
        return "not run: Orthanc is not here"
    if machine.run(["send", "--help"], mounts).returncode:
        return "not run: this version does not send"
    ports = {"receive": free_port(), "orthanc": 0}
    known = json.loads((DEPLOY / "orthanc.json").read_text())
    known["DicomModalities"]["cxrbatch"] |= {"Host": "127.0.0.1", "Port": ports["receive"]}
    ours = {"DicomModalities": known["DicomModalities"], "LuaScripts": [str(DEPLOY / "orthanc.lua")]}
    shutil.rmtree(work / "orthanc", ignore_errors=True)  # what an earlier one was sent
    with running_orthanc(work / "orthanc", **ours) as orthanc, ExitStack() as services:
        ports["orthanc"] = orthanc.dicom_port
        for name in SERVICES:
            # As in the compose file, the daemon has no network.
            service = services.enter_context(machine.running(_words(name, ports), mounts, network=name != "watch"))
            _wait(lambda: service.probe() == "ok", lambda: f"{name} is not well")  # noqa: B023  # it is waited for here
        started = time.monotonic()
        orthanc.put([radiograph])
        _wait(lambda: {"SR", "DOC"} <= set(_kinds(orthanc)), lambda: f"{_kinds(orthanc)}; see {work}/bundle-*.log")
        took = time.monotonic() - started
        kinds = _kinds(orthanc)
        received = len(list(source_of(mounts, "/input").glob("*/*.dcm")))
    if received != 1 or len(kinds) != len(set(kinds)):
        raise LoopBroken(f"{received} received, {kinds} in the archive")
    return (
        f"1 radiograph into Orthanc; there with it after {took:.0f} s: {', '.join(kinds)}; received once, nothing twice"
    )


def _words(name: str, ports: dict[str, int]) -> list[str]:
    """Return the command line of a service, as it is where hosts have no names."""
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    words = [str(word) for word in services[name]["command"]]
    here = {"0.0.0.0": "127.0.0.1", "orthanc": "127.0.0.1", "4242": str(ports["orthanc"])}  # noqa: S104
    here |= {"11112": str(ports["receive"]), "30": "1"}
    return [here.get(word, word) for word in words]


def _kinds(orthanc: Orthanc) -> list[str]:
    objects = (pydicom.dcmread(BytesIO(content), stop_before_pixels=True) for content in orthanc.objects().values())
    return sorted(str(made.Modality) for made in objects)


def _wait(is_so: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise LoopBroken(otherwise())
        time.sleep(0.5)


def source_of(mounts: list[Mount], target: str) -> Path:
    """Return what is mounted there."""
    return next(mount.source for mount in mounts if mount.target == target)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
