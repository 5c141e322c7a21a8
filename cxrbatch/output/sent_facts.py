"""How it stands with every archive that objects were sent to, read while somebody sends: `read_sent`."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cxrbatch.errors import RunError
from cxrbatch.output.ledger.view import opened_to_read
from cxrbatch.pages.wording import counts

SENT_FILE = "sent.sqlite"
_PEERS = "SELECT peer, studies_left, trouble, at, reached_at FROM peers"

Status = Literal["stored", "committed", "refused", "waiting"]
"""Taken; taken, and promised to be kept (storage commitment); not wanted, for good; tried, and to be tried again."""


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """How it stands with one peer: objects by status, studies with objects left as of `at`, what is the matter.

    `reached_at` is when it last answered; times are UTC, ISO 8601, empty where there was none.
    """

    peer: str
    objects: dict[str, int]
    studies_left: int = 0
    trouble: str = ""
    at: str = ""
    reached_at: str = ""


def read_sent(folder: Path) -> list[PeerFacts]:
    """Return how it stands with every peer, also while somebody sends; nothing where nothing was ever sent.

    Raises:
        RunError: the file cannot be read.
    """
    path = folder / SENT_FILE
    if not path.exists():
        return []
    try:
        with opened_to_read(path) as database:
            return peer_facts(database)
    except sqlite3.DatabaseError as error:
        raise RunError(f"{path}: cannot be read now ({error}). Check its permissions, and try again.") from error


def sent_or_trouble(folder: Path) -> list[PeerFacts]:
    """Return what `read_sent` does, or why it cannot be read, under no peer's name: whoever asks tells the rest."""
    try:
        return read_sent(folder)
    except RunError as error:
        return [PeerFacts("archives", {}, trouble=str(error))]


def sent_in_words(facts: PeerFacts) -> str:
    """Say how it stands with a peer."""
    told = f"{counts(facts.objects)}; {facts.studies_left} studies left"
    return f"{told}. {facts.trouble}" if facts.trouble else told


def peer_facts(database: sqlite3.Connection) -> list[PeerFacts]:
    """Return what an open database says of every peer."""
    objects: dict[str, dict[str, int]] = {}
    for peer, status, number in database.execute("SELECT peer, status, count(*) FROM sent GROUP BY peer, status"):
        objects.setdefault(peer, {})[status] = number
    told = {peer: facts for peer, *facts in database.execute(_PEERS)}
    return [PeerFacts(peer, objects.get(peer, {}), *told.get(peer, ())) for peer in sorted({*objects, *told})]
