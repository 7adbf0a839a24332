"""No call of any method keeps the event loop from turning for more than 20 ms, however full the stores are.

A task that does nothing but come back every half millisecond notes the longest time between two of its turns
while a call is on its way. A machine that others use too makes such times longer, never shorter. So the time
that the loop's thread stood ready without being given a processor does not count (where the system tells it:
Linux), a call that seems too slow is made again, and it is the best of its passes that is judged. The report
shows beside it what the same task saw in a time with no call at all.

The suite's own objects are kept out of the garbage collector's sight while this runs: a collection that takes
long because the *store* keeps many objects is the store's doing, and counts.

Loading 100,000 records takes most of the time; `KP_EVENT_LOOP_RECORDS` loads more, or fewer.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from kpstore import StoredKnowledgeUnit, StoredSkill, ValidationError
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._samples import MOMENT, pattern, skill, vote
from kpstore_conformance.loop_watch import LoopWatch

LIMIT_S = 0.020
"""What GEN-2 allows."""

RECORDS = int(os.environ.get("KP_EVENT_LOOP_RECORDS", "100000"))
PASSES = 5
"""A sound call passes the first or the second time; five bad ones in a row are no accident."""

_AT_ONCE = 5000

Operation = Callable[[], Awaitable[object]]


async def _stretch_s(operation: Operation) -> float:
    async with LoopWatch() as watch:
        await operation()
    return watch.longest_s


async def _idle() -> None:
    await asyncio.sleep(0.05)


async def _hold(operations: dict[str, Operation], passes: int = PASSES) -> list[str]:
    """One line for each operation that held the loop for too long in each of its passes."""
    slow = []
    for name, operation in operations.items():
        seen: list[float] = []
        idle: list[float] = []
        while len(seen) < passes and not (seen and min(seen) <= LIMIT_S):
            gc.collect()  # what an earlier call left behind is not this one's
            idle.append(await _stretch_s(_idle))
            seen.append(await _stretch_s(operation))
        if min(seen) > LIMIT_S:
            slow.append(
                f"{name}: the loop stood still for {min(seen) * 1000:.1f} ms at the best of {len(seen)}"
                f" passes (with no call at all: {max(idle) * 1000:.1f} ms at the worst)"
            )
    return slow


@contextmanager
def _nothing_of_ours() -> Iterator[None]:
    """Keep the objects that are there already out of the garbage collector's sight."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _unit(number: int) -> StoredKnowledgeUnit:
    return pattern(
        f"{number:07d}",
        agent_id="prolific" if number % 10 == 0 else f"agent-{number % 1000}",
        quality=number * 7919 % 1001 / 1000,
    )


def _skill(number: int) -> StoredSkill:
    return skill(
        f"{number:07d}",
        tags=("checks", f"tag-{number % 30}"),
        domain=f"domain-{number % 20}",
        quality_score=number * 7919 % 1001 / 1000,
    )


async def _load(
    create_many: Callable[[list[Any]], Awaitable[int]], make: Callable[[int], Any], count: int
) -> None:
    # In parts, so that the records given do not stay as garbage for the collector to walk.
    for start in range(0, count, _AT_ONCE):
        await create_many([make(number) for number in range(start, min(start + _AT_ONCE, count))])


async def _walk(records: Any) -> None:
    async for _ in records:
        pass


def _assert_none(slow: list[str]) -> None:
    if slow:
        raise AssertionError("\n".join(slow))


@check(
    clauses=["GEN-2"], name="100,000 knowledge units never hold the loop for more than 20 ms", timeout_s=300
)
async def knowledge_units(lab: Lab) -> None:
    """With 100,000 units every method of the knowledge store lets the loop turn at least every 20 ms: search
    by text, filters and far offsets, a page of 1000, the 10,000 units of one agent, a scan.
    """
    with _nothing_of_ours():
        stores = await lab.open()
        knowledge = stores.knowledge
        await _load(knowledge.create_many, _unit, RECORDS)
        slow = await _hold(
            {
                "get_by_id": lambda: knowledge.get_by_id("kp:pattern:0000007"),
                "search without a filter": knowledge.search,
                "search by a text in every unit": lambda: knowledge.search(query="pattern of the"),
                "search by a text in one unit": lambda: knowledge.search(query="NAME OF 0012345"),
                "search by a text in none": lambda: knowledge.search(query="nowhere to be found"),
                "search by every filter": lambda: knowledge.search(
                    query="name", types=["ToolCallPattern", "ExpertSOP"], domain="CHECKS", min_quality=0.3
                ),
                "search at a far offset": lambda: knowledge.search(offset=RECORDS // 2),
                "search by text at a far offset": lambda: knowledge.search(query="name", offset=RECORDS // 2),
                "a page of 1000": lambda: knowledge.search(limit=1000),
                "a page of 1000 by text": lambda: knowledge.search(query="name", limit=1000),
                "counting only": lambda: knowledge.search(query="name", limit=0),
                "get_by_agent_id": lambda: knowledge.get_by_agent_id("prolific"),
                "create": lambda: knowledge.create(_unit(RECORDS + 1)),
                "replacing": lambda: knowledge.create(replace(_unit(77), visibility="org")),
                "delete": lambda: knowledge.delete("kp:pattern:0000078"),
            }
        )
        slow += await _hold({"scan": lambda: _walk(knowledge.scan())}, passes=3)
        await stores.close()
    _assert_none(slow)


@check(clauses=["GEN-2"], name="many skills never hold the loop for more than 20 ms", timeout_s=300)
async def skills(lab: Lab) -> None:
    """With 30,000 skills every method of the skill store lets the loop turn at least every 20 ms. (Loading
    100,000 would take as long as all other checks: the units' check has so many.)
    """
    with _nothing_of_ours():
        stores = await lab.open()
        store = stores.skills
        await _load(store.create_many, _skill, RECORDS * 3 // 10)
        slow = await _hold(
            {
                "get_by_id": lambda: store.get_by_id("0000007"),
                "search without a filter": store.search,
                "search by a text in every skill": lambda: store.search(query="skill of the"),
                "search by a text in one skill": lambda: store.search(query="NAME OF 0012345"),
                "search by every filter": lambda: store.search(
                    query="name", domain="Domain-7", tags=["TAG-7", "tag-8"], min_quality=0.3
                ),
                "search by tags alone": lambda: store.search(tags=["checks"]),
                "search by text at a far offset": lambda: store.search(query="name", offset=RECORDS // 8),
                "a page of 1000": lambda: store.search(limit=1000),
                "create": lambda: store.create(_skill(RECORDS + 1)),
                "replacing": lambda: store.create(replace(_skill(77), visibility="org")),
                "delete": lambda: store.delete("0000078"),
            }
        )
        slow += await _hold({"scan": lambda: _walk(store.scan())}, passes=3)
        await stores.close()
    _assert_none(slow)


@check(clauses=["GEN-2"], name="a batch of 20,000 never holds the loop for more than 20 ms", timeout_s=300)
async def batches(lab: Lab) -> None:
    """create_many of 20,000 units or skills, given as a list or made one by one while they are asked for,
    lets the loop turn at least every 20 ms from its first step to its last.
    """
    count = min(20_000, RECORDS)
    units = [_unit(number) for number in range(count)]
    given = [_skill(number) for number in range(count)]
    with _nothing_of_ours():
        stores = await lab.open()
        slow = await _hold(
            {
                "knowledge.create_many of a list": lambda: stores.knowledge.create_many(units),
                "skills.create_many of a list": lambda: stores.skills.create_many(given),
                "skills.create_many of a generator": lambda: stores.skills.create_many(
                    _skill(number) for number in range(count)
                ),
            },
            passes=3,
        )
        await stores.close()
    _assert_none(slow)


@check(clauses=["GEN-2"], name="10,000 agents never hold the loop for more than 20 ms", timeout_s=300)
async def reputation(lab: Lab) -> None:
    """With 12,000 agents, one of them with a history of 5,000 entries, and 12,000 votes, every method of the
    reputation store lets the loop turn at least every 20 ms.
    """
    agents = 12_000
    with _nothing_of_ours():
        stores = await lab.open()
        store = stores.reputation
        for start in range(0, agents, 1000):
            numbers = range(start, start + 1000)
            await asyncio.gather(
                *(store.upsert(f"agent-{number}", number % 97, "seen") for number in numbers)
            )
        for _ in range(5):
            await asyncio.gather(*(store.upsert("agent-0", 1, "Validated again") for _ in range(1000)))
        for _ in range(0, agents, 1000):
            await asyncio.gather(*(store.record_vote(vote(f"unit-{n % 3}")) for n in range(1000)))
        slow = await _hold(
            {
                "get_all": store.get_all,
                "get_leaderboard": lambda: store.get_leaderboard(limit=1000),
                "get_leaderboard at a far offset": lambda: store.get_leaderboard(offset=6000, limit=1000),
                "get_history": lambda: store.get_history("agent-0", offset=2500, limit=1000),
                "get": lambda: store.get("agent-0"),
                "upsert": lambda: store.upsert("agent-0", 1, "Validated"),
                "get_votes": store.get_votes,
                "get_votes of a unit": lambda: store.get_votes("unit-1"),
                "can_vote": lambda: store.can_vote("agent-0"),
                "scan": lambda: _walk(store.scan()),
                "scan in batches of 12,000": lambda: _walk(store.scan(batch_size=agents)),
            }
        )
        await stores.close()
    _assert_none(slow)


@check(clauses=["GEN-2"], name="50,000 audit entries never hold the loop for more than 20 ms", timeout_s=300)
async def audit_log(lab: Lab) -> None:
    """With 50,000 entries log, query by every filter and at a far offset, a page of 1000 and a scan let the
    loop turn at least every 20 ms.
    """
    entries = min(50_000, RECORDS)
    with _nothing_of_ours():
        stores = await lab.open()
        store = stores.audit_log
        for start in range(0, entries, 1000):
            numbers = range(start, start + 1000)
            await asyncio.gather(
                *(
                    store.log(f"act-{n % 7}", f"agent-{n % 11}", "skill", f"s-{n}", "192.0.2.1")
                    for n in numbers
                )
            )
        day = timedelta(days=1)
        slow = await _hold(
            {
                "query without a filter": store.query,
                "query by an agent": lambda: store.query(agent_id="agent-3"),
                "query by every filter": lambda: store.query(
                    agent_id="agent-3", action="act-5", since=MOMENT - day, until=MOMENT + day
                ),
                "query that finds nothing": lambda: store.query(action="never done"),
                "query at a far offset": lambda: store.query(offset=entries // 2),
                "a page of 1000": lambda: store.query(limit=1000),
                "log": lambda: store.log("act-1", "agent-1", "skill", "one more", "192.0.2.1"),
                "scan": lambda: _walk(store.scan()),
            }
        )
        # All of them expire at once: the next calls must not pay for the backlog in one go.
        lab.clock.advance(timedelta(days=91))
        slow += await _hold(
            {
                "log with a backlog": lambda: store.log("a", "agent-1", "t", "r", "192.0.2.1"),
                "query with a backlog": store.query,
            }
        )
        await stores.close()
    _assert_none(slow)


@check(clauses=["GEN-2"], name="many keys and buckets never hold the loop for more than 20 ms", timeout_s=300)
async def keys_and_buckets(lab: Lab) -> None:
    """With 10,000 keys of one agent, 10,000 buckets that are all full again and 5,000 violations of one
    caller, the calls on them let the loop turn at least every 20 ms.
    """
    with _nothing_of_ours():
        stores = await lab.open()
        keys, rates = stores.api_keys, stores.rate_limit
        for start in range(0, 10_000, 1000):
            await asyncio.gather(*(keys.create("author", ["read"], "free") for _ in range(1000)))
            numbers = range(start, start + 1000)
            await asyncio.gather(*(rates.consume(f"caller-{number}", "pro", "GET") for number in numbers))
        for _ in range(5):
            await asyncio.gather(*(rates.record_429("caller") for _ in range(1000)))
        new = await keys.create("author", ["read"], "free")
        lab.clock.advance(timedelta(minutes=2))
        hour = timedelta(hours=1)
        long_text = "kp_" + "0" * 10_000_000  # made before it is timed: that takes 10 ms
        slow = await _hold(
            {
                "api_keys.get_by_agent_id": lambda: keys.get_by_agent_id("author"),
                "api_keys.verify": lambda: keys.verify(new.raw_key),
                "api_keys.verify of a very long text": lambda: keys.verify(long_text),
                "api_keys.create": lambda: keys.create("author", ["read"], "free"),
                "api_keys.revoke": lambda: keys.revoke(new.record.key_prefix),
                "api_keys.scan": lambda: _walk(keys.scan()),
                "consume": lambda: rates.consume("caller", "pro", "GET"),
                "get_429_count": lambda: rates.get_429_count("caller", hour),
                "record_429": lambda: rates.record_429("caller"),
            }
        )
        lab.clock.advance(timedelta(hours=2))
        slow += await _hold(
            {
                "record_429 with a backlog": lambda: rates.record_429("caller"),
                "get_429_count with a backlog": lambda: rates.get_429_count("caller", hour),
            }
        )
        await stores.close()
    _assert_none(slow)


@check(
    clauses=["GEN-2"], name="a record of nearly 1 MiB never holds the loop for more than 20 ms", timeout_s=300
)
async def large_records(lab: Lab) -> None:
    """Records just below 1 MiB, as half a million tiny values, thirty thousand small objects, one long
    text, many keys or deep nesting, and values far beyond 1 MiB that are refused, let the loop turn at least
    every 20 ms on their way in and on their way out.
    """
    # No more than 30,000 lists and objects in one record: of many more, what CPython's garbage collector
    # needs for one look at them is over 20 ms by itself. The documentation says so, under Limits.
    chain: list[Any] = []
    for _ in range(300):
        chain = [chain, 0]
    shapes: dict[str, Any] = {
        "half a million numbers": [7] * 520_000,
        "thirty thousand pairs": [[n, 0] for n in range(30_000)] + [0] * 300_000,
        "thirty thousand objects": [{"n": n} for n in range(30_000)] + [0] * 300_000,
        "fifty-five thousand keys": {f"key-{n:06d}": n for n in range(55_000)},
        "one text": "ü" * 520_000,
        "lists in lists": [chain] * 100,
    }
    with _nothing_of_ours():
        stores = await lab.open()
        slow = []
        for name, value in shapes.items():
            entry = pattern("large", large=value)
            assert await stores.knowledge.create(entry) is not None
            slow += await _hold(
                {
                    f"creating a unit with {name}": partial(stores.knowledge.create, entry),
                    f"reading a unit with {name}": partial(stores.knowledge.get_by_id, entry.id),
                    f"finding a unit with {name}": partial(stores.knowledge.search, query="large"),
                    f"logging {name}": partial(
                        stores.audit_log.log, "a", "agent", "t", "r", "192.0.2.1", {"large": value}
                    ),
                },
                passes=3,
            )
        # One, since the caller drops the page that it got in one go, however long the store takes to make it.
        slow += await _hold({"querying a large entry": partial(stores.audit_log.query, limit=1)})
        text = "ß" * 500_000
        # Made before they are timed: sixty thousand tags take the caller 10 ms.
        skills = {
            "a long text": skill("large", content=text),
            "a long description": skill("described", description=text),
            "many tags": skill("tags", tags=tuple(f"tag-{n}" for n in range(60_000))),
            "many files": skill("files", files={f"file-{n}": "x" for n in range(40_000)}),
        }
        await stores.skills.create(skills["a long text"])
        await stores.skills.create(skills["many tags"])
        slow += await _hold(
            {
                **{
                    f"creating a skill with {name}": partial(stores.skills.create, one)
                    for name, one in skills.items()
                },
                "searching long texts": lambda: stores.skills.search(query="ssssx"),
                "searching for a long text": lambda: stores.skills.search(query=text),
            }
        )
        oversized = pattern("oversized", large=["x" * 100_000] * 200)
        slow += await _hold(
            {"refusing a unit that is far too large": lambda: _refused(stores.knowledge.create(oversized))}
        )
        await stores.close()
    _assert_none(slow)


async def _refused(call: Awaitable[object]) -> None:
    try:
        await call
    except ValidationError:
        return
    raise AssertionError("a record over KP_MAX_RECORD_BYTES was taken")
