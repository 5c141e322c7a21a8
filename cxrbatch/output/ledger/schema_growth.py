"""What came with schemas 7 and 8, so that a study costs the same however many there are.

Schema 7 brought engines of their own, the standing of studies, and what changed; schema 8 the indexes that are read
instead of the tables.
"""

from __future__ import annotations

UNKNOWN_PRIORS = "?"
"""Kept of a report that was taken over from the disk, where nobody knows which priors it names: it is printed again."""

MOST_STUDIES = 200
"""A patient ID under which there are more is taken for nobody's, such as ANON or 0: what shares it are no priors."""

DERIVED = "derived"
"""The fact that says of which files tables and worklist are that were written last."""

WITH_ENGINES = "with_engines"
"""The fact that stands while results of earlier versions still hold their engines: up to which key they do not."""

_IS_DERIVED = f"EXISTS (SELECT 1 FROM meta WHERE key = '{DERIVED}' AND value != '')"


def _note(table: str, **values: str) -> str:
    # What conflicts would be an error: an upsert that fires a trigger overrules what its statements say of conflicts.
    there = " AND ".join(f"{name} = {value}" for name, value in values.items())
    return (
        f"INSERT INTO {table} SELECT {', '.join(values.values())} "
        f"WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {there});"
    )


def _noted_file(row: str) -> str:
    file = _note("changed_files", path=f"{row}.path")
    return f"{file} {_note('changed_studies', study_key=f'{row}.study_key', arrived_at=_STILL_THERE)}"


def _noted_study(row: str, arrived_at: str) -> str:
    return _note("changed_studies", study_key=f"{row}.study_key", arrived_at=arrived_at)


_STILL_THERE = "''"


def _noted_siblings(row: str) -> str:
    """Note the other studies of a patient of which no report tells whether there is an earlier one.

    Of a report that names its priors the row itself changes. Under an ID of more studies than this nobody has priors.
    """
    return f"""
    INSERT INTO changed_studies SELECT study_key, {_STILL_THERE} FROM studies AS other
    WHERE other.patient = {row}.patient AND other.patient != '' AND other.result IS NOT NULL
    AND (other.priors = '{UNKNOWN_PRIORS}' OR (other.report_html = '' AND other.report_pdf = ''))
    AND (SELECT count(*) FROM (
        SELECT 1 FROM studies WHERE patient = {row}.patient AND patient != '' LIMIT {MOST_STUDIES + 2}
    )) <= {MOST_STUDIES + 1}
    AND NOT EXISTS (SELECT 1 FROM changed_studies AS noted
                    WHERE noted.study_key = other.study_key AND noted.arrived_at = {_STILL_THERE});
    """


# What changed since tables and worklist were derived last. Notes nothing before they first were: then all is written.
_CHANGES = f"""
CREATE TABLE changed_files (path BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE changed_studies (
    study_key TEXT NOT NULL,
    arrived_at TEXT NOT NULL,           -- of a study that was removed; it tells where it was listed
    PRIMARY KEY (study_key, arrived_at)
) WITHOUT ROWID;
CREATE TRIGGER file_noted_insert BEFORE INSERT ON files WHEN {_IS_DERIVED}
BEGIN
    {_noted_file("new")}
    INSERT INTO changed_studies SELECT study_key, '' FROM files WHERE path = new.path
    AND NOT EXISTS (SELECT 1 FROM changed_studies AS noted WHERE noted.study_key = files.study_key AND arrived_at = '');
END;
CREATE TRIGGER file_noted_update AFTER UPDATE ON files WHEN {_IS_DERIVED}
BEGIN {_noted_file("old")} {_noted_file("new")} END;
CREATE TRIGGER file_noted_delete AFTER DELETE ON files WHEN {_IS_DERIVED}
BEGIN {_noted_file("old")} END;
CREATE TRIGGER study_noted_insert BEFORE INSERT ON studies WHEN {_IS_DERIVED}
BEGIN {_noted_study("new", _STILL_THERE)} END;
CREATE TRIGGER study_noted_update AFTER UPDATE ON studies WHEN {_IS_DERIVED}
BEGIN {_noted_study("new", _STILL_THERE)} END;
CREATE TRIGGER study_renamed AFTER UPDATE OF study_key ON studies
WHEN {_IS_DERIVED} AND old.study_key != new.study_key
BEGIN {_noted_study("old", "old.arrived_at")} END;
CREATE TRIGGER study_noted_delete AFTER DELETE ON studies WHEN {_IS_DERIVED}
BEGIN {_noted_study("old", "old.arrived_at")} END;
CREATE TRIGGER siblings_noted_insert AFTER INSERT ON studies WHEN {_IS_DERIVED} AND new.patient != ''
BEGIN {_noted_siblings("new")} END;
CREATE TRIGGER siblings_noted_update AFTER UPDATE OF result ON studies
WHEN {_IS_DERIVED} AND old.result IS NOT new.result
BEGIN {_noted_siblings("old")} {_noted_siblings("new")} END;
CREATE TRIGGER siblings_noted_delete AFTER DELETE ON studies WHEN {_IS_DERIVED} AND old.patient != ''
BEGIN {_noted_siblings("old")} END;
"""
STANDING = ("priority TEXT NOT NULL DEFAULT 'unscored'", "strength REAL")
GROWTH = f"""
CREATE TABLE engines (id INTEGER PRIMARY KEY, record TEXT NOT NULL UNIQUE);
CREATE INDEX studies_by_reading ON studies (
    priority, (status != 'failed'), strength DESC, (arrived_at = ''), arrived_at, study_key
);
CREATE TABLE shards (                   -- of the worklist's data; by arrival of the first study of each
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    arrived_at TEXT NOT NULL,
    study_key TEXT NOT NULL,
    counts TEXT NOT NULL
);
CREATE TABLE folders (                  -- of INPUT: when each last changed and was looked at
    path BLOB PRIMARY KEY,
    mtime_ns INTEGER NOT NULL,
    folders TEXT NOT NULL               -- the names of those in it
) WITHOUT ROWID;
{_CHANGES}"""
# Made where they are missing: a ledger of schema 7 may have the first two.
INDEXES = """
CREATE INDEX IF NOT EXISTS studies_by_report ON studies (reported_at) WHERE reported_at != '';
CREATE INDEX IF NOT EXISTS files_by_scoring ON files (engine_sha256, scored_at, study_key) WHERE status = 'scored';
-- All that a run asks of each file that it knows, in a sixtieth of what the table takes.
CREATE INDEX IF NOT EXISTS files_by_walk ON files (path, size_bytes, mtime_ns, present, status);
CREATE INDEX IF NOT EXISTS files_unlike_training ON files (engine_sha256, status, distance)
WHERE status = 'scored' AND distance > 1;
"""
