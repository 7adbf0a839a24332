from __future__ import annotations

import pytest
from kpstore_conformance import dataset

from kpstore import Settings, create_store

BACKENDS = ("memory", "sqlite")


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_large_batch_tells_how_far_it_is(backend: str) -> None:
    async with create_store(backend, settings=Settings(sqlite_path=":memory:")) as stores:
        told: list[int] = []
        assert await stores.knowledge.create_many(dataset.units(2500), progress=told.append) == 2500
        assert told == [1000, 2000, 2500]
        told.clear()
        assert await stores.skills.create_many(dataset.skills(2), progress=told.append) == 2
        assert told == [2]


@pytest.mark.parametrize("backend", BACKENDS)
async def test_nothing_is_stored_where_the_callback_gives_up(backend: str) -> None:
    def give_up(done: int) -> None:
        raise InterruptedError(done)

    async with create_store(backend, settings=Settings(sqlite_path=":memory:")) as stores:
        with pytest.raises(InterruptedError):
            await stores.knowledge.create_many(dataset.units(2500), progress=give_up)
        assert (await stores.knowledge.search()).total == 0
