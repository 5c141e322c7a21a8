"""Sending by C-STORE (PS3.4 annex B): one association for many objects, each in a syntax that the peer takes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from io import BytesIO

import pydicom
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made as they are asked for
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    SecondaryCaptureImageStorage,
)

from cxrbatch.pacs.commitment import Commitment
from cxrbatch.pacs.courier import NOT_SUPPORTED, Answer, Lost, judge
from cxrbatch.pacs.due import Parcel
from cxrbatch.pacs.peer import NoAssociation, Peer, open_association

_LAST_NUMBER = 0xFFFF  # PS3.7 E.1: a message's ID is a US
_PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
SYNTAXES: dict[str, tuple[UID, ...]] = {
    Comprehensive3DSRStorage: _PLAIN,
    SecondaryCaptureImageStorage: (JPEGBaseline8Bit, *_PLAIN),
    EncapsulatedPDFStorage: _PLAIN,
}
"""What is proposed: for each SOP class its transfer syntaxes, the best one first, each in a context of its own."""


class StoreCourier:
    """Takes objects to a DICOM peer; the association stays open until `rest`, or until it is lost."""

    def __init__(self, whom: Peer, commitment: Commitment | None = None) -> None:
        """Take the peer, and who asks it to commit itself to what it stored."""
        self._whom, self._commitment = whom, commitment
        self._association: Association | None = None
        self._number = 0
        self._answers: deque[tuple[int, str]] = deque()

    @property
    def peer(self) -> str:
        """AE title, host and port."""
        return str(self._whom)

    def send(self, parcels: Sequence[Parcel]) -> Iterator[tuple[Parcel, Answer]]:
        """Send objects, and yield each with its answer."""
        for parcel in parcels:
            association = self._associated()
            syntax = accepted_syntax(association, parcel)
            if syntax is None:
                yield parcel, judge(NOT_SUPPORTED)
                continue
            answer = self._store(association, parcel, in_syntax(parcel, syntax))
            if self._commitment is not None and answer.verdict == "stored":
                self._commitment.add(parcel)
            yield parcel, answer

    def settle(self) -> set[str]:
        """Ask for commitment to what was stored, where that is offered."""
        if self._commitment is None:
            return set()
        if self._association is not None and self._association.is_established:
            self._commitment.ask(self._association)
            # An answer that comes late would meet the answer to the next object.
            self.rest()
        return self._commitment.note_answers()

    def rest(self) -> None:
        """Release the association."""
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._association = None

    def _associated(self) -> Association:
        if self._association is None or not self._association.is_established:
            asked = self._commitment
            handlers = [(evt.EVT_DIMSE_RECV, self._hear), *(asked.handlers if asked else ())]
            self._answers.clear()
            try:
                self._association = open_association(self._whom, contexts(commitment=asked is not None), handlers)
            except NoAssociation as error:
                raise Lost(str(error), may_pass=error.may_pass) from None
        return self._association

    def _store(self, association: Association, parcel: Parcel, dataset: Dataset) -> Answer:
        started = time.monotonic()
        try:
            self._number = self._number % _LAST_NUMBER + 1
            status = association.send_c_store(dataset, msg_id=self._number)
        except RuntimeError:  # it was ended since the answer before
            raise Lost(f"{self._whom}: ended the association.") from None
        if "Status" not in status:
            self._association = None
            is_late = time.monotonic() - started >= self._whom.patience.answer_s
            how = "did not answer in time" if is_late else "went away, or aborted the association,"
            raise Lost(f"{self._whom}: {how} while an object was on its way.", parcel)
        # pynetdicom takes whatever answer comes next, also one to another object.
        number, uid = self._answers.popleft()
        if number != self._number or uid not in {"", parcel.uid}:
            association.abort()
            raise Lost(f"{self._whom}: answered for another object than the one on its way.", parcel)
        return judge(int(status.Status))

    def _hear(self, event: evt.Event) -> None:
        """Note which request each answer is to, in the order in which they are taken."""
        if isinstance(event.message, C_STORE_RSP):
            said = event.message.command_set
            number, uid = said.get("MessageIDBeingRespondedTo"), said.get("AffectedSOPInstanceUID")
            self._answers.append((int(number or 0), str(uid or "")))


def contexts(*, commitment: bool) -> list[PresentationContext]:
    """Return what is proposed."""
    proposed = [build_context(sop_class, [syntax]) for sop_class in SYNTAXES for syntax in SYNTAXES[sop_class]]
    return [*proposed, *([Commitment.context()] if commitment else [])]


def accepted_syntax(association: Association, parcel: Parcel) -> UID | None:
    """Return the best transfer syntax in which the peer takes an object; None where it takes none."""
    accepted = {
        context.transfer_syntax[0]
        for context in association.accepted_contexts
        if context.abstract_syntax == parcel.sop_class and context.transfer_syntax
    }
    wanted = (parcel.transfer_syntax, *_PLAIN)
    return next((syntax for syntax in wanted if syntax in accepted), None)


def in_syntax(parcel: Parcel, syntax: UID) -> Dataset:
    """Return an object as it is sent in a transfer syntax: as it was written, or its pixels decompressed to RGB.

    It keeps its UID, for nothing but the transfer syntax changes (PS3.4 B.4.1.3), and goes on saying that its pixels
    were compressed with loss (PS3.3 C.7.6.1.1.5).
    """
    dataset = pydicom.dcmread(BytesIO(parcel.content))
    if syntax != parcel.transfer_syntax and parcel.transfer_syntax.is_compressed:
        dataset.decompress(generate_instance_uid=False)
    return dataset
