"""A scan ends with what was there at its start, as its docstring says; the contract leaves it open."""

from __future__ import annotations

import pytest
from kpstore_conformance import dataset

from kpstore import AllStores, Settings, create_store


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
