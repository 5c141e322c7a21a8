"""What every request has to get past, before any of it is looked at: name, token, origin. Start at `Guard`."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cxrbatch.serve.doors import Doors

SERVED_COOKIE = "cxrbatch_served"
_YEAR_S = 31_536_000
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # A workstation is shared, and so is what its browser keeps.
    "Cache-Control": "no-store",
}
# The pages bring policies of their own, which let their own script run; a second one can only forbid.
_POLICY = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_READING = frozenset({"GET", "HEAD"})

# Going on from a page of our own, the browser sends the cookie also to whoever came by a link from elsewhere.
_WELCOME = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0;url=./"><title>Worklist</title></head>
<body><p><a href="./">To the worklist</a></p></body></html>
"""
_NOT_KNOWN = "The token is missing or wrong. Open the address that `cxrbatch serve` printed when it started.\n"


@dataclass(frozen=True, slots=True)
class Guard:
    """Lets requests through to `app` that name this server, know its token, and do not come from another page."""

    app: ASGIApp
    doors: Doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request; whatever is answered says how a browser is to treat it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message))
            await send(message)

        request = Request(scope)
        answer = self._refused(request) or self._welcomed(request) or self._unknown(request)
        await (answer or self.app)(scope, receive, send_guarded)

    @property
    def cookie(self) -> str:
        """The name of the cookie; of servers on several ports of one machine each has its own."""
        return f"cxrbatch_token_{self.doors.port}"

    def _add_headers(self, headers: MutableHeaders) -> None:
        for name, value in _HEADERS.items():
            headers[name] = value
        headers.append("Content-Security-Policy", _POLICY)
        if self.doors.is_encrypted:
            headers["Strict-Transport-Security"] = f"max-age={_YEAR_S}"

    def _refused(self, request: Request) -> Response | None:
        """Refuse what names another server, or what a page of another server asks for."""
        if _name_of(f"//{request.headers.get('host', '')}") not in self.doors.allowed_names:
            return PlainTextResponse("This server is not known by that name.\n", 421)
        if not self._is_from_here(request.headers, request.method):
            return PlainTextResponse("Another page may not ask for this.\n", 403)
        return None

    def _is_from_here(self, headers: Headers, method: str) -> bool:
        site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
        # Another port of this machine is the same site to a browser, and gets its cookies: only the origin counts.
        opens_page = method in _READING and headers.get("sec-fetch-dest") == "document"
        if site not in {"same-origin", "none"} and not opens_page:
            return False
        if origin is not None:
            own = f"//{headers.get('host', '')}".lower()
            # A proxy may ask under a name of its own.
            return origin.lower().endswith(own) or (self.doors.behind_proxy and _name_of(origin) in self.doors.names)
        return method in _READING or self._has_bearer(headers)

    def _welcomed(self, request: Request) -> Response | None:
        """Give the cookie to whoever came with the token in the address."""
        given = parse_qs(request.url.query).get("token", [])
        if request.method != "GET" or request.url.path not in {"/", "/index.html"} or not given:
            return None
        if not self._is_token(given[0]):
            return PlainTextResponse(_NOT_KNOWN, 401)
        answer = HTMLResponse(_WELCOME)
        secure = self.doors.is_encrypted
        answer.set_cookie(self.cookie, self.doors.token, httponly=True, samesite="strict", secure=secure)
        # Tells the page's script, which may not see the other one, that there is somebody to ask.
        answer.set_cookie(SERVED_COOKIE, "1", samesite="strict", secure=secure)
        return answer

    def _unknown(self, request: Request) -> Response | None:
        cookies = cookie_parser(request.headers.get("cookie", ""))
        if self._is_token(cookies.get(self.cookie, "")) or self._has_bearer(request.headers):
            return None
        return PlainTextResponse(_NOT_KNOWN, 401, {"WWW-Authenticate": "Bearer"})

    def _has_bearer(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._is_token(token.strip())

    def _is_token(self, given: str) -> bool:
        """Compare in a time that does not tell how much of it is right."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.doors.token.encode())


def _name_of(address: str) -> str:
    """Return the host that an address names, without its port; '' where it names none."""
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""
