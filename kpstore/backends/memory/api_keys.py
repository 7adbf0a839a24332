"""The API key store in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from kpstore.records import ApiKeyRecord
from kpstore.stores import ApiKeyStore, StoreContext


class MemoryApiKeyStore(ApiKeyStore):
    """The hooks of `ApiKeyStore` on dictionaries."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._records: dict[str, ApiKeyRecord] = {}  # by hash
        self._hashes: list[str] = []  # in order of creation; keys are never removed
        self._prefixes: dict[str, str] = {}  # prefix: hash
        self._agents: dict[str, list[str]] = {}  # agent: hashes

    async def _insert(self, record: ApiKeyRecord) -> bool:
        if record.key_prefix in self._prefixes or record.key_hash in self._records:
            return False
        self._records[record.key_hash] = record
        self._hashes.append(record.key_hash)
        self._prefixes[record.key_prefix] = record.key_hash
        self._agents.setdefault(record.agent_id, []).append(record.key_hash)
        return True

    async def _by_hash(self, key_hash: str) -> ApiKeyRecord | None:
        return self._records.get(key_hash)

    async def _revoke(self, key_prefix: str, at: datetime) -> bool:
        record = self._records.get(self._prefixes.get(key_prefix, ""))
        if record is None or record.revoked:
            return False
        self._records[record.key_hash] = replace(record, revoked=True, revoked_at=at)
        return True

    async def _by_agent(self, agent_id: str) -> list[ApiKeyRecord]:
        return [self._records[key_hash] for key_hash in self._agents.get(agent_id, ())]

    async def _last_position(self) -> int:
        return len(self._hashes) - 1

    async def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, ApiKeyRecord]]:
        positions = range(after + 1, min(until + 1, after + 1 + limit))
        return [(position, self._records[self._hashes[position]]) for position in positions]
