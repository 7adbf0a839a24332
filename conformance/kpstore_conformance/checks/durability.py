"""What was acknowledged is there after a close, and after a SIGKILL at any moment; nothing is there in part.

A process writes to all six stores from ten tasks at once, each of which does one write at a time and notes
in a file what was acknowledged, right after the await returned. It is killed at a random moment. Then each
task's data must be what its acknowledged writes make of it, or what those and its next one make of it; and
what earlier rounds left must be as it was. `KP_DURABILITY_ROUNDS` (8) sets how often in a row it is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from kpstore import AllStores, KpStoreError
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._processes import processes, tell
from kpstore_conformance.checks._samples import contents, difference, fill, gathered, skill, within

ROUNDS = int(os.environ.get("KP_DURABILITY_ROUNDS", "8"))

_EARLIEST_S, _LATEST_S = 0.05, 0.5
"""When a writer is killed, after it began to write: some have hardly begun, some have written thousands."""

_OPENS_S = 30.0
_HOUR = timedelta(hours=1)

Event = tuple[Any, ...]


# ---- what the writer does, as told by its acknowledgements (see `_worker.write_until_killed`)


def _skill_events() -> Iterator[Event]:
    for n in range(10**9):
        yield ("skill", n)
        if n % 3 == 0:
            yield ("replaced", n)
        if n % 5 == 0:
            yield ("deleted", n)


def _after_skill_events(events: list[Event]) -> dict[int, str]:
    descriptions: dict[int, str] = {}
    for kind, n in events:
        if kind == "deleted":
            del descriptions[n]
        else:
            descriptions[n] = "replaced" if kind == "replaced" else "A skill of the checks."
    return descriptions


def _key_events() -> Iterator[Event]:
    for n in range(10**9):
        yield ("key", n)
        if n % 2 == 0:
            yield ("revoked", n)


def _after_key_events(events: list[Event]) -> list[bool]:
    revoked = {n for kind, n in events if kind == "revoked"}
    return [n in revoked for kind, n in events if kind == "key"]


def _token_events() -> Iterator[Event]:
    for n in range(10**9):
        yield ("token", n)
        yield ("429", n)


def _after_token_events(events: list[Event]) -> tuple[int, int]:
    taken = sum(kind == "token" for kind, _ in events)
    return taken, len(events) - taken


def _assert_written(
    what: str, noted: list[Event], events: Iterator[Event], state: Callable[[list[Event]], Any], seen: Any
) -> None:
    """Fail unless `seen` is what the noted writes make, or what those and the next one make."""
    expected = list(islice(events, len(noted) + 1))
    assert noted == expected[:-1], f"{what}: acknowledgements out of order: {noted[-3:]}"
    allowed = state(expected[:-1]), state(expected)
    if seen not in allowed:
        raise AssertionError(
            f"{what}: {len(noted)} writes were acknowledged, the last is {noted[-1:]}, but what is there is"
            f" not what they make of it: {_shown(seen)}, not {_shown(allowed[0])} or {_shown(allowed[1])}"
        )


def _shown(state: Any) -> str:
    text = repr(state)
    return text if len(text) <= 300 else f"{text[:100]} … {text[-190:]}"


def _numbered(kind: str) -> Iterator[Event]:
    return ((kind, n) for n in range(10**9))


def _numbers(events: list[Event]) -> list[int]:
    return [n for _, n in events]


def _acknowledged(path: Path) -> dict[str, list[list[Any]]]:
    """What the writer noted, by task."""
    tasks = {"replaced": "skill", "deleted": "skill", "revoked": "key", "429": "token"}
    found: dict[str, list[list[Any]]] = defaultdict(list)
    for line in path.read_text().splitlines() if path.exists() else []:
        kind, *rest = json.loads(line)
        task = tasks.get(kind, kind)
        if kind in ("upsert", "entry"):
            task, rest = f"{kind} {rest[0]}", rest[1:]
        found[task].append([kind, *rest])
    return found


async def _assert_run(stores: AllStores, run: int, noted: dict[str, list[list[Any]]]) -> None:
    """All that one killed writer was told of is there, and at most one more write of each of its tasks."""

    def events(task: str) -> list[Event]:
        return [(kind, rest[0]) for kind, *rest in noted[task]]

    def check_task(
        task: str, sequence: Iterator[Event], state: Callable[[list[Event]], Any], seen: Any
    ) -> None:
        _assert_written(f"run {run}, {task}", events(task), sequence, state, seen)

    state = await _state(stores, run)
    check_task("skill", _skill_events(), _after_skill_events, state["skills"])
    check_task("units", _numbered("units"), _numbers, state["units"])
    for which in range(3):
        check_task(f"upsert {which}", _numbered("upsert"), _numbers, state[f"upserts {which}"])
    check_task("vote", _numbered("vote"), _numbers, state["votes"])
    check_task("key", _key_events(), _after_key_events, [revoked for _, revoked in state["keys"]])
    hashes = [rest[1] for kind, *rest in noted["key"] if kind == "key"]
    assert [hash for hash, _ in state["keys"]][: len(hashes)] == hashes, (
        f"run {run}: other keys than acknowledged"
    )
    decision = await stores.rate_limit.consume(f"caller {run}", "enterprise", "GET")
    refusals = await stores.rate_limit.get_429_count(f"caller {run}", _HOUR)
    seen = (decision.limit - decision.remaining - 1, refusals)
    check_task("token", _token_events(), _after_token_events, seen)
    for which in range(2):
        task = f"entry {which}"
        check_task(task, _numbered("entry"), _numbers, [n for n, _ in state[f"entries {which}"]])
        ids = [rest[1] for _, *rest in noted[task]]
        assert [id for _, id in state[f"entries {which}"]][: len(ids)] == ids, (
            f"run {run}: other audit entries"
        )


async def _state(stores: AllStores, run: int) -> dict[str, Any]:
    """All that is there of one run, but for its bucket."""
    state: dict[str, Any] = {}
    skills = [each for each in await gathered(stores.skills.scan()) if each.tags == (f"run {run}",)]
    total = (await stores.skills.search(tags=[f"run {run}"], limit=0)).total
    assert total == len(skills), f"run {run}: a search counts {total} skills, a scan gives {len(skills)}"
    state["skills"] = {int(each.id.split()[-1]): each.description for each in skills}

    groups: dict[int, list[int]] = defaultdict(list)
    for unit in await gathered(stores.knowledge.scan()):
        of_run, group, number = map(int, unit.id.removeprefix("kp:pattern:").split("-"))
        if of_run == run:
            groups[group].append(number)
    for group, numbers in groups.items():
        assert numbers == list(range(20)), (
            f"run {run}: of the 20 units of batch {group} only {numbers} are there"
        )
        found = await stores.knowledge.get_by_agent_id(f"agent {run} {group}")
        assert len(found) == 20, (
            f"run {run}: {len(found)} of the 20 units of batch {group} are found by agent"
        )
    state["units"] = list(groups)

    for which in range(3):
        agent = f"agent {run} {which}"
        record = await stores.reputation.get(agent)
        reasons: list[str] = []
        while (page := await stores.reputation.get_history(agent, offset=len(reasons), limit=1000)).data:
            reasons += [entry.reason for entry in page.data]
        counters = (0, 0, 0) if record is None else (record.score, record.contributions, record.validations)
        assert counters == (len(reasons),) * 3, f"{agent}: {counters}, but {len(reasons)} entries of history"
        state[f"upserts {which}"] = [int(reason.removeprefix("Validated ")) for reason in reasons]

    state["votes"] = [int(each.validator_id) for each in await stores.reputation.get_votes(f"unit {run}")]
    state["keys"] = [
        (key.key_hash, key.revoked) for key in await stores.api_keys.get_by_agent_id(f"agent {run}")
    ]
    entries = await gathered(stores.audit_log.scan())
    for which in range(2):
        own = [entry for entry in entries if entry.agent_id == f"agent {run} {which}"]
        total = (await stores.audit_log.query(agent_id=f"agent {run} {which}", limit=0)).total
        assert total == len(own), f"run {run}: a query counts {total} audit entries, a scan gives {len(own)}"
        state[f"entries {which}"] = [(int(entry.resource_id), entry.id) for entry in own]
        assert all(entry.details == {"n": int(entry.resource_id)} for entry in own), (
            "an audit entry is damaged"
        )
    return state


async def _assert_sound(lab: Lab, stores: AllStores) -> None:
    """Where the data is SQLite's, what SQLite says of the file."""
    if stores.backend == "sqlite":
        rows = await lab.inspect_sql("PRAGMA integrity_check")
        assert [list(row.values()) for row in rows] == [["ok"]], f"integrity_check: {rows[:5]}"


async def _kill_a_writer(lab: Lab, run: int, chance: random.Random) -> dict[str, list[list[Any]]]:
    """Start a writer, kill it, and give what it was told."""
    path = lab.folder / f"acknowledged-{run}"
    async with processes(lab, "write_until_killed") as (process,):
        tell(process, {"path": str(path), "round_number": run})
        await asyncio.sleep(chance.uniform(_EARLIEST_S, _LATEST_S))
        assert process.returncode is None, await _complaint(process)
        process.kill()
        await process.wait()
    return _acknowledged(path)


async def _complaint(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    return f"the writer ended by itself: {(await process.stderr.read()).decode(errors='replace')[-2000:]}"


@check(
    clauses=["GEN-10", "GEN-8", "AUDIT-1"],
    requires=["durable", "controllable_clock"],
    name="what was acknowledged survives SIGKILL, eight times in a row",
    timeout_s=60 + 20 * ROUNDS,
)
async def killed_writers(lab: Lab) -> None:
    """Writers on all six stores are killed at random moments, one after the other on the same data: after
    each everything acknowledged is there, nothing is there in part, and the data is sound.
    """
    chance = random.Random()  # noqa: S311  # other moments every time: that is what finds something
    before: dict[int, dict[str, Any]] = {}
    acknowledged = 0
    for run in range(ROUNDS):
        noted = await _kill_a_writer(lab, run, chance)
        acknowledged += sum(map(len, noted.values()))
        stores = await within(_OPENS_S, lab.open(), f"opening after kill {run}")
        await _assert_run(stores, run, noted)
        for earlier, state in before.items():
            changed = difference(state, await _state(stores, earlier))
            assert not changed, f"kill {run} changed what kill {earlier} had left: {changed}"
        before[run] = await _state(stores, run)
        await _assert_sound(lab, stores)
        await stores.close()
    assert acknowledged > 0, "no writer got as far as one acknowledged write: nothing was tried"


@check(
    clauses=["GEN-8", "GEN-10"],
    requires=["durable", "multi_process"],
    name="a handle goes on when another process is killed amid its writes",
)
async def survivors(lab: Lab) -> None:
    """A process that is killed while it writes takes no lock with it: a handle that was open all the time
    writes on at once, and its earlier writes are there.
    """
    chance = random.Random()  # noqa: S311
    stores = await lab.open()
    for run in range(2):
        await stores.skills.create(skill(f"before {run}"))
        await _kill_a_writer(lab, run, chance)
        await within(
            4, stores.skills.create(skill(f"after {run}")), "a write after another process was killed"
        )
        await within(4, stores.reputation.upsert("survivor", 1, "went on"), "an upsert after the kill")
    for id in ("before 0", "after 0", "before 1", "after 1"):
        assert await stores.skills.get_by_id(id) is not None, f"{id!r} is not there"


def _appears(file: Path) -> None:
    """Wait until the file is there."""
    end = monotonic() + _OPENS_S
    while not file.exists() and monotonic() < end:
        sleep(0.0005)


@check(
    clauses=["SQL-1", "SQL-2"],
    name="a file is made whole or not at all when its maker is killed",
)
async def killed_makers(lab: Lab) -> None:
    """Processes that make a new file are killed at random moments, while they make it, write to it and close
    it: the next one opens it, finds what was acknowledged, and SQLite finds the file in order.
    """
    chance = random.Random()  # noqa: S311
    database = Path(lab.settings.sqlite_path)
    for run in range(2 * ROUNDS):
        path = lab.folder / f"acknowledged-{run}"
        async with processes(lab, "late:open_and_write") as (process,):
            tell(process, {"path": str(path), "round_number": run})
            # The importing takes longest; what matters begins when the file is there.
            await asyncio.to_thread(_appears, database)
            # Most are killed in the opening; the others in the writes or in the closing.
            await asyncio.sleep(chance.uniform(0, 0.06 if run % 4 == 0 else 0.015))
            with suppress(ProcessLookupError):  # it may have come to its end
                process.kill()
            await process.wait()
        noted = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        stores = await within(_OPENS_S, lab.open(), f"opening after kill {run}")
        ids = [each.id for each in await gathered(stores.skills.scan())]
        for _, n in noted:
            assert n == "closed" or f"{run} {n}" in ids, f"the acknowledged skill {run} {n} is not there"
        await _assert_sound(lab, stores)
        await stores.close()
        for file in database.parent.glob(f"{database.name}*"):
            file.unlink()


@check(
    clauses=["GEN-10"],
    requires=["durable"],
    name="every kind of record is the same after closing and opening",
)
async def clean_reopening(lab: Lab) -> None:
    """What every store shows, keys that verify, revoked ones, buckets and refusals are after each of three
    closings and openings what they were before.
    """
    stores = await lab.open()
    await fill(stores)
    alive = await stores.api_keys.create("author", ["read", "admin"], "enterprise")
    revoked = await stores.api_keys.create("author", ["write"], "free")
    assert await stores.api_keys.revoke(revoked.record.key_prefix)
    await stores.skills.delete("another")
    before = await contents(stores)
    for taken in range(1, 4):
        decision = await stores.rate_limit.consume("caller", "pro", "POST")
        assert decision.remaining == decision.limit - taken, "a bucket does not go on after reopening"
        await asyncio.gather(stores.close(), stores.close())
        await stores.close()
        stores = await within(_OPENS_S, lab.open(), "reopening")
        changed = difference(before, await contents(stores))
        assert not changed, f"reopening changed {changed}"
        assert await stores.api_keys.verify(alive.raw_key) == alive.record
        assert await stores.api_keys.verify(revoked.raw_key) is None


@check(
    clauses=["GEN-10", "GEN-7"],
    requires=["durable"],
    name="calls on their way when the store is closed are whole",
)
async def closing_amid_calls(lab: Lab) -> None:
    """Of hundreds of writes that are on their way when close() is called, each that is acknowledged is there
    after reopening, each other ends in an error of ours, and close() ends.
    """
    for number in range(3):
        stores = await lab.open()
        writes = [asyncio.ensure_future(stores.skills.create(skill(f"{number} {n}"))) for n in range(300)]
        await asyncio.sleep(0.002 * number)
        await within(_OPENS_S, stores.close(), "closing amid calls")
        results = await within(
            _OPENS_S, asyncio.gather(*writes, return_exceptions=True), "calls amid closing"
        )
        wrong = [
            one for one in results if isinstance(one, BaseException) and not isinstance(one, KpStoreError)
        ]
        assert not wrong, f"a call amid closing ended in {wrong[0]!r}"
        stores = await lab.open()
        there = {each.id for each in await gathered(stores.skills.scan())}
        lost = [one.id for one in results if not isinstance(one, BaseException) and one.id not in there]
        assert not lost, f"{len(lost)} acknowledged writes are lost: {lost[:3]}"
        await stores.close()
