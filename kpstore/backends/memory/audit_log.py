"""The audit log in memory."""

from __future__ import annotations

from itertools import islice

from kpstore.index import Facets, Order, Pages, integer_key
from kpstore.stores import AuditDocument, AuditLogStore, AuditQuery, StoreContext
from kpstore.stores.audit_log import CLEANED_PER_CALL
from kpstore.stores.rules import INT64_MAX


class MemoryAuditLogStore(AuditLogStore):
    """The hooks of `AuditLogStore`: bodies by position, in the order of logging, and sets of positions."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._bodies: Pages[bytes] = Pages()
        self._times = Order()
        self._facets = Facets()
        self._next_position = 0

    async def _append(self, entry: AuditDocument, expired_before: int) -> None:
        position = self._next_position
        self._next_position += 1
        self._bodies[position] = entry.body
        self._times.add(position, integer_key(entry.at))
        self._facets.add(position, (f"agent {entry.agent_id}", f"action {entry.action}"))
        expired = integer_key(expired_before)
        for oldest in self._times.last(CLEANED_PER_CALL):
            if self._times.key(oldest) >= expired:
                return
            self._bodies.pop(oldest)
            self._times.remove(oldest)
            self._facets.remove(oldest)

    async def _query(self, query: AuditQuery, offset: int, limit: int) -> tuple[list[bytes], int]:
        until = INT64_MAX if query.until is None else query.until
        found = self._times.between(integer_key(query.since), integer_key(until))
        if query.agent_id is not None:
            found = found & self._facets.having((f"agent {query.agent_id}",))
        if query.action is not None:
            found = found & self._facets.having((f"action {query.action}",))
        total = len(found)
        page = found[offset : min(offset + limit, total)] if offset < total else ()
        return [self._bodies[position] for position in page], total

    async def _last_position(self) -> int:
        return self._next_position - 1

    async def _scan(self, after: int, until: int, limit: int, since: int) -> list[tuple[int, bytes]]:
        least = integer_key(since)
        living = (
            (position, body)
            for position, body in self._bodies.between(after, until)
            if self._times.key(position) >= least
        )
        return list(islice(living, limit))
