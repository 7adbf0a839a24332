"""The knowledge store in SQLite."""

from __future__ import annotations

import sqlite3
from typing import ClassVar

from kpstore.backends.sqlite.columns import text_column
from kpstore.backends.sqlite.documents import Column, SqliteDocuments
from kpstore.records import StoredKnowledgeUnit
from kpstore.stores import KnowledgeStore


class SqliteKnowledgeStore(SqliteDocuments[StoredKnowledgeUnit], KnowledgeStore):
    """The hooks of `KnowledgeStore` on the table `knowledge_units`."""

    table: ClassVar[str] = "knowledge_units"
    columns: ClassVar[dict[str, Column]] = {
        "type": lambda unit: text_column(unit.type),
        "domain": lambda unit: text_column(unit.domain),
        "agent_id": lambda unit: text_column(unit.agent_id),
        # Only what the TypeScript registry wrote has one; a new unit under the same id starts without.
        "quarantine_status": lambda unit: None,
    }

    async def _by_agent(self, agent_id: str) -> list[bytes]:
        def by_agent(db: sqlite3.Connection) -> list[bytes]:
            rows = db.execute(
                "SELECT CAST(body AS BLOB) FROM knowledge_units WHERE agent_id = ? ORDER BY position",
                (agent_id,),
            )
            return [body for (body,) in rows]

        return await self._database.search(by_agent)
