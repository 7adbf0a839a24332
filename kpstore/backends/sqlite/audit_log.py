"""The audit log in SQLite."""

from __future__ import annotations

import sqlite3

from kpstore.backends.sqlite.audit_blocks import append_entry, find_entries, remove_expired, scan_entries
from kpstore.backends.sqlite.columns import last_position
from kpstore.backends.sqlite.database import Database
from kpstore.stores import AuditDocument, AuditLogStore, AuditQuery, StoreContext
from kpstore.stores.audit_log import CLEANED_PER_CALL


class SqliteAuditLogStore(AuditLogStore):
    """The hooks of `AuditLogStore` on the table `audit_log`."""

    def __init__(self, context: StoreContext, database: Database) -> None:
        super().__init__(context)
        self._database = database

    async def _append(self, entry: AuditDocument, expired_before: int) -> None:
        def append(db: sqlite3.Connection) -> None:
            append_entry(db, entry)
            remove_expired(db, expired_before, CLEANED_PER_CALL)

        await self._database.write(append)

    async def _query(self, query: AuditQuery, offset: int, limit: int) -> tuple[list[bytes], int]:
        return await self._database.search(find_entries, query, offset, limit)

    async def _last_position(self) -> int:
        return await self._database.read(last_position, "audit_log")

    async def _scan(self, after: int, until: int, limit: int, since: int) -> list[tuple[int, bytes]]:
        return await self._database.search(scan_entries, after, until, limit, since)
