"""An archive that is asked by QIDO-RS, and whose objects are fetched by WADO-RS (PS3.18)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from dicomweb_client import DICOMwebClient

from cxrbatch.pacs.archive import Answers, Lost, ObjectFound, SeriesFound, Span, StudyFound, read_moment
from cxrbatch.pacs.inbox import Inbox, NoRoom
from cxrbatch.pacs.parts import BrokenOff, received_parts
from cxrbatch.pacs.received import name_of
from cxrbatch.pacs.stow import WebPeer, innermost
from cxrbatch.system.stopping import stop_if_asked

# (0020,000D) and so on: keywords may be asked for, answers come by tag (PS3.18 annex F).
_STUDY, _SERIES, _SOP, _CLASS = "0020000D", "0020000E", "00080018", "00080016"
_DATE, _TIME, _MODALITIES, _MODALITY = "00080020", "00080030", "00080061", "00080060"
_MANUFACTURER, _NUMBER, _OBJECTS = "00080070", "00200011", "00201209"
_PAGE = 200
_ANY_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'
# What is the matter with one object says nothing of the others.
_NOT_THERE = frozenset({400, 404, 406, 409, 410, 415, 422})
_FOR_NOW = frozenset({408, 423, 425, 429, 500, 502, 503, 504, 507})


class WebArchive:
    """A DICOMweb service; what it sends goes into the inbox object by object."""

    def __init__(self, whom: WebPeer, inbox: Inbox) -> None:
        """Take the service, and where objects go."""
        logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL)  # its messages hold what was answered
        self._whom, self._inbox = whom, inbox
        self._session: requests.Session | None = None
        self._piecemeal: set[str] = set()

    @property
    def name(self) -> str:
        """The address."""
        return self._whom.url

    def studies(self, span: Span, modality: str) -> Answers:
        """Return the studies of a time that have a series of this modality, or that might."""
        filters = {"StudyDate": span.dates} | ({"ModalitiesInStudy": modality} if modality else {})
        if span.times:
            filters["StudyTime"] = span.times
        fields = [_STUDY, _DATE, _TIME, _MODALITIES]
        found = self._pages(_STUDY, "search_for_studies", fields=fields, search_filters=filters)
        return Answers(tuple(_study(each) for each in found))

    def series(self, study_uid: str) -> Sequence[SeriesFound]:
        """Return the series of a study."""
        fields = [_SERIES, _MODALITY, _MANUFACTURER, _NUMBER, _OBJECTS]
        found = self._pages(_SERIES, "search_for_series", study_instance_uid=study_uid, fields=fields)
        return [_series(study_uid, each) for each in found]

    def objects(self, series: SeriesFound) -> Sequence[ObjectFound]:
        """Return the objects of a series."""
        where = {"study_instance_uid": series.study_uid, "series_instance_uid": series.uid}
        found = self._pages(_SOP, "search_for_instances", **where, fields=[_SOP, _CLASS])
        return [ObjectFound(_text(each, _SOP), _text(each, _CLASS)) for each in found]

    def fetch(self, series: SeriesFound, uids: Sequence[str], *, is_all: bool) -> str:
        """Fetch objects of a series, as they are stored; return what went wrong, in words, or "".

        A series that did not come as a whole comes object by object the next time: one that the service cannot give
        holds up no other.
        """
        where = f"studies/{_quoted(series.study_uid)}/series/{_quoted(series.uid)}"
        if is_all and series.uid not in self._piecemeal:
            self._piecemeal.add(series.uid)
            problem = self._fetch(where, series.study_uid)
            self._piecemeal.discard(series.uid)
            return problem
        return self._fetch_each([f"{where}/instances/{_quoted(uid)}" for uid in uids], series.study_uid)

    def _fetch_each(self, places: Sequence[str], study_uid: str) -> str:
        """Fetch objects one by one; where two in a row fail, more would."""
        problem, lost, in_a_row = "", None, 0
        for place in places:
            try:
                problem = self._fetch(place, study_uid) or problem
                in_a_row = 0
            except Lost as error:
                lost, in_a_row = error, in_a_row + 1
                if in_a_row > 1 or not error.may_pass:
                    raise
        if lost is not None:
            raise lost
        return problem

    def rest(self) -> None:
        """Close the connection."""
        if self._session is not None:
            self._session.close()
        self._session = None

    def _fetch(self, place: str, study_uid: str) -> str:
        """Fetch what is at one address; return what went wrong, in words, or ""."""
        problem = ""
        patience = self._whom.patience
        with (
            self._asking(),
            self._opened().get(
                f"{self._whom.url}/{place}",
                headers={"Accept": _ANY_SYNTAX},
                timeout=(patience.connect_s, patience.answer_s),
                stream=True,
            ) as answer,
        ):
            if answer.status_code in _NOT_THERE:
                return f"it answers {answer.status_code} for some objects"
            answer.raise_for_status()
            try:
                for received in received_parts(answer, self._inbox.incoming):
                    problem = self._take(received, study_uid) or problem
                    stop_if_asked()
            except requests.exceptions.RequestException:
                raise  # an OSError as well
            except OSError as error:
                return _unwritten(error)
        return problem

    def _take(self, received: Path, study_uid: str) -> str:
        try:
            named = name_of(received)
        except Exception:  # noqa: BLE001  # whatever pydicom makes of what a stranger sent
            return "it sent what is no DICOM object of a study"
        if named.study_uid != study_uid:
            return "it sent something else than it was asked for"
        try:
            self._inbox.require_room()
            self._inbox.take(received, study_uid, named.sop_instance_uid)
        except NoRoom:
            return "the disk is full (--min-free)"
        except OSError as error:
            return _unwritten(error)
        else:
            return ""

    def _pages(self, key: str, search: str, **query: Any) -> list[dict[str, Any]]:
        """Ask for page after page, until one brings nothing new: some services take no offset, others give fewer."""
        found: dict[str, dict[str, Any]] = {}
        offset = 0
        while True:
            stop_if_asked()
            with self._asking() as client:
                page = getattr(client, search)(limit=_PAGE, offset=offset, **query)
                if page and not any(isinstance(each, dict) and _text(each, key) for each in page):
                    raise TypeError("no list of data sets")
            whole = [each for each in page if isinstance(each, dict) and _text(each, key)]
            new = {_text(each, key): each for each in whole if _text(each, key) not in found}
            if not new:
                return list(found.values())
            found |= new
            offset += len(page)

    @contextmanager
    def _asking(self) -> Iterator[DICOMwebClient]:
        """Yield a client whose errors are told in words, without the address of a patient's study."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's quote values
                yield self._client()
        except (BrokenOff, requests.exceptions.ChunkedEncodingError):
            raise Lost(f"{self.name}: its answer broke off") from None
        except requests.exceptions.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            hint = ": it does not let us in. Check token or login" if status in {401, 403, 407} else ""
            raise Lost(f"{self.name}: answers {status}{hint}", may_pass=status in _FOR_NOW) from None
        except requests.exceptions.SSLError as error:
            raise Lost(f"{self.name}: TLS fails: {innermost(error)}", may_pass=False) from None
        except requests.exceptions.ConnectionError as error:
            raise Lost(f"{self.name}: cannot be reached: {innermost(error)}") from None
        except Exception as error:  # noqa: BLE001  # whatever two libraries make of what a stranger answers
            raise Lost(f"{self.name}: its answer is of no use ({type(error).__name__})") from None

    def _client(self) -> DICOMwebClient:
        patience = self._whom.patience
        client = DICOMwebClient(self._whom.url, session=self._opened(), timeout=(patience.connect_s, patience.answer_s))
        client.set_http_retry_params(retry=False)
        return client

    def _opened(self) -> requests.Session:
        if self._session is None:
            self._session = requests.Session()
            # Always set: without it a .netrc would be asked, and what it says sent.
            self._session.auth = self._authorize
            self._session.verify = str(self._whom.authority) if self._whom.authority else True
            self._session.cert = tuple(map(str, self._whom.certificate)) if self._whom.certificate else None  # type: ignore[assignment]  # two
        return self._session

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._whom.authorization:
            request.headers["Authorization"] = self._whom.authorization
        return request


def _quoted(uid: str) -> str:
    return quote(uid, safe="")


def _unwritten(error: OSError) -> str:
    return f"it cannot be written here ({error.strerror or 'OSError'})"


def _study(found: dict[str, Any]) -> StudyFound:
    modalities = frozenset(map(str, _values(found, _MODALITIES)))
    return StudyFound(_text(found, _STUDY), modalities, read_moment(_text(found, _DATE), _text(found, _TIME)))


def _series(study_uid: str, found: dict[str, Any]) -> SeriesFound:
    number = _text(found, _OBJECTS)
    return SeriesFound(
        study_uid,
        _text(found, _SERIES),
        _text(found, _MODALITY),
        _text(found, _MANUFACTURER),
        _text(found, _NUMBER),
        int(number) if number.isdigit() else 0,
    )


def _text(found: dict[str, Any], tag: str) -> str:
    values = _values(found, tag)
    return str(values[0]).strip() if values and values[0] is not None else ""


def _values(found: dict[str, Any], tag: str) -> list[Any]:
    element = found.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []
