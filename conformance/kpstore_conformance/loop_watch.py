"""How long an event loop went without turning."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import perf_counter

__all__ = ["LoopWatch"]

# What it sees of an idle loop is this long, and a little longer.
_TICK_S = 0.0005


def _waited_for_processor_s() -> float:
    """How long this thread has stood ready without a processor since it began; 0 where nobody tells."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class LoopWatch:
    """Notes the longest stretch in which the event loop did not turn, while it is entered."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._last = (0.0, 0.0)

    async def __aenter__(self) -> LoopWatch:
        self._last = (perf_counter(), _waited_for_processor_s())
        self._task = asyncio.create_task(self._tick())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        # The call may have ended in the stretch that is to be seen: the clock is read before anything else.
        self._look()
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _tick(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(_TICK_S)

    def _look(self) -> None:
        now, waited = perf_counter(), _waited_for_processor_s()
        stretch = (now - self._last[0]) - (waited - self._last[1])
        self.longest_s = max(self.longest_s, stretch)
        self._last = (now, waited)
