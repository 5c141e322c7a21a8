"""What every way of sending has in common: what a peer's answer means, and what goes wrong in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cxrbatch.errors import CxrBatchError
from cxrbatch.pacs.due import Parcel

Verdict = Literal["stored", "refused", "waiting"]

NOT_SUPPORTED = 0x0122

# PS3.4 table B.2-1 and PS3.7 annex C. Whatever is neither here nor a warning is a refusal.
_STORED = frozenset({0x0000, 0x0001, 0x0107, 0x0116})
# The archive has an object under this UID, and ours are of their content.
_DUPLICATE = 0x0111
# Processing failure and resource limitation say more of the archive at this moment than of the object.
_FOR_NOW = frozenset({0x0110, 0x0213})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer said of one object: its status, as the standard writes it, and what that means for us."""

    told: str
    verdict: Verdict


def judge(code: int) -> Answer:
    """Return what a status means: warnings (Bxxx) count as stored, A7xx is for now, the other failures are for good."""
    verdict: Verdict = "refused"
    if code in _STORED or code == _DUPLICATE or code >> 12 == 0xB:
        verdict = "stored"
    elif code in _FOR_NOW or code >> 8 == 0xA7:
        verdict = "waiting"
    return Answer(f"{code:04X}", verdict)


class Lost(CxrBatchError):
    """The peer cannot be spoken with now, or stopped answering; says why.

    `parcel` is the object that was on its way: whether it arrived nobody knows. `may_pass`: worth trying again.
    """

    def __init__(self, message: str, parcel: Parcel | None = None, *, may_pass: bool = True) -> None:
        super().__init__(message)
        self.parcel, self.may_pass = parcel, may_pass


class Courier(Protocol):
    """Takes objects to one peer."""

    @property
    def peer(self) -> str:
        """What tells the peer from others, however it is reached."""

    def send(self, parcels: Sequence[Parcel]) -> Iterator[tuple[Parcel, Answer]]:
        """Send objects of one study, and yield each with its answer as that comes.

        Raises:
            Lost: the peer is not there, or stopped answering.
        """

    def settle(self) -> set[str]:
        """Do what is to be done once a good many objects were stored, or all.

        Returns:
            The keys of studies of which the peer lost something after all.
        """

    def rest(self) -> None:
        """Hang up until there is something to send again."""
