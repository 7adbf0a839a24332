"""The audit log: who did what to which resource, kept for 90 days (clauses AUDIT-1 to AUDIT-4)."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kpstore.clock import to_micros
from kpstore.errors import ValidationError
from kpstore.records import AuditLogEntry, Page
from kpstore.stores import rules
from kpstore.stores.base import Codec, Store, StoreContext, walk

RETENTION_US = 90 * 24 * 3600 * 1_000_000  # AUDIT-3
# Expired entries that one `log` clears away: more than the one it adds, so a backlog shrinks,
# and few enough that the call that meets a long one does not pay for it.
CLEANED_PER_CALL = 8


@dataclass(frozen=True, slots=True)
class AuditDocument:
    """An entry as a backend keeps it: its body, and what it is found by.

    Attributes:
        body: the whole entry as canonical JSON in UTF-8.
        agent_id: who did it.
        action: what was done.
        at: when, in microseconds since 1970.
    """

    body: bytes
    agent_id: str
    action: str
    at: int


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which entries: equal agent and action if set, and `since <= at <= until` in microseconds."""

    agent_id: str | None
    action: str | None
    since: int
    until: int | None

    def matches(self, entry: AuditDocument) -> bool:
        """Whether `entry` is a match; for a backend without an index of its own."""
        return (
            self.since <= entry.at
            and (self.until is None or entry.at <= self.until)
            and (self.agent_id is None or entry.agent_id == self.agent_id)
            and (self.action is None or entry.action == self.action)
        )


class AuditLogStore(Store):
    """An append-only log: nothing here changes or removes a live entry."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._codec = Codec(AuditLogEntry, context)

    # Hooks ----------------------------------------------------------------

    @abstractmethod
    async def _append(self, entry: AuditDocument, expired_before: int) -> None:
        """Add an entry after all others; remove up to `CLEANED_PER_CALL` with `at < expired_before`."""

    @abstractmethod
    async def _query(self, query: AuditQuery, offset: int, limit: int) -> tuple[list[bytes], int]:
        """A page of the bodies that match, in the order of logging; and how many match in all."""

    @abstractmethod
    async def _last_position(self) -> int:
        """The highest position in use, or -1; a new entry's position is higher than all before it."""

    @abstractmethod
    async def _scan(self, after: int, until: int, limit: int, since: int) -> list[tuple[int, bytes]]:
        """The first `limit` (position, body) with `after < position <= until`, `at >= since`; by position."""

    # Rules ----------------------------------------------------------------

    async def log(
        self,
        action: str,
        agent_id: str,
        resource_type: str,
        resource_id: str,
        ip: str,
        details: dict[str, Any] | None = None,
    ) -> AuditLogEntry:
        """Add an entry with a fresh UUID and the clock's time."""
        self._check_open()
        if details is not None and type(details) is not dict:
            raise ValidationError("details", "must be an object or None")
        copied = await rules.json_value(details, "details", self._context.max_record_bytes)
        entry = AuditLogEntry(
            id=str(uuid.uuid4()),
            action=self._text(action, "action"),
            agent_id=rules.identifier(agent_id, "agent_id"),
            resource_type=self._text(resource_type, "resource_type"),
            resource_id=rules.identifier(resource_id, "resource_id"),
            timestamp=self._context.now(),
            ip=self._text(ip, "ip"),
            details=copied,
        )
        at = to_micros(entry.timestamp)
        document = AuditDocument(self._encode(entry, "details"), entry.agent_id, entry.action, at)
        await self._append(document, at - RETENTION_US)
        return entry

    async def query(
        self,
        *,
        agent_id: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        offset: int = 0,
        limit: int = 20,
    ) -> Page[AuditLogEntry]:
        """A page of the entries of the last 90 days that pass every filter, in the order of logging.

        Args:
            agent_id: whose entries; `None` and `""` are no filter.
            action: which action; `None` and `""` are no filter.
            since: the earliest timestamp, aware.
            until: the latest timestamp, aware.
            offset: how many matches to pass over.
            limit: how many to return, 0 to 1000; 0 only counts.
        """
        self._check_open()
        offset, limit = rules.page(offset, limit)
        agent = rules.optional_text(agent_id, "agent_id")
        first = rules.optional_moment(since, "since")
        last = rules.optional_moment(until, "until")
        living = self._living_since()
        wanted = AuditQuery(
            agent_id=rules.identifier(agent, "agent_id") if agent else None,
            action=rules.optional_text(action, "action") or None,
            since=living if first is None else max(living, to_micros(first)),
            until=None if last is None else to_micros(last),
        )
        bodies, total = await self._query(wanted, offset, limit)
        return Page(await self._codec.decode_all(bodies), total, offset, limit)

    def scan(self, batch_size: int = 500) -> AsyncIterator[AuditLogEntry]:
        """Every entry of the last 90 days in the order of logging, `batch_size` in memory at a time."""
        return self._decoded(batch_size)

    async def _decoded(self, batch_size: int) -> AsyncIterator[AuditLogEntry]:
        async def batch(after: int, until: int, limit: int) -> list[tuple[int, bytes]]:
            return await self._scan(after, until, limit, self._living_since())

        async for body in walk(self._context, batch_size, self._last_position, batch):
            entry = self._codec.decode(body)
            # The clock may have moved on since the batch was read.
            if to_micros(entry.timestamp) >= self._living_since():
                yield entry

    def _living_since(self) -> int:
        return self._context.now_micros() - RETENTION_US
