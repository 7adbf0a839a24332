"""Concurrent calls equal some order of the same calls one after another: between tasks of one handle, between
handles, and between processes.

`KP_CONCURRENCY_ROUNDS` records more histories for the checks of linearizability.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from kpstore import AllStores
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._linear import Call, assert_linearizable
from kpstore_conformance.checks._objects import KINDS, client
from kpstore_conformance.checks._processes import in_processes
from kpstore_conformance.checks._samples import gathered, pattern, skill, vote

HISTORIES = int(os.environ.get("KP_CONCURRENCY_ROUNDS", "25"))

_HOUR = timedelta(hours=1)
_PROCESSES = 4
_EACH = 250


async def _handles(lab: Lab, count: int) -> list[AllStores]:
    """Handles on the same data, on a backend that shares it between handles; else one handle."""
    first = await lab.open()
    if "multi_process" not in first.capabilities:
        return [first]
    return [first, *[await lab.open() for _ in range(count - 1)]]


def _each_once(what: str, seen: Sequence[Any], expected: Sequence[Any]) -> None:
    """Fail unless `seen` has each of `expected` once, and nothing else."""
    wrong = Counter(seen)
    wrong.subtract(Counter(expected))
    lost = [item for item, count in wrong.items() if count < 0]
    extra = [item for item, count in wrong.items() if count > 0]
    if lost or extra:
        raise AssertionError(
            f"{what}: of {len(expected)} {len(lost)} are not there {lost[:3]},"
            f" and {len(extra)} are there too often {extra[:3]}"
        )


async def _assert_agent(stores: AllStores, agent: str, count: int) -> None:
    record = await stores.reputation.get(agent)
    assert record is not None, f"{agent} was upserted {count} times and is not there"
    history = await stores.reputation.get_history(agent, limit=1000)
    seen = (record.score, record.contributions, record.validations, history.total)
    assert seen == (count,) * 4, (
        f"after {count} upserts: score, contributions, validations and history are {seen}"
    )
    reasons = [entry.reason for entry in history.data]
    assert len(set(reasons)) == min(count, 1000), "the history has an upsert twice"


# ---- tasks and handles


@check(clauses=["GEN-8", "REP-6"], name="a thousand upserts at once by tasks and handles lose none")
async def upserts(lab: Lab) -> None:
    """1,000 upserts of one agent at once, spread over the handles: none is lost, and each is told a number of
    contributions of its own, as if they had been made one after another.
    """
    handles = await _handles(lab, 3)
    records = await asyncio.gather(
        *(handles[n % len(handles)].reputation.upsert("agent", 1, f"Validated {n}") for n in range(1000))
    )
    _each_once("the contributions told", [record.contributions for record in records], range(1, 1001))
    for handle in handles:
        await _assert_agent(handle, "agent", 1000)


@check(clauses=["GEN-8", "RATE-4"], requires=["controllable_clock"], name="exactly k of n takers get a token")
async def tokens(lab: Lab) -> None:
    """Of 500 calls at once on a bucket with 200 tokens exactly 200 are allowed, whatever the handle, and each
    is told another number of those that remain.
    """
    handles = await _handles(lab, 3)
    decisions = await asyncio.gather(
        *(handles[n % len(handles)].rate_limit.consume("caller", "pro", "POST") for n in range(500))
    )
    allowed = [decision.remaining for decision in decisions if decision.allowed]
    _each_once("the tokens that remained", allowed, range(200))


@check(clauses=["GEN-8", "KEY-4"], name="of many revocations at once exactly one is the one")
async def revocations(lab: Lab) -> None:
    """Of 20 revocations of a key at once exactly one says that it revoked it, and when the first has returned
    no handle verifies the key.
    """
    handles = await _handles(lab, 3)
    for _ in range(10):
        new = await handles[0].api_keys.create("author", ["read"], "free")

        async def revoke(handle: AllStores, prefix: str, raw_key: str) -> bool:
            revoked = await handle.api_keys.revoke(prefix)
            for other in handles:
                assert await other.api_keys.verify(raw_key) is None, "a revoked key verifies"
            return revoked

        answers = await asyncio.gather(
            *(revoke(handles[n % len(handles)], new.record.key_prefix, new.raw_key) for n in range(20))
        )
        assert sum(answers) == 1, f"{sum(answers)} of 20 calls say that they revoked the key"


@check(clauses=["GEN-8", "REP-4", "AUDIT-1"], name="appends at once are all there exactly once")
async def appends(lab: Lab) -> None:
    """300 audit entries, votes, refusals and keys at once: each is there exactly once, with an id or a prefix
    of its own.
    """
    handles = await _handles(lab, 3)

    def handle(n: int) -> AllStores:
        return handles[n % len(handles)]

    entries, keys, *_ = await asyncio.gather(
        asyncio.gather(*(handle(n).audit_log.log("act", "a", "t", f"{n}", "::1") for n in range(300))),
        asyncio.gather(*(handle(n).api_keys.create("author", ["read"], "free") for n in range(300))),
        asyncio.gather(
            *(handle(n).reputation.record_vote(vote("unit", validator_id=f"v{n}")) for n in range(300))
        ),
        asyncio.gather(*(handle(n).rate_limit.record_429("caller") for n in range(300))),
    )
    for one in handles:
        scanned = await gathered(one.audit_log.scan())
        _each_once("audit entries", [entry.id for entry in scanned], [entry.id for entry in entries])
        _each_once("their resources", [entry.resource_id for entry in scanned], [f"{n}" for n in range(300)])
        votes = await one.reputation.get_votes("unit")
        _each_once("votes", [each.validator_id for each in votes], [f"v{n}" for n in range(300)])
        assert await one.rate_limit.get_429_count("caller", _HOUR) == 300
        found = await one.api_keys.get_by_agent_id("author")
        _each_once("keys", [key.key_prefix for key in found], [new.record.key_prefix for new in keys])
    assert len({new.raw_key for new in keys}) == 300


@check(clauses=["GEN-8", "SKILL-7", "KNOW-2"], name="no reader sees a part of a batch")
async def batches_are_atomic(lab: Lab) -> None:
    """While batches replace each other, every page, list and scan shows records of whole batches only, and
    never a record twice; and whoever has read a batch's first record reads its last one next, or a later one.
    """
    handles = await _handles(lab, 2)
    writer, reader = handles[0], handles[-1]
    size = 300
    ids = [f"kp:pattern:{n:03d}" for n in range(size)]

    def batch(version: int) -> list[Any]:
        return [
            pattern(f"{n:03d}", agent_id="all", quality=version % 10 / 10, version=version)
            for n in range(size)
        ]

    await writer.knowledge.create_many(batch(0))
    writing = True

    async def write() -> None:
        nonlocal writing
        for version in range(1, 9):
            await writer.knowledge.create_many(batch(version))
        writing = False

    async def read() -> int:
        reads = 0
        while writing:
            pages = [
                await reader.knowledge.get_by_agent_id("all"),
                (await reader.knowledge.search(limit=1000)).data,
                (await reader.knowledge.search(query="pattern", limit=1000)).data,
                await gathered(reader.knowledge.scan(batch_size=1000)),
            ]
            for records in pages:
                assert [record.id for record in records] == ids, (
                    "a reader saw a batch in part or in another order"
                )
                versions = {record.unit["version"] for record in records}
                assert len(versions) == 1, f"a reader saw two batches in one answer: {sorted(versions)}"
            reads += 1
        return reads

    async def read_one_by_one() -> int:
        reads = 0
        while writing:
            first, last = [await reader.knowledge.get_by_id(id) for id in (ids[0], ids[-1])]
            assert first is not None
            assert last is not None
            assert first.unit["version"] <= last.unit["version"], (
                "a reader saw the beginning of a batch before its end was there"
            )
            reads += 1
            await asyncio.sleep(0)
        return reads

    _, *reads, one_by_one = await asyncio.gather(write(), read(), read(), read_one_by_one())
    assert sum(reads) > 0, "nobody read while the batches were written"
    assert one_by_one > 0, "nobody read one by one while the batches were written"


# ---- linearizability


@check(
    clauses=["GEN-8"],
    requires=["controllable_clock"],
    name="histories of concurrent calls on one record are linearizable",
)
async def histories(lab: Lab) -> None:
    """Clients create, delete, read and seek one skill or unit, upsert and read one agent, revoke and verify
    one key, take from one bucket, log and query what one agent did: at once, on one handle or several. What
    they get, some order of the calls one after another gives too.
    """
    handles = await _handles(lab, 2)
    for number in range(HISTORIES):
        for what, kind in KINDS.items():
            id = await _object(handles[0], what, number)
            clients = await asyncio.gather(
                *(client(what, handles[n % len(handles)], id, n, seed=number * 5 + n) for n in range(5))
            )
            history = [call for calls in clients for call in calls]
            assert_linearizable(f"history {number} of one {what}", history, kind.start, kind.model)


async def _object(stores: AllStores, what: str, number: int) -> str:
    """The id of a new object; of a key, which has to be there first, the raw key."""
    if what == "key":
        return (await stores.api_keys.create("author", ["read"], "free")).raw_key
    return f"{what} {number}"


# ---- processes


@check(
    clauses=["GEN-8"],
    requires=["multi_process", "controllable_clock"],
    name="histories of four processes on one record are linearizable",
)
async def process_histories(lab: Lab) -> None:
    """The same, where each client is a process of its own."""
    stores = await lab.open()
    rounds = max(1, HISTORIES // 5)
    objects = [(what, await _object(stores, what, n)) for n in range(rounds) for what in KINDS]
    meeting = str(lab.folder)
    told = await in_processes(
        lab,
        "clients",
        [{"objects": objects, "number": n, "of": _PROCESSES, "at": meeting} for n in range(_PROCESSES)],
    )
    for place, (what, _) in enumerate(objects):
        history = [Call(*call) for answer in told for call in answer[place]]
        kind = KINDS[what]
        assert_linearizable(f"history {place} of one {what}", history, kind.start, kind.model)


@check(
    clauses=["GEN-8", "REP-6"],
    requires=["multi_process"],
    name="four processes upserting at once lose nothing",
)
async def process_upserts(lab: Lab) -> None:
    """Four processes with 250 upserts each on one agent: its score, its counters and its history have all
    1,000, and each call was told another number.
    """
    stores = await lab.open()
    told = await in_processes(
        lab, "upsert", [{"agent": "agent", "count": _EACH, "who": who} for who in range(_PROCESSES)]
    )
    numbers = [number for answer in told for number in answer]
    _each_once("the contributions told", numbers, range(1, _PROCESSES * _EACH + 1))
    await _assert_agent(stores, "agent", _PROCESSES * _EACH)


@check(
    clauses=["GEN-8", "RATE-4"],
    requires=["multi_process", "controllable_clock"],
    name="four processes take exactly as many tokens as there are",
)
async def process_tokens(lab: Lab) -> None:
    """Of 800 calls by four processes on a bucket with 300 tokens exactly 300 are allowed."""
    stores = await lab.open()
    given = {"identifier": "caller", "tier": "free", "method": "GET", "count": 200}
    told = await in_processes(lab, "consume", [given] * _PROCESSES)
    _each_once("the tokens that remained", [each for answer in told for each in answer], range(300))
    assert not (await stores.rate_limit.consume("caller", "free", "GET")).allowed


@check(
    clauses=["GEN-8"],
    requires=["multi_process"],
    name="four processes that create, replace and delete at once leave whole records",
)
async def process_documents(lab: Lab) -> None:
    """Four processes create skills and batches of units, replace one skill that all share, and delete the
    same 60 skills: nothing created is lost, the shared skill is as one of them wrote it, and each deletion is
    one process's alone.
    """
    stores = await lab.open()
    victims = [f"victim {n}" for n in range(60)]
    await stores.skills.create_many([skill(id) for id in victims])
    rounds = 15
    told = await in_processes(
        lab,
        "documents",
        [{"who": who, "rounds": rounds, "victims": victims} for who in range(_PROCESSES)],
    )
    _each_once("deletions", [id for answer in told for id in answer], victims)
    own = [skill_.id for skill_ in (await stores.skills.search(tags=["own"], limit=1000)).data]
    _each_once("own skills", own, [f"own {who} {n}" for who in range(_PROCESSES) for n in range(rounds)])
    shared = await stores.skills.get_by_id("shared")
    assert shared is not None, "the shared skill is not there"
    written = {shared.name, shared.description, shared.content, shared.author}
    assert len(written) == 1, f"the shared skill is a mixture of {sorted(map(str, written))}"
    units = [unit.id for unit in await stores.knowledge.get_by_agent_id("all")]
    made = [f"kp:pattern:{who}-{n}-{m}" for who in range(_PROCESSES) for n in range(rounds) for m in range(5)]
    _each_once("units", units, made)
    positions = {id: place for place, id in enumerate(units)}
    for first in made[::5]:
        places = [positions[f"{first[:-1]}{m}"] for m in range(5)]
        expected = list(range(places[0], places[0] + 5))
        assert places == expected, f"another process's units are amid the batch of {first}: {places}"
    scanned = [each.id for each in await gathered(stores.skills.scan())]
    _each_once("skills", scanned, [*own, "shared"])


@check(
    clauses=["GEN-8", "AUDIT-1", "AUDIT-4"],
    requires=["multi_process"],
    name="the audit entries of four processes are all there exactly once",
)
async def process_audit(lab: Lab) -> None:
    """Four processes log 150 entries each at once: every one that was acknowledged is there exactly once."""
    stores = await lab.open()
    told = await in_processes(lab, "log", [{"who": who, "count": 150} for who in range(_PROCESSES)])
    scanned = await gathered(stores.audit_log.scan())
    _each_once("audit entries", [entry.id for entry in scanned], [id for answer in told for id in answer])
    for who in range(_PROCESSES):
        page = await stores.audit_log.query(agent_id=f"agent {who}", limit=1000)
        numbers = [entry.resource_id for entry in page.data]
        _each_once(f"entries of process {who}", numbers, [f"{n}" for n in range(150)])


@check(
    clauses=["GEN-8", "KEY-1", "REP-4"],
    requires=["multi_process"],
    name="the votes, refusals and keys of four processes are all there exactly once",
)
async def process_appends(lab: Lab) -> None:
    """Four processes record 60 votes, refusals and keys each at once: none is lost, no prefix comes twice."""
    stores = await lab.open()
    told = await in_processes(lab, "append", [{"who": who, "count": 60} for who in range(_PROCESSES)])
    votes = [each.validator_id for each in await stores.reputation.get_votes("unit")]
    _each_once("votes", votes, [f"{who} {n}" for who in range(_PROCESSES) for n in range(60)])
    assert await stores.rate_limit.get_429_count("caller", _HOUR) == 60 * _PROCESSES
    prefixes = [key.key_prefix for key in await stores.api_keys.get_by_agent_id("author")]
    _each_once("keys", prefixes, [prefix for answer in told for prefix in answer])
    assert len(set(prefixes)) == 60 * _PROCESSES, "two keys have the same prefix"


@check(
    clauses=["GEN-8", "KEY-4"],
    requires=["multi_process"],
    name="of four processes that revoke a key exactly one does",
)
async def process_revocations(lab: Lab) -> None:
    """Four processes revoke the same 40 keys at once: each revocation is True in one process alone, and from
    its return on no process verifies the key.
    """
    stores = await lab.open()
    keys = [await stores.api_keys.create("author", ["read"], "free") for _ in range(40)]
    prefixes = [new.record.key_prefix for new in keys]
    given = {"prefixes": prefixes, "raw_keys": [new.raw_key for new in keys]}
    told = await in_processes(lab, "revoke", [given] * _PROCESSES)
    _each_once("revocations", [prefix for answer in told for prefix in answer["revoked"]], prefixes)
    verified = [prefix for answer in told for prefix in answer["verified"]]
    assert not verified, f"{len(verified)} keys verified after their revocation had returned"
    for new in keys:
        assert await stores.api_keys.verify(new.raw_key) is None


@check(
    clauses=["GEN-1", "GEN-8"],
    requires=["multi_process"],
    name="processes that open a new store at once all succeed",
)
async def opening_together(lab: Lab) -> None:
    """Four processes open stores that do not exist yet, at once, and write to them: all succeed, and all that
    they wrote is there.
    """
    await in_processes(lab, "greet", [{"who": who} for who in range(_PROCESSES)], opened_first=False)
    stores = await lab.open()
    found = [each.id for each in await gathered(stores.skills.scan())]
    _each_once("skills", found, [f"by {who}" for who in range(_PROCESSES)])
    assert (await stores.audit_log.query()).total == _PROCESSES
    record = await stores.reputation.get("all")
    assert record is not None
    assert record.contributions == _PROCESSES


@check(
    clauses=["GEN-8"],
    requires=["multi_process"],
    name="what another handle wrote is seen by the next call",
)
async def handles_see_each_other(lab: Lab) -> None:
    """A write that one handle acknowledged is seen by the next call of any other, whatever that one has read
    before: reads, searches, filters, pages, leaderboards, verifications and buckets.
    """
    one, other = await lab.open(), await lab.open()
    for turn in range(5):
        writer, reader = (one, other) if turn % 2 == 0 else (other, one)
        id = f"seen {turn % 2}"
        assert (await reader.skills.search(query=f"text {turn}.")).total == 0
        await writer.skills.create(skill(id, description=f"text {turn}.", quality_score=turn / 10))
        found = (await reader.skills.search(query=f"text {turn}.")).data
        assert [each.id for each in found] == [id], "a search does not see another handle's write"
        read = await reader.skills.get_by_id(id)
        assert read is not None
        assert read.description == f"text {turn}.", "a read gives what another handle has replaced"
        await writer.knowledge.create(pattern(id, agent_id=f"agent {turn}"))
        assert [unit.id for unit in await reader.knowledge.get_by_agent_id(f"agent {turn}")] == [
            f"kp:pattern:{id}"
        ]
        assert await reader.knowledge.get_by_agent_id(f"agent {turn - 2}") == []
        score = (await writer.reputation.upsert("agent", 1, "more")).score
        assert (await reader.reputation.get_leaderboard()).data[0].score == score == turn + 1
        new = await writer.api_keys.create("author", ["read"], "free")
        assert await reader.api_keys.verify(new.raw_key) == new.record
        assert await writer.api_keys.revoke(new.record.key_prefix)
        assert await reader.api_keys.verify(new.raw_key) is None, "a key verifies that another handle revoked"
        await writer.audit_log.log("act", "agent", "unit", f"{turn}", "::1")
        assert (await reader.audit_log.query()).total == turn + 1
        assert await writer.skills.delete(id)
        assert await reader.skills.get_by_id(id) is None, "a read gives what another handle deleted"
        assert not await reader.skills.delete(id)
