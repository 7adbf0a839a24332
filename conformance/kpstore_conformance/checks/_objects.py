"""What recorded histories are of: a skill, unit, agent, key, bucket or log, what clients do to it, and how it
behaves when they do that one after another.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from kpstore import AllStores
from kpstore_conformance.checks._linear import Call, Model, recorded
from kpstore_conformance.checks._samples import pattern, skill

Planned = tuple[str, Any]
"""What is called, and what it is given."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object: its first state, its model, what a client of that number calls, and how."""

    start: Hashable
    model: Model
    plan: Callable[[random.Random, int], list[Planned]]
    perform: Callable[[AllStores, str, str, Any], Awaitable[Any]]


async def client(
    kind: str, stores: AllStores, id: str, number: int, *, seed: int, pause_s: float = 0
) -> list[Call]:
    """Do what a client of that number does to the object; its calls. Between them it waits, for at most
    `pause_s`: what is answered from a cache would else be over before anybody else has begun.
    """
    chance = random.Random(seed)  # noqa: S311  # the same calls every time
    history: list[Call] = []
    perform = KINDS[kind].perform
    for name, given in KINDS[kind].plan(chance, number):
        await asyncio.sleep(chance.random() * pause_s)
        await recorded(history, f"client {number}", name, given, partial(perform, stores, id, name, given))
    return history


# ---- a record: its state is its content


def _register(state: Hashable, call: Call) -> tuple[bool, Hashable]:
    if call.name == "create":
        return True, call.given
    if call.name == "delete":
        return call.gave == (state is not None), None
    return call.gave == state, state


def _plan_record(chance: random.Random, number: int) -> list[Planned]:
    kinds = [chance.choice(("create", "create", "delete", "read", "read", "search")) for _ in range(6)]
    return [(kind, f"{number}.{step}" if kind == "create" else None) for step, kind in enumerate(kinds)]


async def _on_skill(stores: AllStores, id: str, name: str, content: Any) -> Any:
    if name == "create":
        await stores.skills.create(skill(id, content=content))
        return None
    if name == "delete":
        return await stores.skills.delete(id)
    if name == "read":
        found = await stores.skills.get_by_id(id)
        return None if found is None else found.content
    page = await stores.skills.search(query=f"name of {id}", limit=1000)
    return _only(id, [each.content for each in page.data if each.id == id])


async def _on_unit(stores: AllStores, id: str, name: str, content: Any) -> Any:
    if name == "create":
        await stores.knowledge.create(pattern(id, agent_id=id, content=content))
        return None
    if name == "delete":
        return await stores.knowledge.delete(f"kp:pattern:{id}")
    if name == "read":
        unit = await stores.knowledge.get_by_id(f"kp:pattern:{id}")
        return None if unit is None else unit.unit["content"]
    return _only(id, [unit.unit["content"] for unit in await stores.knowledge.get_by_agent_id(id)])


def _only(id: str, found: Sequence[Any]) -> Any:
    assert len(found) <= 1, f"{id} was found {len(found)} times"
    return found[0] if found else None


# ---- a key: its state is whether it is alive


def _key(state: Hashable, call: Call) -> tuple[bool, Hashable]:
    return call.gave == state, state and call.name != "revoke"


def _plan_key(chance: random.Random, number: int) -> list[Planned]:
    revokes = chance.randrange(2, 6) if number % 2 == 0 else None
    return [("revoke" if step == revokes else "verify", None) for step in range(8)]


async def _on_key(stores: AllStores, raw_key: str, name: str, given: Any) -> bool:
    if name == "revoke":
        return await stores.api_keys.revoke(raw_key[:11])
    return await stores.api_keys.verify(raw_key) is not None


# ---- an agent: its state is its score, whose floor is 0, and how often that grew


def _agent(state: Hashable, call: Call) -> tuple[bool, Hashable]:
    assert isinstance(state, tuple)
    if call.name == "upsert":
        score, contributions = state
        state = max(0, score + call.given), contributions + (call.given > 0)
    return tuple(call.gave) == state, state


def _plan_agent(chance: random.Random, number: int) -> list[Planned]:
    deltas = [chance.choice((-5, 1, 2, 3, None, None)) for _ in range(5)]
    return [("read" if delta is None else "upsert", delta) for delta in deltas]


async def _on_agent(stores: AllStores, id: str, name: str, delta: Any) -> tuple[float, int]:
    if name == "upsert":
        record = await stores.reputation.upsert(id, delta, "change")
        return record.score, record.contributions
    found = await stores.reputation.get(id)
    return (0, 0) if found is None else (found.score, found.contributions)


# ---- a bucket, while the clock stands: its state is what is left in it

_TOKENS = 30  # what the tier free may write in a minute


def _bucket(state: Hashable, call: Call) -> tuple[bool, Hashable]:
    assert isinstance(state, int)
    allowed, remaining = call.gave
    if state == 0:
        return (allowed, remaining) == (False, 0), 0
    return (allowed, remaining) == (True, state - 1), state - 1


def _plan_bucket(chance: random.Random, number: int) -> list[Planned]:
    return [("consume", None)] * 8


async def _on_bucket(stores: AllStores, id: str, name: str, given: Any) -> tuple[bool, int]:
    decision = await stores.rate_limit.consume(id, "free", "POST")
    return decision.allowed, decision.remaining


# ---- what one agent did, in the log: its state is what was logged, in order


def _log(state: Hashable, call: Call) -> tuple[bool, Hashable]:
    assert isinstance(state, tuple)
    if call.name == "log":
        return True, (*state, call.given)
    return tuple(call.gave) == state, state


def _plan_log(chance: random.Random, number: int) -> list[Planned]:
    # A query after each entry: what was logged in which order is known soon, and little is left to be tried.
    return [step for n in range(3) for step in (("log", f"{number}.{n}"), ("query", None))]


async def _on_log(stores: AllStores, id: str, name: str, given: Any) -> tuple[str, ...] | None:
    if name == "log":
        await stores.audit_log.log("act", id, "unit", given, "::1")
        return None
    page = await stores.audit_log.query(agent_id=id, limit=1000)
    return tuple(entry.resource_id for entry in page.data)


KINDS: dict[str, Kind] = {
    "skill": Kind(None, _register, _plan_record, _on_skill),
    "unit": Kind(None, _register, _plan_record, _on_unit),
    "key": Kind(True, _key, _plan_key, _on_key),
    "agent": Kind((0, 0), _agent, _plan_agent, _on_agent),
    "bucket": Kind(_TOKENS, _bucket, _plan_bucket, _on_bucket),
    "log": Kind((), _log, _plan_log, _on_log),
}
