"""An archive that is asked by C-FIND and sends by C-MOVE (PS3.4 annex C, Study Root)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pydicom import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made as they are asked for
    StudyRootQueryRetrieveInformationModelFind as StudyRootFind,
    StudyRootQueryRetrieveInformationModelMove as StudyRootMove,
)

from cxrbatch.errors import ConfigurationError
from cxrbatch.pacs.archive import Answers, Lost, ObjectFound, SeriesFound, Span, StudyFound, read_moment
from cxrbatch.pacs.peer import NoAssociation, Peer, open_association
from cxrbatch.pacs.silence import Silence, break_off
from cxrbatch.system.stopping import stop_was_asked

_SUCCESS, _PENDING = 0x0000, (0xFF00, 0xFF01)
# PS3.4 table C.4-1, and what archives answer whose number of matches is limited.
_LIMITED = (0xA700, 0xFE00)
_UNKNOWN_DESTINATION = 0xA801
# In Explicit VR a list of UIDs has 65,534 bytes at most (PS3.5 7.1.2), and each of them up to 65.
_MOST_NAMED = 1000
_IN_WORDS = {
    0xA701: "it is out of resources, and could not count what matches",
    0xA702: "it is out of resources, or could not send",
    0xA900: "it does not understand what it was asked for",
    0xB000: "some of it failed",
    0xFE00: "it broke off",
}
_POLL_S = 0.2


class DicomArchive:
    """An archive; its association stays open from one question to the next."""

    def __init__(self, peer: Peer, move_to: str, stirred_at: Callable[[], float] = lambda: 0.0) -> None:
        """Take the archive.

        Args:
            peer: who is asked.
            move_to: the AE title by which it knows us as a receiver.
            stirred_at: returns when something last came from it, in seconds since 1970.
        """
        self._peer, self._move_to, self._stirred_at = peer, move_to, stirred_at
        self._association: Association | None = None

    @property
    def name(self) -> str:
        """AE title, host and port."""
        return str(self._peer)

    def studies(self, span: Span, modality: str) -> Answers:
        """Return the studies of a time that have a series of this modality, or that might."""
        asked = _asked("STUDY", StudyInstanceUID="", StudyDate=span.dates, StudyTime=span.times)
        asked.ModalitiesInStudy = modality
        found, status = self._find(asked)
        named = tuple(_study(each) for each in found if _text(each, "StudyInstanceUID"))
        return Answers(named, status == _SUCCESS, len(found) - len(named))

    def series(self, study_uid: str) -> Sequence[SeriesFound]:
        """Return the series of a study."""
        asked = _asked("SERIES", StudyInstanceUID=study_uid, SeriesInstanceUID="", Modality="", Manufacturer="")
        asked.SeriesNumber = asked.NumberOfSeriesRelatedInstances = None
        found = self._whole(asked)
        return [_series(study_uid, each) for each in found if _text(each, "SeriesInstanceUID")]

    def objects(self, series: SeriesFound) -> Sequence[ObjectFound]:
        """Return the objects of a series."""
        asked = _asked("IMAGE", StudyInstanceUID=series.study_uid, SeriesInstanceUID=series.uid)
        asked.SOPInstanceUID = asked.SOPClassUID = ""
        found = self._whole(asked)
        return [
            ObjectFound(_text(each, "SOPInstanceUID"), _text(each, "SOPClassUID"))
            for each in found
            if _text(each, "SOPInstanceUID")
        ]

    def fetch(self, series: SeriesFound, uids: Sequence[str], *, is_all: bool) -> str:
        """Let objects of a series come by C-MOVE; return what went wrong, in words, or "".

        Raises:
            ConfigurationError: the archive does not know the AE title that it is to send to.
        """
        orders = [list(uids[at : at + _MOST_NAMED]) for at in range(0, len(uids), _MOST_NAMED)]
        problem = ""
        for named in [[]] if is_all else orders:
            wanted = _asked("SERIES", StudyInstanceUID=series.study_uid, SeriesInstanceUID=series.uid)
            if named:
                wanted.QueryRetrieveLevel, wanted.SOPInstanceUID = "IMAGE", named
            problem = self._order(wanted) or problem
        return problem

    def _order(self, wanted: Dataset) -> str:
        answer, heard = Dataset(), Silence(self._stirred_at, self._peer.patience.answer_s)
        with self._associated() as association, heard.limited(association):
            for answer, _ in association.send_c_move(wanted, self._move_to, StudyRootMove):
                heard.end()
                if "Status" not in answer:
                    how = (
                        "neither answered nor sent anything for too long"
                        if heard.is_too_long
                        else "went away while it was sending"
                    )
                    raise Lost(f"{self.name}: {how}")
        if answer.Status == _UNKNOWN_DESTINATION:
            raise ConfigurationError(
                f"{self.name}: does not know the AE title {self._move_to}, which it is to send to. Enter it there, "
                "with this machine's address and the port that is listened on (--listen-port)."
            )
        return _problem(answer)

    def rest(self) -> None:
        """Release the association."""
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._association = None

    def _whole(self, asked: Dataset) -> list[Dataset]:
        found, status = self._find(asked)
        if status != _SUCCESS:
            raise Lost(f"{self.name}: {_in_words(status)}; it limits its answers below what one study holds")
        return found

    def _find(self, asked: Dataset) -> tuple[list[Dataset], int]:
        """Return what matches and the last status: success, or that there is more than the archive tells."""
        found: list[Dataset] = []
        with self._associated() as association:
            for answer, identifier in association.send_c_find(asked, StudyRootFind):
                if "Status" not in answer:
                    raise Lost(f"{self.name}: went away while it was answering")
                if answer.Status in _PENDING:
                    if identifier is None:  # pynetdicom could not decode it
                        raise Lost(f"{self.name}: an answer of it cannot be read")
                    found.append(identifier)
        status = int(answer.Status)
        if status != _SUCCESS and status not in _LIMITED:
            raise Lost(f"{self.name}: {_in_words(status)}", may_pass=status != 0xA900)
        if status == 0xA700 and not found:
            raise Lost(f"{self.name}: it is out of resources")
        return found, status

    @contextmanager
    def _associated(self) -> Iterator[Association]:
        """Yield an association; a stop that is asked for ends it, so that nobody waits for an answer."""
        if self._association is None or not self._association.is_established:
            try:
                self._association = open_association(
                    self._peer, [build_context(StudyRootFind), build_context(StudyRootMove)]
                )
            except NoAssociation as error:
                raise Lost(str(error).rstrip("."), may_pass=error.may_pass) from None
        association, done = self._association, threading.Event()
        threading.Thread(target=_abort_on_stop, args=(association, done), daemon=True).start()
        try:
            yield association
        except ValueError as error:  # pynetdicom's word for: this was not accepted
            association.abort()
            raise Lost(
                f"{self.name}: takes neither questions nor orders by Study Root from us", may_pass=False
            ) from error
        except BaseException:
            association.abort()
            raise
        finally:
            done.set()


def _abort_on_stop(association: Association, done: threading.Event) -> None:
    while not done.wait(_POLL_S):
        if stop_was_asked():
            break_off(association)
            return


def _asked(level: str, **keys: str) -> Dataset:
    made = Dataset()
    made.QueryRetrieveLevel = level
    for key, value in keys.items():
        setattr(made, key, value)
    return made


def _study(found: Dataset) -> StudyFound:
    modalities: Any = found.get("ModalitiesInStudy") or ()
    named = [modalities] if isinstance(modalities, str) else list(modalities)
    began = read_moment(_text(found, "StudyDate"), _text(found, "StudyTime"))
    return StudyFound(_text(found, "StudyInstanceUID"), frozenset(map(str, named)), began)


def _series(study_uid: str, found: Dataset) -> SeriesFound:
    number = _text(found, "NumberOfSeriesRelatedInstances")
    return SeriesFound(
        study_uid,
        _text(found, "SeriesInstanceUID"),
        _text(found, "Modality"),
        _text(found, "Manufacturer"),
        _text(found, "SeriesNumber"),
        int(number) if number.isdigit() else 0,
    )


def _text(found: Dataset, key: str) -> str:
    with suppress(Exception):  # whatever pydicom makes of what an archive answers
        return str(found.get(key) or "").strip().strip("\0")
    return ""


def _problem(answer: Dataset) -> str:
    """Return what the last answer to a C-MOVE says that went wrong (PS3.4 table C.4-2)."""
    failed, warned = (int(answer.get(key) or 0) for key in _COUNTS)
    if answer.Status == _SUCCESS and not failed and not warned:
        return ""
    counts = f"{failed} of its objects failed, {warned} with a warning" if failed or warned else ""
    return "; ".join(part for part in (_in_words(int(answer.Status)) if answer.Status else "", counts) if part)


_COUNTS = ("NumberOfFailedSuboperations", "NumberOfWarningSuboperations")


def _in_words(status: int) -> str:
    return f"{_IN_WORDS.get(status, 'it cannot')} (status {status:04X})"
