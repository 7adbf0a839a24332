"""The tables are made once, an older file is upgraded, a newer one is left alone, and handles do not
disturb each other while they come and go.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from kpstore import SchemaVersionError
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks.sqlite_support import (
    digests,
    opened,
    path_of,
    python,
    raw,
    refused,
    skill,
    unit,
)

TABLES = {"skills", "knowledge_units", "reputation", "api_keys", "rate_limits", "audit_log"}


async def _fill(lab: Lab, path: Path) -> None:
    async with opened(lab, path) as stores:
        for number in range(20):
            await stores.skills.create(skill(f"s{number}", tags=("a", "b")))
            await stores.knowledge.create(unit(f"u{number}"))
            await stores.reputation.upsert(f"agent{number % 3}", 1.5, "reason")
        await stores.api_keys.create("agent", {"read"}, "free")
        await stores.rate_limit.consume("agent", "free", "GET")
        await stores.rate_limit.record_429("agent")
        await stores.audit_log.log("act", "agent", "type", "resource", "ip", {"k": 1})


@check(
    clauses=["SQL-2"], backends=["sqlite"], name="the contract's tables are there from the first connection"
)
async def tables_are_made(lab: Lab) -> None:
    """A new file has the tables of the contract and a user_version of at least 1, before any record."""
    async with opened(lab):
        pass
    with raw(path_of(lab)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        version = db.execute("PRAGMA user_version").fetchone()[0]
    assert tables >= TABLES, f"missing: {sorted(TABLES - tables)}"
    assert version >= 1, f"user_version is {version}"


@check(clauses=["SQL-2"], backends=["sqlite"], name="opening again changes no byte")
async def opening_again_changes_nothing(lab: Lab) -> None:
    """Opening, reading everything and closing leaves the file as it was, byte for byte, and nothing
    beside it; so does opening it twice at once.
    """
    path = path_of(lab)
    await _fill(lab, path)
    before = digests(lab.folder)
    for _ in range(3):
        async with opened(lab, path) as stores, opened(lab, path) as other:
            assert (await stores.skills.search(query="name of", limit=100)).total == 20
            assert [record.agent_id async for record in other.reputation.scan()] == [
                "agent0",
                "agent1",
                "agent2",
            ]
        assert digests(lab.folder) == before


@check(clauses=["SQL-2"], backends=["sqlite"], name="tables of others in the file stay as they are")
async def other_tables_stay(lab: Lab) -> None:
    """A table, an index and a view that somebody added to a kpstore file are there after reopening."""
    path = path_of(lab)
    await _fill(lab, path)
    with raw(path) as db:
        db.execute("CREATE TABLE theirs (a TEXT PRIMARY KEY, b BLOB)")
        db.execute("INSERT INTO theirs VALUES ('x', x'00ff'), ('y', NULL)")
        db.execute("CREATE INDEX theirs_by_b ON theirs (b)")
        db.execute("CREATE VIEW theirs_too AS SELECT id FROM skills")
    async with opened(lab, path) as stores:
        await stores.skills.delete("s0")
    with raw(path) as db:
        assert db.execute("SELECT a, b FROM theirs ORDER BY a").fetchall() == [
            ("x", b"\x00\xff"),
            ("y", None),
        ]
        assert db.execute("SELECT COUNT(*) FROM theirs_too").fetchone() == (19,)
        assert db.execute(
            "SELECT name FROM sqlite_master WHERE name LIKE 'theirs%' ORDER BY name"
        ).fetchall() == [("theirs",), ("theirs_by_b",), ("theirs_too",)]


# Leaves a log that holds a newer version, as a newer kpstore does that was killed.
_DIE_WITH_A_LOG = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA wal_autocheckpoint = 0")
db.execute(f"PRAGMA user_version = {sys.argv[2]}")
db.execute("CREATE TABLE from_the_future (x)")
os._exit(0)
"""


@check(clauses=["SQL-2"], backends=["sqlite"], name="a file of a newer version is left untouched")
async def newer_version_is_refused(lab: Lab) -> None:
    """A higher user_version, in the file's header or only in its log, is a SchemaVersionError that names
    the file; no byte of the file or its log changes, and no other file is left.
    """
    source = lab.folder / "source" / "made.db"
    await _fill(lab, source)
    content = source.read_bytes()
    for name, mode, version in (
        ("wal", "WAL", 999),
        ("next", "WAL", None),
        ("highest", "WAL", 2**31 - 1),
        ("rollback", "DELETE", 999),
    ):
        folder = lab.folder / name
        folder.mkdir()
        path = folder / "newer.db"
        path.write_bytes(content)
        with raw(path) as db:
            current = db.execute("PRAGMA user_version").fetchone()[0]
            db.execute(f"PRAGMA journal_mode = {mode}")
            db.execute(f"PRAGMA user_version = {current + 1 if version is None else version}")
        before = digests(folder)
        for _ in range(2):
            with refused(SchemaVersionError, path, name):
                async with opened(lab, path):
                    pass
            assert digests(folder) == before, f"{name}: the folder became {sorted(digests(folder))}"

    folder = lab.folder / "log"
    folder.mkdir()
    path = folder / "newer.db"
    path.write_bytes(content)
    async with python(lab, _DIE_WITH_A_LOG, path, 999) as process:
        await process.rest()
    before = digests(folder)
    assert f"{path.name}-wal" in before, "the check's own set-up left no log"
    for _ in range(2):
        with refused(SchemaVersionError, path, "log"):
            async with opened(lab, path):
                pass
        after = digests(folder)
        # The -shm is an index that SQLite makes and remakes from the log; it holds no data.
        after.pop(f"{path.name}-shm", None)
        assert after == {name: digest for name, digest in before.items() if not name.endswith("-shm")}


_OPEN_AND_WRITE = """
import asyncio, sys
from kpstore import StoredSkill, create_store
from datetime import datetime, UTC
now = datetime.now(UTC)
async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    async def one(name):
        async with create_store() as stores:
            await stores.skills.create(StoredSkill(name, "n", "d", "c", created_at=now, updated_at=now))
    await asyncio.gather(*(one(f"{sys.argv[1]}-{n}") for n in range(4)))
asyncio.run(main())
"""


@check(
    clauses=["SQL-2", "GEN-8"],
    backends=["sqlite"],
    name="eight handles in two processes open a new file together",
)
async def many_open_a_new_file(lab: Lab) -> None:
    """Eight handles that open one new path at the same moment, four in each of two processes, all open
    and all write; each record is there.
    """
    async with (
        python(lab, _OPEN_AND_WRITE, "p") as one,
        python(lab, _OPEN_AND_WRITE, "q") as other,
    ):
        for process in (one, other):
            assert await process.line() == "ready"
        for process in (one, other):
            process.tell()
        await asyncio.gather(one.rest(), other.rest())
    with raw(path_of(lab)) as db:
        found = sorted(name for (name,) in db.execute("SELECT id FROM skills"))
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert found == sorted(f"{process}-{n}" for process in "pq" for n in range(4)), found


@check(
    clauses=["SQL-2", "GEN-8"],
    backends=["sqlite"],
    name="handles that open together in one process find one new file",
)
async def handles_open_a_new_file(lab: Lab) -> None:
    """Eight handles of one process that open a new path at once all work, round after round."""
    for number in range(5):
        path = lab.folder / f"new{number}.db"

        async def write(name: str, path: Path = path) -> None:
            async with opened(lab, path) as stores:
                await stores.skills.create(skill(name))

        await asyncio.gather(*(write(f"s{one}") for one in range(8)))
        async with opened(lab, path) as stores:
            assert (await stores.skills.search(limit=0)).total == 8


_COUNT = """
import asyncio, sys
from kpstore import create_store
async def main():
    while sys.stdin.readline():
        async with create_store() as stores:
            print((await stores.skills.search(limit=0)).total, flush=True)
asyncio.run(main())
"""


@check(
    clauses=["SQL-1", "GEN-8", "GEN-10"],
    backends=["sqlite"],
    name="a handle that closes takes nothing from the others",
)
async def closing_takes_nothing_from_others(lab: Lab) -> None:
    """Handles that open and close in this process and in another, while one stays open and writes, never
    take the log from under it: what it acknowledges is seen by whoever opens the file next.
    """
    # POSIX locks belong to the process and go with the first descriptor that is closed; SQLite then
    # takes the next handle to close for the last one, and removes the log.
    written = 0
    async with python(lab, _COUNT) as process, contextlib.AsyncExitStack() as stack:
        staying = await stack.enter_async_context(opened(lab))
        for round_number in range(3):
            async with opened(lab):
                await staying.skills.create(skill(f"s{written}"))
                written += 1
            if round_number == 1:
                await stack.enter_async_context(opened(lab))
            for _ in range(2):
                await staying.skills.create(skill(f"s{written}"))
                written += 1
                process.tell()
                assert int(await process.line()) == written, (
                    f"another process misses some of {written} skills"
                )
    async with opened(lab) as stores:
        assert (await stores.skills.search(limit=0)).total == written
