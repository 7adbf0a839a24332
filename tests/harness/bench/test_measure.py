"""The clocks: what a pass says of calls whose length is known."""

from __future__ import annotations

import asyncio
import gc
import time
from functools import partial

import pytest
from harness.bench.results import timing
from kpstore_conformance.bench.load import by_clients
from kpstore_conformance.bench.measure import Call, closed_loop, collector_held, open_loop, run, stall_ms
from kpstore_conformance.bench.result import Timing, pass_of, percentile


async def nothing() -> None:
    pass


async def standstill(seconds: float) -> None:
    time.sleep(seconds)


def one_stall(calls: int, at: int, seconds: float) -> list[Call]:
    return [partial(standstill, seconds) if number == at else nothing for number in range(calls)]


# ---- statistics


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (0.991, 100), (1, 100), (0, 1)])
def test_a_percentile_is_the_nearest_rank(share: float, value: int) -> None:
    assert percentile(range(1, 101), share) == value


def test_of_fewer_than_100_calls_the_99th_percentile_is_the_maximum() -> None:
    assert percentile(range(1, 51), 0.99) == 50


def test_a_pass_is_in_microseconds_whatever_the_order_of_the_calls() -> None:
    found = pass_of([number / 1e6 for number in (*range(200, 100, -1), *range(1, 101))], 2.0)
    assert (found.calls, found.seconds) == (200, 2.0)
    assert [found.p50_us, found.p99_us, found.max_us] == pytest.approx([100.5, 198, 200])


def test_numbers_are_those_of_the_best_pass() -> None:
    found = Timing([*timing(30.0).passes, *timing(20.0).passes, *timing(25.0).passes])
    assert (found.p50_us, found.p99_us) == (20.0, 40.0)
    assert found.spread == pytest.approx(0.5)
    assert found.calls_per_second == pytest.approx(100 / (20 * 1e-4))


# ---- passes


async def test_the_collector_is_held_during_a_pass_and_on_again_after_it() -> None:
    with collector_held():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), collector_held():
        raise ZeroDivisionError
    assert gc.isenabled()


async def test_a_closed_loop_hides_a_standstill_from_all_calls_but_one() -> None:
    timed = await closed_loop(one_stall(100, 10, 0.1))
    slow = [number for number, latency in enumerate(timed.latencies_s) if latency > 0.09]
    assert slow == [10]
    assert timed.seconds >= 0.1


async def test_an_open_loop_shows_a_standstill_in_all_calls_that_were_due_meanwhile() -> None:
    timed = await open_loop(one_stall(200, 10, 0.1), 1000)
    # Due 1 ms after the standstill began, the next one waited 99 ms, and so on.
    for after in range(1, 90, 10):
        assert timed.latencies_s[10 + after] >= 0.1 - after / 1000 - 0.001
    assert timed.to_pass().p50_us > 1000


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    running = most = 0

    async def slow() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1

    timed = await open_loop([slow] * 20, 1000)
    assert most > 5
    assert timed.seconds < 20 * 0.05


async def test_an_open_loop_keeps_to_its_rate() -> None:
    timed = await open_loop([nothing] * 100, 500)
    assert timed.seconds >= 99 / 500


async def test_an_open_loop_sleeps_while_calls_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that turns without a pause keeps the interpreter's lock from a store's threads."""
    turns = 0
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        nonlocal turns
        turns += seconds == 0
        await sleep(seconds)

    async def slow() -> None:
        await sleep(0.05)

    monkeypatch.setattr(asyncio, "sleep", counted)
    await open_loop([slow] * 20, 1000)
    assert turns <= 20


async def test_what_came_meanwhile_comes_all_at_once() -> None:
    """As requests do to a server that was busy: not one for each turn of whatever else is going on."""
    turns = 0
    at: list[int] = []

    async def turning() -> None:
        nonlocal turns
        while len(at) < 100:
            turns += 1
            await asyncio.sleep(0)

    async def call() -> None:
        at.append(turns)

    other = asyncio.create_task(turning())
    await open_loop([partial(standstill, 0.1), *[call] * 100], 2000)
    await other
    assert len(set(at[:90])) == 1


def test_timers_are_finer_than_a_millisecond() -> None:
    async def slept() -> float:
        start = time.perf_counter()
        await asyncio.sleep(0.0002)
        return time.perf_counter() - start

    assert 0.0002 <= min(run(slept()) for _ in range(20)) < 0.0009


async def test_the_watch_sees_the_longest_standstill() -> None:
    seen = await stall_ms([*one_stall(20, 5, 0.02), *one_stall(20, 5, 0.04)])
    assert seen >= 39


async def test_many_short_calls_are_no_long_standstill() -> None:
    assert await stall_ms([partial(standstill, 0.002)] * 100) < 50


async def test_what_a_failing_call_raises_is_not_lost() -> None:
    async def failing() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await closed_loop([failing])
    with pytest.raises(ExceptionGroup) as caught:
        await open_loop([failing], 100)
    assert caught.group_contains(LookupError)


# ---- clients


async def test_clients_call_at_the_same_time_and_again_when_answered() -> None:
    running: list[int] = []
    count = 0

    async def call() -> None:
        nonlocal count
        count += 1
        running.append(count)
        await asyncio.sleep(0.01)
        count -= 1

    timed = await by_clients(lambda: call, 8, 0.1)
    assert max(running) == 8
    assert len(timed.latencies_s) == len(running) >= 16


async def test_the_others_turns_are_part_of_a_clients_latency() -> None:
    """Ten clients of a store that answers on the spot, in 1 ms, wait for ten turns each."""
    timed = await by_clients(lambda: partial(standstill, 0.001), 10, 0.2)
    assert timed.to_pass().p50_us >= 9000
