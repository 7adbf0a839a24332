"""What of the TypeScript registry's rows comes through an upgrade, and what is kept beside the records."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from kpstore import DataCorruptionError
from kpstore.backends.sqlite import schema, typescript
from kpstore.backends.sqlite.typescript import is_typescript_registry

TIME = "2026-01-01T00:00:00.000Z"
MICROS = 1_767_225_600_000_000
HIGHEST, LOWEST = 2**63 - 1, -(2**63)

# What a table of the registry has at least, and a row that finds its place to the last value.
ROWS: dict[str, dict[str, object]] = {
    "skills": {"id": "s", "name": "n", "description": "d", "content": "c"},
    "knowledge_units": {"id": "u", "unit_json": "{}"},
    "reputation": {"agent_id": "a", "score": 0.5, "history": "[]"},
    "validation_votes": {
        "validator_id": "v",
        "target_id": "t",
        "unit_id": "u",
        "valid": 1,
        "timestamp": TIME,
    },
    "api_keys": {"key_hash": "h", "key_prefix": "p", "agent_id": "a", "scopes": "[]", "tier": "free"},
    "rate_limit_violations": {"identifier": "i", "timestamp": 5},
}
TIMES: dict[str, dict[str, object]] = {
    "skills": {"created_at": TIME, "updated_at": TIME},
    "knowledge_units": {"created_at": TIME, "updated_at": TIME},
    "reputation": {"created_at": TIME, "updated_at": TIME},
    "api_keys": {"created_at": TIME},
}
WITH_BODY = ("skills", "knowledge_units")


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as opened:
        yield opened


def fill(db: sqlite3.Connection, table: str, row: dict[str, object]) -> None:
    db.execute(f"CREATE TABLE {table} ({', '.join(row)})")
    db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", list(row.values()))


def upgraded(db: sqlite3.Connection, table: str, **change: object) -> tuple[dict[str, Any], Any]:
    """The one row after the upgrade, and what of the registry's row is kept beside it, if anything is."""
    fill(db, table, ROWS[table] | TIMES.get(table, {}) | change)
    schema.bring_up_to_date(db, "here")
    assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (f"typescript_{table}",)).fetchall()
    cursor = db.execute(f"SELECT * FROM {table}")
    (values,) = cursor.fetchall()
    row = dict(zip((column[0] for column in cursor.description), values, strict=True))
    if table in WITH_BODY:
        row = json.loads(row["body"])
        return row, row.pop("original", None)
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'typescript_rows'").fetchone() is None:
        return row, None
    ((name, kept),) = db.execute("SELECT table_name, row FROM typescript_rows").fetchall()
    assert name == table
    return row, json.loads(kept)


@pytest.mark.parametrize("table", ROWS)
def test_a_registry_of_the_fewest_columns_is_one(db: sqlite3.Connection, table: str) -> None:
    assert not is_typescript_registry(db, "here")
    fill(db, table, ROWS[table])
    assert is_typescript_registry(db, "here")
    schema.bring_up_to_date(db, "here")
    assert db.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (1,)


@pytest.mark.parametrize("table", [*ROWS, "audit_log"])
def test_another_programs_table_of_that_name_is_refused(db: sqlite3.Connection, table: str) -> None:
    fill(db, table, {"id": 1})
    with pytest.raises(DataCorruptionError, match=f"has a table {table} that is neither"):
        is_typescript_registry(db, "here")


@pytest.mark.parametrize("table", ROWS)
def test_nothing_is_kept_beside_a_row_that_finds_its_place(db: sqlite3.Connection, table: str) -> None:
    assert upgraded(db, table)[1] is None


ODD: list[tuple[str, dict[str, object], dict[str, object]]] = [
    ("skills", {"quality_score": "high"}, {"quality_score": 0}),
    ("skills", {"created_at": "yesterday"}, {"created_at": "1970-01-01T00:00:00Z"}),
    ("skills", {"tags": "not json"}, {"tags": []}),
    ("skills", {"tags": '["kept", 5]'}, {"tags": ["kept"]}),
    ("skills", {"name": "a", "author": "b", "tags": '{"a": 1}'}, {"name": "a", "author": "b", "tags": []}),
    ("reputation", {"score": "high"}, {"score": 0.0}),
    ("reputation", {"contributions": "many"}, {"contributions": 0}),
    ("reputation", {"history": "[1]"}, {"entries": 0}),
    ("reputation", {"history": f'[{{"timestamp": "{TIME}", "delta": 1, "reason": 7}}]'}, {"entries": 1}),
    ("reputation", {"history": f'[{{"timestamp": "{TIME}", "delta": "x", "reason": "r"}}]'}, {"entries": 1}),
    ("reputation", {"updated_at": None}, {"updated_at": 0}),
    ("validation_votes", {"valid": "yes"}, {"valid": 0}),
    ("validation_votes", {"timestamp": "garbage"}, {"at": 0}),
    ("api_keys", {"scopes": '["read", 5]'}, {"scopes": '["read"]'}),
    ("api_keys", {"revoked": "yes"}, {"revoked": 1}),
    ("api_keys", {"revoked": 1e300}, {"revoked": 1}),
    ("rate_limit_violations", {"timestamp": "garbage"}, {"at": 0}),
    ("rate_limit_violations", {"timestamp": 2**62}, {"at": 0}),
    ("rate_limit_violations", {"timestamp": -(2**62)}, {"at": 0}),
]


@pytest.mark.parametrize(("table", "odd", "expected"), ODD)
def test_a_row_that_does_not_is_kept_whole(
    db: sqlite3.Connection, table: str, odd: dict[str, object], expected: dict[str, object]
) -> None:
    row, kept = upgraded(db, table, **odd)
    assert kept == ROWS[table] | TIMES.get(table, {}) | odd
    assert row | expected == row


@pytest.mark.parametrize(
    ("table", "odd", "shown"),
    [
        ("api_keys", {"agent_id": b"\xff"}, {"agent_id": {"hex": "ff"}}),
        ("reputation", {"score": math.inf}, {"score": "inf"}),
        ("reputation", {"score": 0.25, "history": "["}, {"score": 0.25, "history": "["}),
        ("skills", {"author": b"a"}, {"author": {"hex": "61"}}),
    ],
)
def test_what_json_cannot_say_is_kept_as_text(
    db: sqlite3.Connection, table: str, odd: dict[str, object], shown: dict[str, object]
) -> None:
    assert upgraded(db, table, **odd)[1] == ROWS[table] | TIMES.get(table, {}) | odd | shown


PLAIN: list[tuple[str, dict[str, object], dict[str, object]]] = [
    ("skills", {"quality_score": None, "author": None}, {"quality_score": 0, "author": None}),
    ("reputation", {"contributions": HIGHEST}, {"contributions": HIGHEST}),
    ("reputation", {"contributions": LOWEST}, {"contributions": LOWEST}),
    ("reputation", {"contributions": None}, {"contributions": 0}),
    ("reputation", {"created_at": TIME[:-1]}, {"first_seen": MICROS}),
    ("validation_votes", {"valid": -1}, {"valid": 1}),
    ("validation_votes", {"valid": 0}, {"valid": 0}),
    ("api_keys", {"revoked": None}, {"revoked": 0, "revoked_at": None}),
    ("api_keys", {"revoked": 0}, {"revoked": 0}),
    ("api_keys", {"revoked": -1, "revoked_at": TIME}, {"revoked": 1, "revoked_at": MICROS}),
    ("rate_limit_violations", {"timestamp": HIGHEST // 1000}, {"at": HIGHEST // 1000 * 1000}),
    ("rate_limit_violations", {"timestamp": -5}, {"at": -5000}),
]


@pytest.mark.parametrize(("table", "change", "expected"), PLAIN)
def test_what_a_column_can_hold_comes_through(
    db: sqlite3.Connection, table: str, change: dict[str, object], expected: dict[str, object]
) -> None:
    row, kept = upgraded(db, table, **change)
    assert row | expected == row
    assert kept is None


def test_whole_numbers_of_64_bits_are_the_largest() -> None:
    for value in (HIGHEST + 1, LOWEST - 1, 1e300):
        row = typescript._Row({"n": value})
        assert (row.integer("n"), row.is_exact) == (0, False)


def test_an_id_that_is_taken_is_made_a_new_one(db: sqlite3.Connection) -> None:
    fill(db, "skills", ROWS["skills"] | {"id": b"s"} | TIMES["skills"])
    db.execute(
        "INSERT INTO skills SELECT 's', 'other', description, content, created_at, updated_at FROM skills"
    )
    schema.bring_up_to_date(db, "here")
    first, second = (json.loads(body) for (body,) in db.execute("SELECT body FROM skills ORDER BY position"))
    assert (first["id"], first["name"], second["name"]) == ("s", "n", "other")
    assert second["id"].startswith("s#")
    assert second["original"]["id"] == "s"


def test_each_unit_keeps_its_own_mark_of_quarantine(db: sqlite3.Connection) -> None:
    fill(db, "knowledge_units", ROWS["knowledge_units"] | {"quarantine_status": "flagged"})
    db.execute("INSERT INTO knowledge_units VALUES ('other', '{}', NULL)")
    schema.bring_up_to_date(db, "here")
    found = db.execute("SELECT id, quarantine_status FROM knowledge_units ORDER BY position").fetchall()
    assert found == [("u", "flagged"), ("other", None)]
