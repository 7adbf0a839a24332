"""Driving calls step by step: cancel one at a chosen suspension, do something at each, and catch what a loop
complains of in silence.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

PATIENCE_S = 20.0
"""A call that takes longer than this hangs: the slowest of these takes a fiftieth of it."""

When = Literal["at once", "a turn later", "as its result comes"]
"""When a cancellation arrives: while the call suspends itself; after the loop has turned once more; or when
what it waits for is there already, but it has not seen it yet.
"""
WHENS: tuple[When, ...] = ("at once", "a turn later", "as its result comes")


class _Stepped:
    """An awaitable that awaits another one and tells of each of its suspensions.

    Args:
        call: what is awaited.
        suspended: called with the number of the suspension (from 0) and with what the call waits for: a
            future, or None for a mere turn of the loop.
    """

    def __init__(self, call: Awaitable[Any], suspended: Callable[[int, Any], None]) -> None:
        self._call = call
        self._suspended = suspended

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._call.__await__()
        step: Callable[[], Any] = lambda: next(inner)  # noqa: E731  # what to do next, one of three
        number = 0
        while True:
            try:
                waits_for = step()
            except StopIteration as done:
                return done.value
            self._suspended(number, waits_for)
            number += 1
            try:
                given = yield waits_for
            except BaseException as error:
                step = _thrower(inner, error)
            else:
                step = _sender(inner, given)


def _thrower(inner: Generator[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: inner.throw(error)


def _sender(inner: Generator[Any, Any, Any], given: Any) -> Callable[[], Any]:
    return lambda: inner.send(given)


async def stepped(call: Awaitable[Any], suspended: Callable[[int], None]) -> Any:
    """Await the call, and call `suspended` with a number at each of its suspensions."""
    return await _Stepped(call, lambda number, _: suspended(number))


@dataclass(frozen=True, slots=True)
class Ended:
    """How a driven call ended: `reached` says whether there was such a suspension, `value` what a call gave
    that was not cancelled.
    """

    reached: bool
    cancelled: bool
    value: Any = None


async def cancelled_at(call: Awaitable[Any], number: int, when: When, what: str) -> Ended:
    """Run the call in a task of its own, and cancel it at a suspension.

    Args:
        call: what is run.
        number: at which of its suspensions it is cancelled, from 0.
        when: see `When`.
        what: what the call is, for the message of an AssertionError, raised when it does not end, or goes on
            in spite of a cancellation that it cannot have missed.
    """
    reached = False
    loop = asyncio.get_running_loop()

    def suspended(now: int, waits_for: Any) -> None:
        nonlocal reached
        if now != number or reached:
            return
        reached = True
        if when == "at once":
            task.cancel()
        elif when == "a turn later" or not asyncio.isfuture(waits_for):
            loop.call_soon(task.cancel)
        else:
            # Called before the task itself hears of the result.
            waits_for.add_done_callback(lambda _: task.cancel())

    async def run() -> Any:
        return await _Stepped(call, suspended)

    task = asyncio.create_task(run())
    await asyncio.wait([task], timeout=PATIENCE_S)
    assert task.done(), (
        f"{what}: no end within {PATIENCE_S:g} s of being cancelled at suspension {number} {when}"
    )
    if task.cancelled():
        return Ended(reached, cancelled=True)
    value = task.result()
    assert not (reached and when == "at once"), (
        f"{what}: was cancelled at suspension {number}, and gave {type(value).__name__} as if it was not"
    )
    return Ended(reached, cancelled=False, value=value)


async def some_turns(count: int = 5) -> None:
    """Let the loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def nothing_complains(what: str) -> AsyncIterator[None]:
    """Fail where something was only complained of: to the loop's exception handler, as a warning, in a
    destructor or in a thread. That is where errors go that nobody retrieved and coroutines nobody awaited.
    """
    complaints: list[str] = []
    loop = asyncio.get_running_loop()

    def of_loop(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        complaints.append(f"event loop: {context.get('message')}: {context.get('exception')!r}")

    def of_destructor(unraisable: Any) -> None:
        complaints.append(f"destructor: {unraisable.exc_value!r} in {unraisable.object!r}")

    def of_thread(thrown: Any) -> None:
        complaints.append(f"thread: {thrown.exc_value!r}")

    before = (loop.get_exception_handler(), sys.unraisablehook, threading.excepthook)
    loop.set_exception_handler(of_loop)
    sys.unraisablehook, threading.excepthook = of_destructor, of_thread
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield
            for _ in range(2):
                gc.collect()
                await asyncio.sleep(0.01)
        complaints += [f"{each.category.__name__}: {each.message}" for each in warned]
    finally:
        loop.set_exception_handler(before[0])
        sys.unraisablehook, threading.excepthook = before[1], before[2]
    assert not complaints, f"{what}: {'; '.join(dict.fromkeys(complaints))}"
