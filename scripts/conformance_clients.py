"""What the conformance statement tells of commands that ask others: what they propose, and make of an answer.

A command that the code does not have is not told of.
"""

from __future__ import annotations

from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_description
from pynetdicom import build_context

# PS3.4 table B.2-1 and PS3.7 annex C.
STATUSES = {
    0x0000: "success",
    0xB000: "warning: coercion of data elements",
    0xB006: "warning: elements discarded",
    0xB007: "warning: data set does not match SOP class",
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0117: "invalid SOP instance",
    0x0122: "SOP class not supported; also where no transfer syntax of it was accepted",
    0x0124: "not authorised",
    0x0213: "resource limitation",
    0xA700: "out of resources",
    0xA900: "data set does not match SOP class",
    0xC000: "cannot understand",
}
_WHAT_FOLLOWS = {
    "stored": "it counts as stored",
    "waiting": "it is sent again, later",
    "refused": "it counts as refused, and is sent again with `--retry-refused` only",
}


def sending() -> dict[str, Any]:
    """Return the facts of `send`; none where the code does not send."""
    if not _has("store"):
        return {}
    commitment, judge = _module("commitment"), _module("courier").judge
    return {
        "contexts": _module("store").contexts(commitment=True),
        "settle_every": _module("send").SETTLE_EVERY,
        "answers_within_s": commitment.ANSWERS_WITHIN_S,
        "statuses": [(code, told, _WHAT_FOLLOWS[judge(code).verdict]) for code, told in STATUSES.items()],
        "for_now": sorted(_module("stow")._FOR_NOW),
        "web": ["STOW-RS"],
    }


def pulling() -> dict[str, Any]:
    """Return the facts of `pull`; none where the code does not pull."""
    if not _has("query"):
        return {}
    query = _module("query")
    return {
        "contexts": [build_context(query.StudyRootFind), build_context(query.StudyRootMove)],
        "questions": _questions(),
        "limited": query._LIMITED,
        "unknown_destination": query._UNKNOWN_DESTINATION,
        "most_named": query._MOST_NAMED,
        "own": _module("archive").OWN_MANUFACTURER,
        "web": ["QIDO-RS", "WADO-RS"],
    }


def patience() -> str:
    """Return how long clients wait, in a sentence."""
    if not _has("peer"):
        return ""
    patience, pdu = _module("peer").Patience(), _module("peer").LARGEST_PDU
    return (
        f"Longest PDU received: {pdu:,} bytes. Waited for: a connection {patience.connect_s:g} s, an association "
        f"{patience.associate_s:g} s, an answer {patience.answer_s:g} s."
    )


def _questions() -> list[tuple[str, list[str], list[str]]]:
    """Return level, matching keys and return keys of each question, from an archive that notes what it is asked."""
    archive, asked = _module("archive"), list[Dataset]()

    class Noting(_module("query").DicomArchive):  # type: ignore[misc]
        def _find(self, question: Dataset) -> tuple[list[Dataset], int]:
            asked.append(question)
            return [], 0

    noting = Noting(_module("peer").Peer("localhost", 104), "CXRBATCH")
    noting.studies(archive.Span(datetime(2024, 1, 1, 8), datetime(2024, 1, 1, 9)), "CR")  # noqa: DTZ001
    noting.series("1.2")
    noting.objects(archive.SeriesFound("1.2", "1.2.3"))
    found: list[tuple[str, list[str], list[str]]] = []
    for question in asked:
        elements = [element for element in question if element.keyword != "QueryRetrieveLevel"]
        matching, returned = (
            [dictionary_description(element.tag) for element in elements if element.is_empty == is_empty]
            for is_empty in (False, True)
        )
        found.append((question.QueryRetrieveLevel, matching, returned))
    return found


def _has(module: str) -> bool:
    return find_spec(f"cxrbatch.pacs.{module}") is not None


def _module(name: str) -> Any:
    return import_module(f"cxrbatch.pacs.{name}")
