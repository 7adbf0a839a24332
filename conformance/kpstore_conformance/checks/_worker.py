"""What another process does for a check: `python -m kpstore_conformance.checks._worker JOB`.

It opens the stores that its environment names, with the clock standing still at the samples' moment, says
`ready`, waits for a line of JSON with the job's arguments, does the job, and answers with a line of JSON.
Everything goes through pipes: arguments may be raw keys, which a list of processes must not show.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

from kpstore import AllStores, ManualClock, create_store
from kpstore_conformance.checks._measuring import (
    forget_again_and_again,
    open_again_and_again,
    use_again_and_again,
)
from kpstore_conformance.checks._objects import client
from kpstore_conformance.checks._samples import MOMENT, pattern, skill, vote

Job = Callable[..., Awaitable[Any]]


async def upsert(stores: AllStores, agent: str, count: int, who: int) -> list[int]:
    """Upsert at once; the contributions that each was told."""
    records = await asyncio.gather(
        *(stores.reputation.upsert(agent, 1, f"Validated by {who}: {n}") for n in range(count))
    )
    return [record.contributions for record in records]


async def consume(stores: AllStores, identifier: str, tier: str, method: str, count: int) -> list[int]:
    """Take tokens at once; what remained after each that was allowed."""
    decisions = await asyncio.gather(
        *(stores.rate_limit.consume(identifier, tier, method) for _ in range(count))
    )
    return [decision.remaining for decision in decisions if decision.allowed]


async def documents(stores: AllStores, who: int, rounds: int, victims: list[str]) -> list[str]:
    """Create skills of one's own, replace one that all share, and delete those that all want to delete; the
    ids of those that this process deleted.
    """

    async def write(n: int) -> None:
        text = f"{who} {n}"
        await stores.skills.create(skill(f"own {text}", tags=("own",)))
        await stores.skills.create(skill("shared", name=text, description=text, content=text, author=text))
        await stores.knowledge.create_many([pattern(f"{who}-{n}-{m}", agent_id="all") for m in range(5)])

    async def remove(id: str) -> str | None:
        return id if await stores.skills.delete(id) else None

    deleted, _ = await asyncio.gather(
        asyncio.gather(*map(remove, victims)), asyncio.gather(*map(write, range(rounds)))
    )
    return [id for id in deleted if id is not None]


async def log(stores: AllStores, who: int, count: int) -> list[str]:
    """Write audit entries at once; their ids."""
    entries = await asyncio.gather(
        *(stores.audit_log.log("act", f"agent {who}", "unit", f"{n}", "192.0.2.1") for n in range(count))
    )
    return [entry.id for entry in entries]


async def revoke(stores: AllStores, prefixes: list[str], raw_keys: list[str]) -> dict[str, list[str]]:
    """Revoke keys at once and verify each as soon as its revocation returned: the prefixes that this process
    revoked, and those whose key still verified.
    """

    async def one(prefix: str, raw_key: str) -> tuple[bool, bool]:
        revoked = await stores.api_keys.revoke(prefix)
        return revoked, await stores.api_keys.verify(raw_key) is not None

    answers = await asyncio.gather(*map(one, prefixes, raw_keys))
    return {
        "revoked": [prefix for prefix, (revoked, _) in zip(prefixes, answers, strict=True) if revoked],
        "verified": [prefix for prefix, (_, verified) in zip(prefixes, answers, strict=True) if verified],
    }


async def append(stores: AllStores, who: int, count: int) -> list[str]:
    """Votes, refusals and keys; the prefixes of the keys made."""
    await asyncio.gather(
        *(stores.reputation.record_vote(vote("unit", validator_id=f"{who} {n}")) for n in range(count)),
        *(stores.rate_limit.record_429("caller") for _ in range(count)),
    )
    made = await asyncio.gather(*(stores.api_keys.create("author", ["read"], "free") for _ in range(count)))
    return [new.record.key_prefix for new in made]


async def greet(stores: AllStores, who: int) -> int:
    """One write to each kind of table, and a read."""
    await stores.skills.create(skill(f"by {who}"))
    await stores.audit_log.log("open", f"agent {who}", "store", "new", "192.0.2.1")
    await stores.reputation.upsert("all", 1, "here")
    return (await stores.skills.search(limit=0)).total


async def clients(
    stores: AllStores, objects: list[tuple[str, str]], number: int, of: int, at: str
) -> list[list[list[Any]]]:
    """Be a client of each object in turn, as soon as all processes have come to it, as the folder `at` tells;
    the calls made, by object.
    """
    made = []
    for place, (what, id) in enumerate(objects):
        (Path(at) / f"{place} {number}").touch()
        everybody = [Path(at) / f"{place} {each}" for each in range(of)]
        while not all(each.exists() for each in everybody):  # noqa: ASYNC110 - processes share no event
            await asyncio.sleep(0.0005)
        calls = await client(what, stores, id, number, seed=10 * place + number, pause_s=0.004)
        made.append([list(astuple(call)) for call in calls])
    return made


_ALL = (upsert, consume, documents, log, revoke, append, greet, clients)
JOBS: dict[str, Job] = {job.__name__: job for job in _ALL}


class Acknowledgements:
    """A file to which each acknowledged write is added, one line of JSON, as soon as its await returned."""

    def __init__(self, path: Path) -> None:
        # Unbuffered: a line written is the kernel's, whatever becomes of this process.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, *what: Any) -> None:
        """Add a line."""
        os.write(self._file, (json.dumps(what) + "\n").encode())


async def write_until_killed(
    stores: AllStores, path: str, round_number: int, content_bytes: int = 500
) -> None:
    """Write to all six stores from several tasks, without an end. Each task does one write at a time, so that
    at most one of its writes is neither acknowledged nor unmade. The content of a skill has up to six times
    `content_bytes`.
    """
    acknowledged = Acknowledgements(Path(path))
    run = round_number

    async def skills() -> None:
        for n in _forever():
            await stores.skills.create(
                skill(f"skill {run} {n}", content="x" * (n % 7 * content_bytes), tags=(f"run {run}",))
            )
            acknowledged.note("skill", n)
            if n % 3 == 0:
                await stores.skills.create(
                    skill(f"skill {run} {n}", description="replaced", tags=(f"run {run}",))
                )
                acknowledged.note("replaced", n)
            if n % 5 == 0:
                await stores.skills.delete(f"skill {run} {n}")
                acknowledged.note("deleted", n)

    async def units() -> None:
        for n in _forever():
            await stores.knowledge.create_many(
                [pattern(f"{run}-{n}-{m}", agent_id=f"agent {run} {n}", note="n" * 300) for m in range(20)]
            )
            acknowledged.note("units", n)

    async def upserts(which: int) -> None:
        for n in _forever():
            await stores.reputation.upsert(f"agent {run} {which}", 1, f"Validated {n}")
            acknowledged.note("upsert", which, n)

    async def votes() -> None:
        for n in _forever():
            await stores.reputation.record_vote(vote(f"unit {run}", validator_id=f"{n}"))
            acknowledged.note("vote", n)

    async def keys() -> None:
        for n in _forever():
            new = await stores.api_keys.create(f"agent {run}", ["read"], "pro")
            acknowledged.note("key", n, new.record.key_hash)
            if n % 2 == 0:
                await stores.api_keys.revoke(new.record.key_prefix)
                acknowledged.note("revoked", n, new.record.key_hash)

    async def tokens() -> None:
        for n in _forever():
            await stores.rate_limit.consume(f"caller {run}", "enterprise", "GET")
            acknowledged.note("token", n)
            await stores.rate_limit.record_429(f"caller {run}")
            acknowledged.note("429", n)

    async def entries(which: int) -> None:
        for n in _forever():
            entry = await stores.audit_log.log("act", f"agent {run} {which}", "unit", f"{n}", "::1", {"n": n})
            acknowledged.note("entry", which, n, entry.id)

    await asyncio.gather(
        skills(),
        units(),
        upserts(0),
        upserts(1),
        upserts(2),
        votes(),
        keys(),
        tokens(),
        entries(0),
        entries(1),
    )


def _forever() -> Any:
    return iter(range(10**9))


async def open_and_write(path: str, round_number: int) -> None:
    """Open, write and close, and say so after each: to be killed at any time, the opening included."""
    acknowledged = Acknowledgements(Path(path))
    stores = await create_store(clock=ManualClock(MOMENT))
    for n in range(3):
        await stores.skills.create(skill(f"{round_number} {n}"))
        acknowledged.note(round_number, n)
    await stores.close()
    acknowledged.note(round_number, "closed")


async def live_and_close(path: str, round_number: int) -> None:
    """Open, make skills, replace one and delete one, and close; say so after each."""
    acknowledged = Acknowledgements(Path(path))
    stores = await create_store(clock=ManualClock(MOMENT))
    acknowledged.note("opened")
    for n in range(4):
        await stores.skills.create(skill(f"{round_number} {n}", content="first " * 2000))
        acknowledged.note("made", f"{round_number} {n}")
    await stores.skills.create(skill(f"{round_number} 1", content="second " * 3000))
    acknowledged.note("replaced", f"{round_number} 1")
    await stores.skills.delete(f"{round_number} 2")
    acknowledged.note("deleted", f"{round_number} 2")
    await stores.close()
    acknowledged.note("closed")


WITHOUT_STORES: dict[str, Callable[..., Awaitable[Any]]] = {
    job.__name__: job
    for job in (
        open_and_write,
        live_and_close,
        use_again_and_again,
        open_again_and_again,
        forget_again_and_again,
    )
}
"""Jobs that open and close the stores themselves."""


async def _serve(name: str, opened_first: bool) -> None:
    stores = await create_store(clock=ManualClock(MOMENT)) if opened_first else None
    print("ready", flush=True)
    arguments = json.loads(await asyncio.to_thread(sys.stdin.readline))
    if name in WITHOUT_STORES:
        print(json.dumps(await WITHOUT_STORES[name](**arguments)), flush=True)
        return
    if stores is None:
        stores = await create_store(clock=ManualClock(MOMENT))
    if name == "write_until_killed":
        await write_until_killed(stores, **arguments)
    answer = await JOBS[name](stores, **arguments)
    await stores.close()
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1].removeprefix("late:"), opened_first=not sys.argv[1].startswith("late:")))
