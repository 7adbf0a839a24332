"""Totals that the SQLite backend keeps instead of counting agree with the rows, whatever came before."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kpstore_conformance import recorder
from kpstore_conformance.disks import Kept, Recording

from kpstore import ManualClock, Settings, create_store
from kpstore.backends.sqlite import audit_blocks, leaderboard, schema
from kpstore.clock import to_micros
from kpstore.stores import AuditDocument, AuditQuery

SEED = int(os.environ.get("KP_COUNTS_SEED", "1"))
NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as opened:
        schema.create_tables(opened)
        yield opened


def check_blocks(db: sqlite3.Connection, table: str = "audit_blocks") -> int:
    """Each block's or span's count is that of its entries, its times enclose theirs; how many there are."""
    blocks = db.execute(
        f"SELECT agent_id, action, last, after, entries, earliest, latest FROM {table}"
    ).fetchall()
    for agent_id, action, last, after, entries, earliest, latest in blocks:
        found, first, final = db.execute(
            "SELECT COUNT(*), MIN(at), MAX(at) FROM audit_log WHERE position > ? AND position <= ?"
            " AND (? = '' OR agent_id = ?) AND (? = '' OR action = ?)",
            (after, last, agent_id, agent_id, action, action),
        ).fetchone()
        assert found == entries > 0, (agent_id, action, last)
        assert earliest <= first <= final <= latest
    return len(blocks)


def expected(rows: list[tuple[int, AuditDocument]], query: AuditQuery) -> list[bytes]:
    return [entry.body for _, entry in rows if query.matches(entry)]


@pytest.mark.parametrize("disorder_us", [0, 5, 1_000_000])
def test_totals_and_pages_of_the_audit_log_agree_with_its_entries(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, disorder_us: int
) -> None:
    monkeypatch.setattr(audit_blocks, "BLOCK", 6)
    monkeypatch.setattr(audit_blocks, "SPAN", 3)
    random.seed(SEED)
    dice = random.Random(SEED)
    rows: list[tuple[int, AuditDocument]] = []
    now, most_blocks, most_spans = 1000, 0, 0
    for number in range(900):
        now += dice.choice([0, 1, 10])
        at = now - dice.randint(0, disorder_us)
        entry = AuditDocument(f'"{number}"'.encode(), dice.choice("abc"), dice.choice(["", "x", "y"]), at)
        audit_blocks.append_entry(db, entry)
        rows.append((number + 1, entry))
        expired_before = at - 2000
        audit_blocks.remove_expired(db, expired_before, 3)
        for position, old in sorted(rows, key=lambda row: (row[1].at, row[0]))[:3]:
            if old.at < expired_before:
                rows.remove((position, old))
        if number % 30 == 0:
            most_blocks = max(most_blocks, check_blocks(db))
            most_spans = max(most_spans, check_blocks(db, "audit_spans"))
            remaining = {body for (body,) in db.execute("SELECT CAST(body AS BLOB) FROM audit_log")}
            assert len(remaining) == len(rows)
            rows = [row for row in rows if row[1].body in remaining]  # of ties in time SQLite chose
        if number % 10 == 0:
            edges = [
                now,
                *(
                    at
                    for table in ("audit_blocks", "audit_spans")
                    for ends in db.execute(f"SELECT earliest, latest FROM {table}")
                    for at in ends
                ),
            ]
            since = dice.choice([-(2**62), now - dice.randint(0, 3000), dice.choice(edges)])
            query = AuditQuery(
                dice.choice([None, "a", "d"]),
                dice.choice([None, "x", "z"]),
                since,
                dice.choice([None, since + dice.randint(-5, 2000), dice.choice(edges)]),
            )
            matches = expected(rows, query)
            for offset, limit in ((0, 20), (dice.randrange(200), dice.randrange(40)), (0, 1000), (5, 0)):
                found = audit_blocks.find_entries(db, query, offset, limit)
                assert found == (matches[offset : offset + limit], len(matches)), (query, offset, limit)
    assert most_blocks > 30
    assert most_spans > 10


def fill_log(db: sqlite3.Connection, entries: int) -> None:
    """Entries of three agents and two actions, one a microsecond, with blocks made of all at once."""
    db.executemany(
        "INSERT INTO audit_log (at, agent_id, action, body) VALUES (?, ?, ?, '')",
        ((number, "abc"[number % 3], "xy"[number % 2]) for number in range(entries)),
    )
    audit_blocks.create_blocks(db)


def steps_of(db: sqlite3.Connection, query: AuditQuery, offset: int) -> int:
    """How many steps of SQLite's a page takes."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    db.set_progress_handler(step, 1)
    audit_blocks.find_entries(db, query, offset, 20)
    db.set_progress_handler(None, 0)
    return steps


def test_the_very_first_entry_may_end_a_block_and_a_span(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.0)
    for number in range(3):
        audit_blocks.append_entry(db, AuditDocument(f'"{number}"'.encode(), "a", "x", number))
    for since, until, found in ((0, None, b"012"), (0, 0, b"0"), (1, None, b"12"), (1, 1, b"1")):
        bodies, total = audit_blocks.find_entries(db, AuditQuery("a", "x", since, until), 0, 20)
        assert (b"".join(bodies).replace(b'"', b""), total) == (found, len(found))


def test_what_a_page_of_the_log_costs_does_not_grow_with_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_blocks, "BLOCK", 40)
    steps = []
    for entries in (12_000, 120_000):
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            schema.create_tables(db)
            fill_log(db, entries)
            queries = (
                (AuditQuery(None, None, 0, None), 0),
                (AuditQuery(None, None, 0, None), entries // 2 + 7),
                (AuditQuery("a", None, entries // 3 + 5, entries // 3 * 2), 70),
                (AuditQuery("b", "y", 0, None), 900),
            )
            steps.append([steps_of(db, query, offset) for query, offset in queries])
    small, large = steps
    assert all(after < 2.5 * before for before, after in zip(small, large, strict=True)), steps


def test_spans_are_made_of_the_blocks_that_there_are(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_blocks, "BLOCK", 6)
    monkeypatch.setattr(audit_blocks, "SPAN", 7)
    fill_log(db, 1200)
    db.execute("DELETE FROM audit_spans")  # which files of version 4 do not have
    audit_blocks.create_blocks(db)
    # Of all entries 200 blocks, of each agent 66, of each action 100, of both 33 each.
    assert check_blocks(db, "audit_spans") == 28 + 3 * 9 + 2 * 14 + 6 * 4
    spans = db.execute("SELECT after, last FROM audit_spans WHERE agent_id = '' AND action = ''").fetchall()
    assert spans == [(number * 42, number * 42 + 42) for number in range(28)]
    before = db.total_changes
    audit_blocks.create_blocks(db)
    assert db.total_changes == before


def check_parts(db: sqlite3.Connection, part: int) -> int:
    """Each part's count is that of its agents, and none is too large; how many parts there are."""
    parts = db.execute("SELECT rank, position, agents FROM leaderboard_parts ORDER BY rank, position")
    starts = parts.fetchall()
    agents = [(-score, position) for score, position in db.execute("SELECT score, position FROM reputation")]
    for index, (rank, position, count) in enumerate(starts):
        end = starts[index + 1][:2] if index + 1 < len(starts) else (float("inf"), 0)
        assert count == sum((rank, position) <= agent < end for agent in agents), (rank, position)
        assert count < part * 2
    return len(starts)


@pytest.mark.parametrize("scores", [1, 7, 10**6])
def test_pages_of_the_leaderboard_agree_with_its_agents(scores: int) -> None:
    part = 16
    dice = random.Random(SEED)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute("CREATE TABLE reputation (position INTEGER PRIMARY KEY, score REAL NOT NULL)")
        db.execute("CREATE INDEX reputation_by_score ON reputation (score DESC)")
        db.execute(f"CREATE TABLE leaderboard_parts ({leaderboard.TABLE}) WITHOUT ROWID")
        leaderboard.create_parts(db, part)
        most_parts = 0
        for number in range(1500):
            score = float(dice.randrange(scores)) + number // 300  # so that the lower parts empty
            count = db.execute("SELECT COUNT(*) FROM reputation").fetchone()[0]
            match dice.randrange(10):
                case 0 if count:
                    db.execute("DELETE FROM reputation WHERE position = ?", (dice.randrange(count) + 1,))
                case 1 | 2 | 3 | 4 if count:
                    db.execute(
                        "UPDATE reputation SET score = ? WHERE position = ?", (score, dice.randrange(count))
                    )
                case _:
                    db.execute("INSERT INTO reputation (score) VALUES (?)", (score,))
            if number % 10 == 0:
                most_parts = max(most_parts, check_parts(db, part))
                ranked = [
                    p for (p,) in db.execute("SELECT position FROM reputation ORDER BY score DESC, position")
                ]
                for offset in (0, dice.randrange(len(ranked) + 2), len(ranked) - 1, len(ranked)):
                    page = leaderboard.leaderboard_positions(db, max(0, offset), 7)
                    assert page == (ranked[max(0, offset) :][:7], len(ranked)), offset
        assert most_parts > 20
        before = db.execute("SELECT COUNT(*) FROM reputation").fetchone()
        db.execute("DELETE FROM leaderboard_parts")
        leaderboard.create_parts(db, part)
        assert check_parts(db, part) > 20
        db.execute("DELETE FROM reputation")
        assert before > (0,)
        assert leaderboard.leaderboard_positions(db, 0, 5) == ([], 0)


def first_version(path: Path, agents: int, entries: int) -> None:
    """A file as kpstore 0.1 made it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript((Path(__file__).parent / "data" / "schema-1.sql").read_text())
        db.execute("BEGIN")
        at = to_micros(NOW)
        db.executemany(
            "INSERT INTO reputation (agent_id, score, contributions, validations, first_seen, updated_at,"
            " entries) VALUES (?, ?, 0, 0, ?, ?, 0)",
            ((f"agent{n}", n % 10, at, at) for n in range(agents)),
        )
        body = (
            '{"id":"%d","action":"%s","agent_id":"%s","resource_type":"t","resource_id":"r",'
            '"timestamp":"2026-01-15T12:00:00Z","ip":"::1","details":null}'
        )
        db.executemany(
            "INSERT INTO audit_log (at, agent_id, action, body) VALUES (?, ?, ?, ?)",
            (
                (at, agent, action, body % (n, action, agent))
                for n, agent, action in ((n, "ab"[n % 2], ["", "x", "y"][n % 3]) for n in range(entries))
            ),
        )
        db.execute("COMMIT")


def schema_of(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
    return [(kind, name, "".join((sql or "").split())) for kind, name, sql in found]


async def test_a_file_of_the_first_version_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    first_version(path, 10_000, 13_000)
    settings = Settings(sqlite_path=str(path))
    async with create_store("sqlite", settings=settings, clock=ManualClock(NOW)) as stores:
        page = await stores.reputation.get_leaderboard(offset=7500, limit=3)
        assert [record.agent_id for record in page.data] == ["agent5002", "agent5012", "agent5022"]
        assert page.total == 10_000
        log = await stores.audit_log.query(agent_id="a", offset=6400, limit=2)
        assert (log.total, [entry.id for entry in log.data]) == (6500, ["12800", "12802"])
        both = await stores.audit_log.query(agent_id="b", action="x", offset=2100, limit=1)
        assert (both.total, [entry.id for entry in both.data]) == (2167, ["12601"])
        assert (await stores.audit_log.query(offset=12_999)).data[0].id == "12999"
        await stores.reputation.upsert("new", 100, "r")
        assert (await stores.reputation.get_leaderboard(limit=1)).data[0].agent_id == "new"
    async with create_store("sqlite", settings=replace(settings, sqlite_path=str(tmp_path / "new.db"))):
        pass
    assert schema_of(path) == schema_of(tmp_path / "new.db")
    with closing(sqlite3.connect(path)) as db:
        assert check_blocks(db) == 25 + 2 * 12 + 2 * 8 + 4 * 4
        assert check_parts(db, leaderboard.PART) == 3
        assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)


_OPEN = """
import asyncio, sqlite3, sys
from kpstore import Settings, create_store
from kpstore.backends.sqlite import schema
statements = 0
create_tables = schema.create_tables
def dying(db):
    def trace(statement):
        global statements
        statements += 1
        if statements == int(sys.argv[2]):
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
    db.set_trace_callback(trace)
    create_tables(db)
schema.create_tables = dying
async def main():
    async with create_store("sqlite", settings=Settings(sqlite_path=sys.argv[1])):
        print(statements)
asyncio.run(main())
"""


def test_an_upgrade_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    for moment in (1, 20, 40, 54):
        path.unlink(missing_ok=True)
        first_version(path, 100, 3000)
        killed = subprocess.run(
            [sys.executable, "-c", _OPEN, str(path), str(moment)], check=False, capture_output=True
        )
        assert killed.returncode == -9, f"it ended before statement {moment}: {killed.stdout!r}"
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (1,)
        whole = subprocess.run(
            [sys.executable, "-c", _OPEN, str(path), "0"], check=False, capture_output=True, text=True
        )
        assert whole.returncode == 0, whole.stderr
        assert int(whole.stdout) > 54
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
            assert check_blocks(db) == 5 + 2 * 2 + 2 * 1
            assert check_parts(db, leaderboard.PART) == 1


_UPGRADE = """
import asyncio, sys
from datetime import UTC, datetime
from kpstore import ManualClock, Settings, create_store
async def main():
    clock = ManualClock(datetime(2026, 1, 15, 12, tzinfo=UTC))
    async with create_store("sqlite", settings=Settings(sqlite_path=sys.argv[2]), clock=clock):
        with open(sys.argv[1], "ab", buffering=0) as recording:
            recording.write(b'["opened"]\\n')
asyncio.run(main())
"""


@pytest.mark.skipif(not recorder.is_available(), reason="this Python's SQLite cannot be recorded")
async def test_an_upgrade_that_loses_the_power_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    live, disk_folder, recorded = tmp_path / "live", tmp_path / "disk", tmp_path / "recording"
    live.mkdir()
    first_version(live / "old.db", 500, 3000)
    (tmp_path / "upgrade.py").write_text(_UPGRADE)
    subprocess.run(
        [sys.executable, *recorder.command(recorded, live), "upgrade", str(recorded), str(live / "old.db")],
        check=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    recording = Recording(recorded)
    dice, versions = random.Random(SEED), set()
    first, opened = recording.first_write(), recording.acknowledgement("opened")
    for moment, disk in recording.disks([*dice.sample(range(first, opened), 6), opened, len(recording)]):
        for kept in Kept:
            what = f"seed {SEED}, power lost at {moment} of {len(recording)}, the disk keeps {kept}"
            disk_folder.mkdir()
            disk.write(disk_folder, kept, dice)
            path = disk_folder / "old.db"
            with closing(sqlite3.connect(path)) as db:
                (version,) = db.execute("PRAGMA user_version").fetchone()
            assert version in ({schema.VERSION} if moment >= opened else {1, schema.VERSION}), what
            versions.add(version)
            settings = Settings(sqlite_path=str(path))
            async with create_store("sqlite", settings=settings, clock=ManualClock(NOW)) as stores:
                assert (await stores.audit_log.query(limit=1)).total == 3000, what
                assert (await stores.reputation.get_leaderboard(limit=1)).total == 500, what
            with closing(sqlite3.connect(path)) as db:
                assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], what
                assert check_blocks(db) == 5 + 2 * 2 + 2 * 1, what
                assert check_parts(db, leaderboard.PART) == 1, what
            shutil.rmtree(disk_folder)
    assert versions == {1, schema.VERSION}


async def test_counts_agree_after_many_handles_wrote_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_blocks, "BLOCK", 4)
    monkeypatch.setattr(audit_blocks, "SPAN", 4)
    path = tmp_path / "shared.db"
    clock = ManualClock(NOW)
    settings = Settings(sqlite_path=str(path))
    async with (
        create_store("sqlite", settings=settings, clock=clock) as one,
        create_store("sqlite", settings=settings, clock=clock) as other,
    ):

        async def write(worker: int) -> None:
            stores = (one, other)[worker % 2]
            for n in range(40):
                if n == 20 and worker == 0:
                    clock.advance(timedelta(days=91))
                await stores.audit_log.log("act", f"a{worker % 3}", "t", "r", "ip")
                await stores.reputation.upsert(f"agent{n % 7}", worker - 3, "r")

        await asyncio.gather(*(write(worker) for worker in range(8)))
        total = (await other.audit_log.query(limit=0)).total
        assert (await one.reputation.get_leaderboard(limit=0)).total == 7
    with closing(sqlite3.connect(path)) as db:
        since = to_micros(clock() - timedelta(days=90))
        assert db.execute("SELECT COUNT(*) FROM audit_log WHERE at >= ?", (since,)).fetchone() == (total,)
        assert check_blocks(db) > 3
        assert check_blocks(db, "audit_spans") > 0
        check_parts(db, leaderboard.PART)
