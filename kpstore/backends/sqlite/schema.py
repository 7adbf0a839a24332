"""The tables, their version, and how a file becomes one of ours (clause SQL-2)."""

from __future__ import annotations

import sqlite3

from kpstore.backends.sqlite.audit_blocks import (
    BLOCKS_TABLE,
    LOG_INDEXES,
    LOG_TABLE,
    SPANS_TABLE,
    create_blocks,
)
from kpstore.backends.sqlite.leaderboard import TABLE as LEADERBOARD_TABLE
from kpstore.backends.sqlite.leaderboard import create_parts
from kpstore.backends.sqlite.search import CHANGES, CHANGES_TABLE, create_changes, drop_changes
from kpstore.backends.sqlite.stored_index import TABLES as STORED_TABLES
from kpstore.backends.sqlite.typescript import is_typescript_registry, upgrade_typescript_registry
from kpstore.errors import DataCorruptionError, SchemaVersionError

VERSION = 5  # PRAGMA user_version
APPLICATION_ID = 0x6B707374  # "kpst": tells our files from other programs' (PRAGMA application_id)

# Positions are never used again (AUTOINCREMENT), so that a scan which goes on after the
# last one that it saw is right. Times are microseconds since 1970. `body` is the record as
# JSON; the columns beside it are derived from it, for finding it.
TABLES = {
    "skills": """
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        body TEXT NOT NULL,
        quality REAL NOT NULL,
        domain TEXT,
        texts BLOB NOT NULL
    """,
    "skill_tags": """
        tag TEXT NOT NULL,
        skill INTEGER NOT NULL,
        PRIMARY KEY (skill, tag)
    """,
    "knowledge_units": """
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        body TEXT NOT NULL,
        quality REAL NOT NULL,
        type TEXT NOT NULL,
        domain TEXT,
        agent_id TEXT,
        texts BLOB NOT NULL,
        quarantine_status TEXT
    """,
    "reputation": """
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        agent_id TEXT NOT NULL UNIQUE,
        score REAL NOT NULL,
        contributions INTEGER NOT NULL,
        validations INTEGER NOT NULL,
        first_seen INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        entries INTEGER NOT NULL
    """,
    # A column of no type keeps -0.0, which a REAL column stores as the integer 0.
    "reputation_history": """
        agent INTEGER NOT NULL,
        number INTEGER NOT NULL,
        at INTEGER NOT NULL,
        delta NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (agent, number)
    """,
    "validation_votes": """
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        validator_id TEXT NOT NULL,
        target_id TEXT NOT NULL,
        unit_id TEXT NOT NULL,
        valid INTEGER NOT NULL,
        at INTEGER NOT NULL
    """,
    "api_keys": """
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        key_hash TEXT NOT NULL UNIQUE,
        key_prefix TEXT NOT NULL,
        agent_id TEXT NOT NULL,
        scopes TEXT NOT NULL,
        tier TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        revoked INTEGER NOT NULL DEFAULT 0,
        revoked_at INTEGER
    """,
    "rate_limits": """
        identifier TEXT NOT NULL,
        kind TEXT NOT NULL,
        level INTEGER NOT NULL,
        at INTEGER NOT NULL,
        full_at INTEGER NOT NULL,
        PRIMARY KEY (identifier, kind)
    """,
    "rate_limit_violations": """
        position INTEGER PRIMARY KEY,
        identifier TEXT NOT NULL,
        at INTEGER NOT NULL
    """,
    "audit_log": LOG_TABLE,
    # Derived: totals that nothing has to count up when they are asked for.
    "audit_blocks": BLOCKS_TABLE,
    "audit_spans": SPANS_TABLE,
    "leaderboard_parts": LEADERBOARD_TABLE,
    # What the handles' search indexes have to look at again.
    CHANGES: CHANGES_TABLE,
    **STORED_TABLES,
}
# The tables that came with a version.
_NEW_IN = {2: {"audit_blocks", "leaderboard_parts", CHANGES}, 3: set(STORED_TABLES), 5: {"audit_spans"}}
# One row: 1 where something was deleted or replaced since the file was last cleaned of what went (SQL-6).
ERASURE = "owed INTEGER NOT NULL"
# What goes from these leaves traces of somebody's data; the other tables only ever grow.
ERASED_BY = {
    "skills": ("DELETE", "UPDATE"),
    "knowledge_units": ("DELETE", "UPDATE"),
    "rate_limits": ("DELETE",),
    "rate_limit_violations": ("DELETE",),
    "audit_log": ("DELETE",),
}
WITHOUT_ROWID = {
    *("skill_tags", "reputation_history", "rate_limits"),
    *("audit_blocks", "audit_spans", "leaderboard_parts"),
}
INDEXES = {
    "knowledge_units_by_agent": "knowledge_units (agent_id)",
    "reputation_by_score": "reputation (score DESC)",
    "validation_votes_by_unit": "validation_votes (unit_id)",
    # Not unique: a file of the TypeScript registry may hold the same prefix twice.
    "api_keys_by_prefix": "api_keys (key_prefix)",
    "api_keys_by_agent": "api_keys (agent_id)",
    "rate_limits_by_full_at": "rate_limits (full_at)",
    "rate_limit_violations_by_identifier": "rate_limit_violations (identifier, at)",
    "rate_limit_violations_by_time": "rate_limit_violations (at)",
    **LOG_INDEXES,
}

# Of version 3: searches need none, and each was one more page to write for every document.
_NOT_ANY_MORE = (
    "skills_by_quality",
    "skills_by_domain",
    "skill_tags_by_tag",
    "knowledge_units_by_quality",
    "knowledge_units_by_domain",
    "knowledge_units_by_type",
)


def check_version(version: int, location: str) -> None:
    """Raise `SchemaVersionError` for the `user_version` of a file that a newer kpstore wrote."""
    if version > VERSION:
        raise SchemaVersionError(
            f"{location}: written by a newer version of kpstore (schema {version}, this one: {VERSION}). "
            "The file was left as it is: upgrade kpstore to open it"
        )


def is_current(db: sqlite3.Connection, location: str) -> bool:
    """Whether the file needs no work; errors if it is none that this version may work on."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    check_version(version, location)
    application = db.execute("PRAGMA application_id").fetchone()[0]
    if version == 0:
        is_used = db.execute("SELECT 1 FROM sqlite_master").fetchone() is not None
        if application not in (0, APPLICATION_ID) or (is_used and not is_typescript_registry(db, location)):
            raise DataCorruptionError(
                f"{location}: is another program's database; it was left as it is: choose another path"
            )
        return False
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    later = set().union(*(names for number, names in _NEW_IN.items() if number > version))
    missing = sorted({*TABLES, "erasure"} - later - tables)
    if application != APPLICATION_ID or missing:
        raise DataCorruptionError(
            f"{location}: is marked as schema {version} but is not a kpstore database"
            + (f": it has no table {missing[0]}" if missing else "")
        )
    return bool(version == VERSION)


def bring_up_to_date(db: sqlite3.Connection, location: str) -> None:
    """Make the tables, or upgrade older ones, within the caller's transaction."""
    if is_current(db, location):  # another process was faster
        return
    if db.execute("PRAGMA user_version").fetchone()[0] > 0:
        _upgrade(db)
    elif is_typescript_registry(db, location):
        upgrade_typescript_registry(db, create_tables)
        db.execute("UPDATE erasure SET owed = 1")  # the registry left what it deleted where it was
    else:
        create_tables(db)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {VERSION}")


def _upgrade(db: sqlite3.Connection) -> None:
    """Turn the tables of an older version into ours."""
    for name in (*LOG_INDEXES, *_NOT_ANY_MORE):  # those of the log had other columns in version 1
        db.execute(f"DROP INDEX IF EXISTS {name}")
    drop_changes(db)  # the triggers of version 2 kept fewer
    create_tables(db)


def create_tables(db: sqlite3.Connection) -> None:
    """Make all tables and indexes that are not there."""
    for name, columns in TABLES.items():
        options = " WITHOUT ROWID" if name in WITHOUT_ROWID else ""
        db.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns}){options}")
    for name, columns in INDEXES.items():
        db.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {columns}")
    db.execute(f"CREATE TABLE IF NOT EXISTS erasure ({ERASURE})")
    db.execute("INSERT INTO erasure (owed) SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM erasure)")
    for table, events in ERASED_BY.items():
        for event in events:
            db.execute(
                f"CREATE TRIGGER IF NOT EXISTS {table}_{event.lower()}_owes AFTER {event} ON {table}"
                " WHEN (SELECT owed FROM erasure) <> 1 BEGIN UPDATE erasure SET owed = 1; END"
            )
    create_parts(db)
    create_blocks(db)
    create_changes(db)
