"""The API in OpenAPI's words (https://spec.openapis.org/oas/v3.1.0): for programs as JSON, for people as a page."""

from __future__ import annotations

from typing import Any

from cxrbatch import __version__
from cxrbatch.output.marks import LONGEST_NOTE
from cxrbatch.output.worklist_lines import MARKS, READING_ORDER, STATUS_ORDER
from cxrbatch.pages.language import gettext as _, msgid
from cxrbatch.serve.studies import MOST_STUDIES, SORTS

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXTS: Schema = {"type": "array", "items": _TEXT}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _list(of: str) -> Schema:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{of}"}}


SCHEMAS: dict[str, Schema] = {
    "Finding": _object(name=_TEXT, probability=_TEXT, urgent={"type": "boolean"}),
    "Study": _object(
        study_key=_TEXT,
        revision=_COUNT,
        arrived_at=_TEXT,
        study_date=_TEXT,
        accession_number=_TEXT,
        priority={"enum": list(READING_ORDER)},
        status={"enum": list(STATUS_ORDER)},
        images=_TEXT,
        findings=_list("Finding"),
        highest={"oneOf": [{"$ref": "#/components/schemas/Finding"}, {"type": "null"}]},
        strength={"type": "number", "minimum": 0, "maximum": 1},
        marks={"type": "array", "items": {"enum": list(MARKS)}},
        cautions=_TEXTS,
        remarks=_TEXTS,
        report_html=_TEXT,
        report_pdf=_TEXT,
        thumbnail=_TEXT,
        read_at=_TEXT,
        note=_TEXT,
    ),
    "Studies": _object(
        changed_at=_TEXT, total=_COUNT, fitting=_COUNT, offset=_COUNT, limit=_COUNT, studies=_list("Study")
    ),
    "Mark": _object(study_key=_TEXT, revision=_COUNT, read_at=_TEXT),
    "Note": _object(study_key=_TEXT, text=_TEXT, written_at=_TEXT),
    "Marks": _object(marks=_list("Mark"), notes=_list("Note"), may_note={"type": "boolean"}),
    "NewMark": _object(study_key=_TEXT, revision=_COUNT, read={"type": "boolean"}),
    "NewNote": _object(study_key=_TEXT, text={"type": "string", "maxLength": LONGEST_NOTE}),
    "KeptMark": _object(study_key=_TEXT, read={"type": "boolean"}),
    "KeptNote": _object(study_key=_TEXT, text=_TEXT),
    "Error": _object(error=_TEXT),
}

_PARAMETERS: tuple[tuple[str, Schema, str], ...] = (
    ("search", _TEXT, msgid("words of accession number, date, study key and findings")),
    ("priority", {"enum": list(READING_ORDER)}, msgid("this priority alone")),
    ("status", {"enum": list(STATUS_ORDER)}, msgid("this status alone")),
    ("finding", _TEXT, msgid("this finding among those that are called")),
    ("mark", {"type": "array", "items": {"enum": list(MARKS)}}, msgid("marked so; may be given several times")),
    ("since", {"type": "string", "format": "date-time"}, msgid("came since then")),
    ("sort", {"enum": list(SORTS), "default": "priority"}, msgid("newest first, or urgent")),
    ("offset", {**_COUNT, "default": 0}, msgid("so many are left out")),
    ("limit", {**_COUNT, "maximum": MOST_STUDIES, "default": 100}, msgid("so many are told at most")),
)
"""What one may ask of the studies: name, values, and what it means."""


def _answer(description: str, of: str) -> Schema:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{of}"}}}
    return {"description": description, "content": content}


def _operation(summary: str, answers: Schema, **more: Any) -> Schema:
    refused = {"401": {"description": _("no token, or a wrong one")}, "403": {"description": _("another page asks")}}
    return {"summary": summary, **more, "responses": {**answers, **refused}}


def _sent(of: str) -> Schema:
    return {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{of}"}}}}


def describe_api() -> dict[str, Any]:
    """Return the API as an OpenAPI document, worded in the language that is spoken."""
    kept = {"400": _answer(_("it cannot be read"), "Error"), "404": _answer(_("no such study"), "Error")}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cxrbatch serve",
            "version": __version__,
            "description": _(
                "The worklist of one output folder. Nothing here says who a patient is, unless a note does. Not for "
                "diagnostic use."
            ),
        },
        "security": [{"token": []}, {"cookie": []}],
        "paths": {
            "/api/studies": {
                "get": _operation(
                    _("Studies, filtered, sorted, a page at a time"),
                    {
                        "200": _answer(_("those that fit"), "Studies"),
                        "400": _answer(_("the question is wrong"), "Error"),
                    },
                    parameters=[
                        {"in": "query", "name": name, "schema": schema, "description": _(meaning)}
                        for name, schema, meaning in _PARAMETERS
                    ],
                )
            },
            "/api/marks": {
                "get": _operation(_("What readers left"), {"200": _answer(_("marks and notes"), "Marks")}),
                "post": _operation(
                    _("Mark a revision of a study as read, or as to be read"),
                    {"200": _answer(_("kept"), "KeptMark"), **kept},
                    requestBody=_sent("NewMark"),
                ),
            },
            "/api/notes": {
                "post": _operation(
                    _(
                        "Keep a note in place of the one before; an empty one removes it. Refused with 403 where the "
                        "output folder is de-identified"
                    ),
                    {"200": _answer(_("kept"), "KeptNote"), **kept},
                    requestBody=_sent("NewNote"),
                )
            },
            "/api/events": {
                "get": _operation(
                    _(
                        "News as server-sent events: `worklist` where the list changed, `marks` where a mark or note "
                        "did"
                    ),
                    {"200": {"description": _("as long as one listens"), "content": {"text/event-stream": {}}}},
                )
            },
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "cxrbatch_token_<port>"},
            },
        },
    }
