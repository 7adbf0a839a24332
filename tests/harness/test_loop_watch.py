"""The watch over the event loop: it sees what keeps the loop, and neither itself nor the machine."""

from __future__ import annotations

import asyncio
import sys
import time

from harness.busy import busy_processes, needs_waiting_times, work
from kpstore_conformance.loop_watch import LoopWatch

PASSES = 5


async def test_a_call_that_keeps_the_loop_is_seen() -> None:
    async with LoopWatch() as watch:
        await asyncio.sleep(0.01)
        work(0.03)
        await asyncio.sleep(0.01)
    assert watch.longest_s >= 0.03


async def test_what_the_loop_was_kept_from_until_the_very_end_is_seen() -> None:
    async with LoopWatch() as watch:
        await asyncio.sleep(0.01)
        work(0.03)
    assert watch.longest_s >= 0.03


async def test_a_call_that_waits_for_a_lock_is_seen() -> None:
    """A thread that stands and waits is not one that has no processor."""
    async with LoopWatch() as watch:
        time.sleep(0.03)  # it is what the watch must see
    assert watch.longest_s >= 0.03


async def test_a_thread_that_computes_costs_a_turn_no_more_than_pythons_switch() -> None:
    """Each time that the loop's thread lets the interpreter's lock go, it is without it for an interval: once
    a turn, while it sleeps, and once more where the thread has something to tell it.
    """
    found = []
    for _ in range(PASSES):
        async with LoopWatch() as watch:
            await asyncio.to_thread(work, 0.2)
        found.append(watch.longest_s)
    assert min(found) < 3 * sys.getswitchinterval()


@needs_waiting_times
async def test_time_without_a_processor_does_not_count() -> None:
    found, walls = [], []
    with busy_processes(8):
        for _ in range(PASSES):
            start = time.perf_counter()
            async with LoopWatch() as watch:
                work(0.03)
            walls.append(time.perf_counter() - start)
            found.append(watch.longest_s)
    assert max(walls) > 0.045, "the processors were not busy"
    assert 0.03 <= min(found) < 0.04
