"""A study's line of the worklist as a row that the page's script reads, and back again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cxrbatch.output.report.report_files import REPORTS
from cxrbatch.output.worklist_lines import MARKS, READING_ORDER, STATUS_ORDER, Chip, WorklistLine, marks_of

Cell = str | int | float | list[int]


@dataclass(slots=True)
class Rows:
    """Rows of one script; a text that several rows hold is kept once, and told by its number."""

    numbers: dict[str, int] = field(default_factory=lambda: {"": 0})
    rows: list[list[Cell]] = field(default_factory=list)

    def add(self, line: WorklistLine) -> None:
        """Take one more study."""
        self.rows.append(
            [
                line.study_key,
                line.revision,
                line.arrived,
                self._number(line.date),
                line.accession,
                line.strength,
                READING_ORDER.index(line.priority),
                STATUS_ORDER.index(line.status),
                sum(1 << MARKS.index(mark) for mark in marks_of(line)),
                *map(self._number, (line.badge, line.images, line.coverage, line.unlike)),
                [number for chip in line.findings for number in self._chip(chip)],
                [*self._chip(line.highest), self._number(line.rank)] if line.highest else [],
                [self._number(sentence) for sentence in line.cautions],
                [self._number(sentence) for sentence in line.remarks],
                _within_report(line.thumbnail, line.study_key),
                *(self._number(_within_report(link, line.study_key)) for link in (line.report_html, line.report_pdf)),
            ]
        )

    def _chip(self, chip: Chip) -> tuple[int, int, int]:
        return self._number(chip.name), self._number(chip.probability), int(chip.urgent)

    def _number(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))

    def encoded(self) -> str:
        """Return it as ASCII JSON, which is an expression of every script, too."""
        return compact_json({"texts": list(self.numbers), "rows": self.rows})


def _within_report(path: str, study_key: str) -> str:
    """Return a path relative to OUT as one relative to the study's report folder."""
    prefix = f"{REPORTS}/{study_key}/"
    return path.removeprefix(prefix) if not path or path.startswith(prefix) else f"../../{path}"


def decode_rows(encoded: str) -> list[WorklistLine]:
    """Return the studies that `Rows.encoded` wrote."""
    known = json.loads(encoded)
    return [_line(row, known["texts"]) for row in known["rows"]]


def _line(row: list[Any], texts: list[str]) -> WorklistLine:
    """Return the study of which `Rows.add` made this row."""
    key, revision, arrived, date, accession, strength, priority, status, bits, *rest = row
    badge, images, coverage, unlike, found, highest, cautions, remarks, thumbnail, html, pdf = rest
    return WorklistLine(
        study_key=key,
        revision=revision,
        arrived=arrived,
        date=texts[date],
        accession=accession,
        priority=READING_ORDER[priority],
        badge=texts[badge],
        status=STATUS_ORDER[status],
        images=texts[images],
        findings=tuple(_chips(found, texts)),
        highest=next(_chips(highest[:3], texts), None),
        rank=texts[highest[3]] if highest else "",
        coverage=texts[coverage],
        unlike=texts[unlike],
        refused=bool(bits & 1 << MARKS.index("refused")),
        has_prior=bool(bits & 1 << MARKS.index("prior")),
        cautions=tuple(texts[number] for number in cautions),
        remarks=tuple(texts[number] for number in remarks),
        thumbnail=_from_out(thumbnail, key),
        report_html=_from_out(texts[html], key),
        report_pdf=_from_out(texts[pdf], key),
        strength=strength,
    )


def _chips(numbers: list[int], texts: list[str]) -> Iterator[Chip]:
    for at in range(0, len(numbers), 3):
        yield Chip(texts[numbers[at]], texts[numbers[at + 1]], bool(numbers[at + 2]))


def _from_out(path: str, study_key: str) -> str:
    if not path or path.startswith("../../"):
        return path.removeprefix("../../")
    return f"{REPORTS}/{study_key}/{path}"


def compact_json(value: object) -> str:
    """Return ASCII JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
