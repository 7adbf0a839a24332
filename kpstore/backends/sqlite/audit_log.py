"""The audit log in SQLite."""

from __future__ import annotations

import sqlite3
from typing import Any

from kpstore.backends.sqlite.database import Database
from kpstore.backends.sqlite.documents import last_position
from kpstore.stores import AuditDocument, AuditLogStore, AuditQuery, StoreContext
from kpstore.stores.audit_log import CLEANED_PER_CALL


class SqliteAuditLogStore(AuditLogStore):
    """The hooks of `AuditLogStore` on the table `audit_log`."""

    def __init__(self, context: StoreContext, database: Database) -> None:
        super().__init__(context)
        self._database = database

    async def _append(self, entry: AuditDocument, expired_before: int) -> None:
        def append(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO audit_log (at, agent_id, action, body) VALUES (?, ?, ?, CAST(? AS TEXT))",
                (entry.at, entry.agent_id, entry.action, entry.body),
            )
            db.execute(
                "DELETE FROM audit_log WHERE position IN"
                " (SELECT position FROM audit_log WHERE at < ? ORDER BY at LIMIT ?)",
                (expired_before, CLEANED_PER_CALL),
            )

        await self._database.write(append)

    async def _query(self, query: AuditQuery, offset: int, limit: int) -> tuple[list[bytes], int]:
        where, values = _conditions(query)

        def search(db: sqlite3.Connection) -> tuple[list[bytes], int]:
            total = db.execute(f"SELECT COUNT(*) FROM audit_log WHERE {where}", values).fetchone()[0]
            if limit == 0 or offset >= total:
                return [], total
            rows = db.execute(
                f"SELECT CAST(body AS BLOB) FROM audit_log WHERE {where} ORDER BY position LIMIT ? OFFSET ?",
                (*values, limit, offset),
            )
            return [body for (body,) in rows], total

        return await self._database.search(search)

    async def _last_position(self) -> int:
        return await self._database.read(last_position, "audit_log")

    async def _scan(self, after: int, until: int, limit: int, since: int) -> list[tuple[int, bytes]]:
        def scan(db: sqlite3.Connection) -> list[tuple[int, bytes]]:
            return db.execute(
                "SELECT position, CAST(body AS BLOB) FROM audit_log"
                " WHERE position > ? AND position <= ? AND at >= ? ORDER BY position LIMIT ?",
                (after, until, since, limit),
            ).fetchall()

        return await self._database.search(scan)


def _conditions(query: AuditQuery) -> tuple[str, list[Any]]:
    conditions, values = ["at >= ?"], [query.since]
    for condition, value in (
        ("at <= ?", query.until),
        ("agent_id = ?", query.agent_id),
        ("action = ?", query.action),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)  # type: ignore[arg-type]  # numbers and texts
    return " AND ".join(conditions), values
