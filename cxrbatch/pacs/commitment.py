"""Storage commitment (PS3.4 annex J): asking an archive to keep what it stored, and hearing what it answers.

The answer comes on the association that asked, or on one that the archive opens by itself, as it is configured:
`listening` waits for that. Who answers neither way has stored the objects all the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made as they are asked for
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from cxrbatch.errors import ConfigurationError
from cxrbatch.output.sent import SentObjects
from cxrbatch.pacs.due import Parcel
from cxrbatch.system.stopping import stop_if_asked

ANSWERS_WITHIN_S = 5.0
"""For so long an answer is waited for on the association that asked, once: who did not answer there never does."""

_REQUEST = 1
_SUCCESS, _NOT_UNDERSTOOD = 0x0000, 0x0110
# PS3.3 C.14.1.1: no commitment for this class, transaction UID known already. Neither says that it is not there.
_STORED = (0x0122, 0x0131)
_POLL_S = 0.05


class Commitment:
    """What was stored and not asked about yet, and the answers that came and are not noted yet."""

    def __init__(self, sent: SentObjects, *, listens: bool = False, within_s: float | None = None) -> None:
        """Take where answers are noted.

        Args:
            sent: the objects that were sent.
            listens: whether the archive can reach us to answer on an association of its own.
            within_s: how long to wait for an answer on the association that asked; by default ANSWERS_WITHIN_S.
        """
        self._sent, self._listens = sent, listens
        self._within_s = ANSWERS_WITHIN_S if within_s is None else within_s
        self._stored: list[Parcel] = []
        self._asked: set[str] = set()
        self._answers: SimpleQueue[tuple[str, list[str], list[str]]] = SimpleQueue()
        self._answers_there = True
        self._lost: set[str] = set()

    @staticmethod
    def context() -> PresentationContext:
        """Return what is proposed."""
        return build_context(StorageCommitmentPushModel, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])

    @property
    def handlers(self) -> list[EventHandlerType]:
        """What an association calls when an answer comes; it does so in a thread of its own."""
        return [(evt.EVT_N_EVENT_REPORT, self._hear)]

    def add(self, parcel: Parcel) -> None:
        """Note that an object was stored."""
        self._stored.append(parcel)

    def ask(self, association: Association) -> None:
        """Ask for what was stored since the last time, where the peer offers to answer, and wait a little for that."""
        stored, self._stored = self._stored, []
        offered = any(each.abstract_syntax == StorageCommitmentPushModel for each in association.accepted_contexts)
        if not stored or not offered or not (self._answers_there or self._listens):
            return
        transaction = generate_uid(prefix=None)
        # Before it is asked: the answer may be faster than whatever comes after.
        self._sent.ask_commitment(transaction, [parcel.uid for parcel in stored])
        self._asked.add(transaction)
        try:
            status, _ = association.send_n_action(
                _request(transaction, stored), _REQUEST, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        except (RuntimeError, ValueError):
            return
        if status.get("Status") == _SUCCESS and self._answers_there:
            self._wait(transaction, association)

    def note_answers(self) -> set[str]:
        """Note what was answered since the last time; return the studies that have something to be sent again."""
        while True:
            try:
                transaction, kept, lost = self._answers.get_nowait()
            except Empty:
                found, self._lost = self._lost, set()
                return found
            self._asked.discard(transaction)
            self._lost |= self._sent.note_commitment(transaction, kept, lost)

    def wait(self, seconds: float) -> set[str]:
        """Wait so long for answers on associations of the archive's own; return what `note_answers` does."""
        deadline, found = time.monotonic() + seconds, self.note_answers()
        while self._listens and self._asked and time.monotonic() < deadline:
            stop_if_asked()
            time.sleep(_POLL_S)
            found |= self.note_answers()
        return found

    def _wait(self, transaction: str, association: Association) -> None:
        deadline = time.monotonic() + self._within_s
        while transaction in self._asked and time.monotonic() < deadline and association.is_established:
            stop_if_asked()
            time.sleep(_POLL_S)
            self._lost = self.note_answers()
        self._answers_there = transaction not in self._asked

    def _hear(self, event: Event) -> tuple[int, None]:
        try:
            answer = event.event_information
            kept = [str(each.ReferencedSOPInstanceUID) for each in answer.get("ReferencedSOPSequence") or ()]
            failed = answer.get("FailedSOPSequence") or ()
            lost = [str(each.ReferencedSOPInstanceUID) for each in failed if each.get("FailureReason") not in _STORED]
            self._answers.put((str(answer.TransactionUID), kept, lost))
        except Exception:  # noqa: BLE001  # whatever pydicom makes of what a stranger sent
            return _NOT_UNDERSTOOD, None
        return _SUCCESS, None


def _request(transaction: str, stored: list[Parcel]) -> Dataset:
    request = Dataset()
    request.TransactionUID = transaction
    request.ReferencedSOPSequence = []
    for parcel in stored:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = parcel.sop_class, parcel.uid
        request.ReferencedSOPSequence.append(item)
    return request


@contextmanager
def listening(commitment: Commitment, host: str, port: int, aet: str) -> Iterator[None]:
    """Answer an archive that opens an association of its own to say what it committed itself to.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    entity = AE(ae_title=aet)
    entity.add_supported_context(Verification)  # who sets an archive up tries this first
    # The archive is the provider, although it is the one that calls: it asks for that role, or does without.
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    try:
        server = entity.start_server((host, port), block=False, evt_handlers=commitment.handlers)
    except OSError as error:
        raise ConfigurationError(
            f"{host}:{port}: cannot be listened on ({error.strerror}). Choose another address for --commit-at."
        ) from error
    assert server is not None, "or it would have blocked"
    try:
        yield
    finally:
        server.shutdown()
