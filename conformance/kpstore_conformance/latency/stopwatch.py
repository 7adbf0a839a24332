"""Times a call: on the wall, without the time for which the machine had no processor for us."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["StopWatch"]

T = TypeVar("T")

_TASKS = "/proc/self/task"

_MAY_HAVE_WAITED_NS = 300_000
"""Systems give a processor to one thread for a millisecond or more before they look for another."""


class StopWatch:
    """Times calls, and takes off the time that this process's threads stood ready without being given a
    processor, where the system tells it (Linux). On a machine that others use too a call waits for
    milliseconds now and then, whatever it does; one that hops between threads waits twice or more, and in a
    hundred of those there is always one that had to, so that no pass is a quiet one.

    Args:
        hops: whether the calls hop between threads, so that all threads count and not this one alone.
    """

    def __init__(self, *, hops: bool) -> None:
        self._hops = hops
        self._files: dict[str, int] = {}

    def look_for_threads(self) -> None:
        """Take note of threads that are new, or gone."""
        try:
            threads = set(os.listdir(_TASKS))  # noqa: PTH208  # names are all that is wanted
        except OSError:
            return
        if not self._hops:
            threads &= {str(threading.get_native_id())}
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
        return await (self._time_hop(call) if self._hops else self._time_in_loop(call))

    async def _time_hop(self, call: Callable[[], Awaitable[T]]) -> tuple[int, T]:
        start = time.perf_counter_ns()
        # Asked for inside of the time, so that never more is taken off than was in it. It costs a few
        # microseconds: nothing beside a hop.
        waited, worked = self._waited_ns(), time.process_time_ns()
        result = await call()
        waited, worked = self._waited_ns() - waited, time.process_time_ns() - worked
        # Two threads may have waited at the same time: what they worked is always left.
        return max(time.perf_counter_ns() - start - waited, worked), result

    async def _time_in_loop(self, call: Callable[[], Awaitable[T]]) -> tuple[int, T]:
        # Microseconds would be much here: asked for outside of the time, and afterwards only where the call
        # took so long that it may have waited. What was waited while asking may be all of it.
        asked = time.perf_counter_ns()
        waited = self._waited_ns()
        start = time.perf_counter_ns()
        result = await call()
        end = time.perf_counter_ns()
        took = end - start
        if took > _MAY_HAVE_WAITED_NS:
            waited = self._waited_ns() - waited
            asking = (start - asked) + (time.perf_counter_ns() - end)
            took -= max(waited - asking, 0)
        return took, result

    def _waited_ns(self) -> int:
        waited = 0
        for file in self._files.values():
            try:
                waited += int(os.pread(file, 64, 0).split()[1])
            except (OSError, IndexError):  # the thread has ended
                continue
        return waited
