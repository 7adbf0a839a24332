"""What the memory backend keeps its records in is right, and out of the collector's way."""

from __future__ import annotations

import asyncio
import gc
import random
from datetime import UTC, datetime, timedelta

import pytest

from kpstore import AllStores, ManualClock, create_store, turns
from kpstore.backends.memory.atoms import Due, Line, NumberedShards, Shards

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


def test_what_is_due_comes_when_it_is_and_once() -> None:
    dice = random.Random(1)
    due = Due()
    expected: dict[str, int] = {}
    now = 10**15
    for number in range(2000):
        if dice.random() < 0.6:
            at = now + dice.randint(-2_000_000, 60_000_000)
            due.add(f"k{number}", at)
            expected[f"k{number}"] = at
        now += dice.randint(0, 300_000)
        while (key := due.pop(now)) is not None:
            assert expected.pop(key) <= now
        # A second is as fine as it gets.
        assert all(at > now - 1_000_000 for at in expected.values())
    while due.pop(now + 10**9) is not None:
        pass
    assert (due._slots, due._keys) == ([], {})


def test_shards_and_lines_keep_what_they_are_given() -> None:
    shards: Shards[int] = Shards()
    numbered: NumberedShards[int] = NumberedShards()
    line: Line[str] = Line()
    for n in range(50_000):
        shards.of(f"key {n}")[f"key {n}"] = n
        numbered.of(n)[n] = -n
        line.append(f"value {n}")
    line[4097] = "changed"
    assert len(line) == 50_000
    assert [line[n] for n in (0, 4095, 4096, 4097, 49_999)] == [
        *("value 0", "value 4095", "value 4096", "changed", "value 49999")
    ]
    for n in range(0, 50_000, 7):
        assert shards.of(f"key {n}")[f"key {n}"] == n
        assert numbered.of(n)[n] == -n
    for dictionaries in (shards._shards, numbered._shards):
        assert max(map(len, dictionaries)) < 2 * 50_000 / len(dictionaries)


async def fill(stores: AllStores, clock: ManualClock, start: int, end: int) -> None:
    for n in range(start, end):
        clock.advance(timedelta(milliseconds=1))
        agent = f"agent {n}"
        await stores.reputation.upsert(agent, n % 100, "a reason")
        await stores.api_keys.create(agent, {"read"}, "free")
        await stores.rate_limit.consume(agent, "free", "GET")
        await stores.rate_limit.record_429(agent)
        await stores.audit_log.log("act", agent, "t", "r", "ip", {"n": n})


async def test_the_collector_has_no_more_to_walk_over_with_more_records() -> None:
    clock = ManualClock(NOW)
    async with create_store("memory", clock=clock) as stores:
        counts = []
        for start in (0, 2000, 4000):
            await fill(stores, clock, start, start + 2000)
            gc.collect()
            counts.append(len(gc.get_objects()))
        # 10,000 records later. Dictionaries and blocks for them are a few dozen.
        assert counts[2] - counts[1] < 200, counts


async def test_a_list_of_all_agents_is_of_one_moment_while_they_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "SLICE_S", 0.0)  # a turn of the loop after each agent
    async with create_store("memory", clock=ManualClock(NOW)) as stores:
        for n in range(1000):
            await stores.reputation.upsert(f"a{n}", 1, "r")
        changed = 0
        listing = asyncio.create_task(stores.reputation.get_all())

        async def change() -> None:
            nonlocal changed
            while not listing.done():
                for n in (999 - changed % 500, changed):
                    await stores.reputation.upsert(f"a{n}", 1, "later")
                await stores.reputation.upsert(f"new{changed}", 1, "later")
                changed += 1
                await asyncio.sleep(0)

        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await change()
        records = await listing
        assert changed > 500, "it was over before anything changed"
        assert [record.agent_id for record in records] == [f"a{n}" for n in range(1000)]
        assert {record.score for record in records} == {1.0}
        assert {len(record.history) for record in records} == {1}
        assert stores.reputation._listings == []  # type: ignore[attr-defined]
