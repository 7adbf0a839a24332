"""The audit log in memory: in a database of SQLite's that is no file, since its pages take indexes.

Its entries are nothing that the garbage collector walks over, either.
"""

from __future__ import annotations

import asyncio
import sqlite3
import weakref
from time import perf_counter

from kpstore.backends.audit_blocks import (
    append_entry,
    create_log,
    find_entries_in_steps,
    remove_expired,
    scan_entries,
)
from kpstore.backends.memory.slices import SLICE_S
from kpstore.stores import AuditDocument, AuditLogStore, AuditQuery, StoreContext
from kpstore.stores.audit_log import CLEANED_PER_CALL
from kpstore.stores.base import SCAN_BATCH


class MemoryAuditLogStore(AuditLogStore):
    """The hooks of `AuditLogStore` on a table."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._db = sqlite3.connect(
            ":memory:", isolation_level=None, cached_statements=256, check_same_thread=False
        )
        self._db.execute("PRAGMA temp_store = MEMORY")  # or it sorts in files
        create_log(self._db)
        self._queries = 0  # that are under way
        # A memory store may be forgotten without being closed; Python would complain of its database.
        self._close = weakref.finalize(self, self._db.close)

    async def _append(self, entry: AuditDocument, expired_before: int) -> None:
        append_entry(self._db, entry)
        if self._queries == 0:  # they find what was there when they began
            remove_expired(self._db, expired_before, CLEANED_PER_CALL)

    async def _query(self, query: AuditQuery, offset: int, limit: int) -> tuple[list[bytes], int]:
        self._queries += 1
        try:
            steps = find_entries_in_steps(self._db, query, offset, limit)
            until = perf_counter() + SLICE_S
            while True:
                try:
                    next(steps)
                except StopIteration as done:
                    page: tuple[list[bytes], int] = done.value
                    return page
                if perf_counter() > until:
                    await asyncio.sleep(0)
                    self._context.check_open()
                    until = perf_counter() + SLICE_S
        finally:
            self._queries -= 1

    async def _last_position(self) -> int:
        position: int = self._db.execute("SELECT COALESCE(MAX(position), -1) FROM audit_log").fetchone()[0]
        return position

    async def _scan(self, after: int, until: int, limit: int, since: int) -> list[tuple[int, bytes]]:
        return scan_entries(self._db, after, until, min(limit, SCAN_BATCH), since)
