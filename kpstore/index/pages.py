"""Dictionaries for a million entries that never make anybody wait.

A dictionary that grows moves all of its entries at once (20 ms for a million), and Python's garbage collector
walks through every object that may refer to others (200 ms for a million of them). So entries are spread over
many small dictionaries; and as long as their keys and values are numbers, texts and bytes, which refer to
nothing, the collector passes over each of them as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

V = TypeVar("V")

PAGE_BITS = 12  # a page of 4,096 entries moves in 50 us when it grows


def chunked(values: Iterable[V], size: int) -> Iterator[list[V]]:
    """The values, in lists of at most so many."""
    rest = iter(values)
    while chunk := list(islice(rest, size)):
        yield chunk


class Pages(Generic[V]):
    """Values by position, a number that only grows."""

    def __init__(self) -> None:
        self._pages: dict[int, dict[int, V]] = {}
        self.page = self._pages.get
        """The dictionary of the positions that are equal without their lowest `PAGE_BITS` bits."""

    def get(self, position: int) -> V | None:
        """The value at a position."""
        page = self._pages.get(position >> PAGE_BITS)
        return None if page is None else page.get(position)

    def __getitem__(self, position: int) -> V:
        return self._pages[position >> PAGE_BITS][position]

    def __setitem__(self, position: int, value: V) -> None:
        number = position >> PAGE_BITS
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = {}
        page[position] = value

    def pop(self, position: int) -> V:
        """Remove a value that is there."""
        number = position >> PAGE_BITS
        page = self._pages[number]
        value = page.pop(position)
        if not page:
            del self._pages[number]
        return value

    def between(self, after: int, until: int) -> Iterator[tuple[int, V]]:
        """What lies at `after < position <= until`, in the order in which the positions were first set."""
        for number in range((after + 1) >> PAGE_BITS, (until >> PAGE_BITS) + 1):
            page = self._pages.get(number)
            if page is not None:
                for position in list(page):
                    if after < position <= until:
                        yield position, page[position]

    def chunks(self, size: int) -> Iterator[list[V]]:
        """The values, in lists of at most so many; what is set or removed meanwhile may be among them."""
        for number in list(self._pages):
            yield from chunked(list(self._pages.get(number, {}).values()), size)
