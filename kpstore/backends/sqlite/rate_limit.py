"""The rate-limit store in SQLite."""

from __future__ import annotations

import sqlite3

from kpstore.backends.sqlite.database import Database
from kpstore.backends.sqlite.near import NEAR_ROWS, TooMuchHereError, is_near
from kpstore.records import RateLimitDecision
from kpstore.stores import Bucket, BucketChange, RateLimitStore, StoreContext
from kpstore.stores.rate_limit import CLEANED_PER_CALL, VIOLATION_MEMORY_US


class SqliteRateLimitStore(RateLimitStore):
    """The hooks of `RateLimitStore` on the tables `rate_limits` and `rate_limit_violations`."""

    def __init__(self, context: StoreContext, database: Database) -> None:
        super().__init__(context)
        self._database = database

    async def _update_bucket(
        self, identifier: str, kind: str, change: BucketChange, now: int
    ) -> RateLimitDecision:
        def update(db: sqlite3.Connection) -> RateLimitDecision:
            row = db.execute(
                "SELECT level, at, full_at FROM rate_limits WHERE identifier = ? AND kind = ?",
                (identifier, kind),
            ).fetchone()
            bucket, decision = change(None if row is None else Bucket(*row))
            if bucket is not None:
                db.execute(
                    "INSERT OR REPLACE INTO rate_limits (identifier, kind, level, at, full_at)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (identifier, kind, bucket.level, bucket.at, bucket.full_at),
                )
            _clean(db, now)
            return decision

        return await self._database.write(update)

    async def _add_violation(self, identifier: str, now: int) -> None:
        def add(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO rate_limit_violations (identifier, at) VALUES (?, ?)", (identifier, now))
            _clean(db, now)

        await self._database.write(add)

    async def _count_violations(self, identifier: str, since: int, until: int) -> int:
        def count(db: sqlite3.Connection) -> int:
            most = NEAR_ROWS if is_near(db) else -1
            found: int = db.execute(
                "SELECT COUNT(*) FROM (SELECT 1 FROM rate_limit_violations"
                " WHERE identifier = ? AND at BETWEEN ? AND ? LIMIT ?)",
                (identifier, since, until, most),
            ).fetchone()[0]
            if found == most:
                raise TooMuchHereError
            return found

        return await self._database.look_up(count)


def _clean(db: sqlite3.Connection, now: int) -> None:
    full = db.execute(
        "SELECT identifier, kind FROM rate_limits WHERE full_at <= ? LIMIT ?", (now, CLEANED_PER_CALL)
    ).fetchall()
    if full:
        db.executemany("DELETE FROM rate_limits WHERE identifier = ? AND kind = ?", full)
    db.execute(
        "DELETE FROM rate_limit_violations WHERE position IN"
        " (SELECT position FROM rate_limit_violations WHERE at < ? ORDER BY at LIMIT ?)",
        (now - VIOLATION_MEMORY_US, CLEANED_PER_CALL),
    )
