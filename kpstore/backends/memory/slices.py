"""Long loops in slices, so that the event loop goes on turning (clause GEN-2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from kpstore.turns import Turns

T = TypeVar("T")
U = TypeVar("U")

# Bytes that are decoded without a look at the watch: about 0.2 ms.
_AT_ONCE_BYTES = 64 * 1024


async def in_slices(items: Iterable[T], act: Callable[[T], None]) -> None:
    """Call `act` on each item."""
    turns = Turns()
    for item in items:
        act(item)
        if turns.is_due:
            await turns.give()


async def map_in_slices(act: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """What `act` makes of each item."""
    made: list[U] = []
    await in_slices(items, lambda item: made.append(act(item)))
    return made


async def decode_all(decode: Callable[[bytes], U], bodies: Sequence[bytes]) -> list[U]:
    """What is in each of the bodies."""
    if sum(map(len, bodies)) < _AT_ONCE_BYTES:
        return list(map(decode, bodies))
    return await map_in_slices(decode, bodies)
