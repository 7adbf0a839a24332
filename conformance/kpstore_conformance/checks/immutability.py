"""Records cannot be changed, and nothing that a caller holds is a part of the store: not what went in, not
while it goes in, and not what came out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import fields, is_dataclass
from datetime import timedelta
from typing import Any

from kpstore import AllStores, Page, ScoredUnit, ValidationError
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._driving import stepped
from kpstore_conformance.checks._samples import (
    MOMENT,
    contents,
    difference,
    fill,
    gathered,
    pattern,
    skill,
    vote,
)

_MOST_SUSPENSIONS = 25


async def _one_of_each(stores: AllStores) -> dict[str, Any]:
    """A record of each kind that a store returns."""
    await fill(stores)
    agent = await stores.reputation.get("author")
    assert agent is not None
    new = await stores.api_keys.create("author", ["read"], "free")
    return {
        "skill": await stores.skills.get_by_id("sample"),
        "unit": await stores.knowledge.get_by_id("kp:pattern:sample"),
        "agent": agent,
        "history entry": agent.history[0],
        "vote": (await stores.reputation.get_votes())[0],
        "new key": new,
        "key": new.record,
        "decision": await stores.rate_limit.consume("other", "free", "GET"),
        "audit entry": (await stores.audit_log.query()).data[0],
        "page": await stores.skills.search(),
    }


@check(clauses=["GEN-3"], name="no field of any record can be set, deleted or added")
async def frozen(lab: Lab) -> None:
    """Setting or deleting any field of a record, page, decision or key, and giving it another, raises an
    AttributeError (of which FrozenInstanceError is one), and leaves it as it was.
    """
    stores = await lab.open()
    records = await _one_of_each(stores)
    wrong = []
    for kind, record in records.items():
        assert is_dataclass(record), f"a {kind} is no dataclass"
        before = repr(record)
        for name in [*(field.name for field in fields(record)), "another"]:
            for action, change in (("set", _set), ("deleted", delattr)):
                try:
                    change(record, name)
                except AttributeError:
                    continue
                except TypeError:  # what a frozen dataclass with slots says of a name that it does not have
                    if name == "another":
                        continue
                wrong.append(f"{kind}.{name} could be {action}")
        assert wrong or repr(record) == before, f"a {kind} is not what it was: {record!r}"
    assert not wrong, "; ".join(wrong)
    assert ScoredUnit.__dataclass_params__.frozen, "a ScoredUnit can be changed"  # type: ignore[attr-defined]


def _set(record: Any, name: str) -> None:
    setattr(record, name, "changed")


def _scribble(value: Any, seen: set[int] | None = None) -> None:
    """Change everything within the value that lets itself be changed."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            _scribble(getattr(value, field.name), seen)
    elif isinstance(value, dict):
        for item in list(value.values()):
            _scribble(item, seen)
        value["scribbled"] = True
        for key in list(value)[:-1]:
            value[key] = "scribbled"
    elif isinstance(value, list):
        for item in list(value):
            _scribble(item, seen)
        value[:] = ["scribbled"]
    elif isinstance(value, tuple | set | frozenset):
        for item in value:
            _scribble(item, seen)
        if isinstance(value, set):
            value.add("scribbled")


@check(clauses=["GEN-3"], name="scribbling over what came out changes nothing in the stores")
async def results_are_copies(lab: Lab) -> None:
    """Whatever any method gives can be scribbled over, in every list and dict at any depth, without changing
    what the next call gives, nor what an earlier call has given.
    """
    stores = await lab.open()
    await fill(stores)
    for n in range(60):
        await stores.reputation.upsert("author", 1, f"change {n}")
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "skills.get_by_id": lambda: stores.skills.get_by_id("sample"),
        "skills.search": lambda: stores.skills.search(query="name"),
        "skills.search without a filter": stores.skills.search,
        "skills.scan": lambda: gathered(stores.skills.scan()),
        "knowledge.get_by_id": lambda: stores.knowledge.get_by_id("kp:pattern:sample"),
        "knowledge.search": lambda: stores.knowledge.search(query="name"),
        "knowledge.search without a filter": stores.knowledge.search,
        "knowledge.get_by_agent_id": lambda: stores.knowledge.get_by_agent_id("author"),
        "knowledge.scan": lambda: gathered(stores.knowledge.scan()),
        "reputation.get": lambda: stores.reputation.get("author"),
        "reputation.get_history": lambda: stores.reputation.get_history("author", limit=1000),
        "reputation.get_leaderboard": stores.reputation.get_leaderboard,
        "reputation.get_all": stores.reputation.get_all,
        "reputation.scan": lambda: gathered(stores.reputation.scan()),
        "reputation.get_votes": stores.reputation.get_votes,
        "reputation.get_votes of a unit": lambda: stores.reputation.get_votes("kp:pattern:sample"),
        "api_keys.get_by_agent_id": lambda: stores.api_keys.get_by_agent_id("author"),
        "api_keys.scan": lambda: gathered(stores.api_keys.scan()),
        "audit_log.query": stores.audit_log.query,
        "audit_log.scan": lambda: gathered(stores.audit_log.scan()),
    }
    for name, call in calls.items():
        kept, scribbled = await call(), await call()
        expected = deepcopy(kept)
        before = await contents(stores)
        assert kept == scribbled, f"{name} gives two things"
        _scribble(scribbled)
        assert kept == expected, f"{name}: the results of two calls share a part"
        assert await call() == expected, f"{name}: scribbling over its result changed the next one"
        changed = difference(before, await contents(stores))
        assert not changed, f"{name}: scribbling over its result changed {changed}"


@check(clauses=["GEN-3"], name="scribbling over what a change took or gave changes nothing in the stores")
async def changes_are_copies(lab: Lab) -> None:
    """After each changing method returned, everything that was passed to it and that it gave can be scribbled
    over without changing what is stored.
    """
    stores = await lab.open()
    tags, files = ["one", "two"], {"a.md": "text"}
    one = skill("one", tags=tags, files=files)
    many = [skill("two", tags=["x"], files={"b": "c"}), skill("three")]
    unit = pattern("one", deep={"list": [{"a": [1]}]})
    units = [pattern("two", deep=[[]]), pattern("three", deep={})]
    scopes = {"read"}
    details = {"list": [{"a": 1}], "object": {}}
    ballot = vote("unit")
    given = [one, many, unit, units, scopes, details, ballot]
    gave = [
        await stores.skills.create(one),
        await stores.skills.create_many(many),
        await stores.knowledge.create(unit),
        await stores.knowledge.create_many(units),
        await stores.reputation.upsert("author", 1, "first"),
        await stores.reputation.upsert("author", 2, "second"),
        await stores.api_keys.create("author", scopes, "free"),
        await stores.audit_log.log("act", "author", "type", "resource", "::1", details),
    ]
    await stores.reputation.record_vote(ballot)
    before = await contents(stores)
    for passed in given:
        _scribble(passed)
    changed = difference(before, await contents(stores))
    assert not changed, f"scribbling over what was passed in changed {changed}"
    for came in gave:
        _scribble(came)
    changed = difference(before, await contents(stores))
    assert not changed, f"scribbling over what came back changed {changed}"


async def _torn(
    make: Callable[[], Any],
    change: Callable[[Any], None],
    call: Callable[[Any], Awaitable[Any]],
    stored: Callable[[], Awaitable[Any]],
    kept: Callable[[Any], Any],
) -> list[str]:
    """Change what a call was given at each of its suspensions in turn; a line for each time that what was
    stored is neither what it was before nor what it was afterwards.
    """
    wrong = []
    for number in range(_MOST_SUSPENSIONS):
        given = make()
        allowed = [deepcopy(kept(given))]
        earlier = await stored()
        reached = False

        def suspended(
            now: int, given: Any = given, number: int = number, allowed: list[Any] = allowed
        ) -> None:
            nonlocal reached
            if now == number:
                reached = True
                change(given)
                allowed.append(deepcopy(kept(given)))

        refused = False
        try:
            await stepped(call(given), suspended)
        except ValidationError:
            refused = True
        found = await stored()
        if found not in ([earlier] if refused else allowed):
            wrong.append(f"{'refused at ' if refused else ''}suspension {number}")
        change(given)
        if await stored() != found:
            wrong.append(f"after the call that was changed at suspension {number}")
        if not reached:
            break
    return wrong


@check(clauses=["GEN-3", "GEN-7"], name="what changes while it goes in is stored as it was, or refused")
async def changed_on_the_way(lab: Lab) -> None:
    """A record that the caller changes while a call is storing it is stored as it was before or after the
    change, never as a mixture of the two; or it is refused.
    """
    stores = await lab.open()
    wrong: dict[str, list[str]] = {}

    def large() -> dict[str, Any]:
        return {"first": [{"n": 0} for _ in range(3000)], "last": [{"n": 0} for _ in range(3000)], "mark": 0}

    def change_large(value: dict[str, Any]) -> None:
        for part in ("first", "last"):
            for item in value[part]:
                item["n"] += 1
        value["mark"] += 1

    async def stored_unit() -> Any:
        found = await stores.knowledge.get_by_id("kp:pattern:torn")
        return None if found is None else found.unit

    def change_unit(entry: Any) -> None:
        change_large(entry.unit["large"])
        entry.unit["description"] += "!"

    wrong["knowledge.create"] = await _torn(
        lambda: pattern("torn", large=large()),
        change_unit,
        stores.knowledge.create,
        stored_unit,
        lambda entry: entry.unit,
    )

    async def stored_skill() -> Any:
        found = await stores.skills.get_by_id("torn")
        return None if found is None else (found.tags, found.files)

    def change_skill(given: Any) -> None:
        given.tags[:] = [f"{tag}!" for tag in given.tags]
        for path in given.files:
            given.files[path] += "!"

    wrong["skills.create"] = await _torn(
        lambda: skill(
            "torn", tags=[f"tag {n}" for n in range(3000)], files={f"{n}": "x" for n in range(3000)}
        ),
        change_skill,
        stores.skills.create,
        stored_skill,
        lambda given: (tuple(given.tags), given.files),
    )

    async def stored_details() -> Any:
        entries = await gathered(stores.audit_log.scan())
        return entries[-1].details if entries else None

    wrong["audit_log.log"] = await _torn(
        large,
        change_large,
        lambda details: stores.audit_log.log("act", "author", "type", "resource", "::1", details),
        stored_details,
        lambda details: details,
    )
    torn = {name: places for name, places in wrong.items() if places}
    if torn:
        raise AssertionError(
            "; ".join(
                f"{name} stored a mixture of before and after: {', '.join(places)}"
                for name, places in torn.items()
            )
        )


@check(clauses=["GEN-3", "GEN-5"], name="what changes while a batch goes in breaks no rule")
async def batch_changed_on_the_way(lab: Lab) -> None:
    """A caller who empties, lengthens and spoils a list of records while create_many is storing it gets an
    error and stores nothing, or stores as many as were given, each as one of its states; never a bad record.
    """
    stores = await lab.open()
    for round_number in range(8):
        given = [pattern(f"{round_number}-{n}", note=["sound"] * 5) for n in range(60)]

        def spoil(now: int, given: list[Any] = given, round_number: int = round_number) -> None:
            if now == round_number:
                for entry in given:
                    entry.unit["note"][:] = [float("nan")]
                    entry.unit["metadata"]["quality_score"] = 7
                del given[30:]
                given.append(object())

        total = (await stores.knowledge.search(limit=0)).total
        try:
            count = await stepped(stores.knowledge.create_many(given), spoil)
        except ValidationError:
            count = 0
        after = (await stores.knowledge.search(limit=0)).total
        assert count in (0, 60), f"create_many of 60 says {count}"
        assert after - total == count, f"create_many says {count}, {after - total} more are there"
    for unit in await gathered(stores.knowledge.scan()):
        assert unit.unit["note"] == ["sound"] * 5, f"{unit.id} was stored with {unit.unit['note'][:1]}"
        assert unit.unit["metadata"]["quality_score"] == 0.5


@check(clauses=["GEN-3", "GEN-4"], name="moments and durations that were given are not those that are kept")
async def moments_are_kept(lab: Lab) -> None:
    """Datetimes come back equal and in UTC, whatever zone they were given in, and pages are new lists."""
    stores = await lab.open()
    await stores.skills.create(skill("one", created_at=MOMENT, updated_at=MOMENT + timedelta(microseconds=1)))
    first: Page[Any] = await stores.skills.search()
    second = await stores.skills.search()
    assert first.data is not second.data, "two pages share a list"
    found = await stores.skills.get_by_id("one")
    assert found is not None
    assert (found.created_at, found.updated_at) == (MOMENT, MOMENT + timedelta(microseconds=1))
    assert found.updated_at.utcoffset() == timedelta(0)
    one, other = await asyncio.gather(stores.skills.get_by_id("one"), stores.skills.get_by_id("one"))
    assert one is not None
    assert other is not None
    assert one.files is not other.files, "two reads at once share a dict"
