"""The data sets that latencies are measured on, loaded into stores once and shared by all cases on them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from itertools import islice
from typing import Any

from kpstore import AllStores, StoredKnowledgeUnit, StoredSkill, ValidationVote
from kpstore_conformance import dataset
from kpstore_conformance.target import CaseTarget

__all__ = ["DataSetInUse", "load"]

_BATCH = 500
"""Records of one create_many, and calls under way at once where there is no such method."""

_SAMPLES = 200
"""Records that calls are given in turn: twice as many as there are calls in a pass."""

_LARGE = 900_000
_LARGE_RECORDS = 8
"""Bytes of a record, as large as records may be, and how many are written: more than the 4 MB that SQLite's
log has by default.
"""

_NEVER_REACHED = 100_000_000
"""The number of a record that no data set has."""

_TICK = timedelta(microseconds=100)
"""A million records are loaded within an hour of such ticks."""

HISTORY_AGENT = "kp:agent:prolific"


class LoadingClock:
    """A clock that goes a tick each time that it is asked while a data set is loaded, and then stands still:
    what an index by time looks like, and costs, is no chance then.
    """

    def __init__(self) -> None:
        self._ticks = 0
        self.stands = False

    def __call__(self) -> datetime:
        self._ticks += not self.stands
        return dataset.START + self._ticks * _TICK


@dataclass(frozen=True, slots=True)
class DataSetInUse:
    """A loaded data set: the stores that hold it, where they are, and some of its records, evenly spread."""

    stores: AllStores
    target: CaseTarget
    clock: LoadingClock
    sample: list[Any]
    new: Callable[[int], object]

    async def close(self) -> None:
        """Close the stores and remove the data."""
        try:
            await self.stores.close()
        finally:
            await self.target.dispose()


async def load(
    name: str, records: int, stores: AllStores, target: CaseTarget, clock: LoadingClock
) -> DataSetInUse:
    """Load a data set of that many records into empty stores, whose clock it is."""
    fill, new = _LOADERS[name]
    every = max(records // _SAMPLES, 1)
    with _loaded_dice():
        sample = await fill(stores, records, lambda number: number % every == 0)
    await _make_room(stores)
    clock.stands = True
    return DataSetInUse(stores, target, clock, sample, cache(lambda number: new(records + number)))


@contextmanager
def _loaded_dice() -> Iterator[None]:
    """Let `random` give the same numbers each time: a store may throw dice over how it lays out its data, and
    what a call costs is then a matter of luck that stays as long as the data set.
    """
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


async def _make_room(stores: AllStores) -> None:
    """Write and remove some megabytes: a log that starts over at some size has that size then. While its file
    still grows, a commit takes twice as long.
    """
    large = [
        replace(skill, content="x" * _LARGE) for skill in dataset.skills(_LARGE_RECORDS, start=_NEVER_REACHED)
    ]
    for skill in large:
        await stores.skills.create(skill)
    for skill in large:
        await stores.skills.delete(skill.id)


_Wanted = Callable[[int], bool]
_Fill = Callable[[AllStores, int, _Wanted], Awaitable[list[Any]]]


async def _in_batches(
    records: Iterator[Any], create_many: Callable[[list[Any]], Awaitable[int]], wanted: _Wanted
) -> list[Any]:
    sample: list[Any] = []
    number = 0
    while batch := list(islice(records, _BATCH)):
        await create_many(batch)
        sample.extend(record for offset, record in enumerate(batch) if wanted(number + offset))
        number += len(batch)
    return sample


async def _one_by_one(count: int, call: Callable[[int], Awaitable[Any]], wanted: _Wanted) -> list[Any]:
    sample: list[Any] = []
    for start in range(0, count, _BATCH):
        numbers = range(start, min(start + _BATCH, count))
        results = await asyncio.gather(*map(call, numbers))
        sample.extend(result for number, result in zip(numbers, results, strict=True) if wanted(number))
    return sample


async def _skills(stores: AllStores, count: int, wanted: _Wanted) -> list[StoredSkill]:
    return await _in_batches(dataset.skills(count), stores.skills.create_many, wanted)


async def _units(stores: AllStores, count: int, wanted: _Wanted) -> list[StoredKnowledgeUnit]:
    return await _in_batches(dataset.units(count), stores.knowledge.create_many, wanted)


def _agent(number: int) -> str:
    return f"kp:agent:{number:07d}"


async def _agents(stores: AllStores, count: int, wanted: _Wanted) -> list[str]:
    async def call(number: int) -> str:
        await stores.reputation.upsert(_agent(number), number * 7919 % 1001, "Contributed a unit")
        return _agent(number)

    return await _one_by_one(count, call, wanted)


async def _history(stores: AllStores, count: int, wanted: _Wanted) -> list[str]:
    async def call(number: int) -> str:
        await stores.reputation.upsert(HISTORY_AGENT, 1, f"Validated unit {number}")
        return HISTORY_AGENT

    return await _one_by_one(count, call, wanted)


def _vote(number: int) -> ValidationVote:
    unit = f"kp:trace:{number // 10:07d}"
    return ValidationVote(_agent(number % 997), _agent(number % 499), unit, number % 3 > 0, dataset.START)


async def _votes(stores: AllStores, count: int, wanted: _Wanted) -> list[ValidationVote]:
    async def call(number: int) -> ValidationVote:
        await stores.reputation.record_vote(_vote(number))
        return _vote(number)

    return await _one_by_one(count, call, wanted)


async def _keys(stores: AllStores, count: int, wanted: _Wanted) -> list[Any]:
    return await _one_by_one(
        count, lambda number: stores.api_keys.create(_agent(number // 10), ["read", "write"], "pro"), wanted
    )


async def _buckets(stores: AllStores, count: int, wanted: _Wanted) -> list[str]:
    async def call(number: int) -> str:
        await stores.rate_limit.consume(_agent(number), "pro", "GET")
        await stores.rate_limit.record_429(_agent(number))
        return _agent(number)

    return await _one_by_one(count, call, wanted)


async def _entries(stores: AllStores, count: int, wanted: _Wanted) -> list[Any]:
    return await _one_by_one(
        count,
        lambda number: stores.audit_log.log(
            f"action-{number % 7}",
            dataset.agent(number % dataset.AGENTS),
            "knowledge_unit",
            dataset.unit_id(number),
            "192.0.2.1",
        ),
        wanted,
    )


_LOADERS: dict[str, tuple[_Fill, Callable[[int], object]]] = {
    "skills": (_skills, lambda number: next(dataset.skills(1, start=number))),
    "units": (_units, lambda number: next(dataset.units(1, start=number))),
    "agents": (_agents, _agent),
    "history": (_history, _agent),
    "votes": (_votes, _vote),
    "keys": (_keys, _agent),
    "buckets": (_buckets, _agent),
    "entries": (_entries, _agent),
}
