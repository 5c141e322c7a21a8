"""Write docs/conformance.md, the DICOM conformance statement, from the tables of the code. Start at `page`.

Its words are in conformance.md.j2 beside this file. `make reference` calls it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydicom.uid import UID
from pynetdicom import PYNETDICOM_UID_PREFIX
from pynetdicom.presentation import PresentationContext

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.output.dicom.codes import OWN_SCHEME, OWN_SCHEME_NAME
from cxrbatch.output.dicom.encapsulated_pdf import ENCAPSULATED_PDF
from cxrbatch.output.dicom.identity import made_uid
from cxrbatch.output.dicom.overlay import SECONDARY_CAPTURE
from cxrbatch.output.dicom.sr import COMPREHENSIVE_3D_SR
from cxrbatch.pacs import receive
from scripts.conformance_clients import patience, pulling, sending
from scripts.conformance_objects import KINDS, attribute_table

PAGE = Path(__file__).parents[1] / "docs" / "conformance.md"
_VERIFICATION = UID("1.2.840.10008.1.1")
_OBJECTS = dict(zip(KINDS, (COMPREHENSIVE_3D_SR, SECONDARY_CAPTURE, ENCAPSULATED_PDF), strict=True))


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the conformance statement as Markdown; what the code does not do (yet) is not in it."""
    # Markdown, which nothing escapes.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701
    )
    environment.filters |= {"name": lambda uid: UID(uid).name, "hex": lambda code: f"{code:04X}"}
    return environment.get_template("conformance.md.j2").render(_facts())


def _facts() -> dict[str, Any]:
    """Return what the template shows."""
    entity = receive._entity(receive.Reception())
    provided = {str(each.abstract_syntax): each for each in entity.supported_contexts}
    (verification,) = (context for uid, context in provided.items() if uid == _VERIFICATION)
    stored = {uid: context for uid, context in provided.items() if uid != _VERIFICATION}
    (syntaxes,) = {tuple(context.transfer_syntax or ()) for context in stored.values()}
    clients = {"`send`": sending(), "`pull`": pulling()}
    asked = [each for client in clients.values() if client for each in client["contexts"]]
    used = list(dict.fromkeys(str(each.abstract_syntax) for each in asked))
    return {
        "services": list(dict.fromkeys([*provided, *used])),
        "used": used,
        "provided": provided,
        "web": [service for client in clients.values() if client for service in client["web"]],
        "clients": [name for name, client in clients.items() if client],
        "entity": entity,
        "reception": receive.Reception(),
        "receive": receive,
        "pynetdicom_uid": PYNETDICOM_UID_PREFIX,
        "implementation_uid": made_uid("implementation"),
        "verification": [verification],
        "stored": stored,
        "syntaxes": syntaxes,
        "sending": clients["`send`"],
        "pulling": clients["`pull`"],
        "patience": patience(),
        "contexts": _contexts_table,
        "objects": [(kind, KINDS[kind], uid) for kind, uid in _OBJECTS.items()],
        "attributes": attribute_table(),
        "scheme": {"designator": OWN_SCHEME, "name": OWN_SCHEME_NAME, "uid": made_uid("coding scheme")},
    }


def _contexts_table(contexts: list[PresentationContext]) -> str:
    """Return presentation contexts as Markdown, with the transfer syntaxes of each."""
    rows = ["| SOP class | UID | transfer syntaxes |", "| --- | --- | --- |"]
    for context in contexts:
        syntaxes = ", ".join(UID(each).name for each in context.transfer_syntax or ())
        rows.append(f"| {UID(str(context.abstract_syntax)).name} | {context.abstract_syntax} | {syntaxes} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
