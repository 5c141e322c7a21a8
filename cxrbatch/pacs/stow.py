"""Sending by STOW-RS (PS3.18 10.5): an object a request, so that each has an answer of its own."""

from __future__ import annotations

import ipaddress
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pydicom
import requests

from cxrbatch.errors import UsageError
from cxrbatch.pacs.courier import Answer, Lost, judge
from cxrbatch.pacs.due import Parcel
from cxrbatch.pacs.peer import Patience

_STORED = range(200, 300)
_WITH_ANSWER = (*_STORED, 409)
# RFC 9110: the server cannot now, or asks to be asked later.
_FOR_NOW = frozenset({408, 423, 425, 429, 500, 502, 503, 504, 507, 509})
_NOT_ALLOWED = frozenset({401, 403, 407})
_ABOUT_THE_OBJECT = frozenset({400, 406, 411, 413, 415, 422, 431})
_LONGEST_ANSWER = 1 << 20
# PS3.18 table I.2-1 in the JSON of PS3.18 annex F.
_FAILED, _REFERENCED, _UID = "00081198", "00081199", "00081155"
_FAILURE, _WARNING = "00081197", "00081196"
_TAG = re.compile("[0-9A-Fa-f]{8}")
_HTML = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_PRIVATE_INFORMATION = (0x00020100, 0x00020102)


@dataclass(frozen=True, slots=True)
class WebPeer:
    """A DICOMweb server: the address of its service, and how to get in.

    Attributes:
        url: without what follows /studies, user, password, query or fragment.
        authorization: the header's value; empty for none.
        authority: who must have signed its certificate (PEM); None: whom this machine trusts anyway.
        certificate: our own and its key (PEM), where the server asks for one.
    """

    url: str
    authorization: str = field(default="", repr=False)
    authority: Path | None = None
    certificate: tuple[Path, Path] | None = None
    patience: Patience = field(default_factory=Patience)

    def __str__(self) -> str:
        return self.url

    @property
    def is_open(self) -> bool:
        """Tell whether others can read on the way what is sent: no TLS, and not within this machine."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


def read_url(text: str) -> str:
    """Return an address as it tells one server from others.

    Raises:
        UsageError: it is none, or says more than where.
    """
    try:
        parts = urlsplit(text)
        is_sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_sound = False
    if not is_sound or not text.isascii() or any(character <= " " for character in text):
        raise UsageError("the DICOMweb address must begin with http:// or https:// and name a host.")
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError(
            "the DICOMweb address must have no user, password or query: others can read a command line. Put a token "
            "into a file (--token-file), a user and a password into another (--login-file)."
        )
    return parts._replace(netloc=parts.netloc.lower(), path=parts.path.rstrip("/").removesuffix("/studies")).geturl()


class StowCourier:
    """Takes objects to a DICOMweb server; the connection stays open until `rest`."""

    def __init__(self, whom: WebPeer) -> None:
        """Take the server."""
        self._whom = whom
        self._session: requests.Session | None = None

    @property
    def peer(self) -> str:
        """The address."""
        return self._whom.url

    def send(self, parcels: Sequence[Parcel]) -> Iterator[tuple[Parcel, Answer]]:
        """Send objects, and yield each with its answer."""
        for parcel in parcels:
            yield parcel, self._store(parcel)

    def settle(self) -> set[str]:
        """Return nothing: hardly any server offers the storage commitment of DICOMweb."""
        return set()

    def rest(self) -> None:
        """Close the connection."""
        if self._session is not None:
            self._session.close()
        self._session = None

    def _store(self, parcel: Parcel) -> Answer:
        boundary = uuid.uuid4().hex
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        patience = self._whom.patience
        try:
            with self._opened().post(
                f"{self._whom.url}/studies",
                data=_multipart(travelling(parcel.content), boundary),
                headers={"Content-Type": kind, "Accept": "application/dicom+json"},
                timeout=(patience.connect_s, patience.answer_s),
                allow_redirects=False,
                stream=True,
            ) as response:
                return self._judge(response, parcel)
        except requests.exceptions.SSLError as error:
            raise Lost(f"{self._whom}: TLS fails: {innermost(error)}.", parcel) from None
        except requests.exceptions.ConnectionError as error:
            raise Lost(f"{self._whom}: cannot be reached: {innermost(error)}.") from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise Lost(f"{self._whom}: does not answer: {type(error).__name__}.", parcel) from None

    def _judge(self, response: requests.Response, parcel: Parcel) -> Answer:
        status = response.status_code
        if status in _WITH_ANSWER:
            try:
                return judge_answer(status, self._read(response), parcel.uid)
            except NotAsked as error:
                raise Lost(f"{self._whom}: answers {status}, and {error}.", parcel, may_pass=error.may_pass) from None
        if status in _FOR_NOW:
            raise Lost(f"{self._whom}: answers {status}.", parcel)
        if status in _NOT_ALLOWED:
            raise Lost(f"{self._whom}: answers {status}: it does not let us in. Check token or login.", may_pass=False)
        if status in _ABOUT_THE_OBJECT:
            return Answer(f"HTTP {status}", "refused")
        raise Lost(f"{self._whom}: answers {status}: nothing can be stored at this address.", may_pass=False)

    def _read(self, response: requests.Response) -> bytes:
        deadline, found = time.monotonic() + self._whom.patience.answer_s, b""
        for block in response.iter_content(1 << 16):
            found += block
            if len(found) > _LONGEST_ANSWER or time.monotonic() > deadline:
                break
        return found

    def _opened(self) -> requests.Session:
        if self._session is None:
            self._session = session = requests.Session()
            # Always set: without it a .netrc would be asked, and what it says sent.
            session.auth = self._authorize
            session.verify = str(self._whom.authority) if self._whom.authority else True
            session.cert = tuple(map(str, self._whom.certificate)) if self._whom.certificate else None  # type: ignore[assignment]  # two
        return self._session

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._whom.authorization:
            request.headers["Authorization"] = self._whom.authorization
        return request


def judge_answer(status: int, content: bytes, uid: str) -> Answer:
    """Return what a server said of one object: in its answer by name, else by the status of all.

    Args:
        status: of the HTTP response: 2xx or 409.
        content: its body; what is neither JSON nor HTML says nothing.
        uid: the object's SOP Instance UID.

    Raises:
        NotAsked: it says something, but not of this object.
    """
    said = _first(content)
    failed, referenced = _items(said, _FAILED), _items(said, _REFERENCED)
    for item in failed:
        if _value(item, _UID) == uid:
            reason = _number(item, _FAILURE)
            return judge(reason) if reason else Answer(f"HTTP {status}", "refused")
    for item in referenced:
        if _value(item, _UID) == uid:
            return Answer(f"{_number(item, _WARNING):04X}", "stored")
    if status in _STORED and (failed or referenced):
        raise NotAsked("names other objects than the one that was sent", may_pass=True)
    if status in _STORED and (_HTML.match(content) or not all(map(_TAG.fullmatch, said))):
        raise NotAsked("says nothing that a DICOMweb service says; perhaps it is a page to log in", may_pass=False)
    return Answer(f"HTTP {status}", "stored" if status in _STORED else "refused")


class NotAsked(Exception):
    """A server answers something else than it was asked, so that nobody knows whether the object is stored."""

    def __init__(self, message: str, *, may_pass: bool) -> None:
        super().__init__(message)
        self.may_pass = may_pass


def travelling(content: bytes) -> bytes:
    """Return an object's file without what only we are to know: which result it was made of (PS3.10 7.1)."""
    dataset = pydicom.dcmread(BytesIO(content))
    for tag in _PRIVATE_INFORMATION:
        dataset.file_meta.pop(tag, None)
    written = BytesIO()
    dataset.save_as(written, enforce_file_format=True)
    return written.getvalue()


def _multipart(content: bytes, boundary: str) -> bytes:
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join([head, content, f"\r\n--{boundary}--\r\n".encode()])


def _first(content: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return {}
    first = found[0] if isinstance(found, list) and found else found
    return first if isinstance(first, dict) else {}


def _items(said: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    element = said.get(tag)
    items = element.get("Value") if isinstance(element, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _value(item: dict[str, Any], tag: str) -> object:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _number(item: dict[str, Any], tag: str) -> int:
    value = _value(item, tag)
    return value if isinstance(value, int) and 0 <= value <= 0xFFFF else 0


def innermost(error: BaseException) -> str:
    """Return the sentence of the error that began it; those around it repeat the address, and more."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(getattr(error, "strerror", None) or getattr(error, "verify_message", None) or type(error).__name__)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
