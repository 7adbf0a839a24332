"""Skills and knowledge units alike: JSON documents with a quality, filters and a substring search."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import msgspec

from kpstore.records import Page
from kpstore.stores import rules
from kpstore.stores.base import Codec, Store, StoreContext, fold_all, numbered, walk

R = TypeVar("R")

Progress: TypeAlias = Callable[[int], object]
"""Told how many of the given records have been checked, again and again, and how many there were when all are
stored; what it raises ends the call.
"""
_PER_PROGRESS = 1000  # records
_LARGE = 64 * 1024  # bytes


# A large `create_many` makes a million of them, which the garbage collector need not walk through: they
# hold nothing that could refer to them.
class Document(msgspec.Struct, frozen=True, gc=False):
    """One record as a backend keeps it: its body, and what it is found by.

    Attributes:
        id: the record's id, unique in its store.
        body: the whole record as canonical JSON in UTF-8; what `_get` gives back.
        quality: what pages are ordered by, descending.
        texts: the folded texts that a query looks into, one by one.
        domain: the folded domain, or `None`.
        tags: the folded tags (skills).
        type: the `@type` (knowledge units), or `""`.
        agent_id: the `metadata.agent_id` (knowledge units), or `None`.
    """

    id: str
    body: bytes
    quality: float
    texts: tuple[str, ...]
    domain: str | None = None
    tags: frozenset[str] = frozenset()
    type: str = ""
    agent_id: str | None = None


@dataclass(frozen=True, slots=True)
class DocumentQuery:
    """What to search for; every condition that is set must hold. All texts are folded.

    Attributes:
        text: a substring of at least one of the document's texts, or `None`.
        domain: equal to the document's, or `None`.
        tags: at least one of them is among the document's; empty for no filter.
        types: the document's type is one of them; empty for no filter.
        min_quality: the document's quality is at least this, or `None`.
    """

    text: str | None = None
    domain: str | None = None
    tags: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    min_quality: float | None = None

    def matches(self, document: Document) -> bool:
        """Whether `document` is a match; for a backend without an index of its own."""
        return (
            (self.min_quality is None or document.quality >= self.min_quality)
            and (self.domain is None or document.domain == self.domain)
            and (not self.types or document.type in self.types)
            and (not self.tags or not self.tags.isdisjoint(document.tags))
            and (self.text is None or any(self.text in text for text in document.texts))
        )


class DocumentStore(Store, Generic[R]):
    """The methods that skills and knowledge units share, over the hooks of a backend."""

    _record: type[R]

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._codec = Codec(self._record, context)

    # Hooks ----------------------------------------------------------------

    @abstractmethod
    async def _put(self, documents: Sequence[Document]) -> None:
        """Store all of them or none, in order; a known id is replaced and keeps its position."""

    @abstractmethod
    async def _get(self, id: str) -> bytes | None:
        """The body of the document with this id."""

    @abstractmethod
    async def _delete(self, id: str) -> bool:
        """Remove the document; whether there was one."""

    @abstractmethod
    async def _search(self, query: DocumentQuery, offset: int, limit: int) -> tuple[list[bytes], int]:
        """A page of the bodies that match, by quality descending, then position; and the count of all."""

    @abstractmethod
    async def _last_position(self) -> int:
        """The highest position in use, or -1; a new document's position is higher than all before it."""

    @abstractmethod
    async def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, bytes]]:
        """The first `limit` (position, body) with `after < position <= until`, by position."""

    # Rules ----------------------------------------------------------------

    @abstractmethod
    async def _checked(self, given: object, name: str) -> R:
        """A copy of the caller's record that has passed every rule and shares nothing with it."""

    @abstractmethod
    async def _document(self, record: R, name: str) -> Document:
        """What a backend keeps of a record that has been checked."""

    async def _create(self, given: object, name: str) -> R:
        self._check_open()
        record = await self._checked(given, name)
        document = await self._document(record, name)
        await turn_if_large(document.body)
        await self._put([document])
        return record

    async def _create_many(self, given: object, name: str, progress: Progress | None) -> int:
        self._check_open()
        documents = []
        async for index, item in numbered(given, name):
            if progress is not None and index and index % _PER_PROGRESS == 0:
                progress(index)
            field = f"{name}[{index}]"
            documents.append(await self._document(await self._checked(item, field), field))
        await self._put(documents)
        if progress is not None:
            progress(len(documents))
        return len(documents)

    async def get_by_id(self, id: str) -> R | None:
        """The record with this id, or `None`."""
        self._check_open()
        body = await self._get(rules.identifier(id, "id"))
        return None if body is None else self._codec.decode(body)

    async def delete(self, id: str) -> bool:
        """Remove the record; whether it existed."""
        self._check_open()
        return await self._delete(rules.identifier(id, "id"))

    def scan(self, batch_size: int = 500) -> AsyncIterator[R]:
        """Every record in insertion order, `batch_size` of them in memory at a time.

        A record that exists from the start of the scan to its end is seen
        exactly once; those created meanwhile are not.
        """
        return self._decoded(batch_size)

    async def _decoded(self, batch_size: int) -> AsyncIterator[R]:
        async for body in walk(self._context, batch_size, self._last_position, self._scan):
            yield self._codec.decode(body)

    async def _page(self, query: DocumentQuery, offset: int, limit: int) -> Page[R]:
        bodies, total = await self._search(query, offset, limit)
        return Page(await self._codec.decode_all(bodies), total, offset, limit)


async def turn_if_large(body: bytes) -> None:
    """Let the event loop turn between two things that take long with a record of this size: each takes
    10 ms with 60,000 tags.
    """
    if len(body) >= _LARGE:
        await asyncio.sleep(0)  # the loop sees what is due, and goes on here first
        await asyncio.sleep(0)  # it tells those who wait that it is
        await asyncio.sleep(0)  # they have their turn


async def folded_filter(value: object, field: str) -> str | None:
    """A text filter in folded form; `None` and `""` are no filter."""
    given = rules.optional_text(value, field)
    return (await fold_all([given]))[0] if given else None


def quality_filter(value: object) -> float | None:
    """The lowest quality asked for; `None` is no filter."""
    return None if value is None else rules.number(value, "min_quality", 0, 1)
