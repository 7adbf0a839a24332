"""A scan ends with what was there at its start, as its docstring says; the contract leaves it open."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kpstore_conformance import dataset

from kpstore import AllStores, Settings, create_store
from kpstore.stores.base import SCAN_BATCH


async def add_one_to_each(stores: AllStores, number: int) -> None:
    await stores.skills.create(next(dataset.skills(1, start=number)))
    await stores.knowledge.create(next(dataset.units(1, start=number)))
    await stores.reputation.upsert(f"agent {number}", 1, "r")
    await stores.api_keys.create("agent", {"read"}, "free")
    await stores.audit_log.log("a", "b", "c", "d", "e")


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
async def test_what_is_created_meanwhile_is_not_in_a_scan(backend: str) -> None:
    async with create_store(backend, settings=Settings(sqlite_path=":memory:")) as stores:
        await add_one_to_each(stores, 0)
        scans = [
            stores.skills.scan(),
            stores.knowledge.scan(),
            stores.reputation.scan(),
            stores.api_keys.scan(),
            stores.audit_log.scan(),
        ]
        for scan in scans:
            await anext(scan)
        await add_one_to_each(stores, 1)
        for scan in scans:
            assert [record async for record in scan] == []


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
async def test_a_large_batch_is_made_in_parts_and_comes_whole(backend: str) -> None:
    """A thousand keys take a thread 8 ms, for which it would have the interpreter's lock."""
    count = SCAN_BATCH * 2 + 1
    async with create_store(backend, settings=Settings(sqlite_path=":memory:")) as stores:
        await asyncio.gather(*(stores.api_keys.create(f"{n}", {"read"}, "free") for n in range(count)))
        await asyncio.gather(*(stores.reputation.upsert(f"{n}", 1, "r") for n in range(count)))
        every: list[Any] = [stores.api_keys, stores.reputation]
        for store in every:
            scan = store._scan
            parts: list[int] = []

            async def noted(*bounds: int, scan: Any = scan, parts: list[int] = parts) -> Any:
                found = await scan(*bounds)
                parts.append(len(found))
                return found

            store._scan = noted
            found = {record.agent_id async for record in store.scan(batch_size=10 * count)}
            assert found == {str(n) for n in range(count)}
            assert parts == [SCAN_BATCH, SCAN_BATCH, 1]
