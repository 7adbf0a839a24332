"""What several checks work with: valid records by number, every public method with arguments that it takes,
and everything that a set of stores shows of its content.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from kpstore import AllStores, StoredKnowledgeUnit, StoredSkill, ValidationVote

MOMENT = datetime(2026, 1, 15, 12, tzinfo=UTC)
"""The time of every sample, and the one at which a lab's clock starts."""

CONTEXT = "https://openknowledgepulse.org/schema/v1"


def skill(id: str, **changes: Any) -> StoredSkill:
    """A small skill; `changes` replace its fields."""
    fields: dict[str, Any] = {
        "id": id,
        "name": f"name of {id}",
        "description": "A skill of the checks.",
        "content": "# Steps",
        "tags": ("checks",),
        "files": {"notes.md": "kept"},
        "quality_score": 0.5,
        "created_at": MOMENT,
        "updated_at": MOMENT,
    }
    return StoredSkill(**(fields | changes))


def pattern(
    name: str, /, *, agent_id: str = "author", quality: float = 0.5, **keys: Any
) -> StoredKnowledgeUnit:
    """A small `ToolCallPattern` with the id `kp:pattern:<name>`; `keys` are added to the unit."""
    id = f"kp:pattern:{name}"
    unit: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "ToolCallPattern",
        "id": id,
        "metadata": {
            "created_at": "2026-01-15T12:00:00Z",
            "agent_id": agent_id,
            "task_domain": "checks",
            "success": True,
            "quality_score": quality,
            "visibility": "network",
            "privacy_level": "aggregated",
        },
        "name": f"name of {name}",
        "description": "A pattern of the checks.",
        "trigger_conditions": {"task_types": ["any"]},
        "tool_sequence": [{"step": "first", "execution": "sequential", "tools": []}],
        "performance": {"avg_ms": 12.5, "success_rate": 0.75, "uses": 3},
    }
    return StoredKnowledgeUnit(id=id, unit=unit | keys, created_at=MOMENT, updated_at=MOMENT)


def vote(unit_id: str, **changes: Any) -> ValidationVote:
    """A vote on a unit; `changes` replace its fields."""
    fields: dict[str, Any] = {
        "validator_id": "validator",
        "target_id": "author",
        "unit_id": unit_id,
        "valid": True,
        "timestamp": MOMENT,
    }
    return ValidationVote(**(fields | changes))


_CHANGING = frozenset(
    {"create", "create_many", "delete", "upsert", "record_vote", "revoke", "consume", "record_429", "log"}
)


@dataclass(frozen=True, slots=True)
class Method:
    """A public method of a store, and how to call it.

    Attributes:
        store: the store's name in `AllStores`.
        name: the method's name.
        arguments: gives valid arguments by parameter, made anew each time.
        iterates: whether it is an async iterator (`scan`) and not a coroutine.
    """

    store: str
    name: str
    arguments: Callable[[], dict[str, Any]]
    iterates: bool = False

    def __str__(self) -> str:
        return f"{self.store}.{self.name}"

    @property
    def changes(self) -> bool:
        """Whether it may change what the stores hold."""
        return self.name in _CHANGING

    async def call(self, stores: AllStores, **changes: Any) -> Any:
        """Call it with its valid arguments, some of them changed; an iterator is walked to its end."""
        method = getattr(getattr(stores, self.store), self.name)
        given = self.arguments() | changes
        if self.iterates:
            return [record async for record in method(**given)]
        return await method(**given)


def _filters(**others: Any) -> dict[str, Any]:
    return {"query": "name", "domain": "checks", "min_quality": 0.1, "offset": 0, "limit": 20} | others


METHODS: tuple[Method, ...] = (
    Method("skills", "create", lambda: {"skill": skill("sample")}),
    Method("skills", "create_many", lambda: {"skills": [skill("sample"), skill("another")]}),
    Method("skills", "get_by_id", lambda: {"id": "sample"}),
    Method("skills", "search", lambda: _filters(tags=["checks"])),
    Method("skills", "delete", lambda: {"id": "sample"}),
    Method("skills", "scan", lambda: {"batch_size": 10}, iterates=True),
    Method("knowledge", "create", lambda: {"entry": pattern("sample")}),
    Method("knowledge", "create_many", lambda: {"entries": [pattern("sample"), pattern("another")]}),
    Method("knowledge", "get_by_id", lambda: {"id": "kp:pattern:sample"}),
    Method("knowledge", "delete", lambda: {"id": "kp:pattern:sample"}),
    Method("knowledge", "search", lambda: _filters(types=["ToolCallPattern"])),
    Method("knowledge", "get_by_agent_id", lambda: {"agent_id": "author"}),
    Method("knowledge", "scan", lambda: {"batch_size": 10}, iterates=True),
    Method("reputation", "upsert", lambda: {"agent_id": "author", "delta": 1.5, "reason": "Validated"}),
    Method("reputation", "get", lambda: {"agent_id": "author"}),
    Method("reputation", "get_history", lambda: {"agent_id": "author", "offset": 0, "limit": 20}),
    Method("reputation", "get_leaderboard", lambda: {"offset": 0, "limit": 20}),
    Method("reputation", "get_all", dict),
    Method("reputation", "record_vote", lambda: {"vote": vote("kp:pattern:sample")}),
    Method("reputation", "get_votes", lambda: {"unit_id": "kp:pattern:sample"}),
    Method("reputation", "can_vote", lambda: {"agent_id": "author"}),
    Method("reputation", "scan", lambda: {"batch_size": 10}, iterates=True),
    Method("api_keys", "create", lambda: {"agent_id": "author", "scopes": ["read"], "tier": "free"}),
    Method("api_keys", "verify", lambda: {"raw_key": f"kp_{'0' * 64}"}),
    Method("api_keys", "revoke", lambda: {"key_prefix": "kp_00000000"}),
    Method("api_keys", "get_by_agent_id", lambda: {"agent_id": "author"}),
    Method("api_keys", "scan", lambda: {"batch_size": 10}, iterates=True),
    Method("rate_limit", "consume", lambda: {"identifier": "caller", "tier": "pro", "method": "GET"}),
    Method("rate_limit", "record_429", lambda: {"identifier": "caller"}),
    Method("rate_limit", "get_429_count", lambda: {"identifier": "caller", "window": timedelta(hours=1)}),
    Method(
        "audit_log",
        "log",
        lambda: {
            "action": "create",
            "agent_id": "author",
            "resource_type": "skill",
            "resource_id": "sample",
            "ip": "192.0.2.1",
            "details": {"before": None},
        },
    ),
    Method(
        "audit_log",
        "query",
        lambda: {
            "agent_id": "author",
            "action": "create",
            "since": MOMENT - timedelta(days=1),
            "until": MOMENT + timedelta(days=1),
            "offset": 0,
            "limit": 20,
        },
    ),
    Method("audit_log", "scan", lambda: {"batch_size": 10}, iterates=True),
)
"""Every method of every store but `search_similar`, which only backends with `vector_search` have."""


async def fill(stores: AllStores) -> None:
    """Put a little of everything into the stores, so that every method has something to find."""
    await stores.skills.create_many([skill("sample"), skill("another", quality_score=0.9)])
    await stores.knowledge.create_many([pattern("sample"), pattern("another", quality=0.9)])
    await stores.reputation.upsert("author", 3, "Validated")
    await stores.reputation.upsert("reader", 1, "read")
    await stores.reputation.record_vote(vote("kp:pattern:sample"))
    await stores.api_keys.create("author", ["read", "write"], "pro")
    await stores.rate_limit.record_429("caller")
    await stores.audit_log.log("create", "author", "skill", "sample", "192.0.2.1", {"nested": [1, {"a": 2}]})


async def contents(stores: AllStores) -> dict[str, Any]:
    """All that the stores show of their content, part by part, but for the buckets, which show when used."""
    return {
        "skills": await gathered(stores.skills.scan()),
        "skills by quality": (await stores.skills.search(limit=1000)).data,
        "knowledge": await gathered(stores.knowledge.scan()),
        "knowledge by quality": (await stores.knowledge.search(limit=1000)).data,
        "knowledge by agent": await stores.knowledge.get_by_agent_id("author"),
        "reputation": await stores.reputation.get_all(),
        "history": (await stores.reputation.get_history("author", limit=1000)).data,
        "leaderboard": (await stores.reputation.get_leaderboard(limit=1000)).data,
        "votes": await stores.reputation.get_votes(),
        "api_keys": await gathered(stores.api_keys.scan()),
        "violations": await stores.rate_limit.get_429_count("caller", timedelta(hours=1)),
        "audit_log": await gathered(stores.audit_log.scan()),
    }


async def gathered(records: AsyncIterator[Any]) -> list[Any]:
    """All records of a scan."""
    return [record async for record in records]


def difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Which parts of `contents` differ; empty where none does."""
    return ", ".join(part for part in before if before[part] != after[part])


@contextmanager
def variables(target: dict[str, str] | Any, changes: dict[str, str | None]) -> Iterator[None]:
    """Set environment variables, or unset those that are None, and put back what was there."""
    before = {name: target.get(name) for name in changes}

    def put(values: dict[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                target.pop(name, None)
            else:
                target[name] = value

    put(changes)
    try:
        yield
    finally:
        put(before)


async def within(seconds: float, awaitable: Any, what: str) -> Any:
    """What the awaitable gives; an AssertionError naming `what` if it takes longer."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await awaitable
    except TimeoutError:
        assert not limit.expired(), f"{what}: no end after {seconds:g} s"
        raise
