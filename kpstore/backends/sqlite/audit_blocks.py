"""The audit log in SQL: exact totals and deep pages, not looking at every entry.

The entries of one key (an agent, an action, both, or all) are cut into blocks,
consecutive in the order of logging, and each block knows how many entries it
has and between which times. A query adds up the blocks within its times, passes
over those outside, and looks at the entries of those in between: two, as long
as the clock goes forward; more where it went back, and the answer is as exact.
What came after a key's last block is looked at too.

A block is closed where the dice say so, so that nothing is counted up per
entry. Only a block's count must be right, which a trigger sees to when entries
are removed; its times are bounds that may be too wide.
"""

from __future__ import annotations

import random
import sqlite3
from typing import Any

from kpstore.stores import AuditDocument, AuditQuery

# Entries per block on average. Looking at one takes 40 ns, and so a block no longer than 20 us.
BLOCK = 512

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

_HIGHEST = 2**63 - 1
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
    """Make the blocks of the entries that there are, and the triggers, unless they are there."""
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
    db.execute(
        "CREATE TRIGGER IF NOT EXISTS audit_log_delete_counts AFTER DELETE ON audit_log BEGIN"
        f" {''.join(_counted_out(*key) for key in _KEYS)} END"
    )
    db.execute(
        "CREATE TRIGGER IF NOT EXISTS audit_blocks_empty AFTER UPDATE ON audit_blocks WHEN NEW.entries = 0"
        " BEGIN DELETE FROM audit_blocks"
        " WHERE agent_id = NEW.agent_id AND action = NEW.action AND last = NEW.last; END"
    )


def append_entry(db: sqlite3.Connection, entry: AuditDocument) -> None:
    """Add the entry after all others, and now and then close its blocks with it."""
    db.execute(
        "INSERT INTO audit_log (at, agent_id, action, body) VALUES (?, ?, ?, CAST(? AS TEXT))",
        (entry.at, entry.agent_id, entry.action, entry.body),
    )
    if random.random() < 1 / BLOCK:  # noqa: S311  # spreads work, guards nothing
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
                (agent_id, action, *values, _last(db, agent_id, action)),
            )


def remove_expired(db: sqlite3.Connection, expired_before: int, limit: int) -> None:
    """Remove up to `limit` entries with `at < expired_before`, the oldest first."""
    db.execute(
        "DELETE FROM audit_log WHERE position IN"
        " (SELECT position FROM audit_log WHERE at < ? ORDER BY at LIMIT ?)",
        (expired_before, limit),
    )


def find_entries(
    db: sqlite3.Connection, query: AuditQuery, offset: int, limit: int
) -> tuple[list[bytes], int]:
    """A page of the bodies that match, in the order of logging; and how many match in all."""
    agent_id, action = query.agent_id or "", query.action or ""
    until = _HIGHEST if query.until is None else query.until
    where, values = _key(agent_id, action)
    # The plus keeps SQLite from going by time, and sorting.
    within = f"FROM audit_log WHERE {where} AND position > ? AND position <= ? AND +at BETWEEN ? AND ?"
    blocks = db.execute(
        "SELECT after, last, CASE WHEN earliest >= ? AND latest <= ? THEN entries END FROM audit_blocks"
        " WHERE agent_id = ? AND action = ? AND latest >= ? AND earliest <= ? ORDER BY last",
        (query.since, until, agent_id, action, query.since, until),
    ).fetchall()
    (end,) = db.execute("SELECT COALESCE(MAX(position), -1) FROM audit_log").fetchone()
    blocks.append((_last(db, agent_id, action), end, None))

    total = 0
    stretches = []  # (after, last, matches), in order
    for after, last, entries in blocks:
        matches = entries
        if matches is None:
            (matches,) = db.execute(
                f"SELECT COUNT(*) {within}", (*values, after, last, query.since, until)
            ).fetchone()
        stretches.append((after, last, matches))
        total += matches

    bodies: list[bytes] = []
    for after, last, matches in stretches:
        if len(bodies) == limit:
            break
        if offset < matches:
            rows = db.execute(
                f"SELECT CAST(body AS BLOB) {within} ORDER BY position LIMIT ? OFFSET ?",
                (*values, after, last, query.since, until, limit - len(bodies), offset),
            )
            bodies.extend(body for (body,) in rows)
        offset = max(0, offset - matches)
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


def _last(db: sqlite3.Connection, agent_id: str, action: str) -> int:
    """The position at which the key's last block ends."""
    last: int = db.execute(
        "SELECT COALESCE(MAX(last), -1) FROM audit_blocks WHERE agent_id = ? AND action = ?",
        (agent_id, action),
    ).fetchone()[0]
    return last
