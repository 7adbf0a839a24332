"""Times a call: on the wall, without the time for which the machine had no processor for us."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ["StopWatch"]

T = TypeVar("T")

_TASKS = "/proc/self/task"

_MAY_HAVE_WAITED_NS = 300_000
"""Systems give a processor to one thread for a millisecond or more before they look for another."""

_REST_S = 0.05


class StopWatch:
    """Times calls, and takes off the time that this process's threads stood ready without being given a
    processor, where the system tells it (Linux). On a machine that others use too a call waits for
    milliseconds now and then, whatever it does; one that hops between threads waits twice or more, and in a
    hundred of those there is always one that had to, so that no pass is a quiet one.
    """

    def __init__(self) -> None:
        self._files: dict[str, int] = {}

    def look_for_threads(self) -> None:
        """Take note of threads that are new, or gone."""
        try:
            threads = set(os.listdir(_TASKS))  # noqa: PTH208  # names are all that is wanted
        except OSError:
            return
        for gone in self._files.keys() - threads:
            os.close(self._files.pop(gone))
        for new in threads - self._files.keys():
            try:
                self._files[new] = os.open(f"{_TASKS}/{new}/schedstat", os.O_RDONLY)
            except OSError:  # it has just ended, or the system does not tell
                continue

    def close(self) -> None:
        """Forget the threads."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    async def time(self, call: Callable[[], Awaitable[T]]) -> tuple[int, T]:
        """The nanoseconds that a call took, and its result."""
        asked = time.perf_counter_ns()
        waited, worked = self._waited_ns(), time.process_time_ns()
        start = time.perf_counter_ns()
        result = await call()
        end = time.perf_counter_ns()
        worked, waited = time.process_time_ns() - worked, self._waited_ns() - waited
        took, asking = end - start, time.perf_counter_ns() - end + start - asked
        if asking > _MAY_HAVE_WAITED_NS:
            waited -= min(asking, waited)
        # Two threads may have waited at the same time: what was worked is left.
        return max(took - waited, min(worked, took)), result

    async def rest(self, at_most_s: float | None = None) -> None:
        """Return when the process has hardly worked, or wanted to, for a twentieth of a second; or after so
        many seconds, if it never rests.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                while True:
                    self.look_for_threads()
                    busy = self._waited_ns() + time.process_time_ns()
                    await asyncio.sleep(_REST_S)
                    if self._waited_ns() + time.process_time_ns() - busy < _REST_S * 1e9 / 10:
                        return

    def _waited_ns(self) -> int:
        waited = 0
        for file in self._files.values():
            try:
                waited += int(os.pread(file, 64, 0).split()[1])
            except (OSError, IndexError):  # the thread has ended
                continue
        return waited
