"""The stopwatch: what it takes off, and what it never does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.busy import busy_processes, needs_waiting_times, work
from kpstore_conformance.latency.stopwatch import StopWatch


@pytest.fixture
def watch() -> Iterator[StopWatch]:
    made = StopWatch()
    made.look_for_threads()
    yield made
    made.close()


async def test_a_call_that_waits_for_something_is_timed_whole(watch: StopWatch) -> None:
    """A store that waits for the disk or the network is slow, whoever has the processor meanwhile."""

    async def sleeps() -> str:
        await asyncio.sleep(0.02)
        return "done"

    # While it stands ready to go to sleep, its time to wake up comes nearer: once may be too little.
    found = [await watch.time(sleeps) for _ in range(5)]
    assert {result for _, result in found} == {"done"}
    assert max(took_ns for took_ns, _ in found) >= 19_000_000


async def test_a_call_that_works_is_timed_whole(watch: StopWatch) -> None:
    async def works() -> None:
        work(0.01)

    took_ns, _ = await watch.time(works)
    assert took_ns >= 9_500_000


async def test_work_on_another_thread_is_timed_whole() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        watch = StopWatch()
        watch.look_for_threads()
        loop = asyncio.get_running_loop()
        took_ns, _ = await watch.time(lambda: loop.run_in_executor(pool, work, 0.01))
        watch.close()
    assert took_ns >= 9_500_000


@needs_waiting_times
async def test_time_without_a_processor_is_taken_off(watch: StopWatch) -> None:
    """Beside eight busy processes 30 ms of work take far more than that, of which the store knows nothing."""

    async def works() -> int:
        start = time.perf_counter_ns()
        work(0.03)
        return time.perf_counter_ns() - start

    with busy_processes(8):
        found = [await watch.time(works) for _ in range(5)]
    walls = [wall_ns for _, wall_ns in found]
    assert max(walls) > 45_000_000, "the processors were not busy"
    # What is left is the work, and what the machine below us took.
    assert min(took_ns for took_ns, _ in found) < 40_000_000


async def test_rest_comes_after_what_goes_on_by_itself(watch: StopWatch) -> None:
    """A store that has been loaded may still have an index to make."""
    end = time.perf_counter() + 0.4

    async def goes_on() -> None:
        while time.perf_counter() < end:
            sum(range(10_000))
            await asyncio.sleep(0)

    task = asyncio.create_task(goes_on())
    await watch.rest()
    assert task.done()


async def test_who_never_rests_is_not_waited_for_longer_than_asked(watch: StopWatch) -> None:
    async def works() -> None:
        while True:
            sum(range(10_000))
            await asyncio.sleep(0)

    task = asyncio.create_task(works())
    start = time.perf_counter()
    await watch.rest(0.2)
    assert 0.2 <= time.perf_counter() - start < 10
    task.cancel()
