"""Long loops in slices, so that the event loop goes on turning (clause GEN-2)."""

from __future__ import annotations

import asyncio
from time import perf_counter

# A slice of 2 ms makes everybody's thread hop 4 ms long. Whoever is due while several tasks take turns may
# have to wait for three of each.
SLICE_S = 0.0002


class Turns:
    """Of one loop: tells when the others' turn is due, and gives it to them."""

    def __init__(self) -> None:
        self._due = perf_counter() + SLICE_S

    @property
    def is_due(self) -> bool:
        """Whether the slice is over."""
        return perf_counter() > self._due

    async def give(self) -> None:
        """Let the event loop turn, and begin a new slice."""
        await asyncio.sleep(0)
        self._due = perf_counter() + SLICE_S
