"""Mutants that take of their process, or of the disk, and do not give back."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from kpstore import AllStores, create_store
from mutants.registry import mutant, mutant_opening, patch

_kept: list[Any] = []


async def _open(settings: Any, clock: Any) -> AllStores:
    return await create_store("memory", settings=settings, clock=clock)


@mutant_opening("GEN-10", base="memory")
async def a_thread_stays(settings: Any, clock: Any) -> AllStores:
    """The thread of a store waits for ever when it is closed."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return await _open(settings, clock)


@mutant_opening("GEN-10", base="memory")
async def a_descriptor_stays(settings: Any, clock: Any) -> AllStores:
    """A file that a store has open is not closed with it."""
    _kept.append(os.open(os.devnull, os.O_RDONLY))
    return await _open(settings, clock)


@mutant_opening("GEN-10", base="memory")
async def closed_stores_stay(settings: Any, clock: Any) -> AllStores:
    """A list of all stores forgets none when it is closed."""
    stores = await _open(settings, clock)
    _kept.append(stores)
    return stores


@mutant("GEN-10")
def a_task_stays(stores: AllStores) -> None:
    """A scan that is not walked to its end leaves the task that reads ahead waiting."""
    scan = stores.knowledge.scan

    async def mutated(batch_size: int = 500) -> Any:
        ahead = asyncio.create_task(asyncio.Event().wait())
        _kept.append(ahead)
        async for entry in scan(batch_size):
            yield entry
        ahead.cancel()

    patch(stores.knowledge, scan=mutated)


@mutant("GEN-10")
def errors_are_remembered(stores: AllStores) -> None:
    """Every error is kept, with the frames in its traceback."""
    get_by_id = stores.knowledge.get_by_id

    async def mutated(id: str) -> Any:
        try:
            return await get_by_id(id)
        except Exception as error:
            _kept.append(error)
            raise

    patch(stores.knowledge, get_by_id=mutated)


@mutant("GEN-10")
def a_cache_without_a_limit(stores: AllStores) -> None:
    """The results of searches are cached by their moment and never found again."""
    search = stores.skills.search
    cache: dict[int, Any] = {}

    async def mutated(**arguments: Any) -> Any:
        page = await search(**arguments)
        cache[len(cache)] = (arguments, page)
        return page

    patch(stores.skills, search=mutated)


@mutant("RATE-6")
def full_buckets_stay_in_memory(stores: AllStores) -> None:
    """Nothing removes idle buckets from memory."""
    patch(stores.rate_limit, _clean_buckets=lambda now: None)


@mutant("RATE-6")
def refusals_stay_in_memory(stores: AllStores) -> None:
    """Forgotten violations are not counted, but stay in memory."""
    patch(stores.rate_limit, _clean_violations=lambda forget_before: None)


@mutant("AUDIT-3")
def expired_entries_stay_in_memory(stores: AllStores) -> None:
    """Nothing removes expired entries from memory."""
    append = stores.audit_log._append

    async def mutated(entry: Any, expired_before: int) -> None:
        await append(entry, -(2**62))

    patch(stores.audit_log, _append=mutated)


@mutant("RATE-6", base="sqlite")
def callers_stay_on_disk(stores: AllStores) -> None:
    """Each caller is noted in a table of its own, of which nothing is removed."""
    consume = stores.rate_limit.consume
    database: Any = stores.rate_limit._database  # type: ignore[attr-defined]

    async def mutated(identifier: str, tier: str, method: str) -> Any:
        def note(db: Any) -> None:
            db.execute("CREATE TABLE IF NOT EXISTS callers (identifier TEXT PRIMARY KEY)")
            db.execute("INSERT OR IGNORE INTO callers VALUES (?)", (identifier,))

        await database.write(note)
        return await consume(identifier, tier, method)

    patch(stores.rate_limit, consume=mutated)
