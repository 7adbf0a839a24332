"""The search index of a SQLite handle: what it does where it is not up to date, and cannot be."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import pytest
from kpstore_conformance import dataset

from kpstore import AllStores, DataCorruptionError, Settings, StoredSkill, create_store
from kpstore.backends.sqlite import documents, search

NOW = dataset.START


@pytest.fixture
async def stores(settings: Settings) -> AsyncIterator[AllStores]:
    async with create_store("sqlite", settings=settings) as opened:
        yield opened


def skill(id: str, name: str = "n", quality: float = 0.5, **more: Any) -> StoredSkill:
    return StoredSkill(
        id=id,
        name=name,
        description="",
        content="",
        quality_score=quality,
        created_at=NOW,
        updated_at=NOW,
        **more,
    )


def index_of(stores: AllStores, store: str = "skills") -> search.SearchIndex:
    found: search.SearchIndex = getattr(stores, store)._index
    return found


async def indexed(stores: AllStores) -> None:
    """Search until the index answers."""
    for _ in range(200):
        await stores.skills.search(query="n")
        if index_of(stores)._is_whole:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the index was never built")


async def names(stores: AllStores, **asked: Any) -> list[str]:
    return [found.id for found in (await stores.skills.search(**asked)).data]


async def test_the_first_search_reads_the_rows_and_the_next_ones_the_index(stores: AllStores) -> None:
    await stores.skills.create(skill("a"))
    assert not index_of(stores).is_kept
    assert await names(stores, query="n") == ["a"]
    await indexed(stores)
    stores.skills._search_rows = None  # type: ignore[attr-defined]  # which nothing calls any more
    await stores.skills.create(skill("b", quality=0.9, tags=("t",), domain="d"))
    assert await names(stores, query="n") == ["b", "a"]
    assert await names(stores, tags=["T"], domain="D") == ["b"]


async def test_another_handles_changes_are_seen_at_once(stores: AllStores, settings: Settings) -> None:
    await stores.skills.create(skill("a"))
    await indexed(stores)
    async with create_store("sqlite", settings=settings) as other:
        await other.skills.create(skill("b", quality=0.7))
        assert await names(stores) == ["b", "a"]
        await other.skills.create(skill("a", name="other", quality=0.8))
        assert await names(stores) == ["a", "b"]
        assert await names(stores, query="other") == ["a"]
        await other.skills.delete("b")
        assert await names(stores) == ["a"]


async def test_an_index_that_missed_too_much_is_built_anew(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_KEPT", 10)  # before the triggers are made
    async with (
        create_store("sqlite", settings=settings) as stores,
        create_store("sqlite", settings=settings) as other,
    ):
        await stores.skills.create(skill("a"))
        await indexed(stores)
        for number in range(50):
            await other.skills.create(skill(f"b{number}"))
        with closing(sqlite3.connect(settings.sqlite_path)) as db:
            assert db.execute("SELECT COUNT(*) FROM document_changes").fetchone() == (10,)
        assert (await stores.skills.search(query="n")).total == 51
        await indexed(stores)
        assert (await stores.skills.search(query="n")).total == 51


async def test_more_changes_than_one_search_applies_are_found_all_the_same(
    stores: AllStores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_AT_ONCE", 5)
    await stores.skills.create(skill("a"))
    await indexed(stores)
    async with create_store("sqlite", settings=settings) as other:
        await other.skills.create_many([skill(f"b{number}") for number in range(100)])
    assert (await stores.skills.search(query="n")).total == 101
    await indexed(stores)
    assert (await stores.skills.search(query="n")).total == 101


async def test_rows_that_went_behind_the_triggers_are_no_ghosts(
    stores: AllStores, settings: Settings
) -> None:
    await stores.skills.create_many([skill("a"), skill("b")])
    await indexed(stores)
    with closing(sqlite3.connect(settings.sqlite_path)) as db:
        db.execute("DROP TRIGGER skills_delete_is_noted")
        db.execute("DELETE FROM skills WHERE id = 'a'")
        db.commit()
    found = await stores.skills.search()
    assert ([one.id for one in found.data], found.total) == (["b"], 1)


async def test_an_index_that_is_ahead_of_the_file_is_not_believed(
    stores: AllStores, settings: Settings
) -> None:
    """Somebody has put an older copy in its place."""
    await stores.skills.create_many([skill("a"), skill("b"), skill("c")])
    await indexed(stores)
    with closing(sqlite3.connect(settings.sqlite_path)) as db:
        db.execute("DROP TRIGGER skills_update_is_noted")
        db.execute("UPDATE skills SET texts = CAST('older' AS BLOB) WHERE id = 'b'")
        db.execute("DELETE FROM document_changes WHERE number > 1")
        db.commit()
    assert await names(stores, query="n") == ["a", "c"]


async def test_the_index_of_units_knows_their_types(stores: AllStores) -> None:
    store: Any = stores.knowledge
    units = list(dataset.units(50))
    await store.create_many(units)
    for _ in range(200):
        await store.search(query="e")
        if store._index._is_whole:
            break
        await asyncio.sleep(0.01)
    store._search_rows = None  # which nothing calls any more
    types = {unit.unit["@type"] for unit in units}
    assert len(types) == 3
    for type in types:
        expected = {unit.id for unit in units if unit.unit["@type"] == type}
        found = await store.search(types=[type], limit=50)
        assert {one.id for one in found.data} == expected


def test_texts_of_rows_are_found_before_and_after_they_have_been_read() -> None:
    kept = {position: b"text %d of all" % position for position in range(1, 401)}
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE skills (position INTEGER PRIMARY KEY, texts BLOB)")
        db.executemany("INSERT INTO skills VALUES (?, ?)", kept.items())
        texts = search._RowTexts("skills", lambda: db)
        texts.read_until = -1
        slices = 0
        while True:
            for positions in [1], [2, 17, 400, 401], list(kept):
                known = [(position, kept[position]) for position in positions if position in kept]
                assert sorted(texts.of(positions)) == known
                assert sorted(texts.containing(b"7 of", positions)) == [
                    position for position, text in known if b"7 of" in text
                ]
            if texts.read_until is None:
                break
            texts.read_on()
            slices += 1
        assert slices == 400 // search._PER_SLICE + 1  # the last one is empty
        db.execute("DELETE FROM skills")
        assert sorted(texts.of(list(kept))) == list(kept.items())


async def test_a_row_that_cannot_be_read_concerns_only_those_who_find_it(
    stores: AllStores, settings: Settings
) -> None:
    await stores.skills.create_many([skill("a"), skill("b", name="other")])
    await indexed(stores)
    with closing(sqlite3.connect(settings.sqlite_path)) as db:
        db.execute("UPDATE skills SET quality = 'high', body = '{' WHERE id = 'a'")
        db.commit()
    for _ in range(3):  # by the index, without it, and while it is built
        assert await names(stores, query="other") == ["b"]
        with pytest.raises(DataCorruptionError):
            await names(stores, query="n")


async def test_a_store_that_is_filled_is_indexed_before_it_is_searched(stores: AllStores) -> None:
    await stores.knowledge.create_many(list(dataset.units(1500)))
    index = index_of(stores, "knowledge")
    assert index._is_whole
    assert index._index is not None
    assert index._index.pending == 0
    page = await stores.knowledge.search(query="the", limit=0)
    expected = sum("the" in str(unit.unit).lower() for unit in dataset.units(1500))
    assert 0 < page.total <= expected


async def test_a_large_file_gets_no_index_until_it_is_searched(settings: Settings) -> None:
    async with create_store("sqlite", settings=settings) as stores:
        await stores.skills.create_many([skill(str(number)) for number in range(2000)])
    async with create_store("sqlite", settings=settings) as stores:
        for number in range(600):
            await stores.skills.create(skill(f"new {number}"))
        assert not index_of(stores).is_kept
        assert (await stores.skills.search(query="n")).total == 2600
        assert index_of(stores).is_kept or stores.skills._indexing is not None  # type: ignore[attr-defined]


class _EndlessIndex:
    """One that always has more to do, and counts how often it has been at it."""

    is_kept = is_current = True
    is_far_off = False
    backlog = 0
    worked = 0
    seconds = 0.0  # that it got the last time
    is_over = False

    def work(self, db: sqlite3.Connection, seconds: float) -> bool:
        self.worked += 1
        self.seconds = seconds
        return not self.is_over

    def begin_storing(self, db: sqlite3.Connection) -> Iterator[None]:
        return iter(())


async def test_the_index_works_when_nobody_writes(stores: AllStores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_BACKLOG", 10)
    store: Any = stores.skills
    index = store._index = _EndlessIndex()
    for number in range(10):
        await store.create(skill(f"a{number}"))
    begun = index.worked
    for number in range(100):
        await store.create(skill(f"b{number}"))
    worked = index.worked - begun
    assert 1 <= worked <= 15  # for what was written, 10 times
    async with asyncio.timeout(10):
        while index.worked <= begun + worked + 20:
            await asyncio.sleep(0)
    index.is_over = True


@pytest.mark.parametrize(
    ("state", "waited"),
    [
        ({}, 4),  # until nobody writes
        ({"backlog": documents._PATIENCE}, 1),
        ({"backlog": documents._PATIENCE + 1}, 1),
        ({"backlog": documents._HASTE}, 0),
        ({"backlog": documents._HASTE + 1}, 0),
        ({"is_current": False}, 1),
        ({"is_far_off": True}, 0),
        ({"unsearched": documents._BACKLOG}, 0),
        ({"unsearched": documents._BACKLOG + 1}, 0),
        ({"awaited": 1}, 0),
    ],
)
async def test_the_index_goes_before_writers_where_it_falls_behind_or_is_waited_for(
    stores: AllStores, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any], waited: int
) -> None:
    store: Any = stores.skills
    index = store._index = _EndlessIndex()
    index.is_current, index.backlog = state.get("is_current", True), state.get("backlog", 0)
    index.is_far_off = state.get("is_far_off", False)
    store._unsearched, store._awaited = state.get("unsearched", 0), state.get("awaited", 0)
    writes = iter([True, True, True, False])
    count = 0

    async def written() -> bool:
        nonlocal count
        count += 1
        return next(writes)

    monkeypatch.setattr(store._database, "written", written)
    await store._give_way()
    assert count == waited


@pytest.mark.parametrize(
    ("backlog", "seconds"),
    [(0, 0.0003), (documents._HASTE - 1, 0.0003), (documents._HASTE, 0.001), (100_000, 0.001)],
)
async def test_the_index_works_longer_at_a_time_where_it_falls_behind(
    stores: AllStores, backlog: int, seconds: float
) -> None:
    store: Any = stores.skills
    index = store._index = _EndlessIndex()
    index.backlog = backlog
    await store._work()
    assert index.seconds == seconds


async def test_a_search_that_waits_for_the_index_goes_before_writers(stores: AllStores) -> None:
    """Though the index is up to date meanwhile, another search having seen to that."""
    store: Any = stores.skills
    index = store._index = _EndlessIndex()
    store._database._flusher = flusher = asyncio.create_task(asyncio.Event().wait())
    store._keep_up()
    await asyncio.sleep(0.05)  # in which it has begun to give way to them
    answers: Iterator[Any] = iter([None, ([], 17)])
    index.search = lambda *_: next(answers)  # type: ignore[attr-defined]
    index.is_soon_there = lambda _: True  # type: ignore[attr-defined]
    try:
        async with asyncio.timeout(10):
            assert (await stores.skills.search()).total == 17
    finally:
        index.is_over = True
        store._database._flusher = None
        flusher.cancel()


async def test_a_store_closes_while_its_index_is_built(settings: Settings) -> None:
    async with create_store("sqlite", settings=settings) as stores:
        await stores.skills.create_many([skill(str(number)) for number in range(900)])
    stores = await create_store("sqlite", settings=settings)
    await stores.skills.search(query="n")
    await stores.close()
    assert stores.skills._indexing is None  # type: ignore[attr-defined]
