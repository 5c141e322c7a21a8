"""What whoever got past the guard is answered: pages, studies as JSON, marks, notes, news. Start at `make_app`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from cxrbatch.errors import OutputNotWritable
from cxrbatch.output.marks import LONGEST_NOTE, Marks
from cxrbatch.output.worklist import INDEX_HTML
from cxrbatch.output.worklist_data import DATA_FOLDER, NOW_JS
from cxrbatch.pages.language import speaking
from cxrbatch.pages.page import render_page
from cxrbatch.pages.wording import plain
from cxrbatch.serve.doors import Doors
from cxrbatch.serve.files import read_file
from cxrbatch.serve.guard import Guard
from cxrbatch.serve.openapi import describe_api
from cxrbatch.serve.studies import BadQuery, Studies, read_query

MOST_LISTENERS = 64
REQUEST_BYTES = 16 * 1024
NEWS_POLL_S = 2.0
STOP_POLL_S = 0.25
# A proxy closes what is silent for long.
SILENCE_S = 15.0


@dataclass(slots=True)
class Served:
    """One output folder as it is served. `may_note`: notes are kept; nowhere where nothing may name a patient."""

    out: Path
    marks: Marks
    may_note: bool = True
    is_stopping: Callable[[], bool] = lambda: False
    listeners: int = 0
    studies: Studies = field(init=False)

    def __post_init__(self) -> None:
        self.studies = Studies(self.out)

    # ------------------------------------------------------------------ pages

    def page(self, request: Request) -> Response:
        """Return a file of the output folder."""
        found = read_file(self.out, request.path_params.get("path", INDEX_HTML))
        if found is None:
            return PlainTextResponse("There is no such page.\n", 404)
        content, kind = found
        # A picture that is opened by itself could run scripts.
        policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"} if "svg" in kind else {}
        return Response(content, media_type=kind, headers=policy)

    # ------------------------------------------------------------------ what programs ask

    def find_studies(self, request: Request) -> Response:
        """Return a page of the studies that fit."""
        parameters = request.query_params
        try:
            query = read_query(parameters, parameters.getlist("mark"))
        except BadQuery as error:
            return _told(400, str(error))
        found, read = self.studies.find(query), {mark.study_key: mark for mark in self.marks.marks()}
        notes = {note.study_key: note.text for note in self.marks.notes()} if self.may_note else {}
        for study in found["studies"]:  # type: ignore[attr-defined]  # a list of records
            mark = read.get(study["study_key"])
            is_read = mark is not None and mark.revision == study["revision"]
            study["read_at"] = mark.read_at if mark and is_read else ""
            study["note"] = notes.get(study["study_key"], "")
        return JSONResponse(found)

    def tell_marks(self, request: Request) -> Response:
        """Return all that readers left."""
        del request
        marks = [asdict(mark) for mark in self.marks.marks()]
        notes = [asdict(note) for note in self.marks.notes()] if self.may_note else []
        return JSONResponse({"marks": marks, "notes": notes, "may_note": self.may_note})

    async def mark(self, request: Request) -> Response:
        """Keep that a study was read, or is to be."""
        asked = await _asked(request, {"study_key": str, "revision": int, "read": bool})
        if isinstance(asked, Response):
            return asked
        return await run_in_threadpool(self._mark, asked["study_key"], asked["revision"], is_read=asked["read"])

    def _mark(self, study_key: str, revision: int, *, is_read: bool) -> Response:
        if not self.studies.has(study_key):
            return _told(404, "no such study")
        if is_read:
            self.marks.mark(study_key, min(max(revision, 0), 2**31))
        else:
            self.marks.unmark(study_key)
        return JSONResponse({"study_key": study_key, "read": is_read})

    async def note(self, request: Request) -> Response:
        """Keep a note."""
        asked = await _asked(request, {"study_key": str, "text": str})
        if isinstance(asked, Response):
            return asked
        return await run_in_threadpool(self._note, asked["study_key"], asked["text"])

    def _note(self, study_key: str, text: str) -> Response:
        if not self.may_note:
            return _told(403, "this output folder is de-identified, and a note might name a patient")
        if not self.studies.has(study_key):
            return _told(404, "no such study")
        if len(text) > LONGEST_NOTE:
            return _told(400, f"text: at most {LONGEST_NOTE} characters")
        kept = "\n".join(plain(line, longest=LONGEST_NOTE) for line in text.strip().splitlines())
        self.marks.note(study_key, kept)
        return JSONResponse({"study_key": study_key, "text": kept})

    # ------------------------------------------------------------------ news

    async def events(self, request: Request) -> Response:
        """Tell a page of news for as long as it is open (server-sent events)."""
        del request
        if self.listeners >= MOST_LISTENERS:
            return _told(503, "too many pages are open; this one looks for news by itself")
        self.listeners += 1
        # A proxy that gathers what it passes on would tell news late.
        unbuffered = {"X-Accel-Buffering": "no"}
        return StreamingResponse(self._listened(), media_type="text/event-stream", headers=unbuffered)

    async def _listened(self) -> AsyncIterator[str]:
        try:
            async for event in self.news():
                yield event
        finally:
            self.listeners -= 1

    async def news(self, poll_s: float = NEWS_POLL_S) -> AsyncIterator[str]:
        """Yield an event for each change of the list and of the marks, and now and then a word that says nothing."""
        known, silent_s = await run_in_threadpool(self._state), 0.0
        yield ": listening\n\n"
        while await self._waited(poll_s):
            state, silent_s = await run_in_threadpool(self._state), silent_s + poll_s
            for what in (what for what, now in state.items() if now != known[what]):
                silent_s = 0.0
                yield f"event: {what}\ndata: changed\n\n"
            known = state
            if silent_s >= SILENCE_S:
                silent_s = 0.0
                yield ": still here\n\n"

    async def _waited(self, wait_s: float) -> bool:
        """Wait, and tell whether there is anything to wait for any more."""
        end = anyio.current_time() + wait_s
        while not self.is_stopping() and anyio.current_time() < end:
            await anyio.sleep(min(STOP_POLL_S, wait_s))
        return not self.is_stopping()

    def _state(self) -> dict[str, object]:
        try:
            status = (self.out / DATA_FOLDER / NOW_JS).stat()
            worklist: object = (status.st_ino, status.st_mtime_ns)
        except OSError:
            worklist = None
        return {"worklist": worklist, "marks": self.marks.version()}

    # ------------------------------------------------------------------ what there is to ask

    def openapi(self, request: Request) -> Response:
        """Describe the API to programs."""
        del request
        return JSONResponse(describe_api())

    def api_page(self, request: Request) -> Response:
        """Describe the API to people."""
        del request
        with speaking():
            return HTMLResponse(render_page("api.html.j2", styles=("look.css", "api.css"), api=describe_api()))


def make_app(served: Served, doors: Doors) -> ASGIApp:
    """Return the application, guarded."""
    routes = [
        Route("/api/studies", served.find_studies),
        Route("/api/marks", served.tell_marks, methods=["GET"]),
        Route("/api/marks", served.mark, methods=["POST"]),
        Route("/api/notes", served.note, methods=["POST"]),
        Route("/api/events", served.events),
        Route("/api/openapi.json", served.openapi),
        Route("/api/docs", served.api_page),
        Route("/favicon.ico", _nothing),
        Route("/", served.page),
        Route("/{path:path}", served.page),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={OutputNotWritable: _not_kept}), doors)


def _nothing(request: Request) -> Response:
    del request
    return Response(status_code=204)


def _not_kept(request: Request, error: Exception) -> Response:
    del request, error
    return _told(503, "marks and notes cannot be read or kept now")


async def _asked(request: Request, fields: dict[str, type]) -> dict[str, Any] | Response:
    """Return the JSON object that was sent, which has these fields and no other; or why it is not taken."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return _told(415, "send application/json")
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > REQUEST_BYTES:
            return _told(413, f"at most {REQUEST_BYTES} bytes")
    try:
        asked = json.loads(content)
    except (ValueError, RecursionError):
        return _told(400, "no JSON")
    fits = isinstance(asked, dict) and asked.keys() == fields.keys()
    if not fits or not all(type(asked[name]) is kind for name, kind in fields.items()):
        named = ", ".join(f"{name} ({kind.__name__})" for name, kind in fields.items())
        return _told(400, f"send an object with {named}")
    return dict(asked)


def _told(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status)
