"""Who gets in: by name, token and origin, each tried wrong by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrbatch.errors import ConfigurationError, UsageError
from cxrbatch.serve.doors import Doors, read_token
from tests.serve.conftest import HERE, TOKEN, Client, Connect

MARK = {"study_key": "5feceb66ffc86f38", "revision": 1, "read": True}


def test_the_printed_address_gives_a_cookie_that_opens_everything(connect: Connect) -> None:
    client = connect(token="")
    assert client.get("/").status_code == 401
    welcome = client.get(f"/?token={TOKEN}")
    assert welcome.status_code == 200
    assert TOKEN not in welcome.text
    assert "worklist/now.js" not in welcome.text, "the list comes once the token is out of the address"
    token, marker = (cookie for name, cookie in welcome.headers.multi_items() if name == "set-cookie")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(token.replace("samesite", "SameSite").split("; "))
    assert marker.startswith("cxrbatch_served=1")
    assert client.get("/").status_code == 200
    assert client.get("/api/studies").json()["total"] == 30


@pytest.mark.parametrize("token", ["", "x" * 32, TOKEN[:-1], TOKEN + "t", "ü" * 32])
def test_without_the_token_nothing_is_told(connect: Connect, token: str) -> None:
    client = connect(token="")
    asked = {"Authorization": f"Bearer {token}".encode()}
    for path in ("/", "/worklist/now.js", "/api/studies", "/api/events", "/api/docs", "/nothing"):
        answer = client.get(path, headers=asked)
        assert (answer.status_code, "cxrbatch serve" in answer.text) == (401, True)
        client.cookies.set("cxrbatch_token_8765", "wrong")
    assert client.get("/", params={"token": token}).status_code == 401
    assert client.post("/api/marks", json=MARK, headers={**asked, "Origin": HERE}).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8765", "", "[::1", "127.0.0.2", "a@evil"])
def test_a_name_that_leads_here_but_is_not_ours_is_refused(client: Client, host: str) -> None:
    answer = client.get("/", headers={"Host": host})
    assert (answer.status_code, "Worklist" in answer.text) == (421, False)


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "[::1]:8765", "LOCALHOST"])
def test_the_names_of_this_machine_are_ours(client: Client, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Origin": f"{HERE}.evil.example"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": HERE},
        {},
    ],
)
def test_another_page_cannot_mark_anything_though_the_browser_has_the_cookie(
    connect: Connect, headers: dict[str, str]
) -> None:
    client = connect(token="")
    client.get(f"/?token={TOKEN}")
    assert client.post("/api/marks", json=MARK, headers=headers).status_code == 403
    assert client.get("/api/marks").json()["marks"] == []
    assert client.post("/api/marks", json=MARK, headers={"Origin": HERE}).status_code == 200
    assert [mark["study_key"] for mark in client.get("/api/marks").json()["marks"]] == [MARK["study_key"]]


def test_another_page_cannot_load_anything_but_may_link_here(client: Client) -> None:
    for destination in ("script", "image", "iframe", "empty"):
        headers = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": destination}
        assert client.get("/worklist/now.js", headers=headers).status_code == 403
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}).status_code == 200


def test_every_answer_says_how_it_is_to_be_treated(connect: Connect) -> None:
    for answer in (connect().get("/"), connect().get("/nothing"), connect(token="").get("/")):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert "access-control-allow-origin" not in answer.headers
        assert "strict-transport-security" not in answer.headers


def test_behind_a_proxy_the_cookie_wants_encryption_and_the_proxys_name_counts(connect: Connect) -> None:
    doors = Doors(token=TOKEN, behind_proxy=True, names=("cxr.example.org",))
    client = connect(doors, base_url="https://cxr.example.org", token="")
    welcome = client.get(f"/?token={TOKEN}")
    assert all("Secure" in cookie for name, cookie in welcome.headers.multi_items() if name == "set-cookie")
    assert "Strict-Transport-Security" in welcome.headers
    asked_as = {"Host": "127.0.0.1:8765", "Origin": "https://cxr.example.org"}
    assert client.post("/api/marks", json=MARK, headers=asked_as).status_code == 200
    asked_as["Origin"] = "https://evil.example.org"
    assert client.post("/api/marks", json=MARK, headers=asked_as).status_code == 403


@pytest.mark.parametrize(
    ("doors", "why"),
    [
        (Doors("0.0.0.0"), "others could read"),  # refused
        (Doors("192.0.2.1"), "others could read"),
        (Doors("cxr.example.org"), "others could read"),
        (Doors("0.0.0.0", tls=(Path("a"), Path("b"))), "--name"),  # refused
        (Doors(behind_proxy=True), "--name"),
        (Doors(behind_proxy=True, names=("a",), tls=(Path("a"), Path("b"))), "exclude each other"),
    ],
)
def test_nobody_listens_to_others_without_encryption_and_a_name(doors: Doors, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        doors.check()


@pytest.mark.parametrize(
    "doors",
    [
        Doors(),
        Doors("::1"),
        Doors("192.0.2.1", tls=(Path("a"), Path("b"))),
        Doors("0.0.0.0", names=("a",), behind_proxy=True),  # a proxy does TLS
    ],
)
def test_doors_that_may_be_opened(doors: Doors) -> None:
    doors.check()
    assert doors.token not in repr(doors)
    assert len(doors.token) >= 32


def test_what_listens_everywhere_answers_to_its_name_only(connect: Connect) -> None:
    doors = Doors("0.0.0.0", names=("cxr.example.org",), behind_proxy=True, token=TOKEN)  # not bound
    assert connect(doors, base_url="https://cxr.example.org").get("/").status_code == 200
    for name in ("0.0.0.0:8765", "localhost:8765", "127.0.0.1:8765"):
        assert connect(doors, base_url="https://cxr.example.org").get("/", headers={"Host": name}).status_code == 421


def test_a_token_that_others_may_read_or_guess_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("k" * 40 + "\n")
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_token(path)
    path.chmod(0o600)
    assert read_token(path) == "k" * 40
    for weak in ("short", "k" * 31, "k" * 40 + " x"):
        path.write_text(weak)
        with pytest.raises(ConfigurationError, match="at least 32"):
            read_token(path)
