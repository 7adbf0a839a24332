"""The API key store in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from kpstore.backends.sqlite.columns import column_text, last_position
from kpstore.backends.sqlite.database import Database
from kpstore.clock import from_micros, to_micros
from kpstore.records import ApiKeyRecord
from kpstore.stores import ApiKeyStore, StoreContext

_COLUMNS = "key_hash, key_prefix, agent_id, scopes, tier, created_at, revoked, revoked_at"


class SqliteApiKeyStore(ApiKeyStore):
    """The hooks of `ApiKeyStore` on the table `api_keys`."""

    def __init__(self, context: StoreContext, database: Database) -> None:
        super().__init__(context)
        self._database = database

    async def _insert(self, record: ApiKeyRecord) -> bool:
        def insert(db: sqlite3.Connection) -> bool:
            taken = db.execute(
                "SELECT 1 FROM api_keys WHERE key_prefix = ? OR key_hash = ?",
                (record.key_prefix, record.key_hash),
            ).fetchone()
            if taken:
                return False
            db.execute(
                "INSERT INTO api_keys (key_hash, key_prefix, agent_id, scopes, tier, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    record.key_hash,
                    record.key_prefix,
                    record.agent_id,
                    json.dumps(sorted(record.scopes)),
                    record.tier,
                    to_micros(record.created_at),
                ),
            )
            return True

        return await self._database.write(insert)

    async def _by_hash(self, key_hash: str) -> ApiKeyRecord | None:
        def by_hash(db: sqlite3.Connection) -> ApiKeyRecord | None:
            row = db.execute(f"SELECT {_COLUMNS} FROM api_keys WHERE key_hash = ?", (key_hash,)).fetchone()
            return None if row is None else _record(row)

        return await self._database.look_up(by_hash)

    async def _revoke(self, key_prefix: str, at: datetime) -> bool:
        def revoke(db: sqlite3.Connection) -> bool:
            cursor = db.execute(
                "UPDATE api_keys SET revoked = 1, revoked_at = ? WHERE key_prefix = ? AND revoked = 0",
                (to_micros(at), key_prefix),
            )
            return cursor.rowcount > 0

        return await self._database.write(revoke)

    async def _by_agent(self, agent_id: str) -> list[ApiKeyRecord]:
        def by_agent(db: sqlite3.Connection) -> list[ApiKeyRecord]:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM api_keys WHERE agent_id = ? ORDER BY position", (agent_id,)
            )
            return [_record(row) for row in rows]

        return await self._database.search(by_agent)

    async def _last_position(self) -> int:
        return await self._database.read(last_position, "api_keys")

    async def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, ApiKeyRecord]]:
        def scan(db: sqlite3.Connection) -> list[tuple[int, ApiKeyRecord]]:
            rows = db.execute(
                f"SELECT position, {_COLUMNS} FROM api_keys WHERE position > ? AND position <= ?"
                " ORDER BY position LIMIT ?",
                (after, until, limit),
            )
            return [(row[0], _record(row[1:])) for row in rows]

        return await self._database.search(scan)


def _record(row: Sequence[Any]) -> ApiKeyRecord:
    key_hash, key_prefix, agent_id, scopes, tier, created_at, revoked, revoked_at = row
    return ApiKeyRecord(
        key_hash=column_text(key_hash),
        key_prefix=column_text(key_prefix),
        agent_id=column_text(agent_id),
        scopes=frozenset(map(column_text, json.loads(scopes))),
        tier=column_text(tier),
        created_at=from_micros(created_at),
        revoked=bool(int(revoked)),
        revoked_at=None if revoked_at is None else from_micros(revoked_at),
    )
