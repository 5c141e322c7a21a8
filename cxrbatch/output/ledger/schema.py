"""The ledger's tables: what they hold, and how a ledger of an earlier version becomes one of this version."""

from __future__ import annotations

import sqlite3

from cxrbatch.output.ledger.schema_growth import DERIVED, GROWTH, INDEXES, STANDING, WITH_ENGINES
from cxrbatch.system.faults import reach

SCHEMA_VERSION = 8
TABLES = {
    "meta": 1,
    "files": 1,
    "studies": 1,
    "arrivals": 3,
    "patients_due": 6,
    "engines": 7,
    "changed_files": 7,
    "changed_studies": 7,
    "shards": 7,
    "folders": 7,
}
"""Every table, and the schema version that brought it."""
_PATIENT = (
    "patient TEXT AS (coalesce(json_extract(result, '$.images[0].header.identity.patient_id'), "
    "json_extract(result, '$.images[0].header.patient_id'), '')) VIRTUAL"
)
PATIENTS_DATE = "json_extract(result, '$.images[0].header.study_date')"
"""The date of a study's first image, by which the studies of a patient are indexed."""
# What a result or report says of a patient, the reports of their later studies say as well.
STUDY_CHANGED = """
CREATE TRIGGER study_changed AFTER UPDATE OF result, report_html, report_pdf ON studies
WHEN old.result IS NOT new.result OR old.report_html != new.report_html OR old.report_pdf != new.report_pdf
BEGIN
    INSERT OR IGNORE INTO patients_due SELECT old.patient WHERE old.patient != '';
    INSERT OR IGNORE INTO patients_due SELECT new.patient WHERE new.patient != '';
END;
"""
_PATIENTS_DUE = f"""
CREATE INDEX studies_by_patient ON studies (patient, {PATIENTS_DATE}, study_key) WHERE patient != '';
CREATE TABLE patients_due (patient TEXT PRIMARY KEY) WITHOUT ROWID;
{STUDY_CHANGED}
CREATE TRIGGER study_restored AFTER INSERT ON studies WHEN new.patient != ''
BEGIN
    INSERT OR IGNORE INTO patients_due VALUES (new.patient);
END;
CREATE TRIGGER study_forgotten AFTER DELETE ON studies WHEN old.patient != ''
BEGIN
    INSERT OR IGNORE INTO patients_due SELECT old.patient
    WHERE EXISTS (SELECT 1 FROM studies WHERE patient = old.patient);
END;
"""
SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
    path BLOB PRIMARY KEY,              -- os.fsencode of the input-relative path: names need not be UTF-8
    size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    study_key TEXT NOT NULL,            -- '' where the file belongs to no study
    present INTEGER NOT NULL DEFAULT 1, -- 0: the last walk did not meet it; what it once gave stands
    status TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    refused_by_header INTEGER NOT NULL, -- 1: a changed engine or a retry cannot change the verdict
    header TEXT NOT NULL,
    flags TEXT NOT NULL,
    engine TEXT NOT NULL DEFAULT '',
    engine_sha256 TEXT NOT NULL DEFAULT '',
    backend TEXT NOT NULL DEFAULT '',
    precision TEXT NOT NULL DEFAULT '',
    probabilities TEXT NOT NULL DEFAULT '[]',
    scored_at TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,       -- in how many runs in a row it failed
    attempted TEXT NOT NULL DEFAULT '',        -- size and time of the file whose header was tried
    failed_engine TEXT NOT NULL DEFAULT '',    -- the engine that gave no number, where that was why
    disagreement TEXT NOT NULL DEFAULT '[]',   -- of an ensemble's members, per label
    distance REAL,                             -- from the training images, 1 at the threshold; NULL: not told
    grey REAL,                                 -- mean 0..255 of what the engine saw; NULL: of earlier versions
    -- of the heatmaps' peaks: pairs of label and place
    places TEXT NOT NULL DEFAULT '[]'
) WITHOUT ROWID;
CREATE INDEX files_by_study ON files (study_key, path);
CREATE INDEX files_by_status ON files (status);
CREATE INDEX files_by_reason ON files (reason) WHERE reason != '';
CREATE INDEX files_by_failed_engine ON files (failed_engine) WHERE failed_engine != '';
CREATE TABLE studies (
    study_key TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    revision INTEGER NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '',
    engine_sha256 TEXT NOT NULL DEFAULT '',
    report_html TEXT NOT NULL DEFAULT '',
    report_pdf TEXT NOT NULL DEFAULT '',
    reported_at TEXT NOT NULL DEFAULT '',
    result TEXT,
    queued_at TEXT NOT NULL DEFAULT '', -- when it last began to wait, UTC
    attempts INTEGER NOT NULL DEFAULT 0, -- in how many runs in a row its report could not be printed
    priors TEXT NOT NULL DEFAULT '',    -- the earlier studies that its report names
    arrived_at TEXT NOT NULL DEFAULT '', -- when its first file was met in UTC; '' where nobody knows
    -- its patient ID or the keyed hash of that
    {_PATIENT},
    -- both follow from its result; without one there is no strength
    {", ".join(STANDING)}
) WITHOUT ROWID;
CREATE INDEX studies_by_arrival ON studies (arrived_at, study_key);
CREATE INDEX studies_by_status ON studies (status, study_key);
CREATE INDEX studies_by_queue ON studies (status, queued_at);
CREATE INDEX studies_by_engine ON studies (status, engine_sha256);
CREATE INDEX studies_without_pictures ON studies (study_key) WHERE json_extract(result, '$.pictures') = 0;
CREATE TABLE arrivals (
    path BLOB PRIMARY KEY,              -- as in files, of which it is one that nobody has scored yet
    size_bytes TEXT NOT NULL,
    mtime_ns TEXT NOT NULL,
    first_met REAL NOT NULL,            -- seconds on the clock that meta names under 'arrivals'
    same_since REAL NOT NULL,
    cut_short INTEGER NOT NULL,         -- 1: it ends before its pixels do
    held_back INTEGER NOT NULL          -- 1: it looks like a file that has only begun to arrive
) WITHOUT ROWID;
{_PATIENTS_DUE}{GROWTH}{INDEXES}"""

NO_REPORT = (
    "result = NULL, report_html = '', report_pdf = '', reported_at = '', priors = '', "
    "priority = 'unscored', strength = NULL"
)
"""What is set of a study that has no report any more."""

# The plus keeps SQLite from looking through all files of a status for those of a study: it cannot know that these
# are few, and the first index of 200,000 files would take time with the square of their number.
BY_STUDY = "+status"
"""The status of files, in conditions on the files of one study."""

MIGRATIONS = {
    # What waited under schema 1 has waited for nobody knows how long: its time begins with the migration.
    1: """
    ALTER TABLE studies ADD COLUMN queued_at TEXT NOT NULL DEFAULT '';
    UPDATE studies SET queued_at = strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now') WHERE status = 'pending';
    CREATE INDEX files_by_reason ON files (reason) WHERE reason != '';
    CREATE INDEX studies_by_queue ON studies (status, queued_at);
    CREATE INDEX studies_by_engine ON studies (status, engine_sha256);
    CREATE INDEX studies_with_result ON studies (study_key) WHERE result IS NOT NULL;
    """,
    # What was arriving under schema 2 was known to one process only: it settles anew.
    2: """
    ALTER TABLE files ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE files ADD COLUMN attempted TEXT NOT NULL DEFAULT '';
    ALTER TABLE files ADD COLUMN failed_engine TEXT NOT NULL DEFAULT '';
    ALTER TABLE studies ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX files_by_failed_engine ON files (failed_engine) WHERE failed_engine != '';
    CREATE TABLE arrivals (
        path BLOB PRIMARY KEY,
        size_bytes TEXT NOT NULL,
        mtime_ns TEXT NOT NULL,
        first_met REAL NOT NULL,
        same_since REAL NOT NULL,
        cut_short INTEGER NOT NULL,
        held_back INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
    # What was scored under schema 3 was scored by no ensemble, and nobody told how far it was from training.
    3: """
    ALTER TABLE files ADD COLUMN disagreement TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE files ADD COLUMN distance REAL;
    ALTER TABLE files ADD COLUMN grey REAL;
    """,
    # What was scored under schema 4 has pictures.
    4: """
    CREATE INDEX studies_without_pictures ON studies (study_key) WHERE json_extract(result, '$.pictures') = 0;
    """,
    # What was printed under schema 5 names no priors; it does as soon as anything of its patient changes. Of what came
    # under it, the time at which it last began to wait is as near as anybody can tell.
    5: f"""
    ALTER TABLE files ADD COLUMN places TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE studies ADD COLUMN priors TEXT NOT NULL DEFAULT '';
    ALTER TABLE studies ADD COLUMN arrived_at TEXT NOT NULL DEFAULT '';
    UPDATE studies SET arrived_at = CASE WHEN queued_at != '' THEN queued_at ELSE reported_at END;
    CREATE INDEX studies_by_arrival ON studies (arrived_at, study_key);
    ALTER TABLE studies ADD COLUMN {_PATIENT};
    {_PATIENTS_DUE}
    """,
    # The results of schema 6 hold their engines, and give their studies a standing, slice by slice: see `slices`.
    6: f"""
    ALTER TABLE studies ADD COLUMN {STANDING[0]};
    ALTER TABLE studies ADD COLUMN {STANDING[1]};
    DROP INDEX studies_with_result;
    {GROWTH}
    DELETE FROM meta WHERE key = '{DERIVED}';
    INSERT OR REPLACE INTO meta VALUES ('{WITH_ENGINES}', '');
    """,
    7: INDEXES,
}
"""What leads from each schema version to the next one."""


def schema_version(database: sqlite3.Connection) -> int:
    """Return the schema version of an open ledger; 0 for a database that is no ledger yet."""
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def table_names(database: sqlite3.Connection) -> set[str]:
    """Return the names of all tables of a database."""
    return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def tables_of(version: int) -> set[str]:
    """Return the names of the tables that a ledger of this schema version has."""
    return {name for name, since in TABLES.items() if since <= version}


def create(database: sqlite3.Connection) -> None:
    """Make the tables of an empty database, all of them or none."""
    _apply(database, SCHEMA, SCHEMA_VERSION)


def migrate(database: sqlite3.Connection) -> None:
    """Bring the tables of an earlier version to this one, a version at a time, each in one transaction."""
    for version in range(schema_version(database), SCHEMA_VERSION):
        _apply(database, MIGRATIONS[version], version + 1)


def _apply(database: sqlite3.Connection, statements: str, version: int) -> None:
    # The version is part of the transaction: a process killed in between leaves the former schema, whole.
    try:
        reach("schema-change")
        database.executescript(f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {version}; COMMIT;")
        reach("schema-changed")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
