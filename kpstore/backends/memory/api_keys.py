"""The API key store in memory."""

from __future__ import annotations

from array import array
from dataclasses import replace
from datetime import datetime

import msgspec

from kpstore.backends.memory.atoms import Line, Shards
from kpstore.backends.memory.slices import decode_all
from kpstore.records import ApiKeyRecord
from kpstore.stores import ApiKeyStore, StoreContext

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ApiKeyRecord).decode


class MemoryApiKeyStore(ApiKeyStore):
    """The hooks of `ApiKeyStore` on dictionaries of encoded records."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._records: Shards[bytes] = Shards()  # by hash
        self._hashes: Line[str] = Line()  # in order of creation; keys are never removed
        self._prefixes: Shards[str] = Shards()  # prefix: hash
        self._newest: Shards[int] = Shards()  # agent: position of the newest key
        self._older = array("q")  # by position: that of the same agent's key before it, or -1

    async def _insert(self, record: ApiKeyRecord) -> bool:
        records, prefixes = self._records.of(record.key_hash), self._prefixes.of(record.key_prefix)
        if record.key_prefix in prefixes or record.key_hash in records:
            return False
        records[record.key_hash] = _encode(record)
        prefixes[record.key_prefix] = record.key_hash
        newest = self._newest.of(record.agent_id)
        self._older.append(newest.get(record.agent_id, -1))
        newest[record.agent_id] = len(self._hashes)
        self._hashes.append(record.key_hash)
        return True

    async def _by_hash(self, key_hash: str) -> ApiKeyRecord | None:
        record = self._records.of(key_hash).get(key_hash)
        return None if record is None else _decode(record)

    async def _revoke(self, key_prefix: str, at: datetime) -> bool:
        key_hash = self._prefixes.of(key_prefix).get(key_prefix)
        record = None if key_hash is None else await self._by_hash(key_hash)
        if record is None or record.revoked:
            return False
        revoked = replace(record, revoked=True, revoked_at=at)
        self._records.of(record.key_hash)[record.key_hash] = _encode(revoked)
        return True

    async def _by_agent(self, agent_id: str) -> list[ApiKeyRecord]:
        found = []
        position = self._newest.of(agent_id).get(agent_id, -1)
        while position >= 0:  # in one go, since a revocation may come in between
            found.append(self._at(position))
            position = self._older[position]
        return await decode_all(_decode, found[::-1])

    async def _last_position(self) -> int:
        return len(self._hashes) - 1

    async def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, ApiKeyRecord]]:
        positions = range(after + 1, min(until + 1, after + 1 + limit))
        return [(position, _decode(self._at(position))) for position in positions]

    def _at(self, position: int) -> bytes:
        key_hash = self._hashes[position]
        return self._records.of(key_hash)[key_hash]
