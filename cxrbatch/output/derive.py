"""Tables and worklist, derived from the ledger."""

from __future__ import annotations

from pathlib import Path

from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.tables import write_tables
from cxrbatch.output.worklist import write_worklist
from cxrbatch.records import EngineDescription, now_text


def derive_tables(out: Path, ledger: Ledger, engine: EngineDescription) -> None:
    """Write images.csv, studies.csv and index.html from the ledger, in this engine's columns.

    Raises:
        OutputNotWritable: `out` is no longer where it was.
    """
    ledger.home.check()
    write_tables(out, ledger.results.file_rows(), ledger.results.study_rows(), engine)
    ledger.home.check()
    write_worklist(out, ledger.results.study_rows(), engine=engine, generated_at=now_text())
