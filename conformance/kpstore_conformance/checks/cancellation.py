"""A cancelled call happened whole or not at all, and the stores go on as if it had not been.

Calls are cancelled at each of their suspensions in turn, in three ways (see `When`), until they have no such
suspension any more; then many at once are cancelled at random moments. `KP_CANCELLATION_ROUNDS` makes more
rounds of the latter.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from kpstore import AllStores, StoreClosedError
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._driving import (
    PATIENCE_S,
    WHENS,
    cancelled_at,
    nothing_complains,
    some_turns,
)
from kpstore_conformance.checks._samples import (
    METHODS,
    contents,
    difference,
    fill,
    gathered,
    pattern,
    skill,
    vote,
    within,
)

ROUNDS = int(os.environ.get("KP_CANCELLATION_ROUNDS", "2"))
CALLS_PER_ROUND = 300

_MOST_SUSPENSIONS = 12
"""Suspensions at which one call is cancelled: those of a long call repeat themselves."""

_SETTLES_S = 5.0
"""A cancelled write may still be on its way to the disk when its caller goes on."""

_HOUR = timedelta(hours=1)
_BATCH = 40
_LARGE_BATCH = 1000

# Large enough to be checked and copied with turns of the event loop in between.
_LARGE: dict[str, Any] = {"large": [{"text": f"{n}", "numbers": [n] * 20} for n in range(300)]}
_FILES = {f"file-{n}": "text" for n in range(3000)}


@dataclass(frozen=True, slots=True)
class _Change:
    """A call that changes something, and how to see whether it happened.

    Attributes:
        what: what it is.
        call: makes the call on data of the given name; the last argument is what `prepare` gave.
        seen: all that shows of the data, free of its name. What it gives before and after an undisturbed call
            are the only two things that it may give after a cancelled one.
        prepare: brings about what the call needs.
    """

    what: str
    call: Callable[[AllStores, str, Any], Awaitable[Any]]
    seen: Callable[[AllStores, str, Any], Awaitable[Any]]
    prepare: Callable[[AllStores, str], Awaitable[Any]] | None = None


def _batch(name: str, **changes: Any) -> list[Any]:
    return [skill(f"{name}-{n}", tags=(name,), **changes) for n in range(_BATCH)]


def _units(name: str, agent: str, count: int = _BATCH, **keys: Any) -> list[Any]:
    return [pattern(f"{name}-{n}", agent_id=f"{name} {agent}", **keys) for n in range(count)]


async def _skills_seen(stores: AllStores, name: str, _: Any) -> Any:
    found = [await stores.skills.get_by_id(f"{name}-{n}") for n in (0, _BATCH // 2, _BATCH - 1)]
    page = await stores.skills.search(tags=[name], limit=1000)
    return (
        [None if each is None else (each.description, len(each.files)) for each in found],
        page.total,
        [(each.id.removeprefix(name), each.description) for each in page.data],
    )


async def _units_seen(stores: AllStores, name: str, _: Any) -> Any:
    found = [await stores.knowledge.get_by_id(f"kp:pattern:{name}-{n}") for n in (0, _BATCH // 2, _BATCH - 1)]
    agents = [await stores.knowledge.get_by_agent_id(f"{name} {which}") for which in ("old", "new")]
    return (
        [None if each is None else len(each.unit.get("large", ())) for each in found],
        (await stores.knowledge.search(query=f"name of {name}-", limit=0)).total,
        [[each.id.partition(name)[2] for each in units] for units in agents],
    )


async def _agent_seen(stores: AllStores, name: str, _: Any) -> Any:
    record = await stores.reputation.get(name)
    history = await stores.reputation.get_history(name, limit=1000)
    if record is None:
        return (None, history.total)
    return (
        record.score,
        record.contributions,
        record.validations,
        len(record.history),
        history.total,
        [each.delta for each in history.data],
    )


async def _votes_seen(stores: AllStores, name: str, _: Any) -> Any:
    everything = await stores.reputation.get_votes()
    return len(await stores.reputation.get_votes(name)), sum(each.unit_id == name for each in everything)


async def _keys_seen(stores: AllStores, name: str, made: Any) -> Any:
    keys = await stores.api_keys.get_by_agent_id(name)
    verified = made is not None and await stores.api_keys.verify(made.raw_key) is not None
    return [(each.revoked, each.revoked_at is not None) for each in keys], verified


async def _entries_seen(stores: AllStores, name: str, _: Any) -> Any:
    page = await stores.audit_log.query(agent_id=name)
    return page.total, [len((each.details or {})["large"]) for each in page.data]


async def _no_looks(stores: AllStores, name: str) -> list[None]:
    return []


async def _bucket_seen(stores: AllStores, name: str, looks: list[None]) -> Any:
    # Looking takes a token too, and is counted.
    decision = await stores.rate_limit.consume(name, "enterprise", "GET")
    looks.append(None)
    return decision.limit - decision.remaining - len(looks)


_CHANGES = (
    _Change(
        "creating a skill",
        lambda stores, name, _: stores.skills.create(skill(f"{name}-0", tags=(name,), files=_FILES)),
        _skills_seen,
    ),
    _Change(
        "replacing a skill",
        lambda stores, name, _: stores.skills.create(
            skill(f"{name}-0", tags=(name,), files=_FILES, description="new")
        ),
        _skills_seen,
        lambda stores, name: stores.skills.create(skill(f"{name}-0", tags=(name,))),
    ),
    _Change(
        "creating many skills, some of them again",
        lambda stores, name, _: stores.skills.create_many(_batch(name, description="new")),
        _skills_seen,
        lambda stores, name: stores.skills.create_many(_batch(name)[10:]),
    ),
    _Change(
        "deleting a skill",
        lambda stores, name, _: stores.skills.delete(f"{name}-0"),
        _skills_seen,
        lambda stores, name: stores.skills.create_many(_batch(name)[:2]),
    ),
    _Change(
        "creating a unit",
        lambda stores, name, _: stores.knowledge.create(_units(name, "new", 1, **_LARGE)[0]),
        _units_seen,
    ),
    _Change(
        "replacing a unit",
        lambda stores, name, _: stores.knowledge.create(_units(name, "new", 1, **_LARGE)[0]),
        _units_seen,
        lambda stores, name: stores.knowledge.create_many(_units(name, "old", 2)),
    ),
    _Change(
        "creating many units, some of them again",
        lambda stores, name, _: stores.knowledge.create_many(_units(name, "new")),
        _units_seen,
        lambda stores, name: stores.knowledge.create_many(_units(name, "old")[10:]),
    ),
    _Change(
        "deleting a unit",
        lambda stores, name, _: stores.knowledge.delete(f"kp:pattern:{name}-0"),
        _units_seen,
        lambda stores, name: stores.knowledge.create_many(_units(name, "old", 2)),
    ),
    _Change(
        "the first upsert of an agent",
        lambda stores, name, _: stores.reputation.upsert(name, 2.5, "Validated"),
        _agent_seen,
    ),
    _Change(
        "a further upsert of an agent",
        lambda stores, name, _: stores.reputation.upsert(name, -1, "Validated"),
        _agent_seen,
        lambda stores, name: stores.reputation.upsert(name, 3, "first"),
    ),
    _Change("a vote", lambda stores, name, _: stores.reputation.record_vote(vote(name)), _votes_seen),
    _Change(
        "making a key",
        lambda stores, name, _: stores.api_keys.create(name, ["read"], "free"),
        _keys_seen,
    ),
    _Change(
        "revoking a key",
        lambda stores, name, made: stores.api_keys.revoke(made.record.key_prefix),
        _keys_seen,
        lambda stores, name: stores.api_keys.create(name, ["read"], "free"),
    ),
    _Change(
        "taking a token",
        lambda stores, name, _: stores.rate_limit.consume(name, "enterprise", "GET"),
        _bucket_seen,
        _no_looks,
    ),
    _Change(
        "noting a refusal",
        lambda stores, name, _: stores.rate_limit.record_429(name),
        lambda stores, name, _: stores.rate_limit.get_429_count(name, _HOUR),
    ),
    _Change(
        "logging an entry",
        lambda stores, name, _: stores.audit_log.log("act", name, "unit", "one", "192.0.2.1", _LARGE),
        _entries_seen,
    ),
)


async def _settled(change: _Change, stores: AllStores, name: str, made: Any, allowed: list[Any]) -> Any:
    """What is seen, as soon as it is one of the allowed two; the last seen where it never is."""
    end = asyncio.get_running_loop().time() + _SETTLES_S
    while True:
        seen = await within(PATIENCE_S, change.seen(stores, name, made), f"{change.what}: looking afterwards")
        if seen in allowed or asyncio.get_running_loop().time() > end:
            return seen
        await asyncio.sleep(0.01)


async def _prepared(change: _Change, stores: AllStores, name: str) -> Any:
    if change.prepare is None:
        return None
    return await within(PATIENCE_S, change.prepare(stores, name), f"{change.what}: preparing it")


async def _before_and_after(change: _Change, stores: AllStores) -> tuple[Any, Any]:
    """What is seen before and after a call that nobody disturbs."""
    name = f"{change.what} undisturbed"
    made = await _prepared(change, stores, name)
    before = await change.seen(stores, name, made)
    await change.call(stores, name, made)
    after = await change.seen(stores, name, made)
    assert before != after, f"{change.what} changes nothing"
    return before, after


async def _cancel_everywhere(stores: AllStores, change: _Change) -> None:
    """Cancel the change at each of its suspensions, in each way."""
    before, after = await _before_and_after(change, stores)
    for number in range(_MOST_SUSPENSIONS):
        reached = False
        for when in WHENS:
            what = f"{change.what}, cancelled at suspension {number} {when}"
            made = await _prepared(change, stores, what)
            ended = await cancelled_at(change.call(stores, what, made), number, when, change.what)
            reached = reached or ended.reached
            allowed = [before, after] if ended.cancelled else [after]
            seen = await _settled(change, stores, what, made, allowed)
            _assert_one_of(seen, allowed, what)
            await some_turns()
            # On its way it may still be, but only forwards.
            _assert_one_of(await _settled(change, stores, what, made, [seen]), [seen, after], what)
        if not reached:
            break


def _assert_one_of(seen: Any, allowed: list[Any], what: str) -> None:
    if seen not in allowed:
        expected = "\n  or: ".join(_short(each) for each in allowed)
        raise AssertionError(f"{what}, happened in part\n  not: {expected}\n  but: {_short(seen)}")


def _short(seen: Any) -> str:
    text = repr(seen)
    return text if len(text) <= 500 else f"{text[:500]} …"


async def _everything_agrees(stores: AllStores) -> None:
    """What the lists, the pages and the scans say of the same records is the same."""
    skills = await gathered(stores.skills.scan())
    units = await gathered(stores.knowledge.scan())
    agents = await gathered(stores.reputation.scan())
    for what, records, total, key in (
        ("skills", skills, (await stores.skills.search(limit=0)).total, "id"),
        ("units", units, (await stores.knowledge.search(limit=0)).total, "id"),
        ("agents", agents, (await stores.reputation.get_leaderboard(limit=0)).total, "agent_id"),
    ):
        keys = [getattr(record, key) for record in records]
        assert len(keys) == len(set(keys)), f"{what}: a scan gives one of them twice"
        assert len(keys) == total, f"{what}: a scan gives {len(keys)}, a search counts {total}"
    assert agents == await stores.reputation.get_all(), "get_all and scan disagree on the agents"
    entries = await gathered(stores.audit_log.scan())
    assert len(entries) == (await stores.audit_log.query(limit=0)).total, "scan and query disagree on the log"


@check(
    clauses=["GEN-7"],
    name="a change cancelled at any of its suspensions happens whole or not at all",
    timeout_s=240,
)
async def changes(lab: Lab) -> None:
    """Each changing method, cancelled at each point at which it gives way, has happened whole or not at all;
    it ends at once, the store goes on, and nothing is left that nobody retrieved.
    """
    stores = await lab.open()
    async with nothing_complains("after cancelled changes"):
        for change in _CHANGES:
            await _cancel_everywhere(stores, change)
        await _everything_agrees(stores)


@check(clauses=["GEN-7"], name="a change that waits for a large batch can be cancelled too", timeout_s=240)
async def changes_behind_a_batch(lab: Lab) -> None:
    """Each changing method, cancelled while a batch of 1,000 records of its store is being stored, has
    happened whole or not at all, and so has the batch.
    """
    stores = await lab.open()
    batches = {
        "skill": lambda name: stores.skills.create_many([skill(f"{name} {n}") for n in range(_LARGE_BATCH)]),
        "unit": lambda name: stores.knowledge.create_many(
            [pattern(f"{name} {n}") for n in range(_LARGE_BATCH)]
        ),
    }
    async with nothing_complains("after changes cancelled behind a batch"):
        expected = 0
        for change in _CHANGES:
            kind = next((kind for kind in batches if kind in change.what), None)
            if kind is None or "many" in change.what:
                continue
            allowed = list(await _before_and_after(change, stores))
            for when in WHENS:
                what = f"{change.what} behind a batch, cancelled {when}"
                made = await _prepared(change, stores, what)
                batch = asyncio.create_task(batches[kind](f"batch of {what}"))
                await some_turns(150)
                ended = await cancelled_at(change.call(stores, what, made), 0, when, what)
                given = await within(PATIENCE_S, batch, f"the batch beside {what}")
                assert given == _LARGE_BATCH
                expected += _LARGE_BATCH
                allowed_now = allowed if ended.cancelled else allowed[1:]
                _assert_one_of(await _settled(change, stores, what, made, allowed_now), allowed_now, what)
        counted = sum(
            [
                (await stores.skills.search(query="name of batch", limit=0)).total,
                (await stores.knowledge.search(query="name of batch", limit=0)).total,
            ]
        )
        assert counted == expected, f"of {expected} records in batches {counted} are there"
        await _everything_agrees(stores)


@check(clauses=["GEN-7"], name="a read cancelled at any of its suspensions leaves the next one right")
async def reads(lab: Lab) -> None:
    """Each reading method, cancelled at each point at which it gives way, gives the same as before when it is
    called again, and changes nothing.
    """
    stores = await lab.open()
    await fill(stores)
    await stores.skills.create_many([skill(f"more {n}") for n in range(600)])
    await stores.knowledge.create_many([pattern(f"more {n}") for n in range(600)])
    before = await contents(stores)
    async with nothing_complains("after cancelled reads"):
        for method in METHODS:
            if method.changes:
                continue
            wide = {"search": {"limit": 1000}, "scan": {"batch_size": 200}}.get(method.name, {})
            expected = await method.call(stores, **wide)
            for number in range(_MOST_SUSPENSIONS):
                reached = False
                for when in WHENS:
                    ended = await cancelled_at(method.call(stores, **wide), number, when, str(method))
                    reached = reached or ended.reached
                    again = await within(PATIENCE_S, method.call(stores, **wide), f"{method} once more")
                    assert again == expected, f"{method} gives something else after a cancelled call"
                if not reached:
                    break
    changed = difference(before, await contents(stores))
    assert not changed, f"cancelled reads changed {changed}"


@check(clauses=["GEN-7", "GEN-10"], name="opening and closing can be cancelled at any suspension")
async def opening_and_closing(lab: Lab) -> None:
    """A cancelled create_store leaves nothing behind that keeps the next one from opening, no thread either;
    a cancelled close can be closed again, and what was acknowledged is there on a durable backend.
    """
    threads = threading.active_count()
    async with nothing_complains("after cancelled openings and closings"):
        for number in range(_MOST_SUSPENSIONS):
            reached = False
            for when in WHENS:
                ended = await cancelled_at(lab.open(), number, when, "create_store")
                reached = reached or ended.reached
                await lab.close()
                await _threads_end(threads, f"create_store cancelled at suspension {number} {when}")
            if not reached:
                break
        known = 0
        for number in range(_MOST_SUSPENSIONS):
            reached = False
            for when in WHENS:
                stores = await within(PATIENCE_S, lab.open(), "create_store after cancelled ones")
                if "durable" in stores.capabilities:
                    total = (await stores.skills.search(limit=0)).total
                    assert total == known, f"of {known} acknowledged skills {total} are there"
                await stores.skills.create(skill(f"{number} {when}"))
                known += 1
                ended = await cancelled_at(stores.close(), number, when, "close")
                reached = reached or ended.reached
                await within(PATIENCE_S, stores.close(), "close after a cancelled close")
                try:
                    await stores.skills.get_by_id("anything")
                except StoreClosedError:
                    pass
                else:
                    raise AssertionError("a store answers after a cancelled close and a second one")
                await _threads_end(threads, f"close cancelled at suspension {number} {when}")
            if not reached:
                break


async def _threads_end(count: int, what: str) -> None:
    """Wait until there are no more threads than before; the default executor's may stay for the next call."""
    end = asyncio.get_running_loop().time() + _SETTLES_S
    while True:
        left = [each.name for each in threading.enumerate() if not each.name.startswith("asyncio_")]
        if len(left) <= count:
            return
        assert asyncio.get_running_loop().time() < end, f"{what} leaves a thread behind: {', '.join(left)}"
        await asyncio.sleep(0.01)


@dataclass(slots=True)
class _Tally:
    """How calls of one kind ended: what was given, and how many were cancelled."""

    given: list[Any]
    cancelled: int = 0

    def includes(self, count: int, what: str) -> None:
        """Fail unless `count` have happened: all that ended, and any number of the cancelled ones."""
        least, most = len(self.given), len(self.given) + self.cancelled
        assert least <= count <= most, (
            f"{what}: {len(self.given)} ended and {self.cancelled} were cancelled, but {count} happened"
        )


@check(clauses=["GEN-7", "GEN-8"], name="calls cancelled at random under load happen whole or not at all")
async def under_load(lab: Lab) -> None:
    """Of hundreds of concurrent calls on all stores, half of them cancelled at random moments, each that
    ended has happened, each cancelled one has happened whole or not at all, and no call hangs.
    """
    stores = await lab.open()
    async with nothing_complains("after calls cancelled under load"):
        for number in range(ROUNDS):
            await within(90, _load_round(stores, random.Random(number), number), f"round {number}")  # noqa: S311
        await _everything_agrees(stores)


async def _load_round(stores: AllStores, chance: random.Random, round_number: int) -> None:
    name = f"round {round_number}"
    for n in range(CALLS_PER_ROUND):
        await stores.skills.create(skill(f"{name} doomed {n}", tags=(f"{name} doomed",)))

    def group(n: int) -> list[Any]:
        return [skill(f"{name} group {n} {which}", tags=(f"{name} group {n}",)) for which in range(20)]

    kinds: dict[str, Callable[[int], Awaitable[Any]]] = {
        "upsert": lambda n: stores.reputation.upsert(f"{name} {n % 3}", 1, "Validated"),
        "vote": lambda n: stores.reputation.record_vote(vote(name)),
        "log": lambda n: stores.audit_log.log("act", name, "unit", f"{n}", "192.0.2.1", {"n": n}),
        "create": lambda n: stores.knowledge.create(pattern(f"{name} {n}", agent_id=name, **_LARGE)),
        "group": lambda n: stores.skills.create_many(group(n)),
        "delete": lambda n: stores.skills.delete(f"{name} doomed {n}"),
        "consume": lambda n: stores.rate_limit.consume(name, "enterprise", "POST"),
        "429": lambda n: stores.rate_limit.record_429(name),
        "key": lambda n: stores.api_keys.create(name, ["read"], "free"),
        "search": lambda n: stores.skills.search(query="name", limit=5),
        "read": lambda n: stores.knowledge.get_by_agent_id(name),
    }
    tallies = {kind: _Tally([]) for kind in kinds}
    groups: dict[int, bool] = {}

    async def one(kind: str, n: int) -> None:
        task = asyncio.ensure_future(kinds[kind](n))
        if chance.random() < 0.5:
            asyncio.get_running_loop().call_later(chance.random() * 0.05, task.cancel)
        await asyncio.wait([task])
        if task.cancelled():
            tallies[kind].cancelled += 1
        else:
            tallies[kind].given.append(task.result())
        if kind == "group":
            groups[n] = not task.cancelled()

    calls = [(chance.choice(list(kinds)), n) for n in range(CALLS_PER_ROUND)]
    await asyncio.gather(*(one(kind, n) for kind, n in calls))

    # A write of the same kind, awaited, is behind all those that are still on their way.
    await stores.skills.create(skill(f"{name} last"))
    await asyncio.sleep(0.1)

    upserts = 0
    for n in range(3):
        record = await stores.reputation.get(f"{name} {n}")
        if record is not None:
            upserts += record.contributions
            history = await stores.reputation.get_history(f"{name} {n}", limit=1000)
            seen = (record.score, record.contributions, record.validations)
            assert seen == (history.total,) * 3, (
                f"an upsert happened in part: {seen}, history {history.total}"
            )
    tallies["upsert"].includes(upserts, "upsert")
    tallies["vote"].includes(len(await stores.reputation.get_votes(name)), "record_vote")
    entries = (await stores.audit_log.query(agent_id=name, limit=1000)).data
    tallies["log"].includes(len(entries), "audit log")
    absent = {entry.id for entry in tallies["log"].given} - {entry.id for entry in entries}
    assert not absent, f"{len(absent)} acknowledged audit entries are not there"
    units = await stores.knowledge.get_by_agent_id(name)
    tallies["create"].includes(len(units), "knowledge.create")
    for unit in units:
        assert unit.unit["large"] == _LARGE["large"], f"{unit.id} is there in part"
    for n, ended in groups.items():
        total = (await stores.skills.search(tags=[f"{name} group {n}"])).total
        assert total == 20 or (total == 0 and not ended), f"create_many of 20 left {total}, ended: {ended}"
    doomed = (await stores.skills.search(tags=[f"{name} doomed"], limit=0)).total
    tallies["delete"].includes(CALLS_PER_ROUND - doomed, "delete")
    decision = await stores.rate_limit.consume(name, "enterprise", "POST")
    tallies["consume"].includes(decision.limit - decision.remaining - 1, "consume")
    tallies["429"].includes(await stores.rate_limit.get_429_count(name, _HOUR), "record_429")
    tallies["key"].includes(len(await stores.api_keys.get_by_agent_id(name)), "api_keys.create")
    for new in tallies["key"].given:
        assert await stores.api_keys.verify(new.raw_key) == new.record, "an acknowledged key does not verify"
    assert sum(tally.cancelled for tally in tallies.values()) > 0, "no call was cancelled: nothing was tried"
