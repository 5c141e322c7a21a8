"""JSON Schemas of result.json and run.json, made of the very records that write and read them: `json_schema`.

What has a default may be missing, as in files of earlier versions, and what later versions add is let pass: a file fits
its schema exactly where this version can load it, except for rules between values that no schema can say.
"""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any, Literal

import msgspec

from cxrbatch import __version__
from cxrbatch.config import OBJECT_KINDS, Meaning, Settings, notes, ranges
from cxrbatch.locales import locales
from cxrbatch.output.run_json import RunReport
from cxrbatch.records import StudyResult

Named = Literal["result", "run"]
SCHEMAS: dict[Named, type[StudyResult | RunReport]] = {"result": StudyResult, "run": RunReport}

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLACE = "#/$defs/{name}"


def json_schema(named: Named | None = None) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of result.json or run.json; without a name, one that either file fits."""
    records = [SCHEMAS[named]] if named else list(SCHEMAS.values())
    references, definitions = msgspec.json.schema_components(records, ref_template=_PLACE)
    for definition in definitions.values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
    if Settings.__name__ in definitions:
        _explain_settings(definitions[Settings.__name__]["properties"])
    said = references[0] if named else {"anyOf": list(references)}
    title = f"{named}.json" if named else " or ".join(f"{name}.json" for name in SCHEMAS)
    return {"$schema": DIALECT, "title": f"{title} of cxrbatch {__version__}", **said, "$defs": definitions}


def _explain_settings(properties: dict[str, Any]) -> None:
    """Add what each setting means, and which numbers it takes."""
    meanings, numbers = notes(Meaning), ranges()
    for field in fields(Settings):
        properties[field.name]["description"] = meanings[field.name].text
        if field.name in numbers:
            # Of what may also be null they bind the numbers alone.
            properties[field.name] |= {"minimum": numbers[field.name].least, "maximum": numbers[field.name].most}
    kind = f" *({'|'.join(OBJECT_KINDS)}) *"
    properties["locale"]["enum"] = list(locales())
    properties["dicom"]["pattern"] = f"^({kind}(,{kind})*)?$"
