"""The audit log in SQL: exact totals and deep pages, not looking at every entry.

The entries of one key (an agent, an action, both, or all) are cut into blocks,
consecutive in the order of logging, and each block knows how many entries it
has and between which times. A query adds up the blocks within its times, passes
over those outside, and looks at the entries of those in between: two, as long
as the clock goes forward; more where it went back, and the answer is as exact.
What came after a key's last block is looked at too. Blocks that follow each
other make a span, which knows the same of all of them, so that a query adds up
a few dozen numbers however long the log is.

A block or span is closed where the dice say so, so that nothing is counted up
per entry. Only its count must be right, which triggers see to when entries are
removed; its times are bounds that may be too wide.
"""

from __future__ import annotations

import random
import sqlite3
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from kpstore.stores import AuditDocument, AuditQuery

# Entries per block on average. Looking at one takes 40 ns, and so a block no longer than 20 us.
BLOCK = 512
# Blocks per span on average. A query reads a row of each span, and of each block of a few of them, in 0.5 us.
SPAN = 32

LOG_TABLE = """
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    action TEXT NOT NULL,
    body TEXT NOT NULL
"""
LOG_INDEXES = {
    "audit_log_by_time": "audit_log (at)",
    "audit_log_by_agent": "audit_log (agent_id, position, at)",
    "audit_log_by_action": "audit_log (action, position, at)",
    "audit_log_by_agent_and_action": "audit_log (agent_id, action, position, at)",
}
# The entries after the position `after` up to `last`. An empty agent or action stands for all of them: no
# entry has an empty agent, and no query asks for an empty action.
BLOCKS_TABLE = """
    agent_id TEXT NOT NULL,
    action TEXT NOT NULL,
    last INTEGER NOT NULL,
    after INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    earliest INTEGER NOT NULL,
    latest INTEGER NOT NULL,
    PRIMARY KEY (agent_id, action, last)
"""

# The blocks of a key after the position `after` up to `last`, and what they have together.
SPANS_TABLE = BLOCKS_TABLE

_HIGHEST = 2**63 - 1
_TOGETHER_AS = "after, entries, earliest, latest"
_TOGETHER = "MIN(after), SUM(entries), MIN(earliest), MAX(latest)"
_NEW_KEY = "agent_id = NEW.agent_id AND action = NEW.action"
_KEYS = (("''", "''"), ("OLD.agent_id", "''"), ("''", "OLD.action"), ("OLD.agent_id", "OLD.action"))


def _counted_out(agent_id: str, action: str) -> str:
    # An empty action is no key: without the last condition it would count twice for its agent, and for all.
    key = f"agent_id = {agent_id} AND action = {action}"
    return (
        "UPDATE audit_blocks SET entries = entries - 1"
        f" WHERE {key} AND last = (SELECT MIN(last) FROM audit_blocks WHERE {key} AND last >= OLD.position)"
        + (" AND OLD.action <> '';" if action == "OLD.action" else ";")
    )


def create_blocks(db: sqlite3.Connection) -> None:
    """Make the blocks and spans of the entries that there are, and the triggers, unless they are there."""
    if db.execute("SELECT 1 FROM audit_blocks").fetchone() is None:
        for agent_id, action in (("''", "''"), ("agent_id", "''"), ("''", "action"), ("agent_id", "action")):
            key = ", ".join(name for name in (agent_id, action) if name != "''") or "NULL"
            where = " WHERE action <> ''" if action == "action" else ""
            db.execute(
                "INSERT INTO audit_blocks (agent_id, action, last, after, entries, earliest, latest)"
                f" SELECT {agent_id}, {action}, MAX(position), MIN(position) - 1, COUNT(*), MIN(at), MAX(at)"
                f" FROM (SELECT *, (ROW_NUMBER() OVER (PARTITION BY {key} ORDER BY position) - 1) / {BLOCK}"
                f" AS block FROM audit_log{where})"
                f" GROUP BY {key}, block HAVING COUNT(*) = {BLOCK}"
            )
    if db.execute("SELECT 1 FROM audit_spans").fetchone() is None:
        db.execute(
            f"INSERT INTO audit_spans (agent_id, action, last, {_TOGETHER_AS})"
            f" SELECT agent_id, action, MAX(last), {_TOGETHER}"
            " FROM (SELECT *, (ROW_NUMBER() OVER (PARTITION BY agent_id, action ORDER BY last) - 1)"
            f" / {SPAN} AS span FROM audit_blocks)"
            f" GROUP BY agent_id, action, span HAVING COUNT(*) = {SPAN}"
        )
    db.execute(
        "CREATE TRIGGER IF NOT EXISTS audit_log_delete_counts AFTER DELETE ON audit_log BEGIN"
        f" {''.join(_counted_out(*key) for key in _KEYS)} END"
    )
    db.execute(
        "CREATE TRIGGER IF NOT EXISTS audit_blocks_count AFTER UPDATE ON audit_blocks BEGIN"
        f" UPDATE audit_spans SET entries = entries - OLD.entries + NEW.entries WHERE {_NEW_KEY}"
        f" AND last = (SELECT MIN(last) FROM audit_spans WHERE {_NEW_KEY} AND last >= NEW.last); END"
    )
    for table in ("audit_blocks", "audit_spans"):
        db.execute(
            f"CREATE TRIGGER IF NOT EXISTS {table}_empty AFTER UPDATE ON {table} WHEN NEW.entries = 0"
            f" BEGIN DELETE FROM {table} WHERE {_NEW_KEY} AND last = NEW.last; END"
        )


def append_entry(db: sqlite3.Connection, entry: AuditDocument) -> None:
    """Add the entry after all others, and now and then close its blocks with it, and spans with those."""
    db.execute(
        "INSERT INTO audit_log (at, agent_id, action, body) VALUES (?, ?, ?, CAST(? AS TEXT))",
        (entry.at, entry.agent_id, entry.action, entry.body),
    )
    if random.random() < 1 / BLOCK:  # noqa: S311  # spreads work, guards nothing
        closes_spans = random.random() < 1 / SPAN  # noqa: S311  # as above
        for agent_id, action in {
            ("", ""),
            (entry.agent_id, ""),
            ("", entry.action),
            (entry.agent_id, entry.action),
        }:
            where, values = _key(agent_id, action)
            db.execute(
                "INSERT INTO audit_blocks (agent_id, action, last, after, entries, earliest, latest)"
                " SELECT ?, ?, MAX(position), MIN(position) - 1, COUNT(*), MIN(at), MAX(at) FROM audit_log"
                f" WHERE {where} AND position > ?",
                (agent_id, action, *values, _last(db, "audit_blocks", agent_id, action)),
            )
            if closes_spans:
                db.execute(
                    f"INSERT INTO audit_spans (agent_id, action, last, {_TOGETHER_AS})"
                    f" SELECT agent_id, action, MAX(last), {_TOGETHER} FROM audit_blocks"
                    " WHERE agent_id = ? AND action = ? AND last > ?",
                    (agent_id, action, _last(db, "audit_spans", agent_id, action)),
                )


def remove_expired(db: sqlite3.Connection, expired_before: int, limit: int) -> None:
    """Remove up to `limit` entries with `at < expired_before`, the oldest first."""
    db.execute(
        "DELETE FROM audit_log WHERE position IN"
        " (SELECT position FROM audit_log WHERE at < ? ORDER BY at LIMIT ?)",
        (expired_before, limit),
    )


class _Stretch(NamedTuple):
    """A key's entries after the position `after` up to `last`, and how many of them match.

    `is_span`: they are all within the times asked for, and have blocks of their own.
    """

    after: int
    last: int
    matches: int
    is_span: bool = False


class _Search:
    """What a query finds in the log, stretch by stretch."""

    def __init__(self, db: sqlite3.Connection, query: AuditQuery) -> None:
        self._db = db
        self._agent_and_action = query.agent_id or "", query.action or ""
        self._times = query.since, _HIGHEST if query.until is None else query.until
        where, self._values = _key(*self._agent_and_action)
        # The plus keeps SQLite from going by time, and sorting.
        self._within = (
            f"FROM audit_log WHERE {where} AND position > ? AND position <= ? AND +at BETWEEN ? AND ?"
        )

    def stretches(self) -> Iterator[_Stretch]:
        """All of them, in order."""
        for after, last, matches in self._closed("audit_spans", -1, _HIGHEST):
            if matches is None:
                yield from self.blocks(after, last)
            else:
                yield _Stretch(after, last, matches, is_span=True)
        yield from self.blocks(_last(self._db, "audit_spans", *self._agent_and_action), _HIGHEST)
        (end,) = self._db.execute("SELECT COALESCE(MAX(position), -1) FROM audit_log").fetchone()
        yield self._counted(_last(self._db, "audit_blocks", *self._agent_and_action), end)

    def blocks(self, after: int, last: int) -> Iterator[_Stretch]:
        """Those of the blocks there."""
        for block_after, block_last, matches in self._closed("audit_blocks", after, last):
            if matches is None:
                yield self._counted(block_after, block_last)
            else:
                yield _Stretch(block_after, block_last, matches)

    def bodies(self, stretch: _Stretch, offset: int, limit: int) -> Iterator[bytes]:
        """Those of the entries that match."""
        rows = self._db.execute(
            f"SELECT CAST(body AS BLOB) {self._within} ORDER BY position LIMIT ? OFFSET ?",
            (*self._values, stretch.after, stretch.last, *self._times, limit, offset),
        )
        return (body for (body,) in rows)

    def _closed(self, table: str, after: int, last: int) -> list[tuple[int, int, int | None]]:
        """The (after, last, entries) of the blocks or spans there with any entry within the times; no number
        where it is not certain that all are.
        """
        since, until = self._times
        return self._db.execute(
            f"SELECT after, last, CASE WHEN earliest >= ? AND latest <= ? THEN entries END FROM {table}"
            " WHERE agent_id = ? AND action = ? AND last > ? AND last <= ?"
            " AND latest >= ? AND earliest <= ? ORDER BY last",
            (since, until, *self._agent_and_action, after, last, since, until),
        ).fetchall()

    def _counted(self, after: int, last: int) -> _Stretch:
        (matches,) = self._db.execute(
            f"SELECT COUNT(*) {self._within}", (*self._values, after, last, *self._times)
        ).fetchone()
        return _Stretch(after, last, matches)


def find_entries(
    db: sqlite3.Connection, query: AuditQuery, offset: int, limit: int
) -> tuple[list[bytes], int]:
    """A page of the bodies that match, in the order of logging; and how many match in all."""
    search = _Search(db, query)
    stretches = deque(search.stretches())
    total = sum(stretch.matches for stretch in stretches)
    bodies: list[bytes] = []
    while stretches and len(bodies) < limit:
        stretch = stretches.popleft()
        if offset >= stretch.matches:
            offset -= stretch.matches
        elif stretch.is_span:
            stretches.extendleft(reversed([*search.blocks(stretch.after, stretch.last)]))
        else:
            bodies.extend(search.bodies(stretch, offset, limit - len(bodies)))
            offset = 0
    return bodies, total


def scan_entries(
    db: sqlite3.Connection, after: int, until: int, limit: int, since: int
) -> list[tuple[int, bytes]]:
    """The first `limit` (position, body) with `after < position <= until`, `at >= since`; by position."""
    return db.execute(
        "SELECT position, CAST(body AS BLOB) FROM audit_log"
        " WHERE position > ? AND position <= ? AND +at >= ? ORDER BY position LIMIT ?",
        (after, until, since, limit),
    ).fetchall()


def _key(agent_id: str, action: str) -> tuple[str, list[Any]]:
    """A condition for the entries of a key, and its values."""
    conditions = {"agent_id = ?": agent_id, "action = ?": action}
    set_ones = {condition: value for condition, value in conditions.items() if value}
    return " AND ".join(set_ones) or "TRUE", list(set_ones.values())


def _last(db: sqlite3.Connection, table: str, agent_id: str, action: str) -> int:
    """The position at which the key's last block or span ends."""
    last: int = db.execute(
        f"SELECT COALESCE(MAX(last), -1) FROM {table} WHERE agent_id = ? AND action = ?",
        (agent_id, action),
    ).fetchone()[0]
    return last
