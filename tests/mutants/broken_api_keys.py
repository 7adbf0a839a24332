"""Mutants of the API key store."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from kpstore import AllStores, ApiKeyRecord, NewApiKey
from mutants.registry import mutant, patch


def _created(stores: AllStores, change: Any) -> None:
    """Let `change(new)` stand for every new key that is returned."""
    create = stores.api_keys.create

    async def mutated(agent_id: str, scopes: Collection[str], tier: str) -> NewApiKey:
        changed: NewApiKey = change(await create(agent_id, scopes, tier))
        return changed

    patch(stores.api_keys, create=mutated)


@mutant("KEY-1")
def prefix_of_eight(stores: AllStores) -> None:
    """The prefix is 8 characters long."""
    _created(stores, lambda new: replace(new, record=replace(new.record, key_prefix=new.raw_key[:8])))


@mutant("KEY-1")
def hash_without_the_prefix(stores: AllStores) -> None:
    """The hash is that of the hex digits alone."""
    _created(
        stores,
        lambda new: replace(
            new, record=replace(new.record, key_hash=hashlib.sha256(new.raw_key[3:].encode()).hexdigest())
        ),
    )


@mutant("KEY-1")
def md5_instead_of_sha256(stores: AllStores) -> None:
    """The hash is an MD5."""
    _created(
        stores,
        lambda new: replace(
            new,
            record=replace(new.record, key_hash=hashlib.md5(new.raw_key.encode()).hexdigest()),
        ),
    )


@mutant("KEY-1")
def raw_key_in_capitals(stores: AllStores) -> None:
    """The hex digits are upper-case."""
    _created(stores, lambda new: replace(new, raw_key="kp_" + new.raw_key[3:].upper()))


@mutant("KEY-1")
def raw_key_of_32_digits(stores: AllStores) -> None:
    """A key has 16 random bytes."""
    _created(stores, lambda new: replace(new, raw_key=new.raw_key[:35]))


@mutant("KEY-1")
def created_at_is_1970(stores: AllStores) -> None:
    """The creation time is in seconds where milliseconds are meant."""
    _created(
        stores,
        lambda new: replace(
            new, record=replace(new.record, created_at=new.record.created_at.replace(year=1970))
        ),
    )


@mutant("KEY-2")
def unknown_scopes_are_dropped(stores: AllStores) -> None:
    """An unknown scope is left out instead of refused."""
    create = stores.api_keys.create

    async def mutated(agent_id: str, scopes: Any, tier: str) -> NewApiKey:
        if isinstance(scopes, list | tuple | set | frozenset):
            known = [scope for scope in scopes if scope in ("read", "write", "admin")]
            scopes = known or scopes
        return await create(agent_id, scopes, tier)

    patch(stores.api_keys, create=mutated)


@mutant("KEY-2")
def no_scopes_are_read(stores: AllStores) -> None:
    """An empty set of scopes becomes `read`."""
    create = stores.api_keys.create

    async def mutated(agent_id: str, scopes: Any, tier: str) -> NewApiKey:
        return await create(agent_id, scopes or ["read"], tier)

    patch(stores.api_keys, create=mutated)


@mutant("KEY-2")
def unknown_tier_is_free(stores: AllStores) -> None:
    """An unknown tier becomes `free`."""
    create = stores.api_keys.create

    async def mutated(agent_id: str, scopes: Any, tier: str) -> NewApiKey:
        return await create(agent_id, scopes, tier if tier in ("free", "pro", "enterprise") else "free")

    patch(stores.api_keys, create=mutated)


@mutant("KEY-3")
def revoked_keys_verify(stores: AllStores) -> None:
    """`verify` leaves it to the caller to look at `revoked`."""
    by_hash = stores.api_keys._by_hash
    verify = stores.api_keys.verify

    async def mutated(raw_key: str) -> ApiKeyRecord | None:
        await verify(raw_key)
        return await by_hash(hashlib.sha256(raw_key.encode("utf-8", "surrogatepass")).hexdigest())

    patch(stores.api_keys, verify=mutated)


@mutant("KEY-3")
def white_space_around_a_key_is_dropped(stores: AllStores) -> None:
    """A key with a space after it verifies."""
    verify = stores.api_keys.verify

    async def mutated(raw_key: str) -> ApiKeyRecord | None:
        return await verify(raw_key.strip() if isinstance(raw_key, str) else raw_key)

    patch(stores.api_keys, verify=mutated)


@mutant("KEY-3")
def keys_verify_in_capitals(stores: AllStores) -> None:
    """A key is lower-cased before it is looked up."""
    verify = stores.api_keys.verify

    async def mutated(raw_key: str) -> ApiKeyRecord | None:
        return await verify(raw_key.lower() if isinstance(raw_key, str) else raw_key)

    patch(stores.api_keys, verify=mutated)


@mutant("KEY-3")
def a_malformed_key_raises(stores: AllStores) -> None:
    """A key that cannot be encoded raises."""
    verify = stores.api_keys.verify

    async def mutated(raw_key: str) -> ApiKeyRecord | None:
        hashlib.sha256(raw_key.encode())
        return await verify(raw_key)

    patch(stores.api_keys, verify=mutated)


@mutant("KEY-3")
def a_prefix_verifies(stores: AllStores) -> None:
    """A key's first 11 characters are enough."""
    verify = stores.api_keys.verify

    async def mutated(raw_key: str) -> ApiKeyRecord | None:
        found = await verify(raw_key)
        if found is None:
            async for record in stores.api_keys.scan():
                if record.key_prefix == raw_key[:11] and not record.revoked:
                    return record
        return found

    patch(stores.api_keys, verify=mutated)


@mutant("KEY-4")
def revoked_key_cached(stores: AllStores) -> None:
    """A verified key is remembered, revoked or not."""
    verify = stores.api_keys.verify
    cache: dict[str, ApiKeyRecord] = {}

    async def mutated(raw_key: str) -> ApiKeyRecord | None:
        if raw_key not in cache:
            found = await verify(raw_key)
            if found is None:
                return None
            cache[raw_key] = found
        return cache[raw_key]

    patch(stores.api_keys, verify=mutated)


@mutant("KEY-4")
def revoking_twice_is_true_twice(stores: AllStores) -> None:
    """`revoke` says whether the key exists."""
    revoke = stores.api_keys.revoke

    async def mutated(key_prefix: str) -> bool:
        known = await revoke(key_prefix)
        return known or any([record.key_prefix == key_prefix async for record in stores.api_keys.scan()])

    patch(stores.api_keys, revoke=mutated)


@mutant("KEY-4")
def revoke_matches_the_start_of_a_prefix(stores: AllStores) -> None:
    """`LIKE prefix%`: a shorter prefix revokes whatever begins with it."""
    revoke = stores.api_keys.revoke

    async def mutated(key_prefix: str) -> bool:
        if await revoke(key_prefix):
            return True
        found = [r.key_prefix async for r in stores.api_keys.scan() if r.key_prefix.startswith(key_prefix)]
        return any([await revoke(prefix) for prefix in found])

    patch(stores.api_keys, revoke=mutated)


@mutant("KEY-4")
def revoked_at_is_not_kept(stores: AllStores) -> None:
    """`revoked_at` is not set."""
    by_agent = stores.api_keys.get_by_agent_id

    async def mutated(agent_id: str) -> list[ApiKeyRecord]:
        return [replace(record, revoked_at=None) for record in await by_agent(agent_id)]

    patch(stores.api_keys, get_by_agent_id=mutated)


@mutant("KEY-4", base="sqlite")
def revocation_seen_by_its_own_handle_only(stores: AllStores) -> None:
    """Each handle remembers which keys it has verified."""
    revoked_key_cached_in: dict[str, ApiKeyRecord] = {}
    verify, revoke = stores.api_keys.verify, stores.api_keys.revoke

    async def mutated_verify(raw_key: str) -> ApiKeyRecord | None:
        if raw_key in revoked_key_cached_in:
            return revoked_key_cached_in[raw_key]
        found = await verify(raw_key)
        if found is not None:
            revoked_key_cached_in[raw_key] = found
        return found

    async def mutated_revoke(key_prefix: str) -> bool:
        revoked_key_cached_in.clear()
        return await revoke(key_prefix)

    patch(stores.api_keys, verify=mutated_verify, revoke=mutated_revoke)


@mutant("KEY-5")
def revoked_keys_are_hidden(stores: AllStores) -> None:
    """`get_by_agent_id` leaves out revoked keys."""
    by_agent = stores.api_keys.get_by_agent_id

    async def mutated(agent_id: str) -> list[ApiKeyRecord]:
        return [record for record in await by_agent(agent_id) if not record.revoked]

    patch(stores.api_keys, get_by_agent_id=mutated)


@mutant("KEY-5")
def newest_keys_first(stores: AllStores) -> None:
    """`get_by_agent_id` is newest first."""
    by_agent = stores.api_keys.get_by_agent_id

    async def mutated(agent_id: str) -> list[ApiKeyRecord]:
        return (await by_agent(agent_id))[::-1]

    patch(stores.api_keys, get_by_agent_id=mutated)


@mutant("KEY-5")
def live_keys_first(stores: AllStores) -> None:
    """Revoked keys come last."""
    by_agent = stores.api_keys.get_by_agent_id

    async def mutated(agent_id: str) -> list[ApiKeyRecord]:
        return sorted(await by_agent(agent_id), key=lambda record: record.revoked)

    patch(stores.api_keys, get_by_agent_id=mutated)


@mutant("KEY-1")
def prefix_collision_is_accepted(stores: AllStores) -> None:
    """A prefix that is taken is stored a second time."""
    from kpstore.backends.memory.api_keys import MemoryApiKeyStore

    store = stores.api_keys
    assert isinstance(store, MemoryApiKeyStore)
    insert = store._insert

    async def mutated(record: ApiKeyRecord) -> bool:
        store._prefixes.of(record.key_prefix).pop(record.key_prefix, None)
        return await insert(record)

    patch(store, _insert=mutated)
