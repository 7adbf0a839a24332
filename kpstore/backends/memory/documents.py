"""Documents in memory: their bodies in dictionaries, and an index that finds them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import islice
from typing import TypeVar

from kpstore.backends.memory.atoms import Shards
from kpstore.backends.memory.slices import in_slices
from kpstore.index import DocumentIndex, Pages, text_of
from kpstore.stores import Document, DocumentQuery, StoreContext
from kpstore.stores.documents import DocumentStore
from kpstore.turns import SLICE_S

R = TypeVar("R")

# Documents that are stored without letting the event loop turn: about 0.3 ms.
_INLINE = 16
# New documents that each search looks through, at 0.1 us each, until the index takes them in: in the
# background from the first number on; by the calls that store more, a little each, from the second one on,
# which is only reached where the loop gets no turn.
_BACKGROUND = 256
_BACKLOG = 1024


class MemoryDocuments(DocumentStore[R]):
    """The hooks of a `DocumentStore`, for skills and for knowledge units."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._ids: Shards[int] = Shards()  # positions
        self._bodies: Pages[bytes] = Pages()  # by position
        self._index = DocumentIndex()
        self._next_position = 0
        self._bulk: asyncio.Task[None] | None = None
        self._indexing: asyncio.Task[None] | None = None

    async def _settle(self) -> None:
        """Wait until no large batch is being stored."""
        while self._bulk is not None:
            await asyncio.shield(self._bulk)

    async def _stop(self) -> None:
        """End what goes on in the background."""
        await self._settle()
        if self._indexing is not None:
            await asyncio.wait([self._indexing])

    async def _put(self, documents: Sequence[Document]) -> None:
        # While a large batch goes in, slice by slice, all other calls wait: none sees a part of it.
        await self._settle()
        if len(documents) <= _INLINE:
            for document in documents:
                self._store(document)
            self._keep_up()
            return
        self._bulk = asyncio.create_task(self._store_all(list(documents)))
        # A caller who gives up leaves the batch to end by itself: it happens whole (clause GEN-7).
        await asyncio.shield(self._bulk)
        self._keep_up()
        if self._indexing is not None:  # so that nobody stores faster than the index can follow
            await asyncio.shield(self._indexing)

    async def _store_all(self, documents: list[Document]) -> None:
        try:
            await in_slices(documents, self._store)
        finally:
            self._bulk = None

    def _store(self, document: Document) -> None:
        ids = self._ids.of(document.id)
        position = ids.get(document.id)
        if position is None:
            position = ids[document.id] = self._next_position
            self._next_position += 1
        self._bodies[position] = document.body
        self._index.put(position, document, text_of(document.texts))

    def _keep_up(self) -> None:
        """See to it that the index takes in what is new."""
        pending = self._index.pending
        if pending >= _BACKGROUND and self._indexing is None and not self._context.closed:
            self._indexing = asyncio.create_task(self._take_in())
        if pending >= _BACKLOG:
            self._index.work(SLICE_S)

    async def _take_in(self) -> None:
        try:
            while True:
                if self._context.closed or not self._index.work(SLICE_S):
                    return
                await asyncio.sleep(0)
        finally:
            self._indexing = None

    async def _get(self, id: str) -> bytes | None:
        if self._bulk is not None:
            await self._settle()
        position = self._ids.of(id).get(id)
        return None if position is None else self._bodies[position]

    async def _delete(self, id: str) -> bool:
        await self._settle()
        position = self._ids.of(id).pop(id, None)
        if position is None:
            return False
        self._bodies.pop(position)
        self._index.remove(position)
        self._keep_up()
        return True

    async def _search(self, query: DocumentQuery, offset: int, limit: int) -> tuple[list[bytes], int]:
        await self._settle()
        steps = self._index.search(query, offset, limit)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                positions, total = done.value
                return [self._bodies[position] for position in positions], total
            await asyncio.sleep(0)
            await self._settle()

    async def _by_agent(self, agent_id: str) -> list[bytes]:
        await self._settle()
        return [self._bodies[position] for position in self._index.of_agent(agent_id)]

    async def _last_position(self) -> int:
        await self._settle()
        return self._next_position - 1

    async def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, bytes]]:
        await self._settle()
        return list(islice(self._bodies.between(after, until), limit))
