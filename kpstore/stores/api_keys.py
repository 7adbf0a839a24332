"""The API key store: makes keys, verifies and revokes them, and never keeps one (clauses KEY-1 to KEY-5)."""

from __future__ import annotations

import hashlib
import re
import secrets
from abc import abstractmethod
from collections.abc import AsyncIterator, Collection
from datetime import datetime

from kpstore.errors import BackendUnavailableError, ValidationError
from kpstore.records import ApiKeyRecord, NewApiKey
from kpstore.stores import rules
from kpstore.stores.base import SCAN_BATCH, Store, walk

SCOPES = ("read", "write", "admin")
TIERS = ("free", "pro", "enterprise")
PREFIX_LENGTH = 11  # `kp_` and 8 hex digits
# Two keys of a million share their first 32 bits with a chance of 1 in 4,000 per draw; this many
# collisions in a row mean that the random source is broken, not that luck was bad.
_MAX_DRAWS = 64
_RAW_KEY = re.compile(r"kp_[0-9a-f]{64}", re.ASCII)


class ApiKeyStore(Store):
    """API keys by their SHA-256."""

    # Hooks ----------------------------------------------------------------

    @abstractmethod
    async def _insert(self, record: ApiKeyRecord) -> bool:
        """Add the record after all others, unless its prefix or hash is taken; whether it was added."""

    @abstractmethod
    async def _by_hash(self, key_hash: str) -> ApiKeyRecord | None:
        """The record with this hash."""

    @abstractmethod
    async def _revoke(self, key_prefix: str, at: datetime) -> bool:
        """Mark the live key with this prefix as revoked at that time; whether there was one."""

    @abstractmethod
    async def _by_agent(self, agent_id: str) -> list[ApiKeyRecord]:
        """The agent's records in order of creation, as of one moment."""

    @abstractmethod
    async def _last_position(self) -> int:
        """The highest position in use, or -1; a new key's position is higher than all before it."""

    @abstractmethod
    async def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, ApiKeyRecord]]:
        """The first `limit` (position, record) with `after < position <= until`, by position."""

    # Rules ----------------------------------------------------------------

    async def create(self, agent_id: str, scopes: Collection[str], tier: str) -> NewApiKey:
        """Make a key: `kp_` and 64 hex digits, which are returned here and nowhere else.

        Args:
            agent_id: whose key it is.
            scopes: a non-empty set of `read`, `write`, `admin`.
            tier: `free`, `pro` or `enterprise`.
        """
        self._check_open()
        agent_id = rules.identifier(agent_id, "agent_id")
        granted = frozenset(
            rules.choice(scope, f"scopes[{index}]", SCOPES)
            for index, scope in enumerate(rules.texts(scopes, "scopes"))
        )
        if not granted:
            raise ValidationError("scopes", "must not be empty")
        tier = rules.choice(tier, "tier", TIERS)
        now = self._context.now()
        for _ in range(_MAX_DRAWS):
            raw_key = f"kp_{secrets.token_hex(32)}"
            record = ApiKeyRecord(
                key_hash=hash_key(raw_key),
                key_prefix=raw_key[:PREFIX_LENGTH],
                agent_id=agent_id,
                scopes=granted,
                tier=tier,
                created_at=now,
            )
            if await self._insert(record):
                return NewApiKey(raw_key, record)
        raise BackendUnavailableError(
            f"no unused key prefix in {_MAX_DRAWS} draws: the system's random source repeats itself"
        )

    async def verify(self, raw_key: str) -> ApiKeyRecord | None:
        """The key's record; `None` for unknown, malformed and revoked keys alike."""
        self._check_open()
        if not rules.is_a(raw_key, str):
            raise ValidationError("raw_key", "must be text")
        raw_key = str.__str__(raw_key)
        if not _RAW_KEY.fullmatch(raw_key):
            return None
        record = await self._by_hash(hash_key(raw_key))
        return None if record is None or record.revoked else record

    async def revoke(self, key_prefix: str) -> bool:
        """Revoke a key by its first 11 characters; True only for the call that revoked it."""
        self._check_open()
        return await self._revoke(rules.identifier(key_prefix, "key_prefix"), self._context.now())

    async def get_by_agent_id(self, agent_id: str) -> list[ApiKeyRecord]:
        """The agent's keys in order of creation, revoked ones included."""
        self._check_open()
        return await self._by_agent(rules.identifier(agent_id, "agent_id"))

    def scan(self, batch_size: int = 500) -> AsyncIterator[ApiKeyRecord]:
        """Every key's record in order of creation, `batch_size` of them in memory at a time."""
        return walk(self._context, batch_size, self._last_position, self._scan, at_most=SCAN_BATCH)


def hash_key(raw_key: str) -> str:
    """The SHA-256 of a raw key, as 64 hex digits: all that is stored of it."""
    return hashlib.sha256(raw_key.encode()).hexdigest()
