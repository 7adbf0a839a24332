"""Documents in dictionaries, with their pages kept in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple, TypeVar

from sortedcontainers import SortedDict, SortedKeyList

from kpstore.backends.memory.slices import in_slices, select
from kpstore.stores import Document, DocumentQuery, StoreContext
from kpstore.stores.documents import DocumentStore

R = TypeVar("R")

# Documents that are stored without letting the event loop turn: about 0.3 ms.
_INLINE = 16


class _Entry(NamedTuple):
    position: int
    document: Document
    # All texts in one: no query has a U+0000 (clause GEN-5), so that none matches across two of them.
    haystack: str


def _page_key(entry: _Entry) -> tuple[float, int]:
    return (-entry.document.quality, entry.position)


class MemoryDocuments(DocumentStore[R]):
    """The hooks of a `DocumentStore`, for skills and for knowledge units.

    Entries are immutable, so that a search over a copy of the list of them sees
    the store as it was when the search began.
    """

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._by_id: dict[str, _Entry] = {}
        self._by_position: SortedDict[int, _Entry] = SortedDict()
        self._by_quality: SortedKeyList[_Entry, tuple[float, int]] = SortedKeyList(key=_page_key)
        self._agents: dict[str, dict[int, _Entry]] = {}
        self._next_position = 0
        self._bulk: asyncio.Task[None] | None = None

    async def _settle(self) -> None:
        """Wait until no large batch is being stored."""
        while self._bulk is not None:
            await asyncio.shield(self._bulk)

    async def _put(self, documents: Sequence[Document]) -> None:
        # While a large batch goes in, slice by slice, all other calls wait: none sees a part of it.
        await self._settle()
        if len(documents) <= _INLINE:
            for document in documents:
                self._store(document)
            return
        self._bulk = asyncio.create_task(self._store_all(list(documents)))
        # A caller who gives up leaves the batch to end by itself: it happens whole (clause GEN-7).
        await asyncio.shield(self._bulk)

    async def _store_all(self, documents: list[Document]) -> None:
        try:
            await in_slices(documents, self._store)
        finally:
            self._bulk = None

    def _store(self, document: Document) -> None:
        old = self._by_id.get(document.id)
        if old is None:
            entry = _Entry(self._next_position, document, "\0".join(document.texts))
            self._next_position += 1
        else:
            self._unlink(old)
            entry = _Entry(old.position, document, "\0".join(document.texts))
        self._by_id[document.id] = entry
        self._by_position[entry.position] = entry
        self._by_quality.add(entry)
        if document.agent_id is not None:
            self._agents.setdefault(document.agent_id, {})[entry.position] = entry

    def _unlink(self, entry: _Entry) -> None:
        del self._by_position[entry.position]
        self._by_quality.remove(entry)
        agent_id = entry.document.agent_id
        if agent_id is not None:
            units = self._agents[agent_id]
            del units[entry.position]
            if not units:
                del self._agents[agent_id]

    async def _get(self, id: str) -> bytes | None:
        if self._bulk is not None:
            await self._settle()
        entry = self._by_id.get(id)
        return None if entry is None else entry.document.body

    async def _delete(self, id: str) -> bool:
        await self._settle()
        entry = self._by_id.pop(id, None)
        if entry is None:
            return False
        self._unlink(entry)
        return True

    async def _search(self, query: DocumentQuery, offset: int, limit: int) -> tuple[list[bytes], int]:
        await self._settle()
        ordered = self._by_quality
        end = len(ordered)
        if query.min_quality is not None:
            end = ordered.bisect_key_right((-query.min_quality, self._next_position))
        if DocumentQuery(min_quality=query.min_quality) == query:
            page = ordered[min(offset, end) : min(offset + limit, end)]
            return [entry.document.body for entry in page], end
        candidates = list(islice(ordered, end))
        rest = replace(query, text=None, min_quality=None)
        if query.text is None:
            found, total = await select(candidates, lambda entry: rest.matches(entry.document), offset, limit)
        else:
            text, is_rest = query.text, rest != DocumentQuery()
            found, total = await select(
                candidates,
                lambda entry: text in entry.haystack and (not is_rest or rest.matches(entry.document)),
                offset,
                limit,
            )
        return [entry.document.body for entry in found], total

    async def _by_agent(self, agent_id: str) -> list[bytes]:
        await self._settle()
        units = self._agents.get(agent_id, {})
        # A unit that changed hands keeps its position, so its place here may be in the middle.
        return [units[position].document.body for position in sorted(units)]

    async def _last_position(self) -> int:
        await self._settle()
        return self._next_position - 1

    async def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, bytes]]:
        await self._settle()
        positions = islice(self._by_position.irange(after, until, inclusive=(False, True)), limit)
        return [(position, self._by_position[position].document.body) for position in positions]
