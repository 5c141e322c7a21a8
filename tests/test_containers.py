"""Containerfile, compose file and manifests: in words that cxrbatch and Kubernetes understand, and nobody is root."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cxrbatch.cli import commands

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "docs" / "deploy"
CONTAINERFILE = (ROOT / "Containerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DOCUMENTS = [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]
SERVICES: dict[str, dict[str, Any]] = {
    name: service for name, service in COMPOSE["services"].items() if service["image"].startswith("localhost/")
}
# Where a container may write.
WRITABLE = {"/input", "/output", "/state", "/tmp"}


def pod_specs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and pod of each workload."""
    for document in DOCUMENTS:
        spec = document["spec"]
        if document["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec:
            yield document["metadata"]["name"], spec["template"]["spec"]


PODS = dict(pod_specs())
CONTAINERS = [
    pytest.param(container, pod, id=f"{name} {container['name']}")
    for name, pod in PODS.items()
    for container in pod["containers"]
]


def calls(words: list[str]) -> list[list[str]]:
    """Return the calls of cxrbatch in the words of a container: its arguments, unless they are another program's."""
    return [] if words[:1] == ["chown"] else [words]


def every_call() -> Iterator[Any]:
    default = re.search(r"^CMD (\[.*\])$", CONTAINERFILE, re.MULTILINE)
    assert default
    yield pytest.param(json.loads(default[1]), id="Containerfile")
    for name, service in SERVICES.items():
        for call in calls([*service.get("entrypoint", []), *service.get("command", [])]):
            yield pytest.param(call, id=f"compose {name}")
    for name, pod in PODS.items():
        for container in pod["containers"]:
            for call in calls([*container.get("command", []), *container.get("args", [])]):
                yield pytest.param(call, id=f"{name} {container['name']}")


CALLS = list(every_call())


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_one_that_the_command_line_takes(call: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, *arguments = call
    command = commands.commands[name]
    options = {option for each in command.params if isinstance(each, click.Option) for option in each.opts}
    assert {argument.partition("=")[0] for argument in arguments if argument.startswith("-")} - options == set()
    # Values are of their types, too; files are those of a container.
    for parameter in command.params:
        if isinstance(parameter.type, click.Path):
            monkeypatch.setattr(parameter.type, "exists", False)
    command.make_context(name, list(arguments))


def test_every_workload_calls_cxrbatch() -> None:
    assert len(CALLS) == 1 + 3 + 4
    assert set(SERVICES) == {"prepare", "receive", "watch", "send"}
    assert set(PODS) == {"cxrbatch-receive", "cxrbatch-watch", "cxrbatch-nightly"}


def test_hadolint_and_kubernetes_find_nothing() -> None:
    """What `make check` does, with what it calls."""
    tools = Path(sys.executable).parent
    subprocess.run([tools / "hadolint", ROOT / "Containerfile"], check=True)
    said = subprocess.run(
        [tools / "kubernetes-validate", "--strict", *MANIFESTS], check=True, capture_output=True, text=True
    )
    assert (said.stdout + said.stderr).count("passed") == len(DOCUMENTS)


def test_an_image_has_what_reports_need_and_nobody_is_root() -> None:
    packages = (ROOT / "scripts" / "system-packages.sh").read_text()
    needed = re.findall(r"^(?:needed|wanted)=\((.*)\)$", packages, re.MULTILINE)
    final = CONTAINERFILE[CONTAINERFILE.rindex("\nFROM ") :]
    assert [name for line in needed for name in line.split() if name not in final] == []
    assert re.findall(r"^USER (.*)$", final, re.MULTILINE) == ["10001:10001"]


def test_nothing_goes_into_an_image_but_what_it_is_made_of() -> None:
    ignored, *taken = [line for line in (ROOT / ".containerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignored == "*"
    assert all((ROOT / line[1:]).exists() for line in taken if line.startswith("!"))
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINERFILE, re.MULTILINE) for word in line.split()
    }
    assert {word.split("/")[0] for word in copied} == {line[1:] for line in taken if line.startswith("!")}
    assert re.search(r"^ARG ENGINE=README.md$", CONTAINERFILE, re.MULTILINE), "no engine but on request"


@pytest.mark.parametrize(("container", "pod"), CONTAINERS)
def test_a_container_has_limits_and_no_rights(container: dict[str, Any], pod: dict[str, Any]) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
    assert pod["automountServiceAccountToken"] is False
    resources = container["resources"]
    assert set(resources["requests"]) == set(resources["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize(("container", "pod"), CONTAINERS)
def test_every_folder_that_is_written_is_mounted_and_every_volume_claimed(
    container: dict[str, Any], pod: dict[str, Any]
) -> None:
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    named = {word for word in [*container.get("command", []), *container.get("args", [])] if word.startswith("/")}
    assert {word for word in named if not any(word.startswith(path) for path in mounts)} == set()
    assert "/tmp" in mounts
    assert {path for path, mount in mounts.items() if not mount.get("readOnly")} <= WRITABLE
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = {document["metadata"]["name"] for document in DOCUMENTS if document["kind"] == "PersistentVolumeClaim"}
    for mount in mounts.values():
        claim = volumes[mount["name"]].get("persistentVolumeClaim")
        assert claim is None or claim["claimName"] in claims


def test_daemons_are_probed_and_told_when_to_end() -> None:
    for name in ("receive", "watch"):
        pod = PODS[f"cxrbatch-{name}"]
        (container,) = (each for each in pod["containers"] if each["name"] == name)
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        assert pod["terminationGracePeriodSeconds"] >= 30


def test_only_one_daemon_or_run_works_on_an_output_folder() -> None:
    for document in DOCUMENTS:
        spec = document["spec"]
        if document["kind"] == "Deployment":
            assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
        elif document["kind"] == "CronJob":
            assert spec["concurrencyPolicy"] == "Forbid"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_services_of_the_compose_file_are_read_only_and_have_their_volumes(name: str) -> None:
    service = SERVICES[name]
    if name != "prepare":
        assert (service["read_only"], service["user"], service["cap_drop"]) == (True, "10001:10001", ["ALL"])
    volumes = [volume.split(":")[0] for volume in service["volumes"]]
    assert {volume for volume in volumes if not volume.startswith(".")} <= set(COMPOSE["volumes"])
    assert set(service.get("networks", [])) <= set(COMPOSE["networks"])
    assert set(service.get("depends_on", [])) <= set(COMPOSE["services"])


def test_orthanc_knows_the_receiver_that_the_compose_file_starts() -> None:
    known = json.loads((DEPLOY / "orthanc.json").read_text())
    peer = known["DicomModalities"]["cxrbatch"]
    words = SERVICES[peer["Host"]]["command"]
    (context,) = [commands.commands["receive"].make_context("receive", list(words[1:]))]
    assert (context.params["port"], context.params["aet"]) == (peer["Port"], peer["AET"])
    assert context.params["accept_from"] == (known["DicomAet"],)
    mounted = [volume.split(":")[1] for volume in COMPOSE["services"]["orthanc"]["volumes"]]
    assert set(known["LuaScripts"]) <= set(mounted)
