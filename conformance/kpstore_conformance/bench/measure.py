"""The method: how calls are timed.

Inputs are made before a pass; what garbage there is, is collected before it, and the collector is held
while it lasts, so that no call pays for another's garbage. A pass runs in one of three ways: closed loop,
open loop, or under a watch of the event loop, which would disturb the clock of the other two.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from selectors import SelectSelector
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

from kpstore_conformance.bench.result import Pass, pass_of
from kpstore_conformance.loop_watch import LoopWatch

__all__ = ["Call", "Timed", "closed_loop", "collector_held", "open_loop", "run", "stall_ms", "until"]

T = TypeVar("T")

Call = Callable[[], Awaitable[object]]

# A sleep on the loop of `run` hardly ever ends later than that; the rest is waited for by turning.
_COARSE_S = 0.0003


class Timed(NamedTuple):
    """How long each call took, and all of them together, in seconds."""

    latencies_s: Sequence[float]
    seconds: float

    def to_pass(self) -> Pass:
        """The statistics of it."""
        return pass_of(self.latencies_s, self.seconds)


@contextmanager
def collector_held() -> Iterator[None]:
    """Collect garbage now, and not again until the end."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on an event loop whose timers are as fine as the system's: those of the default one end
    on whole milliseconds, many times what some calls take.
    """
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(SelectSelector())) as runner:
        return runner.run(main)


async def closed_loop(calls: Sequence[Call]) -> Timed:
    """Each call as soon as the one before it has ended."""
    latencies = []
    start = perf_counter()
    for call in calls:
        before = perf_counter()
        await call()
        latencies.append(perf_counter() - before)
    return Timed(latencies, perf_counter() - start)


async def open_loop(calls: Sequence[Call], per_second: float) -> Timed:
    """A call every 1 / `per_second` seconds, whether or not those before it have ended.

    A call's latency counts from when it was due: what comes while the store, or the event loop, stands
    still has waited from then on, as a client would have (no coordinated omission).
    """
    latencies = [0.0] * len(calls)
    under_way = 0

    async def one(number: int, due: float) -> None:
        nonlocal under_way
        await calls[number]()
        latencies[number] = perf_counter() - due
        under_way -= 1

    def all_answered() -> bool:
        return under_way == 0

    start = perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(len(calls)):
            due = start + number / per_second
            await until(due, may_turn=all_answered)
            under_way += 1
            group.create_task(one(number, due))
    return Timed(latencies, perf_counter() - start)


async def until(due: float, *, may_turn: Callable[[], bool] = lambda: True) -> None:
    """Wait until `perf_counter()` is `due`. What is due already is not waited for, so that what has come
    meanwhile comes all at once, as it does to a server.

    The loop turns without a pause towards the end, to be in time, as long as `may_turn()`. Where a store
    works on threads of its own, one that never sleeps keeps the interpreter's lock from them.
    """
    if due > perf_counter():
        await asyncio.sleep(0)  # for what has come to begin, and to end if it never waits
    while (left := due - perf_counter()) > 0:  # noqa: ASYNC110  # it is the time that is waited for
        await asyncio.sleep(max(0.0, left - _COARSE_S) if may_turn() else left)


async def stall_ms(calls: Sequence[Call]) -> float:
    """The longest time for which the event loop did not turn while the calls were made, one after another."""
    async with LoopWatch() as watch:
        for call in calls:
            await call()
            await asyncio.sleep(0)
    return watch.longest_s * 1000
