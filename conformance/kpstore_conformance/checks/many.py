"""Totals and deep pages of a log and a leaderboard long enough for a backend to count otherwise than one by
one are those of the records, also after the clock went back and scores changed.
"""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Any

from kpstore import AllStores
from kpstore_conformance.check import Lab, check

# Log entries, and agents. The SQLite backend closes a block of entries every 512 on average, and parts its
# leaderboard at 8192 agents.
ENTRIES = 5000
AGENTS = 9000
_AT_ONCE = 250


@check(
    clauses=["AUDIT-2", "AUDIT-3", "PAGE-1", "GEN-9"],
    requires=["controllable_clock"],
    name="queries of a long log agree with its entries",
)
async def long_log(lab: Lab) -> None:
    """Of 5,000 entries, logged by a clock that goes on and back, some of them expired and cleared away, each
    query's total and page are those of the entries that a scan finds, whatever it asks for.
    """
    stores = await lab.open()
    dice = random.Random(1)  # noqa: S311  # repeatable, not secret
    for number in range(ENTRIES // 50):
        lab.clock.advance(timedelta(hours=dice.choice([-30, -1, 0, 1, 10, 60])))
        await asyncio.gather(
            *(
                stores.audit_log.log(dice.choice(["read", "write"]), dice.choice("abc"), "t", "r", "ip")
                for _ in range(50)
            )
        )
        if number % 25 == 24:
            await _compare_log(lab, stores, dice)
    lab.clock.advance(timedelta(days=80))
    for _ in range(60):  # which clear away some of what has expired
        await stores.audit_log.log("read", "a", "t", "r", "ip")
    await _compare_log(lab, stores, dice)
    lab.clock.advance(timedelta(days=-60))
    await _compare_log(lab, stores, dice)


async def _compare_log(lab: Lab, stores: AllStores, dice: random.Random) -> None:
    entries = [entry async for entry in stores.audit_log.scan()]
    now = lab.clock()
    for _ in range(12):
        asked: dict[str, Any] = {
            "agent_id": dice.choice([None, None, "a", "b"]),
            "action": dice.choice([None, None, "read"]),
            "since": dice.choice([None, now - timedelta(hours=dice.randrange(2200))]),
            "until": dice.choice([None, now - timedelta(hours=dice.randrange(500))]),
        }
        found = [
            entry
            for entry in entries
            if asked["agent_id"] in (None, entry.agent_id)
            and asked["action"] in (None, entry.action)
            and (asked["since"] is None or asked["since"] <= entry.timestamp)
            and (asked["until"] is None or entry.timestamp <= asked["until"])
        ]
        for offset in (0, dice.randrange(len(found) + 1), max(0, len(found) - 5)):
            page = await stores.audit_log.query(**asked, offset=offset, limit=20)
            assert page.total == len(found), f"{asked}: {page.total} in all instead of {len(found)}"
            assert page.data == found[offset : offset + 20], f"{asked}, from {offset}: another page"


@check(
    clauses=["REP-3", "PAGE-1", "PAGE-3"],
    name="pages of a long leaderboard agree with its agents",
)
async def long_leaderboard(lab: Lab) -> None:
    """Of 9,000 agents, many with equal scores, each page of the leaderboard has those that sorting all of
    them puts there, also after the scores of a third have changed.
    """
    stores = await lab.open()
    dice = random.Random(2)  # noqa: S311  # repeatable, not secret

    async def change(numbers: list[int], most: int) -> None:
        for start in range(0, len(numbers), _AT_ONCE):
            await asyncio.gather(
                *(
                    stores.reputation.upsert(f"agent{number}", dice.randrange(most), "r")
                    for number in numbers[start : start + _AT_ONCE]
                )
            )

    await change(list(range(AGENTS)), 30)
    await _compare_board(stores, dice)
    for _ in range(3):
        await change(dice.sample(range(AGENTS // 3), 1000), 1000)
        await _compare_board(stores, dice)


async def _compare_board(stores: AllStores, dice: random.Random) -> None:
    ranked = sorted(await stores.reputation.get_all(), key=lambda record: -record.score)
    assert len(ranked) == AGENTS
    for offset in (0, AGENTS // 2, AGENTS - 5, AGENTS, *(dice.randrange(AGENTS) for _ in range(12))):
        page = await stores.reputation.get_leaderboard(offset=offset, limit=20)
        assert page.total == AGENTS
        names = [record.agent_id for record in page.data]
        assert names == [record.agent_id for record in ranked[offset : offset + 20]], f"from {offset} on"
