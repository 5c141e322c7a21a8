"""`make hostile`: every case in which somebody tried to break a run, and whether it holds; one table.

The cases are tests that carry the marker `hostile`, so `make test` runs them too. Here they run by themselves, and
their outcomes are counted by what they are about. More arguments go to pytest.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


# pytest keeps its plugins in sets, so they are told apart by which they are, not by what they hold.
@dataclass(slots=True, eq=False)
class Tally:
    """What became of the cases of each subject: how many held, fell or were skipped."""

    held: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    fell: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    skipped: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the outcome of a case under its subject, which tests/conftest.py has put into the report."""
        subject = dict(report.user_properties).get("hostile")
        if subject is None or (report.when != "call" and report.passed):
            return
        if report.skipped:
            self.skipped[str(subject)] += 1
        elif report.failed:
            self.fell[str(subject)].append(report.nodeid)
        else:
            self.held[str(subject)] += 1

    def table(self) -> str:
        """Return the outcomes as Markdown, a line per subject, and the cases that fell by name."""
        lines = ["| what was tried | cases | held | fell | skipped |", "| --- | --- | --- | --- | --- |"]
        for subject in sorted({*self.held, *self.fell, *self.skipped}):
            counts = self.held[subject], len(self.fell[subject]), self.skipped[subject]
            lines.append(f"| {subject} | {sum(counts)} | {counts[0]} | {counts[1]} | {counts[2]} |")
        total = sum(self.held.values()), sum(map(len, self.fell.values())), sum(self.skipped.values())
        lines.append(f"| **all** | {sum(total)} | {total[0]} | {total[1]} | {total[2]} |")
        return "\n".join(lines + [f"\nfell: {name}" for names in self.fell.values() for name in names])


def main() -> None:
    """Run the cases, print the table; leave with 1 where any fell."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    _, further = parser.parse_known_args()
    tally = Tally()
    chosen = ["-m", "hostile", "-q", "--dist", "loadfile", "--rootdir", str(ROOT), str(ROOT / "tests")]
    code = pytest.main([*chosen, *further], [tally])
    print(tally.table())
    sys.exit(code)


if __name__ == "__main__":
    main()
