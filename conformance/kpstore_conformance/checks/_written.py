"""What must be there of `_worker.write_until_killed`, a writer that was killed, by its acknowledgements.

Each of its tasks does one write at a time and notes what was acknowledged: the task's data must be what its
acknowledged writes make of it, or what those and its next one make of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import islice
from typing import Any

from kpstore import AllStores
from kpstore_conformance.checks._samples import gathered

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


def by_task(acknowledgements: Iterable[list[Any]]) -> dict[str, list[list[Any]]]:
    """What a writer noted, by the task of it that did."""
    tasks = {"replaced": "skill", "deleted": "skill", "revoked": "key", "429": "token"}
    found: dict[str, list[list[Any]]] = defaultdict(list)
    for kind, *rest in acknowledgements:
        if kind in ("upsert", "entry"):
            found[f"{kind} {rest[0]}"].append([kind, *rest[1:]])
        else:
            found[tasks.get(kind, kind)].append([kind, *rest])
    return found


async def assert_run(stores: AllStores, run: int, noted: dict[str, list[list[Any]]]) -> None:
    """Fail unless all that one writer was told of is there, and at most one more write of each of its tasks.

    Args:
        stores: what it wrote to, opened anew.
        run: the writer's number, which all that it wrote bears.
        noted: its acknowledgements, from `by_task`.
    """

    def events(task: str) -> list[Event]:
        return [(kind, rest[0]) for kind, *rest in noted[task]]

    def check_task(
        task: str, sequence: Iterator[Event], state: Callable[[list[Event]], Any], seen: Any
    ) -> None:
        _assert_written(f"run {run}, {task}", events(task), sequence, state, seen)

    state = await state_of(stores, run)
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


async def state_of(stores: AllStores, run: int) -> dict[str, Any]:
    """All that is there of one writer, but for its bucket; fails where the stores contradict themselves."""
    state: dict[str, Any] = {}
    skills = [each for each in await gathered(stores.skills.scan()) if each.tags == (f"run {run}",)]
    for what, total in {
        "by tag": (await stores.skills.search(tags=[f"run {run}"], limit=0)).total,
        "by text": (await stores.skills.search(query=f"name of skill {run} ", limit=0)).total,
    }.items():
        assert total == len(skills), f"run {run}: {total} skills are found {what}, a scan gives {len(skills)}"
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
    total = (await stores.knowledge.search(query=f"name of {run}-", limit=0)).total
    assert total == 20 * len(groups), f"run {run}: {total} of {20 * len(groups)} units are found by text"

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
