"""Locks, damage, full disks and missing permissions are said as what they are, in time, and never made worse.

KP_CHECKS_HEAVY=1 tries ten times as many places to cut a file off and to flip a byte in.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from kpstore import (
    AllStores,
    BackendUnavailableError,
    DataCorruptionError,
    KpStoreError,
    SchemaVersionError,
    ValidationVote,
)
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks.sqlite_support import (
    HOLD_LOCK,
    IS_HEAVY,
    NOW,
    digests,
    opened,
    path_of,
    python,
    raw,
    refused,
    skill,
    unit,
)

# SQL-5 says up to 5 s. A machine that does ten things at once adds some; twice the time would be a fault.
PATIENCE_S = 5.0
LATEST_S = 8.5


async def _timed(call: Awaitable[object]) -> float:
    start_s = time.monotonic()
    await call
    return time.monotonic() - start_s


# Locks ----------------------------------------------------------------------


@check(clauses=["SQL-5"], backends=["sqlite"], name="another process's lock is waited out")
async def short_lock_is_waited_out(lab: Lab) -> None:
    """A lock that another process holds for 2 s delays a write by about that, and no read at all."""
    stores = await lab.open()
    await stores.skills.create(skill("a"))
    async with python(lab, HOLD_LOCK, path_of(lab), "IMMEDIATE") as holder:
        assert await holder.line() == "held"
        start_s = time.monotonic()
        write = asyncio.create_task(stores.skills.create(skill("b")))
        assert await _timed(stores.skills.get_by_id("a")) < 1, "a read waited for another's write"
        assert await _timed(stores.skills.search(query="name")) < 1, "a search waited for another's write"
        await asyncio.sleep(2 - (time.monotonic() - start_s))
        assert not write.done(), "the write did not wait for the lock"
        holder.tell()
        await asyncio.wait_for(write, 3)
    assert await stores.skills.get_by_id("b") is not None


@check(clauses=["SQL-5", "GEN-6"], backends=["sqlite"], name="a lock that stays is an error after 5 s")
async def long_lock_is_an_error(lab: Lab) -> None:
    """Writes under a lock that is not released raise BackendUnavailableError, naming the file, after about
    5 s each, however many wait; none of them happens later, and then all works again.
    """
    stores = await lab.open()
    await stores.skills.create(skill("a"))
    path = path_of(lab)
    async with python(lab, HOLD_LOCK, path, "IMMEDIATE") as holder:
        assert await holder.line() == "held"

        async def write(number: int) -> float:
            start_s = time.monotonic()
            with refused(BackendUnavailableError, path, f"write {number}"):
                await stores.skills.create(skill(f"b{number}"))
            return time.monotonic() - start_s

        async def later(number: int) -> float:
            await asyncio.sleep(1.5)
            return await write(number)

        waits = await asyncio.gather(*(write(n) for n in range(5)), later(5), later(6))
        holder.tell()
        assert await holder.line() == "released"
    assert all(PATIENCE_S - 0.5 <= wait <= LATEST_S for wait in waits), waits
    await stores.skills.create(skill("c"))
    found = [each.id async for each in stores.skills.scan()]
    assert found == ["a", "c"], f"a write that was refused happened all the same: {found}"


@check(
    clauses=["SQL-5", "GEN-6"], backends=["sqlite"], name="opening waits for a lock no longer than it should"
)
async def opening_under_a_lock(lab: Lab) -> None:
    """Opening a new file, and a kpstore file, of which another process holds the lock: the first is a
    BackendUnavailableError naming the file after about 5 s, the second needs no lock to write and opens.
    """
    path = path_of(lab)
    path.touch()
    async with python(lab, HOLD_LOCK, path, "EXCLUSIVE") as holder:
        assert await holder.line() == "held"
        start_s = time.monotonic()
        with refused(BackendUnavailableError, path, "opening"):
            async with opened(lab):
                pass
        waited_s = time.monotonic() - start_s
        assert PATIENCE_S - 0.5 <= waited_s <= LATEST_S, f"it waited {waited_s:.1f} s"
        holder.tell()
        assert await holder.line() == "released"
    async with opened(lab) as stores:
        await stores.skills.create(skill("a"))
    async with python(lab, HOLD_LOCK, path, "IMMEDIATE") as holder:
        assert await holder.line() == "held"
        start_s = time.monotonic()
        async with opened(lab) as stores:
            assert await stores.skills.get_by_id("a") is not None
            assert time.monotonic() - start_s < 2, "opening a kpstore file waited for another's write"
        assert time.monotonic() - start_s < 4, "closing waited for another's write"


# Files that are no database, or a damaged one -------------------------------


@check(clauses=["SQL-5"], backends=["sqlite"], name="a file that is no database is never overwritten")
async def other_files_are_refused(lab: Lab) -> None:
    """Text, random bytes, zeros, and beginnings of a database: a DataCorruptionError that names the file,
    which stays as it is, with nothing beside it.
    """
    rng = random.Random(5)  # noqa: S311  # the same every time, guards nothing
    contents = {
        "a line": b"hello\n",
        "one byte": b"x",
        "a long text": b"All work and no play.\n" * 1000,
        "random bytes": rng.randbytes(20_000),
        "zeros": bytes(8192),
        "a few zeros": bytes(10),
        "the magic alone": b"SQLite format 3\0",
        "the magic and text": b"SQLite format 3\0" + b"text " * 2000,
        "a header of zeros": b"SQLite format 3\0" + bytes(4080),
    }
    for name, content in contents.items():
        folder = lab.folder / name.replace(" ", "-")
        folder.mkdir()
        path = folder / "not-a.db"
        path.write_bytes(content)
        with refused(DataCorruptionError, path, name):
            async with opened(lab, path):
                pass
        assert path.read_bytes() == content, f"{name}: the file was changed"
        assert len(digests(folder)) == 1, f"{name}: {sorted(digests(folder))}"


@check(clauses=["SQL-5"], backends=["sqlite"], name="another program's database is left alone")
async def other_databases_are_refused(lab: Lab) -> None:
    """A SQLite database that is neither kpstore's nor the registry's is a DataCorruptionError naming the
    file; it stays as it is, whatever its version, its log mode and the names of its tables.
    """
    cases = {
        "plain": ["CREATE TABLE notes (id, text)", "INSERT INTO notes VALUES (1, 'mine')"],
        "in WAL mode": ["PRAGMA journal_mode = WAL", "CREATE TABLE notes (id, text)"],
        "with our version": ["CREATE TABLE notes (id, text)", "PRAGMA user_version = 2"],
        "with our first version": ["CREATE TABLE notes (id, text)", "PRAGMA user_version = 1"],
        "with an application_id": ["CREATE TABLE notes (id, text)", "PRAGMA application_id = 252006673"],
        "with an application_id and no table": ["PRAGMA application_id = 252006673"],
        "with a table skills of its own": ["CREATE TABLE skills (id INTEGER PRIMARY KEY, level INT)"],
        "with a table audit_log of its own": ["CREATE TABLE audit_log (line TEXT)"],
        "with a view alone": ["CREATE VIEW skills AS SELECT 1 AS id"],
    }
    for name, statements in cases.items():
        folder = lab.folder / name.replace(" ", "-")
        folder.mkdir()
        path = folder / "theirs.db"
        with raw(path) as db:
            for statement in statements:
                db.execute(statement)
        before = digests(folder)
        with refused(DataCorruptionError, path, name):
            async with opened(lab, path):
                pass
        assert digests(folder) == before, f"{name}: the database of another program was changed"


async def _fill(stores: AllStores, count: int) -> None:
    await stores.skills.create_many(
        skill(f"s{n}", content=f"content {n} " * 20, tags=(f"tag{n}",)) for n in range(count)
    )
    await stores.knowledge.create_many(unit(f"u{n}", agent_id=f"agent{n}") for n in range(count))
    for n in range(count // 5):
        await stores.reputation.upsert(f"agent{n}", 1, f"reason {n}")
        await stores.audit_log.log("act", f"agent{n}", "type", f"resource{n}", "ip")
        await stores.reputation.record_vote(ValidationVote(f"agent{n}", "t", "kp:trace:u", True, NOW))
        await stores.api_keys.create(f"agent{n}", {"read"}, "free")
        await stores.rate_limit.consume(f"agent{n}", "free", "GET")


async def _read_everything(stores: AllStores, count: int) -> list[str]:
    """Every read there is; the KpStoreErrors met. Whatever else is raised comes through."""
    met: list[str] = []

    async def attempt(call: Callable[[], Awaitable[object]]) -> None:
        try:
            await asyncio.wait_for(call(), 20)
        except KpStoreError as error:
            met.append(type(error).__name__)

    async def all_of(scan: object) -> None:
        async for _ in scan:  # type: ignore[attr-defined]
            pass

    for n in range(0, count, max(1, count // 8)):
        await attempt(lambda n=n: stores.skills.get_by_id(f"s{n}"))  # type: ignore[misc]
        await attempt(lambda n=n: stores.knowledge.get_by_agent_id(f"agent{n}"))  # type: ignore[misc]
        await attempt(lambda n=n: stores.reputation.get(f"agent{n}"))  # type: ignore[misc]
        await attempt(lambda n=n: stores.api_keys.get_by_agent_id(f"agent{n}"))  # type: ignore[misc]
    await attempt(lambda: stores.skills.search(query="name of", limit=1000))
    await attempt(lambda: stores.skills.search(tags=["tag1"]))
    await attempt(lambda: stores.knowledge.search(domain="testing", limit=1000))
    await attempt(lambda: stores.reputation.get_leaderboard(limit=1000))
    await attempt(stores.reputation.get_votes)
    await attempt(lambda: stores.audit_log.query(limit=1000))
    await attempt(lambda: stores.rate_limit.get_429_count("agent1", NOW - NOW))
    for store in (stores.skills, stores.knowledge, stores.reputation, stores.api_keys, stores.audit_log):
        await attempt(lambda store=store: all_of(store.scan()))  # type: ignore[misc]
    return met


@check(clauses=["SQL-5"], backends=["sqlite"], name="a file that was cut off is damaged at every length")
async def truncated_files_are_refused(lab: Lab) -> None:
    """A database cut off anywhere, at page boundaries and within, is a DataCorruptionError that names the
    file, which stays as it is: it is never taken for an empty one.
    """
    source = lab.folder / "source.db"
    async with opened(lab, source) as stores:
        await _fill(stores, 40)
    content = source.read_bytes()
    rng = random.Random(6)  # noqa: S311  # the same every time, guards nothing
    lengths = {1, 15, 16, 17, 50, 99, 100, 101, 511, 512, 1024, 4095, 4096, 4097, 8192, len(content) - 1}
    lengths |= {len(content) - 4096, len(content) - 512, len(content) // 2}
    lengths |= {rng.randrange(1, len(content)) for _ in range(400 if IS_HEAVY else 20)}
    lengths |= {rng.randrange(1, len(content) // 4096) * 4096 for _ in range(100 if IS_HEAVY else 6)}
    folder = lab.folder / "cut"
    folder.mkdir()
    path = folder / "cut.db"
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        with refused(DataCorruptionError, path, f"{length} of {len(content)} bytes"):
            async with opened(lab, path):
                pass
        assert path.read_bytes() == content[:length], f"cut to {length} bytes, the file was changed"
        assert len(digests(folder)) == 1, f"cut to {length} bytes: {sorted(digests(folder))}"


@check(clauses=["SQL-5"], backends=["sqlite"], name="a log without its database is not thrown away")
async def lost_database_is_not_replaced(lab: Lab) -> None:
    """A database file of no bytes is a new one; but beside a log that holds data, its own were lost, and it
    is a DataCorruptionError that leaves the log as it is.
    """
    path = path_of(lab)
    path.touch()
    async with opened(lab, path) as stores:
        await stores.skills.create(skill("a"))
        folder = lab.folder / "lost"
        folder.mkdir()
        # Copied by another process: closing a descriptor here would drop the locks of the open handle.
        log = folder / "lost.db-wal"
        async with python(
            lab, "import shutil, sys; shutil.copy(*sys.argv[1:])", f"{path}-wal", log
        ) as process:
            await process.rest()
    (folder / "lost.db").touch()
    before = digests(folder)
    assert log.stat().st_size > 0, "the check's own set-up left no log"
    with refused(DataCorruptionError, folder / "lost.db"):
        async with opened(lab, folder / "lost.db"):
            pass
    assert digests(folder) == before


@check(
    clauses=["SQL-5", "GEN-6"],
    backends=["sqlite"],
    name="a flipped byte never gives more than a kpstore error",
    timeout_s=600 if IS_HEAVY else 120,
)
async def flipped_bytes_are_errors(lab: Lab) -> None:
    """With any one byte of the file changed, opening and every read end, in a result or in a KpStoreError;
    a file that is refused stays as it is.
    """
    source = lab.folder / "source.db"
    count = 40
    async with opened(lab, source) as stores:
        await _fill(stores, count)
        assert await _read_everything(stores, count) == []
    content = source.read_bytes()
    rng = random.Random(7)  # noqa: S311  # the same every time, guards nothing
    pages = len(content) // 4096
    places = list(range(16, 100, 1 if IS_HEAVY else 4))  # the file's header
    for page in range(pages):  # the header of each page, which says where its cells are
        places += [page * 4096 + place for place in rng.sample(range(12), 4 if IS_HEAVY else 1)]
    places += rng.sample(range(100, len(content)), 600 if IS_HEAVY else 30)
    folder = lab.folder / "flipped"
    folder.mkdir()
    path = folder / "flipped.db"
    damaged = 0
    for place in places:
        changed = bytearray(content)
        changed[place] ^= rng.randrange(1, 256)
        for file in folder.iterdir():
            file.unlink()
        path.write_bytes(changed)
        is_open = False
        try:
            async with opened(lab, path) as stores:
                is_open = True
                damaged += bool(await _read_everything(stores, count))
        except (DataCorruptionError, SchemaVersionError, BackendUnavailableError) as error:
            damaged += 1
            said = str(error)
            assert str(path) in said, f"byte {place}: the message does not name the file: {said}"
            # An open store may write to its file; one that does not open may not.
            assert is_open or path.read_bytes() == changed, f"byte {place}: {said}; but the file was changed"
    assert damaged >= len(places) // 10, f"only {damaged} of {len(places)} flips were noticed at all"


# Rows that cannot be read ---------------------------------------------------

_NO_UTF8 = b"\xff\xfe\x80 not utf-8"
_DEEP = b'{"unit":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
BODIES = [b"", b"{", b"null", b"[]", b"{}", b"5", b'"text"', b'{"id":"bad"}', b'{"id":7}', _NO_UTF8, _DEEP]


async def _set(lab: Lab, sql: str, *values: object) -> None:
    with raw(path_of(lab)) as db:
        changed = db.execute(sql, values).rowcount
        assert changed == 1, f"the check's own set-up changed {changed} rows: {sql}"


@check(clauses=["SQL-5"], backends=["sqlite"], name="an unreadable skill or unit fails only its own calls")
async def unreadable_documents(lab: Lab) -> None:
    """A body that is no record, in any way, fails only the calls that would return it, with a
    DataCorruptionError that names the file; it counts, can be replaced, and can be deleted.
    """
    path = path_of(lab)
    for number, body in enumerate(BODIES):
        what = f"body {body[:20]!r}"
        async with opened(lab) as stores:
            for name in ("good", "bad", "also good"):
                quality = {"good": 0.9, "bad": 0.5, "also good": 0.1}[name]
                await stores.skills.create(skill(name, quality_score=quality))
                await stores.knowledge.create(unit(name, agent_id=name, quality=quality))
        as_text = "?" if body is _NO_UTF8 or number % 2 else "CAST(? AS TEXT)"
        await _set(lab, f"UPDATE skills SET body = {as_text} WHERE id = 'bad'", body)  # noqa: S608
        await _set(
            lab,
            f"UPDATE knowledge_units SET body = {as_text} WHERE id = 'kp:trace:bad'",  # noqa: S608
            body,
        )
        async with opened(lab) as stores:
            for store, prefix in ((stores.skills, ""), (stores.knowledge, "kp:trace:")):
                found = await store.get_by_id(f"{prefix}good")
                assert found is not None
                with refused(DataCorruptionError, path, what):
                    await store.get_by_id(f"{prefix}bad")
                for offset, limit in ((0, 1), (2, 1), (0, 0)):
                    page = await store.search(offset=offset, limit=limit)
                    assert (page.total, len(page.data)) == (3, limit), what
                with refused(DataCorruptionError, path, what):
                    await store.search()
                with refused(DataCorruptionError, path, what):
                    assert [each async for each in store.scan()]
            with refused(DataCorruptionError, path, what):
                await stores.knowledge.get_by_agent_id("bad")
            assert len(await stores.knowledge.get_by_agent_id("good")) == 1
            if number % 2:
                await stores.skills.create(skill("bad"))
                await stores.knowledge.create(unit("bad"))
                assert await stores.skills.get_by_id("bad") is not None
            assert await stores.skills.delete("bad")
            assert await stores.knowledge.delete("kp:trace:bad")
            assert (await stores.skills.search()).total == 2
            assert (await stores.knowledge.search()).total == 2


@check(
    clauses=["SQL-5"], backends=["sqlite"], name="an unreadable reputation or vote fails only its own calls"
)
async def unreadable_reputation(lab: Lab) -> None:
    """Wrong types and texts that are no UTF-8 in the tables of the reputation store fail only the calls
    that would return them, with a DataCorruptionError that names the file.
    """
    path = path_of(lab)
    columns = ("score", "contributions", "validations", "updated_at", "first_seen")
    async with opened(lab) as stores:
        for name in (*columns, "history_at", "history_reason", "history_delta"):
            await stores.reputation.upsert(name, 1, "reason")
        for _ in range(60):
            await stores.reputation.upsert("long", 1, "reason")
        await stores.reputation.upsert("good", 100, "reason")
        for vote in ("good", "bad", "blob", "neither"):
            await stores.reputation.record_vote(ValidationVote("v", "t", vote, True, NOW))
    for column in columns:
        await _set(lab, f"UPDATE reputation SET {column} = 'garbage' WHERE agent_id = ?", column)  # noqa: S608
    entry = "UPDATE reputation_history SET {} WHERE number = ? AND agent ="
    agent = " (SELECT position FROM reputation WHERE agent_id = ?)"
    for change, number, name in (
        ("at = 'garbage'", 0, "history_at"),
        ("delta = x'00'", 0, "history_delta"),
        ("reason = CAST(x'fffe80' AS TEXT)", 0, "history_reason"),
        ("reason = CAST(x'fffe80' AS TEXT)", 3, "long"),
    ):
        await _set(lab, entry.format(change) + agent, number, name)
    await _set(lab, "UPDATE validation_votes SET at = 'garbage' WHERE unit_id = 'bad'")
    await _set(lab, "UPDATE validation_votes SET valid = 'garbage' WHERE unit_id = 'neither'")
    await _set(lab, "UPDATE validation_votes SET validator_id = x'fffe80' WHERE unit_id = 'blob'")
    async with opened(lab) as stores:
        store = stores.reputation
        for name in (*columns, "history_at", "history_reason", "history_delta"):
            with refused(DataCorruptionError, path, name):
                await store.get(name)
            if name in columns:
                assert (await store.get_history(name)).total == 1, name
            else:
                with refused(DataCorruptionError, path, name):
                    await store.get_history(name)
            with refused(DataCorruptionError, path, name):
                await store.upsert(name, 1, "reason")
        with refused(DataCorruptionError, path):
            await store.can_vote("first_seen")
        assert not await store.can_vote("good")
        # One of the first of 61 entries cannot be read: neither the record nor later pages have it.
        record = await store.get("long")
        assert record is not None
        assert len(record.history) == 50
        assert (await store.get_history("long", offset=4, limit=20)).total == 60
        assert (await store.get_history("long", offset=0, limit=3)).total == 60
        with refused(DataCorruptionError, path):
            await store.get_history("long", offset=0, limit=4)
        await store.upsert("long", 1, "reason")
        good = await store.upsert("good", 1, "reason")
        assert good.score == 101
        assert await store.get("good") == good
        assert (await store.get_leaderboard(limit=0)).total == 10
        for call in (store.get_all(), store.get_leaderboard(limit=100)):
            with refused(DataCorruptionError, path):
                await call
        assert [vote.unit_id for vote in await store.get_votes("good")] == ["good"]
        for unit_id in ("bad", "blob", "neither", None):
            with refused(DataCorruptionError, path, f"votes on {unit_id}"):
                await store.get_votes(unit_id)
        await store.record_vote(ValidationVote("v", "t", "good", False, NOW))
        assert len(await store.get_votes("good")) == 2


@check(
    clauses=["SQL-5"], backends=["sqlite"], name="an unreadable key, bucket or entry fails only its own calls"
)
async def unreadable_other_rows(lab: Lab) -> None:
    """The same for API keys, buckets, violations and the audit log."""
    path = path_of(lab)
    keys = {}
    changes = {
        "scopes": ("scopes", "{"),
        "scope": ("scopes", "[7]"),
        "created": ("created_at", "garbage"),
        "revoked": ("revoked_at", "garbage"),
        "tier": ("tier", b"\xff\xfe\x80"),
        "when": ("created_at", 2**62),
    }
    async with opened(lab) as stores:
        for name in (*changes, "good", "owner"):
            keys[name] = await stores.api_keys.create(name, {"read"}, "free")
        for name in ("good", "level", "at", "full_at"):
            await stores.rate_limit.consume(name, "free", "GET")
            await stores.rate_limit.record_429(name)
        for name in ("good", "bad", "good"):
            await stores.audit_log.log("act", name, "t", "r", "ip")
    for name, (column, value) in changes.items():
        await _set(lab, f"UPDATE api_keys SET {column} = ? WHERE agent_id = ?", value, name)  # noqa: S608
    await _set(lab, "UPDATE api_keys SET agent_id = CAST(x'fffe80' AS TEXT) WHERE agent_id = 'owner'")
    for column in ("level", "at", "full_at"):
        await _set(lab, f"UPDATE rate_limits SET {column} = x'00' WHERE identifier = ?", column)  # noqa: S608
    await _set(lab, "UPDATE rate_limit_violations SET at = 'garbage' WHERE identifier = 'at'")
    await _set(lab, "UPDATE audit_log SET body = '{' WHERE agent_id = 'bad'")
    async with opened(lab) as stores:
        for name in (*changes, "owner"):
            with refused(DataCorruptionError, path, name):
                await stores.api_keys.verify(keys[name].raw_key)
            if name != "owner":
                with refused(DataCorruptionError, path, name):
                    await stores.api_keys.get_by_agent_id(name)
        assert await stores.api_keys.verify(keys["good"].raw_key) == keys["good"].record
        with refused(DataCorruptionError, path, "api_keys.scan"):
            assert [each async for each in stores.api_keys.scan()]
        assert await stores.api_keys.revoke(keys["scopes"].record.key_prefix)
        await stores.api_keys.create("good", {"read"}, "free")
        assert len(await stores.api_keys.get_by_agent_id("good")) == 2

        for name in ("level", "at", "full_at"):
            with refused(DataCorruptionError, path, f"bucket {name}"):
                await stores.rate_limit.consume(name, "free", "GET")
            assert (await stores.rate_limit.consume(name, "free", "POST")).allowed
        assert (await stores.rate_limit.consume("good", "free", "GET")).remaining == 298
        await stores.rate_limit.record_429("good")

        log = stores.audit_log
        assert (await log.query(agent_id="good")).total == 2
        assert len((await log.query(limit=1)).data) == 1
        assert (await log.query(limit=0)).total == 3
        for call in (log.query(), log.query(agent_id="bad"), log.query(offset=1, limit=1)):
            with refused(DataCorruptionError, path, "audit_log"):
                await call
        assert len((await log.query(offset=2)).data) == 1
        with refused(DataCorruptionError, path, "audit_log.scan"):
            assert [each async for each in log.scan()]
        await log.log("act", "good", "t", "r", "ip")


@check(clauses=["SQL-5"], backends=["sqlite"], name="a dropped table is damage, and fails only its own store")
async def dropped_tables(lab: Lab) -> None:
    """A table that somebody drops under an open store fails that store's calls with a DataCorruptionError
    naming the file, and no other's; the file does not open again, and is not mended in silence.
    """
    path = path_of(lab)
    stores = await lab.open()
    await stores.reputation.upsert("agent", 1, "reason")
    await stores.skills.create(skill("a"))
    with raw(path) as db:
        db.execute("DROP TABLE reputation")
    for call in (
        stores.reputation.get("agent"),
        stores.reputation.upsert("agent", 1, "reason"),
        stores.reputation.get_leaderboard(),
    ):
        with refused(DataCorruptionError, path):
            await call
    assert (await stores.skills.search()).total == 1
    await stores.skills.create(skill("b"))
    await stores.close()
    before = digests(lab.folder)
    with refused(DataCorruptionError, path):
        async with opened(lab):
            pass
    assert digests(lab.folder) == before


# Permissions and space ------------------------------------------------------

_AS_NOBODY = """
import asyncio, json, os, sys
from kpstore import KpStoreError, Settings, create_store
import kpstore.backends.sqlite  # before its files are out of this user's reach
if os.geteuid() == 0:  # whom no permission stops
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
async def main():
    said = {}
    for path in sys.argv[1:]:
        try:
            async with create_store(
                "kpstore.backends.sqlite:open_store", settings=Settings(sqlite_path=path)
            ) as stores:
                # What cannot be written may be read.
                assert (await stores.skills.search(limit=0)).total == 1
                await stores.reputation.upsert("agent", 1, "reason")
                said[path] = "written"
        except KpStoreError as error:
            said[path] = f"{type(error).__name__} {error}"
    print(json.dumps(said))
asyncio.run(main())
"""


@check(clauses=["GEN-6", "SQL-5"], backends=["sqlite"], name="what this user may not write is said to be so")
async def read_only_is_unavailable(lab: Lab) -> None:
    """A read-only folder, a read-only file and one that cannot be read are a BackendUnavailableError that
    names the file, at the latest where it would be written; the file is not changed.
    """
    async with opened(lab, lab.folder / "made.db") as stores:
        await stores.skills.create(skill("a"))
    owner = (65534, 65534) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    lab.folder.chmod(0o755)
    paths = []
    for name, folder_mode, file_mode in (
        ("new-in-read-only-folder", 0o555, None),
        ("read-only-file", 0o755, 0o444),
        ("read-only-folder", 0o555, 0o644),
        ("unreadable-file", 0o755, 0o000),
        ("unreachable-folder", 0o000, 0o644),
    ):
        folder = lab.folder / name
        folder.mkdir()
        path = folder / "kept.db"
        if file_mode is not None:
            shutil.copy(lab.folder / "made.db", path)
            path.chmod(file_mode)
            os.chown(path, *owner)
        os.chown(folder, *owner)
        folder.chmod(folder_mode)
        paths.append(path)
    async with python(lab, _AS_NOBODY, *paths) as process:
        said = json.loads(await process.rest())
    for path in paths:
        path.parent.chmod(0o755)
        answer = said[str(path)]
        assert answer.startswith("BackendUnavailableError "), f"{path.parent.name}: {answer}"
        assert str(path) in answer, f"{path.parent.name}: the message does not name the file: {answer}"
        left = sorted(file.name for file in path.parent.iterdir())
        left = [name for name in left if not name.endswith(("-wal", "-shm"))]
        assert left == ([] if path.parent.name.startswith("new") else ["kept.db"]), (path.parent.name, left)
        with suppress(FileNotFoundError):
            path.chmod(0o644)
            assert path.read_bytes() == (lab.folder / "made.db").read_bytes(), path.parent.name


_FILL_UP = """
import asyncio, resource, sys
from kpstore import BackendUnavailableError, StoredSkill, create_store
from datetime import datetime, UTC
now = datetime.now(UTC)
def skill(n):
    return StoredSkill(f"s{n}", "n", "d", "x" * 20_000, created_at=now, updated_at=now)
async def main():
    stores = await create_store()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, hard))
    done, errors = [], []
    for n in range(200):
        try:
            await stores.skills.create(skill(n))
            done.append(n)
        except BackendUnavailableError as error:
            errors.append(str(error))
    assert 10 < len(done) < 150, (len(done), errors[:1])
    assert all(sys.argv[1] in error for error in errors), errors[0]
    for n in done:
        assert await stores.skills.get_by_id(f"s{n}") is not None, n
    assert (await stores.skills.search(limit=0)).total == len(done)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await stores.skills.create(skill(1000))
    await stores.close()
    print(" ".join(map(str, [*done, 1000])))
asyncio.run(main())
"""


@check(
    clauses=["GEN-6", "SQL-1"],
    backends=["sqlite"],
    name="where no more can be written nothing written is lost",
)
async def no_space_is_unavailable(lab: Lab) -> None:
    """A write that finds no room is a BackendUnavailableError that names the file; what was acknowledged
    before stays readable, and when there is room again all goes on.
    """
    path = path_of(lab)
    async with python(lab, _FILL_UP, path) as process:
        done = {f"s{n}" for n in (await process.rest()).split()}
    async with opened(lab) as stores:
        assert {each.id async for each in stores.skills.scan()} == done
    with raw(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
