"""A database file of the TypeScript registry becomes one of ours, in place (clause SQL-3).

Everything happens within the caller's transaction. The tables that both have
are renamed, copied row by row in their order, and dropped; all other tables
are not touched. `rate_limit_buckets` is one of those: a bucket is full again
after a minute, so there is nothing in it to keep.

A row that today's rules would refuse is copied as it is. What has no place in
a record, such as a list of tags that is no JSON, is kept beside it: a skill's
or unit's whole row under the key `original` of its body, another row in the
table `typescript_rows`.
An id that another row has already come out with (the registry's may be NULL,
which equals nothing, or bytes) is made a new one.
"""

from __future__ import annotations

import json
import math
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from kpstore.backends.sqlite.columns import text_column
from kpstore.backends.sqlite.knowledge import SqliteKnowledgeStore
from kpstore.backends.sqlite.skills import SqliteSkillStore
from kpstore.clock import to_micros
from kpstore.errors import DataCorruptionError
from kpstore.records import StoredKnowledgeUnit, StoredSkill
from kpstore.stores.knowledge import unit_document, unit_texts
from kpstore.stores.rules import INT64_MAX, INT64_MIN
from kpstore.stores.skills import skill_document, skill_texts
from kpstore.text import fold

# What a table of the registry has at least. Columns that only some of its versions have are not here.
_COLUMNS = {
    "skills": {"id", "name", "description", "content"},
    "knowledge_units": {"id", "unit_json"},
    "reputation": {"agent_id", "score", "history"},
    "validation_votes": {"validator_id", "target_id", "unit_id", "valid", "timestamp"},
    "api_keys": {"key_hash", "key_prefix", "agent_id", "scopes", "tier"},
    "rate_limit_violations": {"identifier", "timestamp"},
}
# By what a row is found. The registry's may be NULL, which equals nothing, or bytes.
_KEYS = {"skills": "id", "knowledge_units": "id", "reputation": "agent_id", "api_keys": "key_hash"}
_OLD = "typescript_"  # what the registry's tables are called while they are copied
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)


class _Row:
    """A row of the registry; remembers whether all of it found a place."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.is_exact = True
        self._instead: dict[str, str] = {}

    def rename(self, name: str, text: str) -> None:
        """From now on the column's text is this one."""
        self._instead[name] = text
        self.is_exact = False

    def text(self, name: str) -> str:
        """The column as text."""
        return self.optional_text(name) or ""

    def optional_text(self, name: str) -> str | None:
        """The column as text, or `None` for NULL."""
        if name in self._instead:
            return self._instead[name]
        value = self.values.get(name)
        if isinstance(value, bytes):
            self.is_exact = False
            return value.decode("utf-8", "replace")
        return None if value is None else str(value)

    def number(self, value: object) -> float:
        """A number; 0 for anything else."""
        try:
            if isinstance(value, int | float) and math.isfinite(value):
                return float(value)
        except OverflowError:  # a whole number of hundreds of digits, which JSON may hold
            pass
        self.is_exact = self.is_exact and value is None
        return 0.0

    def integer(self, name: str) -> int:
        """The column as a whole number; 0 for anything else."""
        value = self.values.get(name)
        if not isinstance(value, int):
            value = int(self.number(value))
        if INT64_MIN <= value <= INT64_MAX:
            return value
        self.is_exact = False
        return 0

    def moment(self, value: object) -> datetime:
        """A time; one without a zone is in UTC, and 1970 stands for what is no time."""
        try:
            moment = datetime.fromisoformat(str(value))
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            self.is_exact = False
            return _NO_TIME

    def micros(self, name: str) -> int:
        """The column, a time, in microseconds since 1970."""
        return to_micros(self.moment(self.values.get(name)))

    def json_list(self, name: str) -> list[Any]:
        """The column's JSON list; an empty one for anything else."""
        try:
            value = json.loads(self.text(name) or "[]")
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list):
            return value
        self.is_exact = False
        return []

    def original(self) -> dict[str, Any]:
        """The row itself, if not all of it found a place."""
        if self.is_exact:
            return {}
        return {
            "original": {
                name: {"hex": value.hex()}
                if isinstance(value, bytes)
                else repr(value)
                if isinstance(value, float) and not math.isfinite(value)
                else value
                for name, value in self.values.items()
            }
        }


def is_typescript_registry(db: sqlite3.Connection, location: str) -> bool:
    """Whether the file has tables of the registry; a `DataCorruptionError` if one of ours is another's."""
    found = False
    for table in ("skill_tags", "reputation_history", "rate_limits", "audit_log", *_COLUMNS):
        columns = {name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")}
        if not columns:
            continue
        if not _COLUMNS.get(table, {""}) <= columns:
            raise DataCorruptionError(
                f"{location}: has a table {table} that is neither kpstore's nor the TypeScript registry's; "
                "the file was left as it is"
            )
        found = True
    return found


def upgrade_typescript_registry(
    db: sqlite3.Connection, create_tables: Callable[[sqlite3.Connection], None]
) -> None:
    """Turn the registry's tables into ours, within the caller's transaction."""
    db.execute("PRAGMA legacy_alter_table = ON")  # renaming leaves other tables' references alone
    db.execute("DROP INDEX IF EXISTS idx_violations_identifier")
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    here = [table for table in _COLUMNS if table in tables]
    for table in here:
        db.execute(f"ALTER TABLE {table} RENAME TO {_OLD}{table}")
    create_tables(db)
    text_factory = db.text_factory
    # Bytes that are no UTF-8 must not end the upgrade; they come through as lone surrogates.
    db.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    try:
        for table in here:
            for row in _rows(db, table):
                if _is_taken(db, table, row):
                    row.rename(_KEYS[table], f"{row.text(_KEYS[table])}#{uuid.uuid4()}")
                _COPY[table](db, row)
                if not row.is_exact and table not in ("skills", "knowledge_units"):
                    _keep_row(db, table, row)
    finally:
        db.text_factory = text_factory
    for table in here:
        db.execute(f"DROP TABLE {_OLD}{table}")
    db.execute("PRAGMA legacy_alter_table = OFF")


def _is_taken(db: sqlite3.Connection, table: str, row: _Row) -> bool:
    """Whether a row before this one has come out under the same key."""
    if table not in _KEYS:
        return False
    key = text_column(row.text(_KEYS[table]))
    return db.execute(f"SELECT 1 FROM {table} WHERE {_KEYS[table]} = ?", (key,)).fetchone() is not None


def _keep_row(db: sqlite3.Connection, table: str, row: _Row) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS typescript_rows (table_name TEXT NOT NULL, row TEXT NOT NULL)")
    db.execute(
        "INSERT INTO typescript_rows (table_name, row) VALUES (?, ?)",
        (table, json.dumps(row.original()["original"])),
    )


def _rows(db: sqlite3.Connection, table: str) -> Iterator[_Row]:
    cursor = db.execute(f"SELECT * FROM {_OLD}{table} ORDER BY rowid")
    names = [column[0] for column in cursor.description]
    for values in cursor:
        yield _Row(dict(zip(names, values, strict=True)))


def _copy_skill(db: sqlite3.Connection, row: _Row) -> None:
    tags = row.json_list("tags")
    if not all(isinstance(tag, str) for tag in tags):
        row.is_exact = False
        tags = [tag for tag in tags if isinstance(tag, str)]
    skill = StoredSkill(
        id=row.text("id"),
        name=row.text("name"),
        description=row.text("description"),
        content=row.text("content"),
        version=row.optional_text("version"),
        author=row.optional_text("author"),
        tags=tuple(tags),
        visibility=row.text("visibility"),
        quality_score=row.number(row.values.get("quality_score")),
        created_at=row.moment(row.values.get("created_at")),
        updated_at=row.moment(row.values.get("updated_at")),
    )
    body = _body(msgspec.to_builtins(skill) | row.original())
    texts = tuple(fold(text) for text in skill_texts(skill))
    SqliteSkillStore._store(db, skill_document(skill, body, texts))


def _copy_unit(db: sqlite3.Connection, row: _Row) -> None:
    text = row.text("unit_json")
    try:
        unit = json.loads(text)
    except (ValueError, RecursionError):
        unit = None
    is_readable = isinstance(unit, dict)
    entry = StoredKnowledgeUnit(
        id=row.text("id"),
        unit=unit if is_readable else {},
        visibility=row.text("visibility"),
        created_at=row.moment(row.values.get("created_at")),
        updated_at=row.moment(row.values.get("updated_at")),
    )
    envelope: dict[str, Any] = {
        "id": entry.id,
        "visibility": entry.visibility,
        "created_at": entry.created_at,
        "updated_at": entry.updated_at,
    }
    if is_readable:
        try:
            # The document's own bytes: numbers and escapes stay as they were written.
            envelope["unit"] = msgspec.Raw(text.encode())
        except UnicodeEncodeError:  # it is no UTF-8
            envelope["unit"] = unit
    else:  # without a unit the record cannot be read; its row is there for who repairs it
        row.is_exact = False
    texts = tuple(fold(text) for text in unit_texts(entry.unit))
    document = unit_document(entry, _body(envelope | row.original()), texts)
    SqliteKnowledgeStore._store(db, document)
    db.execute(
        "UPDATE knowledge_units SET quarantine_status = ? WHERE id = ?",
        (row.values.get("quarantine_status"), text_column(document.id)),
    )


def _body(record: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(record)
    except UnicodeEncodeError:  # lone surrogates, which only an escape can carry
        plain = {
            name: json.loads(bytes(value))
            if isinstance(value, msgspec.Raw)
            else value.isoformat()
            if isinstance(value, datetime)
            else value
            for name, value in record.items()
        }
        return json.dumps(plain).encode()


def _copy_reputation(db: sqlite3.Connection, row: _Row) -> None:
    (position,) = db.execute(
        "INSERT INTO reputation (agent_id, score, contributions, validations, first_seen, updated_at,"
        " entries) VALUES (?, ?, ?, ?, ?, ?, 0) RETURNING position",
        (
            text_column(row.text("agent_id")),
            row.number(row.values.get("score")),
            row.integer("contributions"),
            row.integer("validations"),
            row.micros("created_at"),
            row.micros("updated_at"),
        ),
    ).fetchone()
    entries: list[tuple[object, ...]] = []
    for entry in row.json_list("history"):
        if not isinstance(entry, dict):
            row.is_exact = False
            continue
        reason = entry.get("reason")
        if not isinstance(reason, str):
            row.is_exact = False
            reason = ""
        at = to_micros(row.moment(entry.get("timestamp")))
        entries.append((position, len(entries), at, row.number(entry.get("delta")), text_column(reason)))
    db.executemany(
        "INSERT INTO reputation_history (agent, number, at, delta, reason) VALUES (?, ?, ?, ?, ?)", entries
    )
    db.execute("UPDATE reputation SET entries = ? WHERE position = ?", (len(entries), position))


def _copy_vote(db: sqlite3.Connection, row: _Row) -> None:
    db.execute(
        "INSERT INTO validation_votes (validator_id, target_id, unit_id, valid, at) VALUES (?, ?, ?, ?, ?)",
        (
            text_column(row.text("validator_id")),
            text_column(row.text("target_id")),
            text_column(row.text("unit_id")),
            row.integer("valid") != 0,
            row.micros("timestamp"),
        ),
    )


def _copy_key(db: sqlite3.Connection, row: _Row) -> None:
    scopes = row.json_list("scopes")
    if not all(isinstance(scope, str) for scope in scopes):
        row.is_exact = False
        scopes = [scope for scope in scopes if isinstance(scope, str)]
    revoked, revoked_at = row.values.get("revoked"), row.values.get("revoked_at")
    row.integer("revoked")  # a mark that is none is kept beside the key
    db.execute(
        "INSERT INTO api_keys (key_hash, key_prefix, agent_id, scopes, tier, created_at, revoked, revoked_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            text_column(row.text("key_hash")),
            text_column(row.text("key_prefix")),
            text_column(row.text("agent_id")),
            json.dumps(sorted(scopes)),
            text_column(row.text("tier")),
            row.micros("created_at"),
            revoked not in (None, 0),  # whatever is there beside 0 is meant to revoke
            None if revoked_at is None else row.micros("revoked_at"),
        ),
    )


def _copy_violation(db: sqlite3.Connection, row: _Row) -> None:
    at = row.integer("timestamp") * 1000  # the registry's are in ms
    if not INT64_MIN <= at <= INT64_MAX:
        row.is_exact = False
        at = 0
    db.execute(
        "INSERT INTO rate_limit_violations (identifier, at) VALUES (?, ?)",
        (text_column(row.text("identifier")), at),
    )


_COPY: dict[str, Callable[[sqlite3.Connection, _Row], None]] = {
    "skills": _copy_skill,
    "knowledge_units": _copy_unit,
    "reputation": _copy_reputation,
    "validation_votes": _copy_vote,
    "api_keys": _copy_key,
    "rate_limit_violations": _copy_violation,
}
