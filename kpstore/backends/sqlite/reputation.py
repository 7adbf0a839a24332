"""The reputation store in SQLite."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from kpstore.backends.sqlite.columns import column_text, last_position
from kpstore.backends.sqlite.database import Database, in_snapshot
from kpstore.backends.sqlite.leaderboard import leaderboard_positions
from kpstore.backends.sqlite.near import NEAR_BYTES, TooMuchHereError, is_near
from kpstore.clock import from_micros, to_micros
from kpstore.records import HistoryEntry, ReputationRecord, ValidationVote
from kpstore.stores import ReputationStore, Standing, StandingChange, StoreContext
from kpstore.stores.reputation import RECENT_HISTORY

_COLUMNS = "position, agent_id, score, contributions, validations, first_seen, updated_at, entries"


class SqliteReputationStore(ReputationStore):
    """The hooks of `ReputationStore` on `reputation`, `reputation_history` and `validation_votes`."""

    def __init__(self, context: StoreContext, database: Database) -> None:
        super().__init__(context)
        self._database = database

    async def _update(self, agent_id: str, change: StandingChange) -> ReputationRecord:
        def update(db: sqlite3.Connection) -> ReputationRecord:
            row = _find(db, agent_id)
            standing, entry = change(None if row is None else _standing(row))
            values = (
                standing.score,
                standing.contributions,
                standing.validations,
                to_micros(standing.first_seen),
                to_micros(standing.updated_at),
            )
            if row is None:
                (position,) = db.execute(
                    "INSERT INTO reputation (score, contributions, validations, first_seen, updated_at,"
                    " agent_id, entries) VALUES (?, ?, ?, ?, ?, ?, 1) RETURNING position",
                    (*values, agent_id),
                ).fetchone()
                entries = 0
            else:
                position, entries = row[0], row[7]
                db.execute(
                    "UPDATE reputation SET score = ?, contributions = ?, validations = ?, first_seen = ?,"
                    " updated_at = ?, entries = entries + 1 WHERE position = ?",
                    (*values, position),
                )
            db.execute(
                "INSERT INTO reputation_history (agent, number, at, delta, reason) VALUES (?, ?, ?, ?, ?)",
                (position, entries, to_micros(entry.timestamp), entry.delta, entry.reason),
            )
            return ReputationRecord(
                agent_id=agent_id,
                score=standing.score,
                contributions=standing.contributions,
                validations=standing.validations,
                history=_recent(db, position, entries + 1),
                updated_at=standing.updated_at,
            )

        return await self._database.write(update)

    async def _get(self, agent_id: str) -> ReputationRecord | None:
        def get(db: sqlite3.Connection) -> ReputationRecord | None:
            row = _find(db, agent_id)
            return None if row is None else _record(db, row)

        return await self._database.look_up(in_snapshot, get)

    async def _first_seen(self, agent_id: str) -> datetime | None:
        def first_seen(db: sqlite3.Connection) -> datetime | None:
            row = _find(db, agent_id)
            return None if row is None else from_micros(row[5])

        return await self._database.look_up(first_seen)

    async def _history(self, agent_id: str, offset: int, limit: int) -> tuple[list[HistoryEntry], int]:
        def history(db: sqlite3.Connection) -> tuple[list[HistoryEntry], int]:
            row = _find(db, agent_id)
            if row is None:
                return [], 0
            return _entries(db, row[0], offset, limit), row[7]

        return await self._database.search(history)

    async def _leaderboard(self, offset: int, limit: int) -> tuple[list[ReputationRecord], int]:
        def leaderboard(db: sqlite3.Connection) -> tuple[list[ReputationRecord], int]:
            positions, total = leaderboard_positions(db, offset, limit)
            rows = [
                db.execute(f"SELECT {_COLUMNS} FROM reputation WHERE position = ?", (position,)).fetchone()
                for position in positions
            ]
            return [_record(db, row) for row in rows], total

        return await self._database.search(leaderboard)

    async def _all(self) -> list[ReputationRecord]:
        def all_records(db: sqlite3.Connection) -> list[ReputationRecord]:
            rows = db.execute(f"SELECT {_COLUMNS} FROM reputation ORDER BY position")
            return [_record(db, row) for row in rows]

        return await self._database.search(all_records)

    async def _last_position(self) -> int:
        return await self._database.read(last_position, "reputation")

    async def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, ReputationRecord]]:
        def scan(db: sqlite3.Connection) -> list[tuple[int, ReputationRecord]]:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM reputation WHERE position > ? AND position <= ?"
                " ORDER BY position LIMIT ?",
                (after, until, limit),
            ).fetchall()
            return [(row[0], _record(db, row)) for row in rows]

        return await self._database.search(scan)

    async def _append_vote(self, vote: ValidationVote) -> None:
        def append(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO validation_votes (validator_id, target_id, unit_id, valid, at)"
                " VALUES (?, ?, ?, ?, ?)",
                (vote.validator_id, vote.target_id, vote.unit_id, vote.valid, to_micros(vote.timestamp)),
            )

        await self._database.write(append)

    async def _votes(self, unit_id: str | None) -> list[ValidationVote]:
        where, values = ("", ()) if unit_id is None else (" WHERE unit_id = ?", (unit_id,))

        def votes(db: sqlite3.Connection) -> list[ValidationVote]:
            rows = db.execute(
                f"SELECT validator_id, target_id, unit_id, valid, at FROM validation_votes{where}"
                " ORDER BY position",
                values,
            )
            return [
                ValidationVote(
                    column_text(validator),
                    column_text(target),
                    column_text(unit),
                    bool(int(valid)),
                    from_micros(at),
                )
                for validator, target, unit, valid, at in rows
            ]

        return await self._database.search(votes)


def _find(db: sqlite3.Connection, agent_id: str) -> Sequence[Any] | None:
    row: Sequence[Any] | None = db.execute(
        f"SELECT {_COLUMNS} FROM reputation WHERE agent_id = ?", (agent_id,)
    ).fetchone()
    return row


def _standing(row: Sequence[Any]) -> Standing:
    _, _, score, contributions, validations, first_seen, updated_at, _ = row
    return Standing(
        float(score), int(contributions), int(validations), from_micros(first_seen), from_micros(updated_at)
    )


def _record(db: sqlite3.Connection, row: Sequence[Any]) -> ReputationRecord:
    standing = _standing(row)
    return ReputationRecord(
        agent_id=column_text(row[1]),
        score=standing.score,
        contributions=standing.contributions,
        validations=standing.validations,
        history=_recent(db, row[0], row[7]),
        updated_at=standing.updated_at,
    )


def _recent(db: sqlite3.Connection, agent: int, entries: int) -> list[HistoryEntry]:
    return _entries(db, agent, max(0, entries - RECENT_HISTORY), RECENT_HISTORY)


def _entries(db: sqlite3.Connection, agent: int, offset: int, limit: int) -> list[HistoryEntry]:
    """A page of the history: its entries are numbered without gaps, so that no offset costs anything."""
    rows = db.execute(
        "SELECT at, delta, reason FROM reputation_history WHERE agent = ? AND number >= ? AND number < ?"
        " ORDER BY number",
        (agent, offset, min(offset + limit, 2**63 - 1)),
    )
    entries = []
    most = NEAR_BYTES if is_near(db) else math.inf
    for at, delta, reason in rows:
        entries.append(HistoryEntry(from_micros(at), float(delta), column_text(reason)))
        most -= len(reason)
        if most < 0:
            raise TooMuchHereError
    return entries
