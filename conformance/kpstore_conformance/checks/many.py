"""Totals and deep pages of searches, of a log and of a leaderboard, where there is so much of each that a
backend counts otherwise than one by one, are those of the records.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

from kpstore import AllStores, Capability
from kpstore_conformance import dataset
from kpstore_conformance.check import Lab, check

# Log entries, and agents. The SQLite backend closes a block of entries every 512 on average, and parts its
# leaderboard at 8192 agents.
ENTRIES = 5000
AGENTS = 9000
# Knowledge units. From 256 on, both backends find them by an index.
UNITS = 3000
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


@check(
    clauses=["KNOW-3", "KNOW-4", "KNOW-5", "PAGE-1", "PAGE-3"],
    name="searches of thousands of units agree with the units",
)
async def many_units(lab: Lab) -> None:
    """Of 3,000 units, while hundreds are replaced, deleted and added, each search's total and page are those
    of the units that it must find, whatever it asks for; so they are by another handle, where one can be, and
    by one that opens them later, where something changed in between.
    """
    stores = await lab.open()
    handles = [stores]
    if Capability.MULTI_PROCESS in stores.capabilities:
        handles.append(await lab.open())
    dice = random.Random(2)  # noqa: S311  # as above
    units = list(dataset.units(UNITS, seed=7))
    assert await stores.knowledge.create_many(units) == UNITS
    known = {unit.id: unit.unit for unit in units}  # in the order of first insertion
    fresh = dataset.units(UNITS, seed=8)

    async def change(handles: list[AllStores], times: int) -> None:
        for _ in range(times):
            entry = next(fresh)
            action = dice.random()
            if action < 0.3:
                gone = dice.choice(list(known))
                del known[gone]
                assert await dice.choice(handles).knowledge.delete(gone)
                continue
            if action < 0.7:
                kind = entry.unit["@type"]
                id = dice.choice([one for one, unit in known.items() if unit["@type"] == kind])
                entry = replace(entry, id=id, unit=entry.unit | {"id": id})
            known[entry.id] = entry.unit
            await dice.choice(handles).knowledge.create(entry)

    for _ in range(8):
        await change(handles, 60)
        for handle in handles:
            await _compare_units(handle, known, dice)
    if Capability.DURABLE in stores.capabilities:
        for _ in range(2):
            await lab.close()
            await change([await lab.open()], 60)  # which asks for nothing
            await lab.close()
            await _compare_units(await lab.open(), known, dice)


async def _compare_units(stores: AllStores, known: dict[str, Any], dice: random.Random) -> None:
    for _ in range(12):
        text = dice.choice([*_texts(dice.choice(list(known.values()))), "of the", "the", "e", " "])
        begin = dice.randrange(len(text))
        asked: dict[str, Any] = {
            "query": dice.choice([None, text[begin : begin + dice.randint(1, 12)].upper()]),
            "domain": dice.choice([None, None, dice.choice(dataset.DOMAINS)]),
            "types": dice.choice([None, None, ["ExpertSOP"], ["ReasoningTrace", "ToolCallPattern"]]),
            "min_quality": dice.choice([None, 0.5, 0.8]),
        }
        found = [id for id, unit in known.items() if _is_match(unit, **asked)]
        found.sort(key=lambda id: -known[id]["metadata"]["quality_score"])
        for offset in (0, dice.randrange(len(found) + 1)):
            page = await stores.knowledge.search(**asked, offset=offset, limit=20)
            assert (page.total, [entry.id for entry in page.data]) == (
                len(found),
                found[offset : offset + 20],
            ), f"search({asked}, offset={offset})"


def _texts(unit: dict[str, Any]) -> list[str]:
    match unit["@type"]:
        case "ReasoningTrace":
            return [unit["task"]["objective"], *(step["content"] for step in unit["steps"])]
        case "ToolCallPattern":
            return [unit["name"], unit["description"]]
        case _:
            return [unit["name"], unit["domain"]]


def _is_match(
    unit: dict[str, Any],
    query: str | None,
    domain: str | None,
    types: list[str] | None,
    min_quality: float | None,
) -> bool:
    metadata = unit["metadata"]
    return (
        (query is None or any(query.casefold() in text.casefold() for text in _texts(unit)))  # it is ASCII
        and domain in (None, metadata["task_domain"])
        and (types is None or unit["@type"] in types)
        and (min_quality is None or metadata["quality_score"] >= min_quality)
    )
