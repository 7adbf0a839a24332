"""Which files are ours, which need work, and what a table's triggers note."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kpstore import Capability, DataCorruptionError, SchemaVersionError, Settings, create_store
from kpstore.backends.sqlite import schema
from kpstore.backends.sqlite.schema import ERASED_BY, VERSION, is_current


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as opened:
        yield opened


# What the files that are out there go by.
MARK = 0x6B707374
FIRST = {
    *("skills", "skill_tags", "knowledge_units", "reputation", "reputation_history", "validation_votes"),
    *("api_keys", "rate_limits", "rate_limit_violations", "audit_log", "erasure"),
}
SECOND = FIRST | {"audit_blocks", "leaderboard_parts", "document_changes"}
THIRD = SECOND | {"search_indexes", "search_index_pieces"}
FIFTH = THIRD | {"audit_spans"}
TABLES = {1: FIRST, 2: SECOND, 3: THIRD, 4: THIRD, 5: FIFTH}


def mark(db: sqlite3.Connection, version: int, application: int = MARK) -> None:
    db.execute(f"PRAGMA user_version = {version}")
    db.execute(f"PRAGMA application_id = {application}")


def make(db: sqlite3.Connection, version: int) -> None:
    schema.bring_up_to_date(db, "here")
    for table in TABLES[VERSION] - TABLES[version]:
        db.execute(f"DROP TABLE {table}")
    mark(db, version)


def test_a_new_file_is_marked_as_files_out_there_are(db: sqlite3.Connection) -> None:
    schema.bring_up_to_date(db, "here")
    assert db.execute("PRAGMA user_version").fetchone() == (max(TABLES),) == (VERSION,)
    assert db.execute("PRAGMA application_id").fetchone() == (MARK,)
    made = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert made - {"sqlite_sequence"} == TABLES[VERSION]


@pytest.mark.parametrize("version", TABLES)
def test_a_file_has_the_tables_of_its_version(db: sqlite3.Connection, version: int) -> None:
    make(db, version)
    assert is_current(db, "here") is (version == VERSION)
    for table in TABLES[version]:
        db.execute("BEGIN")
        db.execute(f"DROP TABLE {table}")
        with pytest.raises(DataCorruptionError, match=f"marked as schema {version} but .* no table {table}$"):
            is_current(db, "here")
        db.execute("ROLLBACK")


def test_the_first_table_that_is_missing_is_named(db: sqlite3.Connection) -> None:
    make(db, VERSION)
    db.execute("DROP TABLE skills")
    db.execute("DROP TABLE api_keys")
    with pytest.raises(DataCorruptionError, match=r"no table api_keys$"):
        is_current(db, "here")


@pytest.mark.parametrize("application", [MARK - 1, MARK + 1, 0])
def test_another_programs_mark_on_our_tables_is_refused(db: sqlite3.Connection, application: int) -> None:
    make(db, VERSION)
    mark(db, VERSION, application)
    with pytest.raises(DataCorruptionError, match=r"is not a kpstore database$"):
        is_current(db, "here")


def test_a_newer_file_is_refused(db: sqlite3.Connection) -> None:
    make(db, VERSION)
    mark(db, VERSION + 1)
    with pytest.raises(SchemaVersionError, match=f"schema {VERSION + 1}, this one: {VERSION}"):
        is_current(db, "here")


def test_an_empty_file_is_made_ours_unless_it_is_marked(db: sqlite3.Connection) -> None:
    assert not is_current(db, "here")
    mark(db, 0)  # by a kpstore that was stopped before it made a table
    assert not is_current(db, "here")
    for version, application in ((0, 5), (-1, MARK), (1, MARK)):
        mark(db, version, application)
        with pytest.raises(DataCorruptionError):
            is_current(db, "here")


def test_another_programs_tables_are_left_alone(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE notes (id, text)")
    for application in (0, 5):
        mark(db, 0, application)
        with pytest.raises(DataCorruptionError, match="another program's"):
            schema.bring_up_to_date(db, "here")
    db.execute("CREATE TABLE reputation (agent_id, score, history)")  # the registry's, among others
    mark(db, 0, 0)
    assert not is_current(db, "here")


def test_a_file_that_is_up_to_date_is_not_touched(db: sqlite3.Connection) -> None:
    make(db, VERSION)
    before = db.execute("PRAGMA schema_version").fetchone(), db.total_changes
    schema.bring_up_to_date(db, "here")
    assert (db.execute("PRAGMA schema_version").fetchone(), db.total_changes) == before


def test_what_is_deleted_or_replaced_is_still_to_be_erased(db: sqlite3.Connection) -> None:
    make(db, VERSION)
    assert db.execute("SELECT owed FROM erasure").fetchall() == [(0,)]
    values = {"INTEGER": 1, "REAL": 1.0, "TEXT": "x", "BLOB": b""}
    for table, events in ERASED_BY.items():
        columns = {name: values[kind] for _, name, kind, *_ in db.execute(f"PRAGMA table_info({table})")}
        for event in events:
            for before in (0, 1, 2):  # 2 while an erasure is at it, which may have passed that place
                db.execute(f"DELETE FROM {table}")
                db.execute(
                    f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", [*columns.values()]
                )
                db.execute("UPDATE erasure SET owed = ?", (before,))
                name = list(columns)[1]
                db.execute(
                    f"DELETE FROM {table}" if event == "DELETE" else f"UPDATE {table} SET {name} = {name}"
                )
                assert db.execute("SELECT owed FROM erasure").fetchall() == [(1,)], (table, event, before)


def test_the_registrys_remains_are_to_be_erased(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE reputation (agent_id, score, history)")
    schema.bring_up_to_date(db, "here")
    assert db.execute("SELECT owed FROM erasure").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("path", "synchronous", "declared"),
    [
        (":memory:", "full", set()),
        ("a.db", "full", {Capability.DURABLE, Capability.MULTI_PROCESS}),
        ("a.db", "normal", {Capability.MULTI_PROCESS}),
        ("~.db", "full", {Capability.DURABLE, Capability.MULTI_PROCESS}),
        ("!.db", "normal", {Capability.MULTI_PROCESS}),
    ],
)
async def test_only_a_file_is_durable_and_only_if_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, synchronous: str, declared: set[Capability]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(sqlite_path=path, sqlite_synchronous=synchronous)
    async with create_store("sqlite", settings=settings) as stores:
        assert stores.capabilities == {Capability.CONTROLLABLE_CLOCK, *declared}
