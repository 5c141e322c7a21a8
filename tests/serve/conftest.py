"""An output folder that is served, and clients of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cxrbatch.output.marks import Marks
from cxrbatch.output.worklist import write_worklist
from cxrbatch.serve.app import Served, make_app
from cxrbatch.serve.doors import Doors
from tests.factories.output import make_engine
from tests.factories.worklist import made_up_studies

with warnings.catch_warnings():
    # It would rather have httpx2, which nobody else here needs.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient as Client

__all__ = ["HERE", "TOKEN", "Client", "Connect"]

TOKEN = "t" * 32
HERE = "http://127.0.0.1:8765"
Connect = Callable[..., Client]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output folder with a list of 30 studies, a report of the first, and what is nobody's business."""
    folder = tmp_path / "out"
    folder.mkdir()
    write_worklist(folder, made_up_studies(30), engine=make_engine(), generated_at="2024-02-01T06:00:00+00:00")
    report = folder / "reports" / next(made_up_studies(1)).study_key
    report.mkdir(parents=True)
    (report / "report.html").write_text("<p>report</p>")
    (report / "thumb-1-abc.jpg").write_bytes(b"\xff\xd8")
    for secret in ("ledger.sqlite", "cxrbatch.log", "run.json", "studies.csv", ".cxrbatch.json", "marks.sqlite-wal"):
        (folder / secret).write_text("secret")
    (report / "result.json").write_text("secret")
    return folder


@pytest.fixture
def served(out: Path, tmp_path: Path) -> Served:
    state = tmp_path / "state"
    state.mkdir()
    return Served(out, Marks(state))


@pytest.fixture
def connect(served: Served) -> Iterator[Connect]:
    """Return what makes a client: of the server as it is by default, with the token unless that is not wanted."""
    clients: list[Client] = []

    def connected(doors: Doors | None = None, *, base_url: str = HERE, token: str = TOKEN) -> Client:
        app = make_app(served, doors or Doors(token=TOKEN))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        clients.append(Client(app, base_url=base_url, headers=headers, follow_redirects=False))
        return clients[-1]

    yield connected
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Connect) -> Client:
    return connect()
