"""A database of the TypeScript registry becomes kpstore's in place, with nothing lost (clause SQL-3).

The file and what the registry itself said of it are in `kpstore_conformance/data/typescript-registry`.
KP_CHECKS_HEAVY=1 kills upgrades of 20,000 units at a hundred moments, instead of 1,500 units at twelve.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kpstore import (
    AllStores,
    ApiKeyRecord,
    BackendUnavailableError,
    DataCorruptionError,
    HistoryEntry,
    ManualClock,
    StoredSkill,
    ValidationVote,
)
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks.sqlite_support import (
    HOLD_LOCK,
    IS_HEAVY,
    digests,
    opened,
    path_of,
    python,
    raw,
    refused,
)

DATA = Path(__file__).parents[1] / "data" / "typescript-registry"
MINE = {  # the registry's tables that kpstore takes over; it has others, which are not ours to touch
    "skills",
    "knowledge_units",
    "reputation",
    "validation_votes",
    "api_keys",
    "rate_limit_violations",
}


def _expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "knowledgepulse.expected.json").read_text("utf-8"))
    return found


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _rows(path: Path, sql: str) -> list[dict[str, Any]]:
    with raw(path) as db:
        cursor = db.execute(sql)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


def _copy(lab: Lab) -> Path:
    path = path_of(lab)
    shutil.copy(DATA / "knowledgepulse.sqlite", path)
    return path


async def _all(scan: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in scan]


@check(clauses=["SQL-3"], backends=["sqlite"], name="every skill of the registry is there")
async def skills_are_there(lab: Lab) -> None:
    """Each skill with all its fields, by its id, in its place, and in the order of a search."""
    path = _copy(lab)
    order = [row["id"] for row in _rows(path, "SELECT id FROM skills ORDER BY rowid")]
    expected = {
        one["id"]: StoredSkill(
            id=one["id"],
            name=one["name"],
            description=one["description"],
            content=one["content"],
            version=one.get("version"),
            author=one.get("author"),
            tags=tuple(one["tags"]),
            visibility=one["visibility"],
            quality_score=one["quality_score"],
            created_at=_moment(one["created_at"]),
            updated_at=_moment(one["updated_at"]),
        )
        for one in _expected()["skills"]
    }
    assert sorted(order) == sorted(expected)
    stores = await lab.open()
    for id, skill in expected.items():
        assert await stores.skills.get_by_id(id) == skill
    assert [each.id for each in await _all(stores.skills.scan())] == order
    best_first = sorted(order, key=lambda id: -expected[id].quality_score)
    walked = []
    for offset in range(0, len(order), 4):
        page = await stores.skills.search(offset=offset, limit=4)
        assert page.total == len(order)
        walked += [each.id for each in page.data]
    assert walked == best_first
    for tag in {tag for each in expected.values() for tag in each.tags}:
        found = await stores.skills.search(tags=[tag.upper()], limit=100)
        with_it = {id for id, each in expected.items() if tag.casefold() in map(str.casefold, each.tags)}
        assert {each.id for each in found.data} == with_it, tag
    some = expected[order[0]]
    found = await stores.skills.search(query=some.name.upper(), limit=100)
    assert some in found.data


@check(
    clauses=["SQL-3", "GEN-4"], backends=["sqlite"], name="every unit of the registry is there, key by key"
)
async def units_are_there(lab: Lab) -> None:
    """Each unit with every key in its order and every value as the JSON that it was, in its place; and
    which are quarantined or flagged is still in the file.
    """
    path = _copy(lab)
    expected = {one["id"]: one for one in _expected()["knowledge_units"]}
    rows = _rows(path, "SELECT * FROM knowledge_units ORDER BY rowid")
    assert {row["id"] for row in rows} == set(expected)
    stores = await lab.open()
    by_agent: dict[str, list[str]] = {}
    for row in rows:
        id, one = row["id"], expected[row["id"]]
        found = await stores.knowledge.get_by_id(id)
        assert found is not None, id
        said = json.dumps(found.unit, ensure_ascii=False)
        assert said == json.dumps(json.loads(row["unit_json"]), ensure_ascii=False), id
        assert said == json.dumps(one["unit"], ensure_ascii=False), id
        assert (found.visibility, found.created_at, found.updated_at) == (
            one["visibility"],
            _moment(one["created_at"]),
            _moment(one["updated_at"]),
        ), id
        by_agent.setdefault(one["unit"]["metadata"].get("agent_id"), []).append(id)
    order = [row["id"] for row in rows]
    assert [each.id for each in await _all(stores.knowledge.scan(7))] == order
    best_first = sorted(order, key=lambda id: -expected[id]["unit"]["metadata"]["quality_score"])
    page = await stores.knowledge.search(limit=1000)
    assert [each.id for each in page.data] == best_first
    for agent_id, ids in by_agent.items():
        if agent_id is not None:
            assert [each.id for each in await stores.knowledge.get_by_agent_id(agent_id)] == ids
    objective = expected[order[0]]["unit"]["task"]["objective"]
    hits = await stores.knowledge.search(query=objective, limit=1000)
    assert order[0] in {each.id for each in hits.data}
    status = await lab.inspect_sql(
        "SELECT id, quarantine_status FROM knowledge_units WHERE quarantine_status IS NOT NULL"
    )
    before = {row["id"]: row["quarantine_status"] for row in rows if row["quarantine_status"] is not None}
    assert {row["id"]: row["quarantine_status"] for row in status} == before
    assert set(before) == {*_expected()["quarantined"], *_expected()["flagged"]}


@check(
    clauses=["SQL-3"],
    backends=["sqlite"],
    name="every reputation of the registry is there with all its history",
)
async def reputations_are_there(lab: Lab) -> None:
    """Each agent's numbers and each entry of its history, oldest first; who was seen when; each vote."""
    path = _copy(lab)
    rows = _rows(path, "SELECT agent_id, created_at, history FROM reputation ORDER BY rowid")
    expected = {one["agent_id"]: one for one in _expected()["reputation"]}
    assert {row["agent_id"] for row in rows} == set(expected)
    clock = ManualClock(lab.clock())
    stores = await lab.open(clock)
    assert [each.agent_id for each in await stores.reputation.get_all()] == [row["agent_id"] for row in rows]
    for row in rows:
        agent_id, one = row["agent_id"], expected[row["agent_id"]]
        history = [
            HistoryEntry(_moment(entry["timestamp"]), entry["delta"], entry["reason"])
            for entry in one["history"]
        ]
        assert len(history) == len(json.loads(row["history"]))
        record = await stores.reputation.get(agent_id)
        assert record is not None
        numbers = (record.score, record.contributions, record.validations, record.updated_at)
        assert numbers == (
            one["score"],
            one["contributions"],
            one["validations"],
            _moment(one["updated_at"]),
        )
        assert record.history == history[-50:]
        page = await stores.reputation.get_history(agent_id, limit=1000)
        assert (page.data, page.total) == (history, len(history)), agent_id
        first_seen = _moment(row["created_at"])
        for after, may_vote in ((timedelta(days=30, microseconds=-1), False), (timedelta(days=30), True)):
            clock.set(first_seen + after)
            assert await stores.reputation.can_vote(agent_id) is may_vote, (agent_id, after)
    votes = [
        ValidationVote(
            one["validatorId"], one["targetId"], one["unitId"], one["valid"], _moment(one["timestamp"])
        )
        for one in _expected()["votes"]
    ]
    assert await stores.reputation.get_votes() == votes
    for unit_id in {vote.unit_id for vote in votes}:
        assert await stores.reputation.get_votes(unit_id) == [
            vote for vote in votes if vote.unit_id == unit_id
        ]
    # And it goes on from there.
    record = await stores.reputation.upsert(rows[0]["agent_id"], 1, "Validated")
    one = expected[rows[0]["agent_id"]]
    assert (record.score, record.contributions) == (one["score"] + 1, one["contributions"] + 1)
    page = await stores.reputation.get_history(rows[0]["agent_id"], limit=0)
    assert page.total == len(one["history"]) + 1


@check(
    clauses=["SQL-3", "KEY-3", "KEY-4"],
    backends=["sqlite"],
    name="the registry's keys still verify, or still don't",
)
async def keys_are_there(lab: Lab) -> None:
    """Each raw key verifies as it did, revoked ones do not, and the records are in their order; so are the
    violations.
    """
    path = _copy(lab)
    rows = _rows(path, "SELECT key_hash, revoked_at FROM api_keys ORDER BY rowid")
    violations = _rows(path, "SELECT identifier, timestamp FROM rate_limit_violations ORDER BY id")
    revoked_at = {row["key_hash"]: row["revoked_at"] for row in rows}
    expected = {
        one["key_hash"]: ApiKeyRecord(
            key_hash=one["key_hash"],
            key_prefix=one["key_prefix"],
            agent_id=one["agent_id"],
            scopes=frozenset(one["scopes"]),
            tier=one["tier"],
            created_at=_moment(one["created_at"]),
            revoked=one["revoked"],
            revoked_at=_moment(revoked_at[one["key_hash"]]) if one["revoked"] else None,
        )
        for one in _expected()["api_keys"]
    }
    clock = ManualClock(lab.clock())
    stores = await lab.open(clock)
    assert await _all(stores.api_keys.scan()) == [expected[row["key_hash"]] for row in rows]
    by_prefix = {record.key_prefix: record for record in expected.values()}
    assert {one["revoked"] for one in _expected()["keys"]} == {True, False}, "the data has both kinds"
    for key in _expected()["keys"]:
        found = await stores.api_keys.verify(key["raw_key"])
        if key["revoked"]:
            assert found is None, "a revoked key verifies"
        else:
            assert found == by_prefix[key["raw_key"][:11]]
            assert found.agent_id == key["agent_id"]
    assert len(violations) == _expected()["tables"]["rate_limit_violations"] > 0
    for violation in violations:
        at = datetime.fromtimestamp(violation["timestamp"] // 1000, UTC).replace(
            microsecond=violation["timestamp"] % 1000 * 1000
        )
        same = sum(
            other["identifier"] == violation["identifier"]
            and 0 <= violation["timestamp"] - other["timestamp"] < 1000
            for other in violations
        )
        clock.set(at)
        count = await stores.rate_limit.get_429_count(violation["identifier"], timedelta(seconds=1))
        assert count == same
    living = next(key for key in _expected()["keys"] if not key["revoked"])
    assert await stores.api_keys.revoke(living["raw_key"][:11])
    assert await stores.api_keys.verify(living["raw_key"]) is None


def _others(path: Path) -> tuple[list[Any], dict[str, list[Any]]]:
    with raw(path) as db:
        schema = db.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
        ).fetchall()
        schema = [row for row in schema if row[2] in _other_tables(db)]
        rows = {}
        for table in _other_tables(db):
            columns = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
            typed = ", ".join(f"typeof({name}), {name}" for name in columns)
            rows[table] = db.execute(f"SELECT {typed} FROM {table} ORDER BY rowid").fetchall()  # noqa: S608
        return schema, rows


def _other_tables(db: sqlite3.Connection) -> list[str]:
    ours = MINE | {"skill_tags", "reputation_history", "leaderboard_parts", "rate_limits", "audit_log"}
    ours |= {"audit_blocks", "audit_spans", "document_changes", "erasure"}
    ours |= {"search_indexes", "search_index_pieces"}
    names = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    return [name for (name,) in names if name not in ours and not name.startswith("sqlite_")]


@check(clauses=["SQL-3"], backends=["sqlite"], name="tables that kpstore does not know stay as they were")
async def unknown_tables_stay(lab: Lab) -> None:
    """The tables of the registry that kpstore does not have, one of the user's own and its index keep their
    definitions, rows and types; opening again changes no byte.
    """
    path = _copy(lab)
    with raw(path) as db:
        db.execute("CREATE TABLE theirs (id INTEGER PRIMARY KEY, skill TEXT REFERENCES skills (id), b BLOB)")
        db.execute("INSERT INTO theirs VALUES (7, 'x', x'00ff'), (3, NULL, 1.5)")
        db.execute("CREATE INDEX theirs_by_skill ON theirs (skill)")
    schema, rows = _others(path)
    assert len(rows) == len(_expected()["tables"]) - len(MINE) + 1
    for _ in range(2):
        async with opened(lab) as stores:
            assert (await stores.skills.search()).total == _expected()["tables"]["skills"]
        after = _others(path)
        assert after[0] == schema
        assert after[1] == rows
        with raw(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    before = digests(lab.folder)
    async with opened(lab) as stores:
        await stores.skills.search()
    assert digests(lab.folder) == before


# Rows that today's rules would refuse ---------------------------------------

# As the registry makes them, but for the constraints, which its first versions did not have.
_LAX_TABLES = """
CREATE TABLE skills (id TEXT PRIMARY KEY, name TEXT, description TEXT, version TEXT, author TEXT, tags TEXT,
  content TEXT, visibility TEXT, quality_score REAL, created_at TEXT, updated_at TEXT);
CREATE TABLE knowledge_units (id TEXT PRIMARY KEY, unit_json TEXT, visibility TEXT, created_at TEXT,
  updated_at TEXT);
CREATE TABLE reputation (agent_id TEXT PRIMARY KEY, score REAL, contributions INTEGER, validations INTEGER,
  history TEXT, created_at TEXT, updated_at TEXT);
CREATE TABLE validation_votes (id INTEGER PRIMARY KEY AUTOINCREMENT, validator_id TEXT, target_id TEXT,
  unit_id TEXT, valid INTEGER, timestamp TEXT);
CREATE TABLE api_keys (key_hash TEXT PRIMARY KEY, key_prefix TEXT, agent_id TEXT, scopes TEXT, tier TEXT,
  created_at TEXT, revoked INTEGER, revoked_at TEXT);
CREATE TABLE rate_limit_violations (id INTEGER PRIMARY KEY AUTOINCREMENT, identifier TEXT, timestamp INTEGER);
"""
_TIME = "2026-01-01T00:00:00.000Z"
_FIRST_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
_NO_UTF8 = b"\xff\xfe\x80"


def _insert(db: sqlite3.Connection, table: str, **values: object) -> None:
    marks = ["CAST(? AS TEXT)" if isinstance(value, bytearray) else "?" for value in values.values()]
    db.execute(
        f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(marks)})",  # noqa: S608  # our names
        [bytes(value) if isinstance(value, bytearray) else value for value in values.values()],
    )


def _lax(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(_LAX_TABLES)
    return db


@check(
    clauses=["SQL-3"],
    backends=["sqlite"],
    name="a skill that today's rules would refuse is kept",
)
async def odd_skills_are_kept(lab: Lab) -> None:
    """Unknown visibility, scores out of range, tags that are no JSON, NULL, NUL, texts that are no UTF-8, ids
    of 600 characters or none, times without a zone or none at all: each row is a skill afterwards.
    """
    path = path_of(lab)
    changes: list[dict[str, object]] = [
        {},
        {"visibility": "public"},
        {"quality_score": 7},
        {"quality_score": -1.5},
        {"quality_score": "high"},
        {"quality_score": math.inf},
        {"quality_score": None},
        {"tags": "not json"},
        {"tags": '{"a": 1}'},
        {"tags": '["kept", 5, null, "kept too"]'},
        {"tags": ""},
        {"tags": None},
        {"tags": "[" * 100_000},
        {"tags": '["\\ud800"]'},
        {"name": None, "description": None, "version": None, "author": None, "visibility": None},
        {"name": "a\0b", "content": "c\0d"},
        {"content": bytearray(_NO_UTF8), "author": bytearray(_NO_UTF8)},
        {"content": _NO_UTF8},
        {"created_at": "2026-01-01T00:00:00", "updated_at": "2026-01-01 02:00:00+02:00"},
        {"created_at": "yesterday", "updated_at": ""},
        {"created_at": None, "updated_at": 1_767_225_600_000},
        {"created_at": "9999-12-31T23:59:59-12:00"},
        {"id": "i" * 600},
        {"id": ""},
        {"id": "a\0b"},
        {"id": bytearray(b"id" + _NO_UTF8)},
        {"id": b"blob"},
        {"name": "é" * 100_000, "content": "x" * 2_000_000},
    ]
    db = _lax(path)
    for number, change in enumerate(changes):
        plain: dict[str, object] = {
            "id": f"s{number}",
            "name": "n",
            "description": f"row {number}.",
            "version": "1",
            "author": "a",
            "tags": "[]",
            "content": "c",
            "visibility": "network",
            "quality_score": 0.5,
            "created_at": _TIME,
            "updated_at": _TIME,
        }
        _insert(db, "skills", **plain | change)
    db.close()
    stores = await lab.open()
    found = await _all(stores.skills.scan())
    assert len(found) == len(changes)
    for number, (skill, change) in enumerate(zip(found, changes, strict=True)):
        what = f"row {number}, {str(change)[:60]}: {str(skill)[:300]}"
        assert skill.description == ("" if "description" in change else f"row {number}."), what
        for name, value in change.items():
            if isinstance(value, str) and name in ("id", "name", "content", "visibility"):
                assert getattr(skill, name) == value, what
        if isinstance(change.get("id", "s"), str) and 0 < len(skill.id) <= 512 and "\0" not in skill.id:
            assert await stores.skills.get_by_id(skill.id) == skill, what
        if "created_at" not in change or number == 18:
            assert (skill.created_at, skill.updated_at) == (_FIRST_MOMENT, _FIRST_MOMENT), what
        if isinstance(change.get("quality_score"), int | float) and change["quality_score"] != math.inf:
            assert skill.quality_score == change["quality_score"], what
    assert found[9].tags == ("kept", "kept too")
    page = await stores.skills.search(limit=100)
    assert (page.total, page.data[0]) == (len(changes), found[2])
    assert page.data[-1] == found[3]
    assert [each.id for each in (await stores.skills.search(tags=["KEPT"])).data] == ["s9"]
    # They are records like any other from now on.
    assert await stores.skills.delete("s7")
    await stores.skills.create(
        StoredSkill("s1", "n", "d", "c", created_at=lab.clock(), updated_at=lab.clock())
    )
    assert (await stores.skills.search()).total == len(changes) - 1


@check(clauses=["SQL-3", "SQL-5"], backends=["sqlite"], name="a unit that today's rules would refuse is kept")
async def odd_units_are_kept(lab: Lab) -> None:
    """A unit without required fields, with scores and types of its own, NUL, lone surrogates, numbers beyond
    64 bits or deep nesting is readable afterwards, key by key; one that is no JSON object fails only the
    calls that would return it, and its text is still in the file.
    """
    path = path_of(lab)
    readable = [
        "{}",
        '{"id": "kp:trace:other"}',
        '{ "b" : 1 ,\n "a" : [ 1.0 , 1 , -0.0, 1e2, 12345678901234567890123 ] }',
        '{"@type": "ReasoningTrace", "metadata": {"quality_score": 7, "agent_id": "odd"}}',
        '{"@type": "ReasoningTrace", "metadata": {"quality_score": "high", "agent_id": "odd"}, "steps": {}}',
        '{"@type": "ExpertSOP", "name": 5, "domain": null, "metadata": [1]}',
        '{"@type": 7, "metadata": null}',
        '{"@type": "Unheard", "metadata": {"agent_id": 5, "task_domain": ["x"]}}',
        '{"@type": "ToolCallPattern", "name": "n\\u0000m", "description": "\\ud800 alone"}',
        '{"big": 1e400, "nan": NaN, "minus": -Infinity}',
        '{"\\udfff": "a key"}',
        '{"deep": ' + "[" * 200 + "]" * 200 + "}",
        '{"same": 1, "same": 2}',
        '{"text": "' + "é" * 1_500_000 + '"}',
    ]
    unreadable = ["{", "", "null", "[]", '"text"', "5", "undefined", "[" * 100_000, None]
    db = _lax(path)
    for number, text in enumerate([*readable, *unreadable]):
        _insert(
            db,
            "knowledge_units",
            id=f"kp:trace:{number:02}",
            unit_json=text,
            visibility="public",
            created_at=_TIME,
            updated_at=_TIME,
        )
    _insert(db, "knowledge_units", id="kp:trace:no-utf8", unit_json=bytearray(b'{"a": "\xff"}'))
    _insert(db, "knowledge_units", id="kp:trace:blob", unit_json=b"\x00\x01")
    db.close()
    count = len(readable) + len(unreadable) + 2
    async with opened(lab) as stores:
        assert (await stores.knowledge.search(limit=0)).total == count
        for number, text in enumerate(readable):
            found = await stores.knowledge.get_by_id(f"kp:trace:{number:02}")
            assert found is not None, text[:80]
            assert json.dumps(found.unit) == json.dumps(json.loads(text)), text[:80]
            assert (found.visibility, found.created_at) == ("public", _FIRST_MOMENT)
        for number in range(len(readable), len(readable) + len(unreadable)):
            with refused(DataCorruptionError, path, f"unit {number}"):
                await stores.knowledge.get_by_id(f"kp:trace:{number:02}")
        assert [each.id for each in await stores.knowledge.get_by_agent_id("odd")] == [
            "kp:trace:03",
            "kp:trace:04",
        ]
        best = await stores.knowledge.search(limit=1)
        assert [each.id for each in best.data] == ["kp:trace:03"]
        assert (await stores.knowledge.search(types=["ReasoningTrace"])).total == 2
        seen = 0
        for offset in range(count):
            try:
                seen += len((await stores.knowledge.search(offset=offset, limit=1)).data)
            except DataCorruptionError:
                continue
        assert seen in (len(readable), len(readable) + 1), f"{seen} units can be read"
    assert b"undefined" in path.read_bytes(), "the text of a unit that cannot be read is gone"


@check(
    clauses=["SQL-3", "KNOW-3"],
    backends=["sqlite"],
    name="a unit whose quality is no number is found where one of quality 0 is",
)
async def odd_qualities_are_ordered(lab: Lab) -> None:
    """Without a quality, or with a text, a truth value, NaN or null for one, a unit comes after those with a
    positive quality and before those with a negative one, in the order of insertion.
    """
    qualities = [None, "-0.5", "0.5", "0", '"high"', "true", "NaN", "null", "[1]", "0.25"]
    db = _lax(path_of(lab))
    for number, quality in enumerate(qualities):
        metadata = "{}" if quality is None else f'{{"quality_score": {quality}}}'
        unit_json = f'{{"@type": "ReasoningTrace", "metadata": {metadata}}}'
        _insert(db, "knowledge_units", id=f"kp:trace:{number}", unit_json=unit_json)
    db.close()
    async with opened(lab) as stores:
        found = await stores.knowledge.search()
    assert [each.id.removeprefix("kp:trace:") for each in found.data] == list("2903456781")


@check(
    clauses=["SQL-3"],
    backends=["sqlite"],
    name="a reputation, vote, key or violation that today's rules would refuse is kept",
)
async def odd_other_rows_are_kept(lab: Lab) -> None:
    """Numbers that are none or too large, histories that are no JSON or 5,000 entries long, garbage for
    a time, two keys with one prefix, scopes and tiers that nobody knows: nothing keeps the file from
    opening, each row is there, and each entry that can be read is.
    """
    path = path_of(lab)
    entry = {"timestamp": _TIME, "delta": 0.5, "reason": "r"}
    long = [{**entry, "delta": number, "reason": f"entry {number}"} for number in range(5000)]
    reputations: list[dict[str, object]] = [
        {},
        {"score": -3.5, "contributions": -1},
        {"score": "high"},
        {"score": math.inf, "contributions": 1e300, "validations": "many"},
        {"score": None, "contributions": None, "validations": None, "history": None},
        {"history": "not json"},
        {"history": '{"a": 1}'},
        {"history": json.dumps([1, None, {}, entry, {"delta": 2}, {"timestamp": "yesterday", "delta": 3}])},
        {"history": '[{"timestamp": "2026-01-01T00:00:00", "delta": 1e400, "reason": "\\ud800"}]'},
        {"history": f'[{{"timestamp": "{_TIME}", "delta": {10**400}, "reason": 7}}]'},
        {"history": json.dumps(long)},
        {"agent_id": "a" * 600},
        {"agent_id": bytearray(_NO_UTF8)},
        {"agent_id": ""},
        {"created_at": "garbage", "updated_at": None},
    ]
    db = _lax(path)
    for number, change in enumerate(reputations):
        plain: dict[str, object] = {
            "agent_id": f"agent{number}",
            "score": 1.5,
            "contributions": 1,
            "validations": 0,
            "history": json.dumps([entry]),
            "created_at": _TIME,
            "updated_at": _TIME,
        }
        _insert(db, "reputation", **plain | change)
    odd_votes: list[tuple[object, object]] = [(1, _TIME), (0, "garbage"), (2, None), ("yes", _TIME)]
    for valid, timestamp in [*odd_votes, (None, _TIME), (1.5, "")]:
        _insert(
            db,
            "validation_votes",
            validator_id="v",
            target_id="t" * 600,
            unit_id="u",
            valid=valid,
            timestamp=timestamp,
        )
    _insert(db, "validation_votes", validator_id=None, target_id=bytearray(_NO_UTF8), unit_id=b"blob")
    keys: list[dict[str, object]] = [
        {},
        {"revoked": 1, "revoked_at": "garbage"},
        {"revoked": "yes"},
        {"scopes": "read"},
        {"scopes": '["read", "fly", 5]', "tier": "gold"},
        {"scopes": None, "tier": None, "created_at": None},
        {"agent_id": bytearray(_NO_UTF8)},
        {"key_prefix": None, "agent_id": None},
    ]
    for number, change in enumerate(keys):
        _insert(
            db,
            "api_keys",
            **{
                "key_hash": f"{number:064x}",
                "key_prefix": "kp_same",
                "agent_id": "owner",
                "scopes": '["read"]',
                "tier": "free",
                "created_at": _TIME,
                "revoked": 0,
                "revoked_at": None,
            }
            | change,
        )
    for timestamp in (1_767_225_600_000, -5, 9_000_000_000_000_000_000, 1.5, "garbage", None, 1e300):
        _insert(db, "rate_limit_violations", identifier="caller", timestamp=timestamp)
    db.close()
    clock = ManualClock(_FIRST_MOMENT)
    stores = await lab.open(clock)
    found = await stores.reputation.get_all()
    assert len(found) == len(reputations)
    assert (await stores.reputation.get_leaderboard(limit=100)).total == len(reputations)
    assert [each.agent_id for each in found if each.agent_id.startswith("agent")] == [
        f"agent{number}" for number, change in enumerate(reputations) if "agent_id" not in change
    ]
    assert (found[1].score, found[1].contributions) == (-3.5, -1)
    assert all(math.isfinite(each.score) for each in found)
    plain_entry = HistoryEntry(_FIRST_MOMENT, 0.5, "r")
    assert found[0].history == [plain_entry]
    assert plain_entry in found[7].history
    assert found[8].history[0].timestamp == _FIRST_MOMENT
    assert len(found[9].history) == 1
    page = await stores.reputation.get_history("agent10", offset=4000, limit=1000)
    assert page.total == 5000
    assert page.data == [HistoryEntry(_FIRST_MOMENT, n, f"entry {n}") for n in range(4000, 5000)]
    assert (await stores.reputation.upsert("agent2", 2, "r")).score == 2
    votes = await stores.reputation.get_votes()
    assert len(votes) == 7
    assert [vote.valid for vote in votes[:3]] == [True, False, True]
    assert votes[0] == ValidationVote("v", "t" * 600, "u", True, _FIRST_MOMENT)
    records = await _all(stores.api_keys.scan())
    assert [record.key_hash for record in records] == [f"{number:064x}" for number in range(len(keys))]
    assert records[1].revoked
    assert records[2].revoked, "what was marked as revoked, however oddly, must not verify"
    assert "read" in records[4].scopes
    assert len(await stores.api_keys.get_by_agent_id("owner")) == 6
    assert await stores.rate_limit.get_429_count("caller", timedelta(minutes=1)) == 1
    for one in ("garbage", "many", "not json", "gold", "yes"):
        assert await lab.inspect_raw(one.encode()), f"{one!r} of an odd row is not kept"


@check(clauses=["SQL-3"], backends=["sqlite"], name="rows whose ids are alike today are all kept")
async def colliding_rows_are_kept(lab: Lab) -> None:
    """The registry's ids may be NULL, which is unlike itself, or bytes: rows whose ids come out the same keep
    the file from nothing, and each is in the file afterwards.
    """
    path = path_of(lab)
    db = _lax(path)
    ids: list[object] = [None, None, "", b"", "same", b"same", b"\xff", b"\xfe"]
    for number, id in enumerate(ids):
        text = f"marker-{number}-"
        _insert(db, "skills", id=id, name="n", description=f"{text}skill", content="c")
        _insert(db, "knowledge_units", id=id, unit_json=json.dumps({"x": f"{text}unit"}))
        _insert(db, "reputation", agent_id=id, score=1, history=f'["{text}reputation"]')
        _insert(db, "api_keys", key_hash=id, key_prefix=f"{text}key", agent_id="a", scopes='["read"]')
    db.close()
    async with opened(lab) as stores:
        for page in (
            await stores.skills.search(),
            await stores.knowledge.search(),
            await stores.reputation.get_leaderboard(),
        ):
            assert page.total == len(ids)
        assert len({each.id for each in (await stores.skills.search()).data}) == len(ids)
        assert len(await _all(stores.api_keys.scan())) == len(ids)
        same = await stores.skills.get_by_id("same")
        assert same is not None
        assert same.description == "marker-4-skill"
    content = path.read_bytes()
    for number in range(len(ids)):
        for kind in ("skill", "unit", "reputation", "key"):
            assert f"marker-{number}-{kind}".encode() in content, (
                f"the {kind} with id {ids[number]!r} is gone"
            )


# Upgrades that are interrupted, or not alone --------------------------------

# Forks a child per moment, which upgrades a copy and is killed; then another, which looks at what is left.
_KILL = """
import asyncio, os, random, shutil, signal, sqlite3, sys, time
import kpstore.backends.sqlite
from kpstore import Settings, create_store

source, folder, moments, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
connect = sqlite3.connect
STEPS = 500  # of SQLite's virtual machine, between two looks


async def open_and_count(path):
    async with create_store("sqlite", settings=Settings(sqlite_path=path)) as stores:
        return ((await stores.knowledge.search(limit=0)).total,
                (await stores.reputation.get_history("agent", limit=0)).total)


def upgrade(path, die_at, counted=None):
    looks = 0
    def look():
        nonlocal looks
        looks += 1
        if looks == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0
    def watched(*arguments, **options):
        db = connect(*arguments, **options)
        db.set_progress_handler(look, STEPS)
        return db
    sqlite3.connect = watched
    asyncio.run(open_and_count(path))
    if counted is not None:
        os.write(counted, str(looks).encode())


def forked(function, *arguments):
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    return pid


def look_at(path, number):
    with_log = connect(path)
    version = with_log.execute("PRAGMA user_version").fetchone()[0]
    tables = {name for (name,) in with_log.execute("SELECT name FROM sqlite_master")}
    half = any(name.startswith("typescript_") for name in tables)
    is_old = version == 0 and "rate_limits" not in tables and not half
    is_new = version > 0 and "rate_limits" in tables and not half
    assert is_old or is_new, (number, version, sorted(tables))
    found = with_log.execute("SELECT COUNT(*) FROM knowledge_units").fetchone()[0]
    assert found == count, (number, version, found)
    assert with_log.execute("PRAGMA integrity_check").fetchall() == [("ok",)], number
    with_log.close()
    os.write(results[1], b"o" if is_old else b"n")
    found = asyncio.run(open_and_count(path))
    assert found == (count, 300), (number, found)


def copy(number):
    path = os.path.join(folder, f"killed{number}.db")
    shutil.copy(source, path)
    return path


results = os.pipe()
# How many looks an upgrade takes, and how long.
counted = os.pipe()
start = time.monotonic()
pid = forked(upgrade, copy("whole"), -1, counted[1])
assert os.waitpid(pid, 0)[1] == 0
took_s = time.monotonic() - start
looks = int(os.read(counted[0], 100))
assert looks > 50, looks
killed = 0
for number in range(moments):
    path = copy(number)
    if number % 3:
        pid = forked(upgrade, path, 1 + looks * number // moments)
    else:  # at any time, also within a write to the disk
        pid = forked(upgrade, path, -1)
        time.sleep(took_s * random.Random(number).random())
        os.kill(pid, signal.SIGKILL)
    killed += os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert os.waitpid(forked(look_at, path, number), 0)[1] == 0, f"moment {number}"
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
print(killed, os.read(results[0], 1000).decode())
"""


@check(
    clauses=["SQL-3", "GEN-7"],
    backends=["sqlite"],
    name="an upgrade that is killed leaves the old file or the new one",
    timeout_s=1200 if IS_HEAVY else 120,
)
async def killed_upgrades(lab: Lab) -> None:
    """SIGKILL at moments spread over the upgrade: the file is the registry's still, or wholly kpstore's; its
    next opening has every unit and every entry of the history.
    """
    count = 20_000 if IS_HEAVY else 1500
    moments = 100 if IS_HEAVY else 12
    source = lab.folder / "source.db"
    db = _lax(source)
    db.execute("BEGIN")
    document = json.dumps({"metadata": {"agent_id": "a", "task_domain": "d"}, "text": "word " * 100})
    for number in range(count):
        _insert(
            db,
            "knowledge_units",
            id=f"kp:trace:{number}",
            unit_json=document,
            created_at=_TIME,
            updated_at=_TIME,
        )
    entries = json.dumps([{"timestamp": _TIME, "delta": 1, "reason": "r"}] * 300)
    _insert(db, "reputation", agent_id="agent", score=1, history=entries, created_at=_TIME, updated_at=_TIME)
    db.execute("COMMIT")
    db.close()
    folder = lab.folder / "killed"
    folder.mkdir()
    async with python(lab, _KILL, source, folder, moments, count) as process:
        killed, states = (await process.rest(1200 if IS_HEAVY else 100)).split()
    assert int(killed) >= moments * 2 // 3, f"only {killed} of {moments} upgrades were killed in time"
    assert "o" in states, f"no upgrade was killed before its end: {states}"


_UPGRADE = """
import asyncio, sys
from kpstore import create_store
async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    async with create_store() as stores:
        print((await stores.skills.search(limit=0)).total, (await stores.knowledge.search(limit=0)).total,
              len(await stores.reputation.get_all()), len(await stores.reputation.get_votes()),
              len([key async for key in stores.api_keys.scan()]))
asyncio.run(main())
"""


@check(
    clauses=["SQL-3", "SQL-2", "GEN-8"], backends=["sqlite"], name="two processes upgrade one file together"
)
async def upgrading_together(lab: Lab) -> None:
    """Two processes and a handle of this one that open the registry's file at the same moment all find all
    of it, once.
    """
    _copy(lab)
    tables = _expected()["tables"]
    names = ("skills", "knowledge_units", "reputation", "validation_votes", "api_keys")
    wanted = " ".join(str(tables[name]) for name in names)
    async with python(lab, _UPGRADE) as one, python(lab, _UPGRADE) as other:
        for process in (one, other):
            assert await process.line() == "ready"
        for process in (one, other):
            process.tell()
        async with opened(lab) as stores:
            assert (await stores.skills.search(limit=0)).total == tables["skills"]
        assert [(await process.rest()).strip() for process in (one, other)] == [wanted, wanted]


@check(
    clauses=["SQL-3", "SQL-5"],
    backends=["sqlite"],
    name="an upgrade waits for a lock, and is not skipped",
)
async def upgrading_under_a_lock(lab: Lab) -> None:
    """While another process holds the registry's file, the upgrade waits; held for over 5 s, it is a
    BackendUnavailableError naming the file, which is as it was; released after 1.5 s, all is there.
    """
    path = _copy(lab)
    before = path.read_bytes()
    async with python(lab, HOLD_LOCK, path, "IMMEDIATE") as holder:
        assert await holder.line() == "held"
        start_s = time.monotonic()
        with refused(BackendUnavailableError, path):
            async with opened(lab):
                pass
        assert 4.5 <= time.monotonic() - start_s <= 9, f"it waited {time.monotonic() - start_s:.1f} s"
        holder.tell()
        assert await holder.line() == "released"
    assert path.read_bytes() == before
    async with python(lab, HOLD_LOCK, path, "EXCLUSIVE") as holder:
        assert await holder.line() == "held"
        opening = asyncio.create_task(_open_and_count(lab))
        await asyncio.sleep(1.5)
        assert not opening.done()
        holder.tell()
        assert await opening == _expected()["tables"]["knowledge_units"]


async def _open_and_count(lab: Lab) -> int:
    async with opened(lab) as stores:
        return await _total(stores)


async def _total(stores: AllStores) -> int:
    return (await stores.knowledge.search(limit=0)).total
