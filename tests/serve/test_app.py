"""What is served: pages that a reader needs and nothing else, studies, marks, notes and news."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import jsonschema
import pytest

from cxrbatch.output.worklist import write_worklist
from cxrbatch.serve import studies
from cxrbatch.serve.app import MOST_LISTENERS, REQUEST_BYTES, Served
from cxrbatch.serve.openapi import describe_api
from tests.factories.output import make_engine
from tests.factories.worklist import made_up_studies
from tests.serve.conftest import HERE, Client

FIRST = next(made_up_studies(1)).study_key


# --------------------------------------------------------------------------- files


def test_pages_pictures_and_data_are_served_as_what_they_are(client: Client, out: Path) -> None:
    for path, kind in {
        "/": "text/html; charset=utf-8",
        "/index.html": "text/html; charset=utf-8",
        "/worklist/now.js": "text/javascript; charset=utf-8",
        f"/reports/{FIRST}/report.html": "text/html; charset=utf-8",
        f"/reports/{FIRST}/thumb-1-abc.jpg": "image/jpeg",
    }.items():
        answer = client.get(path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, kind)
        assert answer.content == (out / (path[1:] or "index.html")).read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        *("ledger.sqlite", "cxrbatch.log", "run.json", "studies.csv", ".cxrbatch.json", "marks.sqlite-wal"),
        *(f"reports/{FIRST}/result.json", f"reports/{FIRST}/", "reports", "worklist/", "worklist/now.js/"),
        *("../secret.html", "reports/../../secret.html", f"reports/{FIRST}/../../../secret.html"),
        *("reports/..%2f..%2fsecret.html", "%2e%2e/secret.html", "//secret.html", "reports//secret.html"),
        *("worklist/..\\secret.js", "worklist/now.js%00.html", f"reports/{FIRST}/.hidden.html", "/etc/passwd"),
        *("reports/linked/report.html", f"reports/{FIRST}/linked.html", f"reports/{FIRST}/pipe.html"),
        *("worklist/inside.js", f"reports/{FIRST}/folder.html"),
    ],
)
def test_nothing_else_is_there_nor_what_a_link_leads_to(client: Client, out: Path, path: str) -> None:
    (out.parent / "secret.html").write_text("secret")
    (out.parent / "elsewhere").mkdir()
    (out.parent / "elsewhere" / "report.html").write_text("secret")
    report = out / "reports" / FIRST
    (report / ".hidden.html").write_text("secret")
    (report / "folder.html").mkdir()
    (report / "linked.html").symlink_to(out.parent / "secret.html")
    (out / "worklist" / "inside.js").symlink_to(out / "worklist" / "now.js")
    (out / "reports" / "linked").symlink_to(out.parent / "elsewhere")
    os.mkfifo(report / "pipe.html")
    answer = client.get(f"{HERE}/{path}")
    assert (answer.status_code, "secret" in answer.text) == (404, False)


# --------------------------------------------------------------------------- studies


def test_studies_are_filtered_sorted_and_paged(client: Client) -> None:
    def keys(**asked: object) -> list[str]:
        return [study["accession_number"][-2:] for study in client.get("/api/studies", params=asked).json()["studies"]]

    assert keys(priority="urgent") == ["20", "10", "00"], "the strongest first"
    assert keys(priority="urgent", sort="arrived") == ["20", "10", "00"]
    assert keys(sort="arrived", limit=2, offset=1) == ["28", "27"]
    assert keys(search="acc-0000007") == ["07"]
    assert keys(search="2024-01-01 pneumothorax", limit=1) == ["20"]
    assert keys(finding="Nodule", sort="date") == ["22", "12", "02"]
    assert keys(status="unscored", sort="arrived") == ["23", "13", "03"]
    assert keys(mark="caution") == ["00", "25"]
    assert keys(mark=["caution", "refused"]) == []
    assert keys(since="2024-01-01T00:28:00Z", sort="arrived") == ["29", "28"]
    counted = client.get("/api/studies", params={"priority": "normal", "limit": 0}).json()
    assert (counted["total"], counted["fitting"], counted["studies"]) == (30, 18, [])


@pytest.mark.parametrize(
    "asked", ["limit=1001", "limit=-1", "offset=x", "sort=up", "mark=mad", "since=now", "wrong=1", "priority=high"]
)
def test_a_question_that_means_nothing_is_told_so(client: Client, asked: str) -> None:
    answer = client.get(f"/api/studies?{asked}")
    assert answer.status_code == 400
    assert asked.partition("=")[0] in answer.json()["error"]


def test_answers_are_as_the_api_is_described(client: Client) -> None:
    api = client.get("/api/openapi.json").json()
    assert api == describe_api()
    client.post("/api/marks", json={"study_key": FIRST, "revision": 1, "read": True})
    client.post("/api/notes", json={"study_key": FIRST, "text": "seen"})
    for path in ("/api/studies", "/api/marks"):
        schema = api["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(client.get(path).json(), {**schema, "components": api["components"]})
    (study,) = client.get("/api/studies", params={"search": FIRST}).json()["studies"]
    assert (study["note"], bool(study["read_at"])) == ("seen", True)
    page = client.get("/api/docs").text
    for path, operations in api["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}" in page


def test_the_described_paths_are_those_that_are_answered(client: Client) -> None:
    for path in describe_api()["paths"]:
        if path != "/api/events":
            assert client.put(path).status_code == 405, path


# --------------------------------------------------------------------------- marks and notes


def test_marks_and_notes_are_everybodys_and_outlive_the_server(client: Client, served: Served) -> None:
    assert client.post("/api/marks", json={"study_key": FIRST, "revision": 1, "read": True}).status_code == 200
    text = "Seen, <b>phoned</b>\u202e\n\nward 3\x00"
    assert client.post("/api/notes", json={"study_key": FIRST, "text": text}).json()["text"] == (
        "Seen, <b>phoned</b>\n\nward 3"
    )
    told = client.get("/api/marks").json()
    assert [(mark["study_key"], mark["revision"]) for mark in told["marks"]] == [(FIRST, 1)]
    assert [note["study_key"] for note in told["notes"]] == [FIRST]
    assert served.marks.path.stat().st_mode & 0o777 == 0o640
    client.post("/api/marks", json={"study_key": FIRST, "revision": 1, "read": False})
    client.post("/api/notes", json={"study_key": FIRST, "text": " "})
    assert client.get("/api/marks").json() == {"marks": [], "notes": [], "may_note": True}


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"study_key": "unknown", "revision": 1, "read": true}', 404),
        (b'{"study_key": "unknown", "revision": true, "read": true}', 400),
        (b'{"study_key": "unknown"}', 400),
        (b"[1]", 400),
        (b"{", 400),
        (b"[" * 10_000, 400),
        (b" " * (REQUEST_BYTES + 1), 413),
    ],
)
def test_what_is_no_mark_is_not_kept(client: Client, content: bytes, status: int) -> None:
    json = {"Content-Type": "application/json"}
    assert client.post("/api/marks", content=content, headers=json).status_code == status
    assert client.post("/api/marks", content=content, headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.get("/api/marks").json()["marks"] == []


def test_where_nothing_may_name_a_patient_no_note_is_kept(client: Client, served: Served) -> None:
    served.marks.note(FIRST, "from before")
    served.may_note = False
    assert client.post("/api/notes", json={"study_key": FIRST, "text": "Doe"}).status_code == 403
    assert client.get("/api/marks").json() == {"marks": [], "notes": [], "may_note": False}
    assert "from before" not in client.get("/api/studies").text


# --------------------------------------------------------------------------- news


def test_an_open_page_hears_of_new_studies_and_marks(served: Served) -> None:
    async def heard() -> list[str]:
        events = served.news(poll_s=0.01)
        found = [await anext(events)]
        write_worklist(served.out, made_up_studies(31), engine=make_engine(), generated_at="2024-02-01T07:00:00+00:00")
        found.append(await anext(events))
        served.marks.mark(FIRST, 1)
        found.append(await anext(events))
        served.is_stopping = lambda: True
        return [*found, *[event async for event in events]]

    listening, *news = asyncio.run(heard())
    assert listening.startswith(":")
    assert news == ["event: worklist\ndata: changed\n\n", "event: marks\ndata: changed\n\n"]
    assert len(served.studies.data().lines) == 31


def test_so_many_may_listen_and_no_more(client: Client, served: Served) -> None:
    served.listeners = MOST_LISTENERS
    assert client.get("/api/events").status_code == 503


def test_a_list_that_is_being_rewritten_is_told_as_it_was(
    client: Client, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    monkeypatch.setattr(studies, "time", SimpleNamespace(sleep=naps.append))
    assert client.get("/api/studies").json()["total"] == 30
    for shard in (out / "worklist").glob("rows-*.js"):
        shard.unlink()
    now = out / "worklist" / "now.js"
    now.write_text(now.read_text().replace('"version":"', '"version":"x'))
    assert client.get("/api/studies").json()["total"] == 30
    assert 0 < sum(naps) < 1
    assert client.get(f"/{quote('worklist/rows-' + 16 * '0' + '.js')}").status_code == 404
