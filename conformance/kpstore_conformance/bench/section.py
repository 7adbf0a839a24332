"""What a section of the benchmark is: how it fills a store, and the operations it measures there."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import ClassVar

from kpstore import AllStores, ManualClock
from kpstore_conformance.bench.measure import Call

__all__ = ["Batch", "Operation", "Report", "Section", "side_by_side", "walk"]

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
"""What a section's clock shows at first. It stands still while calls are timed: buckets do not refill."""

AT_ONCE = 512
"""Calls that fill a store are made so many at a time, so that a store can share commits among them."""

Report = Callable[[int], None]
"""Is told how many more records are in the store."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The calls of one pass, and how to take back what they did."""

    calls: Sequence[Call]
    undo: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation to be timed.

    Attributes:
        name: `section/what/variant`.
        make: the inputs of a pass of so many calls, drawn from the data.
        writes: whether it changes the store.
        fresh: each pass has inputs of its own, because it cannot be undone or must not be seen twice.
        most_calls: a pass has at most so many.
        records_per_call: what a call of a bulk operation handles.
    """

    name: str
    make: Callable[[int], Awaitable[Batch]]
    writes: bool = False
    fresh: bool = False
    most_calls: int | None = None
    records_per_call: int = 1


class Section(ABC):
    """One store, filled with `size` records, or the load of all of them.

    Args:
        size: how many records.
        seed: of the data and of all choices.
    """

    name: ClassVar[str]

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.dice = random.Random(f"{seed} {self.name} {size}")  # noqa: S311  # repeatable, not secret
        self.clock = ManualClock(START)

    @abstractmethod
    async def fill(self, stores: AllStores, report: Report) -> float:
        """Put `size` records into the empty stores; the seconds that the stores took."""

    @abstractmethod
    def operations(self, stores: AllStores) -> list[Operation]:
        """What is timed on the filled stores, in this order: what only adds comes last."""

    def growing(self) -> int:
        """How many calls a pass of what cannot be undone may have, lest the store grows out of its size."""
        return max(20, self.size // 50)

    def number(self) -> int:
        """Any of the records."""
        return self.dice.randrange(self.size)


async def side_by_side(
    call: Callable[[int], Awaitable[object]], numbers: Sequence[int], report: Report | None = None
) -> float:
    """Make the call for all numbers, `AT_ONCE` at a time; the seconds it took."""
    start = perf_counter()
    for first in range(0, len(numbers), AT_ONCE):
        part = numbers[first : first + AT_ONCE]
        await asyncio.gather(*map(call, part))
        if report is not None:
            report(len(part))
    return perf_counter() - start


async def walk(records: AsyncIterator[object], count: int) -> None:
    """Take the first `count` records of a scan."""
    async for _ in records:
        count -= 1
        if count == 0:
            return
