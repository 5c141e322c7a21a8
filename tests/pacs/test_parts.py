"""Multipart answers of archives, well-formed and not: every part whole, or an error that says it is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from requests import Response
from requests.structures import CaseInsensitiveDict

from cxrbatch.pacs.parts import BrokenOff, NoParts, received_parts

FIRST, SECOND = b"DICM" + bytes(range(256)) * 3, b"second\r\n--other--\n--"


def answered(content: bytes, kind: str, block: int, **headers: str) -> Response:
    answer = Response()
    answer.headers = CaseInsensitiveDict(
        {"Content-Type": kind} | {key.replace("_", "-"): v for key, v in headers.items()}
    )

    def blocks(_: int) -> Iterator[bytes]:
        return (content[at : at + block] for at in range(0, len(content), block))

    answer.iter_content = blocks  # type: ignore[method-assign,assignment]
    return answer


def parts_of(answer: Response, folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in received_parts(answer, folder)]


def body(boundary: bytes = b"b", line: bytes = b"\r\n", before: bytes = b"", after: bytes = b"") -> bytes:
    head = line + b"Content-Type: application/dicom" + line + line
    return (
        before + b"".join(b"--" + boundary + head + part + line for part in (FIRST, SECOND)) + b"--" + boundary + after
    )


@pytest.mark.parametrize("block", [1, 7, 100_000])
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ('multipart/related; type="application/dicom"; boundary=b', body(after=b"--")),
        ('Multipart/Related;boundary="a;b=c" ; type=application/dicom', body(b"a;b=c", after=b"--\r\n")),
        ('multipart/related; BOUNDARY = "--=_Part (1)?/"', body(b"--=_Part (1)?/", after=b"--")),
        ("multipart/related; boundary=b", body(before=b"This is MIME.\r\n\r\n", after=b"--\r\nthe end")),
        ("multipart/related; boundary=b", body(line=b"\n", after=b"--\n")),
    ],
)
def test_parts_come_as_they_were_sent_however_they_are_parted(
    tmp_path: Path, kind: str, content: bytes, block: int
) -> None:
    assert parts_of(answered(content, kind, block), tmp_path) == [FIRST, SECOND]
    assert not list(tmp_path.iterdir())


def test_a_part_that_broke_off_is_none(tmp_path: Path) -> None:
    content = body(after=b"--")
    for length in [*range(0, len(content), 89), len(content) - 2]:
        whole: list[bytes] = []
        with pytest.raises(BrokenOff):
            whole.extend(
                path.read_bytes()
                for path in received_parts(answered(content[:length], "multipart/related; boundary=b", 64), tmp_path)
            )
    assert not list(tmp_path.iterdir())


def test_an_answer_of_the_announced_length_needs_no_last_delimiter(tmp_path: Path) -> None:
    content = body()[: -len(b"\r\n--b")]
    announced = {"Content_Length": str(len(content))}
    assert parts_of(answered(content, "multipart/related; boundary=b", 64, **announced), tmp_path) == [FIRST, SECOND]
    chunked = answered(content, "multipart/related; boundary=b", 64, Transfer_Encoding="chunked")
    assert parts_of(chunked, tmp_path) == [FIRST, SECOND]
    for headers in ({"Content_Length": str(len(content) + 1)}, announced | {"Content_Encoding": "gzip"}):
        with pytest.raises(BrokenOff):
            parts_of(answered(content, "multipart/related; boundary=b", 64, **headers), tmp_path)


def test_one_file_may_come_without_parts_and_other_kinds_are_none(tmp_path: Path) -> None:
    length = {"Content_Length": str(len(FIRST))}
    for kind in ("application/dicom", "application/dicom; transfer-syntax=1.2.840.10008.1.2.1", "multipart/related"):
        assert parts_of(answered(FIRST, kind, 64, **length), tmp_path) == [FIRST]
    with pytest.raises(BrokenOff):
        parts_of(answered(FIRST, "application/dicom", 64), tmp_path)
    for kind in ("text/html", "", "multipart/form-data; boundary=b", 'multipart/related; boundary=""'):
        with pytest.raises(NoParts):
            parts_of(answered(FIRST, kind, 64, **length), tmp_path)
    with pytest.raises(NoParts):
        parts_of(answered(b"no delimiter" * 10_000, "multipart/related; boundary=b", 64), tmp_path)
