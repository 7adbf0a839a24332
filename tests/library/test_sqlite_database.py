"""The SQLite database below the stores: shared commits, its log, its connections and threads."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kpstore_conformance.checks._driving import cancelled_at

from kpstore import (
    AllStores,
    BackendUnavailableError,
    DataCorruptionError,
    ReputationRecord,
    Settings,
    StoreClosedError,
    StoredSkill,
    ValidationError,
    create_store,
)
from kpstore.backends.sqlite import database as module
from kpstore.backends.sqlite import near
from kpstore.backends.sqlite.database import MEMORY, Database
from kpstore.stores import StoreContext

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
PAGE_BYTES = 4096


def skill(id: str, size: int = 10) -> StoredSkill:
    return StoredSkill(id, "n", "d", "x" * size, created_at=NOW, updated_at=NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


async def opening(path: Path | str, synchronous: str = "full") -> Database:
    database = Database(str(path), synchronous, StoreContext(location=str(path)))
    await database.open()
    return database


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    opened = await opening(path)
    await opened.write(lambda db: db.execute("CREATE TABLE numbers (n INTEGER)").close())
    yield opened
    await opened.close()


@pytest.fixture
async def stores(path: Path) -> AsyncIterator[AllStores]:
    async with create_store("sqlite", settings=Settings(sqlite_path=str(path))) as opened:
        yield opened


def insert(n: int) -> Callable[[sqlite3.Connection], int]:
    def work(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO numbers VALUES (?)", (n,))
        return n

    return work


async def numbers(database: Database) -> list[int]:
    return await database.read(
        lambda db: [n for (n,) in db.execute("SELECT n FROM numbers ORDER BY rowid").fetchall()]
    )


class Slow:
    """A work that begins, and ends when it may."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, db: sqlite3.Connection) -> None:
        self._started.set()
        assert self.go_on.wait(20)

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self._started.wait, 20)


class Commits:
    """Counts the commits of a database's writer, by SQLite's own trace."""

    def __init__(self) -> None:
        self.count = 0

    async def watch(self, database: Database) -> None:
        def trace(statement: str) -> None:
            self.count += statement.startswith("COMMIT")

        await database._writer.run(lambda db: db.set_trace_callback(trace))


# Shared commits -----------------------------------------------------------------


async def test_concurrent_writers_share_commits(database: Database) -> None:
    commits = Commits()
    await commits.watch(database)
    results = await asyncio.gather(*(database.write(insert(n)) for n in range(640)))
    assert results == list(range(640))
    assert await numbers(database) == list(range(640))
    # The first commits alone; the rest waits meanwhile and goes by 256.
    assert commits.count <= 6
    commits.count = 0
    for n in range(20):
        await database.write(insert(n))
    assert commits.count == 20


async def test_64_writers_at_once_are_four_times_as_fast_as_one_by_one(database: Database) -> None:
    async def at_once() -> float:
        start_s = time.perf_counter()
        await asyncio.gather(*(database.write(insert(n)) for n in range(64)))
        return time.perf_counter() - start_s

    async def one_by_one() -> float:
        start_s = time.perf_counter()
        for n in range(64):
            await database.write(insert(n))
        return time.perf_counter() - start_s

    # The best of some rounds, taken in turns: what else the machine does at a time hits both.
    rounds = [(await at_once(), await one_by_one()) for _ in range(12)]
    ratio = min(serial for _, serial in rounds) / min(shared for shared, _ in rounds)
    assert ratio >= 4, f"only {ratio:.1f} times"


async def test_an_error_undoes_its_own_work_alone(database: Database) -> None:
    def half(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO numbers VALUES (1000)")
        db.execute("INSERT INTO numbers VALUES (1001)")
        raise ValidationError("delta", "must be something else")

    def broken(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO numbers VALUES (2000)")
        db.execute("INSERT INTO nothing VALUES (1)")

    commits = Commits()
    await commits.watch(database)
    outcomes = await asyncio.gather(
        *(database.write(half if n % 10 == 3 else broken if n % 10 == 7 else insert(n)) for n in range(100)),
        return_exceptions=True,
    )
    for n, outcome in enumerate(outcomes):
        if n % 10 == 3:
            assert isinstance(outcome, ValidationError)
        elif n % 10 == 7:
            assert isinstance(outcome, DataCorruptionError)
        else:
            assert outcome == n
    assert await numbers(database) == [n for n in range(100) if n % 10 not in (3, 7)]
    assert commits.count <= 3


@pytest.mark.parametrize("most", [256, 1])
async def test_a_write_cancelled_before_it_began_does_not_happen(
    database: Database, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(module, "_MAX_BATCH", most)  # 1: a batch that has nothing left in it
    slow = Slow()
    first = asyncio.create_task(database.write(slow))
    await slow.has_begun()
    second = asyncio.create_task(database.write(insert(2)))
    third = asyncio.create_task(database.write(insert(3)))
    await asyncio.sleep(0.01)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    slow.go_on.set()
    await first
    assert await third == 3
    assert await numbers(database) == [3]


async def test_a_write_cancelled_while_it_runs_happens_whole(database: Database) -> None:
    started = threading.Event()
    go_on = threading.Event()

    def slow(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO numbers VALUES (1)")
        started.set()
        assert go_on.wait(20)
        db.execute("INSERT INTO numbers VALUES (2)")

    task = asyncio.create_task(database.write(slow))
    await asyncio.to_thread(started.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await database.write(insert(3))
    assert await numbers(database) == [1, 2, 3]


async def test_a_write_cancelled_while_it_runs_concerns_no_other(database: Database) -> None:
    slow = Slow()
    first = asyncio.create_task(database.write(slow))
    second = asyncio.create_task(database.write(insert(2)))  # in the same transaction
    await slow.has_begun()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    slow.go_on.set()
    assert await second == 2


async def test_what_was_begun_before_close_is_done(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_BATCH", 10)
    database = await opening(path)
    await database.write(lambda db: db.execute("CREATE TABLE numbers (n INTEGER)").close())
    writes = [asyncio.create_task(database.write(insert(n))) for n in range(300)]
    await asyncio.sleep(0)
    await database.close()
    assert await asyncio.gather(*writes) == list(range(300))
    with pytest.raises(StoreClosedError):
        await database.write(insert(1))
    with pytest.raises(StoreClosedError):
        await numbers(database)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT COUNT(*) FROM numbers").fetchone() == (300,)


async def test_no_writer_waits_for_a_task_that_somebody_cancelled(database: Database) -> None:
    # As a program does that cancels all tasks but its own.
    slow = Slow()
    first = asyncio.create_task(database.write(slow))
    await slow.has_begun()
    second = asyncio.create_task(database.write(insert(2)))
    await asyncio.sleep(0)
    assert database._flusher is not None
    database._flusher.cancel()
    _, waiting = await asyncio.wait([first, second], timeout=2)
    slow.go_on.set()
    assert not waiting
    assert first.cancelled()
    assert second.cancelled()
    assert await database.write(insert(3)) == 3
    assert await numbers(database) == [3]


async def test_whoever_gives_way_waits_for_writers_and_for_nobody_else(database: Database) -> None:
    assert database._flusher is None, "somebody writes already"
    slow = Slow()
    write = asyncio.create_task(database.write(slow))
    waiting = asyncio.create_task(database.written())
    await slow.has_begun()
    was_early = waiting.done()
    slow.go_on.set()
    assert not was_early
    assert await waiting
    await write
    assert database._flusher is None
    nothing = asyncio.create_task(database.written())
    for _ in range(3):
        await asyncio.sleep(0)
    assert nothing.done()
    assert not nothing.result()
    write = asyncio.create_task(database.write(lambda _: None))
    assert await database.written(), "it went before one who was about to write"
    await write


# Waiting ------------------------------------------------------------------------


class Time:
    """A clock that goes on where somebody sleeps, and only there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        monkeypatch.setattr(module, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        assert self.now < 1100, "it waits for ever"
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


async def test_a_lock_is_waited_for_5_seconds_in_short_steps(
    path: Path, database: Database, virtual: Time
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BackendUnavailableError, match=r"held its lock for over 5 s; try again$"):
            await database.write(insert(1))
    assert 1005 <= virtual.now < 1005.01
    assert min(virtual.slept) > 0
    assert max(virtual.slept) <= 0.002, "another process that commits without a pause gets there first"
    assert await database.write(insert(2)) == 2
    assert await numbers(database) == [2]


async def test_who_makes_a_file_waits_for_a_lock_as_long(path: Path, virtual: Time) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN IMMEDIATE")  # keeps from writing, and not from looking
        with pytest.raises(BackendUnavailableError, match="held its lock for over 5 s"):
            await opening(path)
    assert 1005 <= virtual.now < 1005.01


@pytest.mark.parametrize(("deadline", "seconds"), [(None, 5), (1001.0, 1)])
def test_patience_ends_at_the_deadline(virtual: Time, deadline: float | None, seconds: float) -> None:
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        module._patiently(locked, deadline)
    assert seconds <= virtual.now - 1000 < seconds + 0.01


def test_who_has_no_time_left_tries_once(virtual: Time) -> None:
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        module._patiently(locked, virtual.now)
    assert virtual.slept == []


def locked() -> None:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    raise error


# The connections ----------------------------------------------------------------


@pytest.mark.parametrize(("setting", "expected"), [("full", 2), ("normal", 1)])
async def test_every_connection_syncs_as_set(path: Path, setting: str, expected: int) -> None:
    database = await opening(path, setting)
    names = ("synchronous", "journal_mode", "secure_delete", "wal_autocheckpoint", "busy_timeout")
    for connection in (database._writer, database._reader, database._searcher, database._checkpointer):
        pragmas = await connection.run(
            lambda db: [db.execute(f"PRAGMA {name}").fetchone()[0] for name in names]
        )
        # The writer waits in its own way, in ms of the others' the 5 s of the contract.
        assert pragmas == [expected, "wal", 1, 0, 0 if connection is database._writer else 5000]
    await database.close()


async def test_an_error_in_a_read_leaves_no_old_state_behind(database: Database) -> None:
    await database.write(insert(1))

    def failing(db: sqlite3.Connection) -> None:
        rows = db.execute("SELECT n FROM numbers UNION SELECT 2")
        for _ in rows:
            raise ValueError("a row that cannot be read")

    kept = []  # as a logger keeps them, with their frames
    for read in (database.read, database.search):
        with pytest.raises(DataCorruptionError) as caught:
            await read(failing)
        kept.append(caught.value)
    await database.write(insert(2))
    assert await numbers(database) == [1, 2]
    assert await database.search(lambda db: db.execute("SELECT COUNT(*) FROM numbers").fetchone()) == (2,)
    assert kept


# Reads without a hop ------------------------------------------------------------


def where_read(threads: list[int], error: Exception | None = None) -> Callable[[sqlite3.Connection], int]:
    def work(db: sqlite3.Connection) -> int:
        threads.append(threading.get_ident())
        count: int = db.execute("SELECT COUNT(*) FROM numbers").fetchone()[0]
        if error is not None and near.is_near(db):
            db.execute("SELECT n FROM numbers UNION SELECT 2").fetchone()
            raise error
        return count

    return work


async def test_a_look_up_stays_on_this_thread_unless_it_is_too_much(database: Database) -> None:
    here = threading.get_ident()
    for error in (None, near.TooMuchHereError(), sqlite3.OperationalError("locked"), ValueError("a row")):
        threads: list[int] = []
        await database.write(insert(1))
        before = len(await numbers(database))
        assert await database.look_up(where_read(threads, error)) == before
        assert await database.look_up(module.in_snapshot, where_read(threads, error)) == before
        assert threads[0] == here
        assert (len(threads), {*threads} == {here}) == ((2, True) if error is None else (4, False))
        await database.write(insert(1))
        # Nothing holds on to the state that the failed ones saw.
        assert await database.look_up(where_read([])) == before + 1


async def test_a_look_up_from_another_thread_is_left_to_the_readers(database: Database) -> None:
    threads: list[int] = []
    await database.write(insert(1))
    for other in (-1, 2**64):  # below and above the numbers that threads have
        database._near_thread = other
        assert await database.look_up(where_read(threads)) == 1
    assert threading.get_ident() not in threads


async def test_a_look_up_changes_nothing_and_waits_for_nobody(database: Database) -> None:
    near = database._near
    assert near is not None
    assert near.execute("PRAGMA busy_timeout").fetchone() == (0,)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        near.execute("INSERT INTO numbers VALUES (1)")


async def test_a_large_record_is_read_elsewhere(stores: AllStores, monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = stores.skills
    read, elsewhere = store._database.read, list[str]()

    def noticed(function: Any, id: str) -> Any:
        elsewhere.append(id)
        return read(function, id)

    monkeypatch.setattr(store._database, "read", noticed)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for id, size in (("small", near.NEAR_BYTES - 2000), ("large", near.NEAR_BYTES + 1)):
        record = StoredSkill(
            id=id, name="n", description="", content="x" * size, created_at=now, updated_at=now
        )
        await stores.skills.create(record)
        assert await stores.skills.get_by_id(id) == record
    assert elsewhere == ["large"]


async def test_long_histories_and_many_refusals_are_read_elsewhere(stores: AllStores) -> None:
    database: Database = stores.reputation._database  # type: ignore[attr-defined]
    hops = 0
    read = database.read

    async def counted(function: Any, *arguments: Any) -> Any:
        nonlocal hops
        hops += 1
        return await read(function, *arguments)

    database.read = counted  # type: ignore[method-assign]
    for n in range(3):
        await stores.reputation.upsert("short", n, "r" * 100)
        await stores.reputation.upsert("long", n, "r" * 40_000)
    for n in range(near.NEAR_ROWS):
        if n % 100 == 0:
            await stores.rate_limit.record_429("few")
        await database.write(
            lambda db: db.execute(
                "INSERT INTO rate_limit_violations (identifier, at) SELECT 'many', MAX(at)"
                " FROM rate_limit_violations"
            ).close()
        )
    hour = timedelta(hours=1)
    assert [entry.delta for entry in (await get(stores, "short")).history] == [0, 1, 2]
    assert await stores.rate_limit.get_429_count("few", hour) == near.NEAR_ROWS // 100
    assert hops == 0
    assert [len(entry.reason) for entry in (await get(stores, "long")).history] == [40_000] * 3
    assert await stores.rate_limit.get_429_count("many", hour) == near.NEAR_ROWS
    assert hops == 2


async def get(stores: AllStores, agent_id: str) -> ReputationRecord:
    record = await stores.reputation.get(agent_id)
    assert record is not None
    return record


async def test_a_key_that_another_process_revoked_never_verifies_here(path: Path, stores: AllStores) -> None:
    code = """
import asyncio, sys
from kpstore import Settings, create_store
async def main():
    async with create_store("sqlite", settings=Settings(sqlite_path=sys.argv[1])) as stores:
        print("open", flush=True)
        while line := sys.stdin.readline().strip():
            print(await stores.api_keys.revoke(line), flush=True)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    async with create_store("sqlite", settings=Settings(sqlite_path=str(path))) as other:
        for n in range(40):
            key = await stores.api_keys.create("agent", {"read"}, "free")
            for handle in (stores, other):
                assert await handle.api_keys.verify(key.raw_key) is not None
            if n % 2:
                assert await other.api_keys.revoke(key.record.key_prefix)
            else:
                process.stdin.write(key.record.key_prefix.encode() + b"\n")
                assert await process.stdout.readline() == b"True\n"
            for handle in (stores, other):
                assert await handle.api_keys.verify(key.raw_key) is None, (
                    f"verifies after it was revoked: {n}"
                )
    process.stdin.close()
    assert await process.wait() == 0


async def test_a_changed_directory_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OVERFLOW_BYTES", 300_000)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with create_store("sqlite", settings=Settings(sqlite_path="relative.db")) as stores:
        monkeypatch.chdir(tmp_path / "elsewhere")
        for n in range(100):
            await stores.skills.create(skill(f"s{n}", 20_000))
        assert (tmp_path / "relative.db-wal").stat().st_size < 1_500_000, "the log is not looked after"
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["elsewhere", "relative.db"]


# The log ------------------------------------------------------------------------


class Checkpoints:
    """Notes whose they are; those on the checkpointer's connection end once `aside` is set."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by: list[str] = []
        self.aside = threading.Event()
        checkpoint = module._checkpoint

        def noted(db: sqlite3.Connection, mode: str) -> None:
            checkpoint(db, mode)
            if db is database._checkpointer._connection:
                self.by.append(f"aside {mode}")
                assert self.aside.wait(20)
            else:
                self.by.append(f"writer {mode}")

        monkeypatch.setattr(module, "_checkpoint", noted)


async def test_a_short_log_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = await opening(path)
    checkpoints = Checkpoints(database, monkeypatch)
    checkpoints.aside.set()
    for _ in range(20):
        await database.write(lambda db: db.execute("UPDATE erasure SET owed = 0").close())
    assert Path(f"{path}-wal").stat().st_size > 20 * PAGE_BYTES
    await database.written()
    assert checkpoints.by == []
    await database.close()


async def test_what_is_written_during_a_checkpoint_is_copied_by_the_next_writer(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the log starts over: what is overwritten is on the disk in half the time of what is appended."""
    monkeypatch.setattr(module, "_CHECKPOINT_BYTES", 1)
    checkpoints = Checkpoints(database, monkeypatch)

    async def write(n: int) -> None:
        await database.write(insert(n))
        while await database.written():  # and looked after the log: it waits for a while, not for ever
            pass

    await write(1)
    await write(2)  # while the first one's checkpoint goes on, there is no other
    assert database._checkpoint is not None
    checkpoints.aside.set()
    await asyncio.wait([database._checkpoint])
    await write(3)
    assert checkpoints.by == ["aside PASSIVE", "writer PASSIVE"]
    length = Path(f"{path}-wal").stat().st_size
    checkpoints.aside.clear()
    await write(4)
    assert Path(f"{path}-wal").stat().st_size == length, "the log did not start over"
    assert database._checkpoint is not None
    checkpoints.aside.set()
    await asyncio.wait([database._checkpoint])
    assert checkpoints.by == ["aside PASSIVE", "writer PASSIVE", "aside PASSIVE"]


async def test_the_log_stays_short_under_load(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHECKPOINT_BYTES", 400_000)
    monkeypatch.setattr(module, "_OVERFLOW_BYTES", 3_000_000)
    log = Path(f"{path}-wal")
    longest = written = 0
    async with create_store("sqlite", settings=Settings(sqlite_path=str(path))) as stores:

        async def write(worker: int) -> None:
            nonlocal longest, written
            for n in range(60):
                await stores.skills.create(skill(f"s{worker}-{n % 5}", 30_000))
                written += 30_000
                longest = max(longest, log.stat().st_size)

        async def read() -> None:
            while written < 8 * 60 * 30_000:
                await stores.skills.search(query="n", limit=5)

        await asyncio.gather(*(write(worker) for worker in range(8)), read(), read())
    assert written > 14_000_000
    assert longest < 6_000_000, f"the log grew to {longest} bytes"
    assert not log.exists()


async def test_a_log_that_was_long_once_costs_nothing_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHECKPOINT_BYTES", 200_000)
    monkeypatch.setattr(module, "_OVERFLOW_BYTES", 600_000)
    checkpoints = 0
    checkpoint = module._checkpoint

    def counted(db: sqlite3.Connection, mode: str) -> None:
        nonlocal checkpoints
        checkpoints += 1
        checkpoint(db, mode)

    monkeypatch.setattr(module, "_checkpoint", counted)
    async with create_store("sqlite", settings=Settings(sqlite_path=str(path))) as stores:
        await stores.skills.create_many(skill(f"s{n}", 20_000) for n in range(50))
        await stores.skills.create(skill("a"))
        await asyncio.sleep(0.1)
        assert checkpoints >= 1
        await stores.skills.create(skill("b"))
        await asyncio.sleep(0.1)
        checkpoints = 0
        for n in range(20):
            await stores.reputation.upsert("agent", n, "r")
        # They fill half a megabyte of log. Judged by what it once was, each would be a checkpoint.
        assert checkpoints <= 8, f"{checkpoints} checkpoints for 20 small writes"


async def test_a_reader_that_stays_does_not_hold_up_writers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long read elsewhere keeps the log from starting over; writes go on at their pace."""
    monkeypatch.setattr(module, "_CHECKPOINT_BYTES", 100_000)
    monkeypatch.setattr(module, "_OVERFLOW_BYTES", 300_000)
    async with create_store("sqlite", settings=Settings(sqlite_path=str(path))) as stores:
        await stores.skills.create(skill("first"))
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT COUNT(*) FROM skills").fetchone() == (1,)
            slowest = 0.0
            for n in range(60):
                start_s = time.perf_counter()
                await stores.skills.create(skill(f"s{n}", 20_000))
                slowest = max(slowest, time.perf_counter() - start_s)
            assert slowest < 2, f"a write waited {slowest:.1f} s for a reader"
            assert reader.execute("SELECT COUNT(*) FROM skills").fetchone() == (1,)
        for n in range(30):
            await stores.skills.create(skill(f"t{n}", 20_000))
        assert (await stores.skills.search(limit=0)).total == 91


# Threads and the end ------------------------------------------------------------


async def until_ended(before: list[threading.Thread]) -> None:
    """Wait for all threads but these: one ends a moment after it has said so, be it of another test."""
    until = time.monotonic() + 5
    while new := {*threading.enumerate()}.difference(before):
        assert time.monotonic() < until, new
        await asyncio.sleep(0.001)


async def test_no_thread_task_or_descriptor_is_left_after_close(path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def use(where: str) -> None:
        async with create_store("sqlite", settings=Settings(sqlite_path=where)) as stores:
            await stores.skills.create(skill("a"))
            await asyncio.gather(*(stores.skills.get_by_id("a") for _ in range(5)))

    await use(str(path))
    gc.collect()
    before, files = threading.enumerate(), descriptors()
    for _ in range(5):
        await use(str(path))
        await use(MEMORY)
    await until_ended(before)
    assert descriptors() <= files
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_failed_open_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database")
    before = threading.enumerate()
    for _ in range(3):
        with pytest.raises(DataCorruptionError):
            await create_store("sqlite", settings=Settings(sqlite_path=str(tmp_path / "text.db")))
        with pytest.raises(BackendUnavailableError):
            await create_store("sqlite", settings=Settings(sqlite_path=str(tmp_path)))
    await until_ended(before)


async def test_a_failed_open_waits_for_its_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The program may end now; a thread that still has something to say to its event loop would complain.
    ends: list[asyncio.Future[Any] | None] = []
    stop = module._Connection.stop

    def noted(self: module._Connection) -> asyncio.Future[Any] | None:
        ends.append(stop(self))
        return ends[-1]

    monkeypatch.setattr(module._Connection, "stop", noted)
    (tmp_path / "text.db").write_text("no database")
    with pytest.raises(DataCorruptionError):
        await create_store("sqlite", settings=Settings(sqlite_path=str(tmp_path / "text.db")))
    assert [end is not None and end.done() for end in ends] == [True]


async def test_an_opening_that_is_cancelled_anywhere_closes_its_connections(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def noted(*arguments: Any, **options: Any) -> sqlite3.Connection:
        made.append(connect(*arguments, **options | {"check_same_thread": False}))
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", noted)
    before = threading.enumerate()
    cancelled = 0
    while True:
        database = Database(str(path), "full", StoreContext(location=str(path)))
        if not (await cancelled_at(database.open(), cancelled, "at once", "open")).reached:
            break
        cancelled += 1
        await until_ended(before)
        for connection in made:
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                connection.execute("SELECT 1")
    await database.close()
    assert cancelled >= 5, "four connections, and one more for key reads"


async def test_a_connection_that_fails_takes_the_others_with_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threading.enumerate()
    connect = Database._connect
    made = 0

    def failing(database: Database) -> sqlite3.Connection:
        nonlocal made
        made += 1
        if made == 3:
            raise sqlite3.OperationalError("out of something")
        return connect(database)

    monkeypatch.setattr(Database, "_connect", failing)
    with pytest.raises(DataCorruptionError):
        await opening(path)
    await until_ended(before)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "a connection is still open"


FORGETFUL = """
import asyncio, sys
from datetime import datetime, UTC
from kpstore import Settings, StoredSkill, create_store
now = datetime.now(UTC)
async def main():
    stores = await create_store("sqlite", settings=Settings(sqlite_path=sys.argv[1]))
    await stores.skills.create(StoredSkill("a", "n", "d", "c", created_at=now, updated_at=now))
    print("written", flush=True)
    if sys.argv[2] == "raise":
        raise RuntimeError("mine")
    if sys.argv[2] == "busy":
        asyncio.create_task(stores.reputation.upsert("agent", 1, "r"))
        await asyncio.sleep(0)
asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["return", "raise", "busy"])
def test_a_program_that_forgets_to_close_ends(path: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORGETFUL, path, how], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == "written\n"
    assert done.returncode == (1 if how == "raise" else 0), done.stderr
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT id FROM skills").fetchall() == [("a",)]


async def test_closing_is_done_even_if_the_disk_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(db: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    before = threading.enumerate()
    stores = await create_store("sqlite", settings=Settings(sqlite_path=str(path)))
    await stores.skills.create(skill("a"))
    monkeypatch.setattr(module, "_empty_log", full)
    with pytest.raises(BackendUnavailableError, match="disk is full"):
        await stores.close()
    await stores.close()
    await until_ended(before)
    monkeypatch.undo()
    async with create_store("sqlite", settings=Settings(sqlite_path=str(path))) as again:
        assert await again.skills.get_by_id("a") is not None


async def test_a_log_that_cannot_be_moved_stops_no_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that fails, on a full disk say, is tried again later; what was written is in the log."""
    failed = 0

    def failing(db: sqlite3.Connection, mode: str) -> None:
        nonlocal failed
        failed += 1
        raise sqlite3.OperationalError("database or disk is full")

    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    async with create_store("sqlite", settings=Settings(sqlite_path=str(path))) as stores:
        for overflow in (10**9, 50_000):
            with monkeypatch.context() as patched:
                patched.setattr(module, "_CHECKPOINT_BYTES", 20_000)
                patched.setattr(module, "_OVERFLOW_BYTES", overflow)
                patched.setattr(module, "_checkpoint", failing)
                patched.setattr(module, "_MAX_BATCH", 4)
                writes = [stores.skills.create(skill(f"s{overflow}-{n}", 20_000)) for n in range(20)]
                assert len(await asyncio.gather(*writes)) == 20
                await stores.skills.create(skill("one more", 20_000))
                await asyncio.sleep(0.05)
            assert failed >= 1
            failed = 0
        assert (await stores.skills.search(limit=0)).total == 41
    gc.collect()
    assert not said


# A full disk --------------------------------------------------------------------

# In a mount namespace of its own, so that no more than this process sees the small disk.
ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=1500k none "$1"
exec "$2" -c "$3" "$1/small.db"
"""
FILL_UP = """
import asyncio, os, sys
from datetime import datetime, UTC
from kpstore import BackendUnavailableError, Settings, StoredSkill, create_store
now = datetime.now(UTC)
async def main():
    settings = Settings(sqlite_path=sys.argv[1])
    stores = await create_store("sqlite", settings=settings)
    done = errors = 0
    for n in range(150):
        try:
            large = "x" * 20_000
            await stores.skills.create(StoredSkill(f"s{n}", "n", "d", large, created_at=now, updated_at=now))
            done += 1
        except BackendUnavailableError as error:
            assert "disk is full" in str(error) and sys.argv[1] in str(error), error
            errors += 1
    assert done > 10 and errors > 10, (done, errors)
    assert (await stores.skills.search(limit=0)).total == done
    # With a device, so that no table of mounts is asked, in which one of an ordinary user's is not.
    assert os.system(f"mount -o remount,size=20M none {os.path.dirname(sys.argv[1])}") == 0
    await stores.reputation.upsert("agent", 1, "r")
    await stores.close()
    async with create_store("sqlite", settings=settings) as again:
        assert (await again.skills.search(limit=0)).total == done
        assert await again.reputation.get("agent") is not None
    print("fine")
asyncio.run(main())
"""


def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1) to mount a small disk for one process")
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if os.geteuid() == 0:
        command.remove("--map-root-user")
    if subprocess.run([*command, "mount -t tmpfs none /mnt"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    done = subprocess.run(
        [*command, ON_A_SMALL_DISK, "sh", tmp_path, sys.executable, FILL_UP],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "fine\n", done.stderr


# Errors of the driver -----------------------------------------------------------

ERRORS: list[tuple[Any, type[Exception], str]] = [
    (sqlite3.SQLITE_BUSY, BackendUnavailableError, "busy"),
    (sqlite3.SQLITE_BUSY_SNAPSHOT, BackendUnavailableError, "busy"),
    (sqlite3.SQLITE_LOCKED, BackendUnavailableError, "busy"),
    (sqlite3.SQLITE_FULL, BackendUnavailableError, "disk is full"),
    (sqlite3.SQLITE_READONLY, BackendUnavailableError, "read-only"),
    (sqlite3.SQLITE_READONLY_DBMOVED, BackendUnavailableError, "read-only"),
    (sqlite3.SQLITE_IOERR_WRITE, BackendUnavailableError, "input/output"),
    (sqlite3.SQLITE_CANTOPEN, BackendUnavailableError, "cannot be opened"),
    (sqlite3.SQLITE_PERM, BackendUnavailableError, "cannot be opened"),
    (sqlite3.SQLITE_CORRUPT, DataCorruptionError, "message"),
    (sqlite3.SQLITE_CORRUPT_VTAB, DataCorruptionError, "message"),
    (sqlite3.SQLITE_NOTADB, DataCorruptionError, "message"),
    (sqlite3.SQLITE_ERROR, DataCorruptionError, "tables"),
    (sqlite3.SQLITE_NOMEM, BackendUnavailableError, "message"),
    (None, DataCorruptionError, "message"),
]


@pytest.mark.parametrize(("code", "kind", "said"), ERRORS)
def test_each_error_of_the_driver_has_its_place(code: int | None, kind: type[Exception], said: str) -> None:
    error = sqlite3.OperationalError("message")
    if code is not None:
        error.sqlite_errorcode = code
    found = module.translate(error, "/the/place.db")
    assert type(found) is kind
    assert "/the/place.db" in str(found)
    assert said in str(found)


def test_an_error_without_a_code_is_said_as_it_is() -> None:
    found = module.translate(
        sqlite3.ProgrammingError("Cannot operate on a closed database."), "/the/place.db"
    )
    assert type(found) is BackendUnavailableError
    assert str(found) == "/the/place.db: Cannot operate on a closed database."


async def test_a_file_in_the_middle_of_a_checkpoint_opens(tmp_path: Path) -> None:
    """A kill that left the new first page in the file, and all else in the log, has damaged nothing."""
    live, killed = tmp_path / "live.db", tmp_path / "killed.db"
    stores = await create_store("sqlite", settings=Settings(sqlite_path=str(live)))
    try:
        await stores.skills.create_many([skill(f"s{n}", 2000) for n in range(50)])
        shutil.copy(live, killed)  # what a kill leaves: no lock of ours matters to a copy
        shutil.copy(f"{live}-wal", f"{killed}-wal")
    finally:
        await stores.close()
    log = Path(f"{killed}-wal").read_bytes()
    page_bytes = int.from_bytes(log[8:12], "big")
    frames = [log[at : at + 24 + page_bytes] for at in range(32, len(log), 24 + page_bytes)]
    first_page = [frame[24:] for frame in frames if int.from_bytes(frame[:4], "big") == 1][-1]
    file = bytearray(killed.read_bytes())
    file[:page_bytes] = first_page
    killed.write_bytes(file)
    assert int.from_bytes(first_page[28:32], "big") * page_bytes > len(
        file
    )  # it names more pages than there are

    async with create_store("sqlite", settings=Settings(sqlite_path=str(killed))) as reopened:
        assert (await reopened.skills.search(limit=0)).total == 50


async def test_a_file_that_is_in_no_log_mode_is_opened_read_and_closed(tmp_path: Path) -> None:
    # As one is that was killed while its close() was erasing what had been deleted.
    settings = Settings(sqlite_path=str(tmp_path / "kpstore.db"))
    async with create_store("sqlite", settings=settings):
        pass
    with closing(sqlite3.connect(settings.sqlite_path)) as db:
        assert db.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    async with create_store("sqlite", settings=settings) as stores:
        assert (await stores.skills.search()).total == 0
