"""Backends with one bug each, as `module:callable` names them: the memory backend with a wrong method."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from kpstore import AllStores, Clock, Page, Settings, create_store


async def _memory(settings: Settings, clock: Clock) -> AllStores:
    return await create_store("memory", settings=settings, clock=clock)


def _replace(store: Any, name: str, method: Callable[..., Any]) -> None:
    setattr(store, name, method)


async def total_after_cut(settings: Settings, clock: Clock) -> AllStores:
    """`total` counts what the page could show."""
    stores = await _memory(settings, clock)
    search = stores.skills.search

    async def broken(**arguments: Any) -> Page[Any]:
        page = await search(**arguments)
        return replace(page, total=min(page.total, page.offset + page.limit))

    _replace(stores.skills, "search", broken)
    return stores


async def shared_details(settings: Settings, clock: Clock) -> AllStores:
    """The log keeps the caller's own `details`."""
    stores = await _memory(settings, clock)
    log, query = stores.audit_log.log, stores.audit_log.query
    kept: dict[str, Any] = {}

    async def broken_log(*args: Any, **arguments: Any) -> Any:
        entry = await log(*args, **arguments)
        kept[entry.id] = arguments.get("details")
        return entry

    async def broken_query(**arguments: Any) -> Page[Any]:
        page = await query(**arguments)
        return replace(page, data=[replace(entry, details=kept[entry.id]) for entry in page.data])

    _replace(stores.audit_log, "log", broken_log)
    _replace(stores.audit_log, "query", broken_query)
    return stores


async def revoked_verifies(settings: Settings, clock: Clock) -> AllStores:
    """A key that verified once goes on verifying."""
    stores = await _memory(settings, clock)
    verify = stores.api_keys.verify
    seen: dict[str, Any] = {}

    async def broken(raw_key: str) -> Any:
        record = await verify(raw_key)
        if record is not None:
            seen[raw_key] = record
        return seen.get(raw_key, record)

    _replace(stores.api_keys, "verify", broken)
    return stores


async def voting_after_30_days(settings: Settings, clock: Clock) -> AllStores:
    """An agent of exactly 30 days may not vote yet."""
    stores = await _memory(settings, clock)
    upsert, can_vote = stores.reputation.upsert, stores.reputation.can_vote
    first_seen: dict[str, Any] = {}

    async def broken_upsert(*args: Any, **arguments: Any) -> Any:
        record = await upsert(*args, **arguments)
        first_seen.setdefault(record.agent_id, clock())
        return record

    async def broken_can_vote(agent_id: str) -> bool:
        allowed = await can_vote(agent_id)
        return allowed and clock() - first_seen[agent_id] > timedelta(days=30)

    _replace(stores.reputation, "upsert", broken_upsert)
    _replace(stores.reputation, "can_vote", broken_can_vote)
    return stores


async def forgetful_scan(settings: Settings, clock: Clock) -> AllStores:
    """A scan of units ends where one of them is deleted on the way."""
    stores = await _memory(settings, clock)
    scan, delete = stores.knowledge.scan, stores.knowledge.delete
    deleted: list[str] = []

    async def broken_delete(id: str) -> bool:
        deleted.append(id)
        return await delete(id)

    async def broken_scan(batch_size: int = 500) -> AsyncIterator[Any]:
        before = len(deleted)
        async for record in scan(batch_size):
            if len(deleted) > before:
                return
            yield record

    _replace(stores.knowledge, "scan", broken_scan)
    _replace(stores.knowledge, "delete", broken_delete)
    return stores


async def leaky_error(settings: Settings, clock: Clock) -> AllStores:
    """A driver's exception comes out of `consume`."""
    stores = await _memory(settings, clock)
    consume = stores.rate_limit.consume

    async def broken(identifier: str, tier: str, method: str) -> Any:
        if method not in ("GET", "POST"):
            raise KeyError(method)
        return await consume(identifier, tier, method)

    _replace(stores.rate_limit, "consume", broken)
    return stores


_VERIFIED: dict[str, Any] = {}
"""The keys that this process has verified, and not revoked itself."""


async def verified_by_process(settings: Settings, clock: Clock) -> AllStores:
    """SQLite, but for a cache of verified keys, which other processes' revocations do not reach."""
    stores = await create_store("sqlite", settings=settings, clock=clock)
    verify, revoke = stores.api_keys.verify, stores.api_keys.revoke

    async def broken_verify(raw_key: str) -> Any:
        if raw_key not in _VERIFIED:
            record = await verify(raw_key)
            # It may have been revoked while this was asked.
            if record is None or await verify(raw_key) is None:
                return None
            _VERIFIED[raw_key] = record
        return _VERIFIED[raw_key]

    async def broken_revoke(key_prefix: str) -> bool:
        for raw_key in [known for known in _VERIFIED if known.startswith(key_prefix)]:
            del _VERIFIED[raw_key]
        return await revoke(key_prefix)

    _replace(stores.api_keys, "verify", broken_verify)
    _replace(stores.api_keys, "revoke", broken_revoke)
    return stores
