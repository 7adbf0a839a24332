"""The audit log in memory."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import islice

from sortedcontainers import SortedDict

from kpstore.backends.memory.slices import select
from kpstore.stores import AuditDocument, AuditLogStore, AuditQuery, StoreContext
from kpstore.stores.audit_log import CLEANED_PER_CALL


class MemoryAuditLogStore(AuditLogStore):
    """The hooks of `AuditLogStore` on dictionaries."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._entries: SortedDict[int, AuditDocument] = SortedDict()  # by position
        self._agents: dict[str, dict[int, AuditDocument]] = {}
        self._oldest: list[tuple[int, int]] = []  # a heap of (at, position)
        self._next_position = 0

    async def _append(self, entry: AuditDocument, expired_before: int) -> None:
        position = self._next_position
        self._next_position += 1
        self._entries[position] = entry
        self._agents.setdefault(entry.agent_id, {})[position] = entry
        heappush(self._oldest, (entry.at, position))
        for _ in range(CLEANED_PER_CALL):
            if self._oldest[0][0] >= expired_before:
                return
            self._remove(heappop(self._oldest)[1])

    def _remove(self, position: int) -> None:
        entry = self._entries.pop(position)
        own = self._agents[entry.agent_id]
        del own[position]
        if not own:
            del self._agents[entry.agent_id]

    async def _query(self, query: AuditQuery, offset: int, limit: int) -> tuple[list[bytes], int]:
        if query.agent_id is None:
            candidates = list(self._entries.values())
        else:
            candidates = list(self._agents.get(query.agent_id, {}).values())
        found, total = await select(candidates, query.matches, offset, limit)
        return [entry.body for entry in found], total

    async def _last_position(self) -> int:
        return self._next_position - 1

    async def _scan(self, after: int, until: int, limit: int, since: int) -> list[tuple[int, bytes]]:
        positions = self._entries.irange(after, until, inclusive=(False, True))
        living = (
            (position, self._entries[position].body)
            for position in positions
            if self._entries[position].at >= since
        )
        return list(islice(living, limit))
