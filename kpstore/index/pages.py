"""Dictionaries for a million entries that never make anybody wait.

A dictionary that grows moves all of its entries at once (20 ms for a million), and Python's garbage collector
walks through every object that may refer to others (200 ms for a million of them). So entries are spread over
many small dictionaries; and as long as their keys and values are numbers, texts and bytes, which refer to
nothing, the collector passes over each of them as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

V = TypeVar("V")

_PAGE_BITS = 12  # a page of 4,096 entries moves in 50 us when it grows
_SHARDS = 512


class Pages(Generic[V]):
    """Values by position, a number that only grows."""

    def __init__(self) -> None:
        self._pages: dict[int, dict[int, V]] = {}

    def get(self, position: int) -> V | None:
        """The value at a position."""
        page = self._pages.get(position >> _PAGE_BITS)
        return None if page is None else page.get(position)

    def __getitem__(self, position: int) -> V:
        return self._pages[position >> _PAGE_BITS][position]

    def __setitem__(self, position: int, value: V) -> None:
        number = position >> _PAGE_BITS
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = {}
        page[position] = value

    def pop(self, position: int) -> V:
        """Remove a value that is there."""
        number = position >> _PAGE_BITS
        page = self._pages[number]
        value = page.pop(position)
        if not page:
            del self._pages[number]
        return value

    def between(self, after: int, until: int) -> Iterator[tuple[int, V]]:
        """What lies at `after < position <= until`, in the order in which the positions were first set."""
        for number in range((after + 1) >> _PAGE_BITS, (until >> _PAGE_BITS) + 1):
            page = self._pages.get(number)
            if page is not None:
                for position in list(page):
                    if after < position <= until:
                        yield position, page[position]


class Ids:
    """Positions by id."""

    def __init__(self) -> None:
        self._shards: list[dict[str, int]] = [{} for _ in range(_SHARDS)]

    def get(self, id: str) -> int | None:
        """The position of an id."""
        return self._shards[hash(id) % _SHARDS].get(id)

    def __setitem__(self, id: str, position: int) -> None:
        self._shards[hash(id) % _SHARDS][id] = position

    def pop(self, id: str) -> int | None:
        """Forget an id; its position."""
        return self._shards[hash(id) % _SHARDS].pop(id, None)
