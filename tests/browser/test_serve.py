"""The served worklist in a browser: marks and notes of one page reach another one, and news arrive by themselves."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from cxrbatch.output.marks import Marks
from cxrbatch.output.worklist import write_worklist
from cxrbatch.serve.app import Served, make_app
from cxrbatch.serve.doors import Doors
from cxrbatch.serve.server import address
from tests.factories.output import make_engine
from tests.factories.worklist import made_up_studies


@dataclass(frozen=True)
class Site:
    """A server in a thread of its own."""

    url: str
    served: Served


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    write_worklist(tmp_path, made_up_studies(12), engine=make_engine(), generated_at="2026-01-02T03:04:05+00:00")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        doors = Doors(port=listening.getsockname()[1])
        served = Served(tmp_path, Marks(tmp_path))
        server = uvicorn.Server(
            uvicorn.Config(make_app(served, doors), lifespan="off", ws="none", log_config=None, access_log=False)
        )
        served.is_stopping = lambda: server.should_exit
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield Site(address(doors), served)
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


def until(browser: Chrome, selector: str, text: str) -> None:
    found = browser.find_element(By.CSS_SELECTOR, selector)
    WebDriverWait(browser, 15, 0.05).until(lambda _: text in found.text)


def test_marks_notes_and_news_are_shared(browser: Chrome, site: Site) -> None:
    browser.get(site.url)
    until(browser, "#shown", "1-12 of 12 studies")
    assert "token" not in browser.current_url
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ARROW_DOWN, "r")
    WebDriverWait(browser, 10, 0.05).until(lambda _: site.served.marks.marks())
    (mark,) = site.served.marks.marks()
    assert browser.find_element(By.CSS_SELECTOR, "tr.read").get_attribute("data-key") == mark.study_key
    assert browser.execute_script("return localStorage.length") == 0, "what is everybody's is not kept here"

    browser.find_element(By.CSS_SELECTOR, "button.note").click()
    browser.find_element(By.ID, "note").send_keys("Phoned <b>ward 3</b>")
    browser.find_element(By.ID, "note-keep").click()
    until(browser, "#studies", "Phoned <b>ward 3</b>")

    site.served.marks.unmark(mark.study_key)
    WebDriverWait(browser, 15, 0.05).until(lambda _: not browser.find_elements(By.CSS_SELECTOR, "tr.read"))
    write_worklist(site.served.out, made_up_studies(14), engine=make_engine(), generated_at="2026-01-02T04:00:00+00:00")
    until(browser, "#shown", "14 studies. 2 changed or new")
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]  # selenium leaves this one untyped
