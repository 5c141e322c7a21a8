"""A C-STORE and C-ECHO server that fills INPUT (PS3.4 annexes A and B). Start at `receive`.

Messages name no patient and no UID: what a sender writes there is for INPUT, not for a log.
"""

from __future__ import annotations

import logging
import ssl
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made as they are asked for
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    Verification,
)

from cxrbatch.errors import ConfigurationError
from cxrbatch.intake.codecs.transfer_syntaxes import SUPPORTED
from cxrbatch.pacs.fragments import bound
from cxrbatch.pacs.inbox import Inbox, NoRoom
from cxrbatch.pacs.lines import ASSOCIATING_S, LARGEST_PDU, NETWORK_TIMEOUT_S, LineServer, start_server
from cxrbatch.pacs.received import name_of
from cxrbatch.pages.wording import plain
from cxrbatch.system.stopping import stop_if_asked

# What INPUT may hold that is scored, or refused with a reason worth reading.
RADIOGRAPHS = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)

# PS3.4 table B.2-1.
SUCCESS, OUT_OF_RESOURCES, NO_MATCH, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000

# PS3.8 table 9-21: source and reason of a rejection.
_CALLED_UNKNOWN, _CALLING_UNKNOWN = (1, 7), (1, 3)
_ANSWER_TIMEOUT_S = 30.0
_POLL_S = 0.2
_ENDING_S = 30.0


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a server: its certificate and key, and the authority that clients' certificates must come from."""

    certificate: Path
    key: Path
    client_authority: Path | None = None


@dataclass(frozen=True, slots=True)
class Reception:
    """Where a server listens, as whom, and from whom it takes objects; nobody named: from anybody."""

    host: str = "127.0.0.1"
    port: int = 11112
    aet: str = "CXRBATCH"
    accept_from: tuple[str, ...] = ()
    most_associations: int = 10
    tls: TlsFiles | None = None


@dataclass(slots=True)
class _Association:
    """Who sends, and what became of it so far."""

    peer: str
    counts: Counter[str] = field(default_factory=Counter)


class Receiver:
    """Takes what associations bring; each of them is served by a thread of its own."""

    def __init__(self, inbox: Inbox, tell: Callable[[str], None]) -> None:
        self._inbox, self._tell = inbox, tell
        self._associations: dict[object, _Association] = {}
        self._guard = threading.Lock()

    @property
    def handlers(self) -> list[EventHandlerType]:
        """What the server calls, and when."""
        return [
            (evt.EVT_REQUESTED, self._prepare),
            (evt.EVT_C_STORE, self.store),
            (evt.EVT_ACCEPTED, self._begin),
            (evt.EVT_REJECTED, self._tell_rejected),
            (evt.EVT_RELEASED, self._end),
            (evt.EVT_ABORTED, self._end),
            (evt.EVT_CONN_CLOSE, self._end),
        ]

    def store(self, event: Event) -> int:
        """Answer a C-STORE request: its status is success only once the object is on the disk."""
        status, what = self._store(event)
        with self._guard:
            if event.assoc in self._associations:
                self._associations[event.assoc].counts[what] += 1
        return status

    def _store(self, event: Event) -> tuple[int, str]:
        try:
            self._inbox.require_room()
            study_uid, sop_uid = _identify(event)
            return SUCCESS, self._inbox.take(event.dataset_path, study_uid, sop_uid).value
        except (NoRoom, FileNotFoundError):  # the file of what there was no room for is gone
            return OUT_OF_RESOURCES, "refused, the disk is full"
        except _Mismatch:
            return NO_MATCH, "refused, not what was announced"
        except OSError as error:
            return OUT_OF_RESOURCES, f"refused, {error.strerror or 'it cannot be written'}"
        except Exception:  # noqa: BLE001  # whatever pydicom makes of what a stranger sent
            return NOT_UNDERSTOOD, "refused, no DICOM data set with a study"

    def _prepare(self, event: Event) -> None:
        bound(event.assoc.dimse, self._inbox.has_room)
        _prefer_what_is_preferred(event.assoc)

    def _begin(self, event: Event) -> None:
        with self._guard:
            self._associations[event.assoc] = _Association(_peer_of(event))

    def _tell_rejected(self, event: Event) -> None:
        """Say whom we did not let in: as a rule a title was entered wrongly, here or there."""
        request: Any = event.assoc.requestor.primitive
        answer: Any = event.assoc.acceptor.primitive
        called = plain(str(request.called_ae_title).strip(), longest=16)
        why = {
            _CALLED_UNKNOWN: f"it calls {called}, which is not our AE title",
            _CALLING_UNKNOWN: "--accept-from does not name it",
        }.get((answer.result_source, answer.diagnostic), "there are too many at a time")
        self._tell(f"{_peer_of(event)}: association refused, {why}")

    def _end(self, event: Event) -> None:
        self._inbox.remove_abandoned()  # pynetdicom leaves what broke off, and what nobody waits for any more
        with self._guard:
            ended = self._associations.pop(event.assoc, None)
        if ended is not None and ended.counts:
            told = ", ".join(f"{number} {what}" for what, number in sorted(ended.counts.items()))
            self._tell(f"{ended.peer}: {told}")


def _peer_of(event: Event) -> str:
    requestor = event.assoc.requestor
    return f"{plain(requestor.ae_title.strip(), longest=16)} at {requestor.address}"


def _prefer_what_is_preferred(association: Any) -> None:
    """Take the first transfer syntax that a sender proposes and we can read, as it orders them.

    pynetdicom takes the first of ours: whoever proposes JPEG and, should we not take that, an uncompressed syntax as
    well would have to decompress.
    """
    proposed: dict[str, list[str]] = {}
    for each in association.requestor.primitive.presentation_context_definition_list:
        proposed.setdefault(each.abstract_syntax, []).extend(each.transfer_syntax)
    for context in association.acceptor.supported_contexts:
        wanted = [uid for uid in proposed.get(context.abstract_syntax, ()) if uid in context.transfer_syntax]
        if wanted:
            context.transfer_syntax = list(dict.fromkeys(wanted))


class _Mismatch(Exception):
    """The data set is another object than the request named."""


def _identify(event: Event) -> tuple[str, str]:
    """Return the Study and SOP Instance UIDs of a received object; its own, which must be those it was sent under."""
    request: Any = event.request
    found = name_of(event.dataset_path)
    if (found.sop_class_uid, found.sop_instance_uid) != (
        str(request.AffectedSOPClassUID),
        str(request.AffectedSOPInstanceUID),
    ):
        raise _Mismatch
    return found.study_uid, found.sop_instance_uid


def receive(inbox: Inbox, reception: Reception, tell: Callable[[str], None]) -> None:
    """Listen, and fill an inbox until a signal asks for a stop; then let associations come to their end.

    Args:
        inbox: where objects go, open.
        reception: where to listen.
        tell: called with a line for each association that brought something, and each that TLS refused.

    Raises:
        ConfigurationError: the address cannot be listened on, or a TLS file is no use.
        Stopped: a signal asked for it.
    """
    with listening(inbox, reception, tell):
        tell(f"{reception.aet} listens on {reception.host}:{reception.port}")
        while True:
            stop_if_asked()
            time.sleep(_POLL_S)


@contextmanager
def listening(inbox: Inbox, reception: Reception, tell: Callable[[str], None]) -> Iterator[None]:
    """Fill an inbox while the block runs; then let associations come to their end.

    Args: those of `receive`.

    Raises:
        ConfigurationError: the address cannot be listened on, or a TLS file is no use.
    """
    logging.getLogger("pynetdicom").propagate = False  # its messages hold what senders wrote
    entity = _entity(reception)
    with warnings.catch_warnings(), ExitStack() as afterwards:
        warnings.simplefilter("ignore")  # pydicom's quote values
        # Objects go to temporary files as they come; those are in the inbox.
        afterwards.callback(setattr, _config, "STORE_RECV_CHUNKED_DATASET", _config.STORE_RECV_CHUNKED_DATASET)
        afterwards.callback(setattr, tempfile, "tempdir", tempfile.tempdir)
        _config.STORE_RECV_CHUNKED_DATASET, tempfile.tempdir = True, str(inbox.incoming)
        context = _tls_context(reception.tls) if reception.tls else None
        try:
            server = start_server(
                entity, (reception.host, reception.port), context, Receiver(inbox, tell).handlers, tell
            )
        except OSError as error:
            raise ConfigurationError(
                f"{reception.host}:{reception.port}: cannot be listened on ({error.strerror}). Choose another --port, "
                "or end what listens there."
            ) from error
        afterwards.callback(_end_gently, entity, server)
        yield


def _entity(reception: Reception) -> AE:
    entity = AE(ae_title=reception.aet)
    entity.require_called_aet = True
    entity.require_calling_aet = list(reception.accept_from)
    entity.maximum_associations = reception.most_associations
    entity.maximum_pdu_size = LARGEST_PDU
    entity.network_timeout, entity.dimse_timeout = NETWORK_TIMEOUT_S, _ANSWER_TIMEOUT_S
    entity.acse_timeout = ASSOCIATING_S
    entity.add_supported_context(Verification)
    for storage in RADIOGRAPHS:
        entity.add_supported_context(storage, sorted(SUPPORTED))
    return entity


def _tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Return how connections are secured: TLS 1.2 or later (PS3.15 B.12), with client certificates where asked for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key)
        if files.client_authority is not None:
            context.load_verify_locations(files.client_authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"{files.certificate}, {files.key}: TLS cannot use these files ({error}). They have to be PEM, and belong "
            "together."
        ) from error
    return context


def _end_gently(entity: AE, server: LineServer) -> None:
    """Take no more associations, and wait for those that are at work to end by themselves."""
    server.shutdown()  # the entity's own would abort what is at work
    deadline = time.monotonic() + _ENDING_S
    while any(each.is_established for each in entity.active_associations) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    server.hang_up()  # or the next line waits for who has said half of something
    entity.shutdown()
