"""What a SQLite document store does beside its rows: when the index works, is waited for, and is stored."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from kpstore_conformance import dataset

from kpstore import BackendUnavailableError, Settings, StoredSkill, create_store
from kpstore.backends.sqlite import documents
from kpstore.backends.sqlite.stored_index import Transaction, UnreadableError
from kpstore.stores import DocumentQuery


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Any]:
    """The store of skills, whose inside these tests look at."""
    async with create_store("sqlite", settings=settings) as stores:
        yield stores.skills


def skill(number: int, **more: Any) -> StoredSkill:
    given: dict[str, Any] = {
        "id": f"skill {number}",
        "name": "name",
        "description": "",
        "content": "",
        "created_at": dataset.START,
        "updated_at": dataset.START,
    }
    return StoredSkill(**given | more)


class Index:
    """One that says what it is told to."""

    is_kept = is_current = True
    is_far_off = False
    backlog = 0
    found: tuple[list[bytes], int] | None = ([], 0)
    soon = False

    def __init__(self) -> None:
        self.storing: list[Transaction | None] = []

    def work(self, db: sqlite3.Connection, seconds: float) -> bool:
        return False

    def search(self, db: sqlite3.Connection, *asked: object) -> tuple[list[bytes], int] | None:
        return self.found

    def is_soon_there(self, db: sqlite3.Connection) -> bool:
        return self.soon

    def begin_storing(self, db: sqlite3.Connection) -> Iterator[Transaction | None]:
        return iter(self.storing)


def counted(store: Any, name: str) -> Callable[[], int]:
    """Have a method do nothing, and count its calls."""
    calls = 0

    def called() -> None:
        nonlocal calls
        calls += 1

    async def awaited() -> None:
        called()

    setattr(store, name, awaited if asyncio.iscoroutinefunction(getattr(store, name)) else called)
    return lambda: calls


# --- when the index is told to take in what is new ---------------------------------------------------


async def test_so_many_new_documents_call_for_the_index(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_BACKLOG", 5)
    calls = counted(store, "_keep_up")
    seen = []
    for number in range(7):
        await store.create(skill(number))
        seen.append(calls())
    assert seen == [0, 0, 0, 0, 1, 2, 3]  # nothing takes them in here
    await store._work()
    seen.clear()
    for number in range(6):
        await store.create(skill(10 + number))
        seen.append(calls() - 3)
    assert seen == [0, 0, 0, 0, 1, 2]


async def test_who_adds_a_few_to_many_waits_for_no_index(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "_BACKLOG", 5)
    async with create_store("sqlite", settings=settings) as stores:
        await stores.skills.create_many([skill(number) for number in range(12)])
        (last,) = await stores.skills._database.read(  # type: ignore[attr-defined]
            lambda db: db.execute("SELECT MAX(position) FROM skills").fetchone()
        )
    async with create_store("sqlite", settings=settings) as stores:
        store: Any = stores.skills
        calls = counted(store, "_keep_up")
        for number in range(last):
            await store.create(skill(100 + number))
        assert calls() == 0  # half of them are old
        await store.create(skill(1000))
        assert calls() == 1
    async with create_store("sqlite", settings=settings) as stores:
        store = stores.skills
        calls = counted(store, "_keep_up")
        store._index = Index()  # but one that is there is kept up to date
        for number in range(5):
            await store.create(skill(2000 + number))
        assert calls() == 1


async def test_only_a_large_batch_waits_until_it_is_indexed(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "_BACKLOG", 3)
    monkeypatch.setattr(documents, "_LARGE", 4)
    counted(store, "_keep_up")
    waits = counted(store, "_quiet")
    for count, waited in ((3, 0), (4, 0), (5, 1)):
        await store.create_many([skill(number) for number in range(count)])
        assert waits() == waited
    monkeypatch.setattr(documents, "_BACKLOG", 100)
    await store.create_many([skill(number) for number in range(5)])
    assert waits() == 1


@pytest.mark.parametrize("busy", ["_indexing", "_storing", "closed", None])
async def test_one_at_a_time_takes_in(store: Any, busy: str | None) -> None:
    calls = counted(store, "_take_in")
    if busy == "closed":
        store._context.closed = True
    elif busy is not None:
        setattr(store, busy, object())
    try:
        store._keep_up()
        await asyncio.sleep(0)
        assert calls() == (busy is None)
    finally:
        store._context.closed = False
        store._indexing = store._storing = None


@pytest.mark.parametrize(
    ("is_current", "is_far_off", "goes_on"),
    [(False, False, False), (True, False, True), (False, True, True)],
)
async def test_a_search_goes_on_once_the_index_is_up_to_date_or_far_off(
    store: Any, is_current: bool, is_far_off: bool, goes_on: bool
) -> None:
    index = store._index = Index()
    index.is_current, index.is_far_off = is_current, is_far_off
    stores = counted(store, "_store_index")
    seen: list[bool] = []

    async def work() -> bool:
        seen.append(store._is_indexed.is_set())
        return len(seen) < 3

    store._work = work
    store._is_indexed.clear()
    await store._take_in()
    assert seen == [False, goes_on, goes_on]
    assert store._is_indexed.is_set()
    await store._storing
    store._storing = None
    assert stores() == 1


async def test_an_index_that_cannot_be_built_keeps_nobody_waiting(store: Any) -> None:
    stores = counted(store, "_store_index")

    async def work() -> bool:
        raise BackendUnavailableError("gone")

    store._work = work
    for closed in (False, True):
        store._context.closed = closed
        store._is_indexed.clear()
        store._indexing = object()
        await store._take_in()
        assert store._is_indexed.is_set()
        assert store._indexing is None
        await asyncio.sleep(0)
        assert stores() == 1  # not once it is closed
    store._context.closed, store._storing = False, None


async def test_who_waits_for_the_index_goes_before_those_who_write(store: Any) -> None:
    ended = asyncio.Event()
    assert store._awaited == 0
    store._indexing = asyncio.create_task(ended.wait())
    waiting = [asyncio.create_task(store._quiet()) for _ in range(2)]
    await asyncio.sleep(0)
    assert store._awaited == 2
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    assert store._awaited == 1
    ended.set()
    await store._indexing
    store._indexing = None
    await waiting[1]
    assert store._awaited == 0


# --- storing it --------------------------------------------------------------------------------------


async def test_all_steps_of_storing_are_made_in_their_order(store: Any) -> None:
    done: list[tuple[int, bool]] = []

    def step(number: int) -> Transaction:
        return lambda db: done.append((number, db.in_transaction))

    index = store._index = Index()
    index.storing = [step(0), None, step(1), None, None, step(2)]
    await store._write_index()
    assert done == [(0, True), (1, True), (2, True)]


@pytest.mark.parametrize("error", [BackendUnavailableError("full"), UnreadableError()])
@pytest.mark.parametrize(("unsearched", "goes_on"), [(4, 0), (5, 1), (6, 1)])
async def test_storing_may_fail_and_what_came_meanwhile_is_taken_in(
    store: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, unsearched: int, goes_on: int
) -> None:
    monkeypatch.setattr(documents, "_BACKLOG", 5)
    calls = counted(store, "_keep_up")

    async def write() -> None:
        raise error

    store._write_index = write
    store._storing = object()
    store._unsearched = unsearched
    await store._store_index()
    assert store._storing is None
    assert calls() == goes_on
    store._unsearched = 0


# --- searches ----------------------------------------------------------------------------------------

EVERYTHING = DocumentQuery()


@pytest.mark.parametrize(("backlog", "expected"), [(4, 0), (5, 1), (6, 1)])
async def test_a_search_that_met_many_new_documents_has_them_taken_in(
    store: Any, monkeypatch: pytest.MonkeyPatch, backlog: int, expected: int
) -> None:
    monkeypatch.setattr(documents, "_BACKLOG", 5)
    calls = counted(store, "_keep_up")
    index = store._index = Index()
    index.backlog, index.found = backlog, ([b"{}"], 7)
    assert await store._search(EVERYTHING, 0, 1) == ([b"{}"], 7)
    assert calls() == expected


async def test_a_search_waits_for_an_index_that_is_soon_there(store: Any) -> None:
    index = store._index = Index()
    index.found, index.soon = None, True
    calls = counted(store, "_keep_up")
    for was_built in (True, False):
        store._is_indexed.set()  # of another one, which was given up
        store._indexing = object()
        searching = asyncio.create_task(store._search(EVERYTHING, 0, 1))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(searching), 0.05)
        assert store._awaited == 1
        index.found = ([b"{}"], 1) if was_built else None
        store._is_indexed.set()
        async with asyncio.timeout(5):
            assert await searching == (([b"{}"], 1) if was_built else ([], 0))  # or of the rows
        assert calls() == (1 if was_built else 2)
        assert store._awaited == 0
        index.found = None
    store._indexing = None
    async with asyncio.timeout(5):  # nobody is at it: the store is being closed
        assert await store._search(EVERYTHING, 0, 1) == ([], 0)


async def test_a_search_does_not_wait_for_an_index_that_is_far_from_there(store: Any) -> None:
    await store.create(skill(1))
    calls = counted(store, "_keep_up")
    index = store._index = Index()
    index.found, index.soon = None, False
    store._is_indexed.clear()
    store._indexing = object()
    async with asyncio.timeout(5):
        bodies, total = await store._search(EVERYTHING, 0, 1)
    store._indexing = None
    assert (len(bodies), total, calls()) == (1, 1, 1)


async def test_rows_answer_as_the_index_does(store: Any) -> None:
    made = [
        skill(
            number,
            name=f"name {number % 4}",
            quality_score=number % 3 / 2,
            tags=("even",) if number % 2 == 0 else ("odd", "other"),
            domain=("a", "b", None)[number % 3],
        )
        for number in range(40)
    ]
    await store.create_many(made)
    await store.search(query="n")
    await store._quiet()
    texts, domains = (None, "name 1"), (None, "a")
    tags, qualities = (frozenset[str](), frozenset({"even"}), frozenset({"other", "even"})), (None, 0.5)
    for text, domain, tag, quality in itertools.product(texts, domains, tags, qualities):
        query = DocumentQuery(text=text, domain=domain, tags=tag, min_quality=quality)
        for offset, limit in ((0, 1000), (2, 3), (39, 1), (0, 1), (0, 0), (5, 0), (50, 2)):

            def rows(db: sqlite3.Connection) -> Any:
                return store._search_rows(db, query, offset, limit)  # noqa: B023  # called at once

            def index(db: sqlite3.Connection) -> Any:
                return store._index.search(db, query, offset, limit)  # noqa: B023

            expected = await store._database.search(index)
            assert await store._database.search(rows) == expected
            assert len(expected[0]) == max(0, min(limit, expected[1] - offset))


async def test_a_scan_reads_no_more_than_asked_for(store: Any) -> None:
    await store.create_many([skill(number) for number in range(10)])
    await store.create(skill(3, name="again"))
    found = await store._scan(-1, 100, 100)
    positions = [position for position, _ in found]
    assert positions == sorted(positions)
    assert len(positions) == 10
    assert await store._scan(positions[2], positions[8], 4) == found[3:7]
    assert await store._scan(positions[2], positions[4], 100) == found[3:5]


async def test_bodies_are_texts(store: Any, settings: Settings) -> None:
    # `json_extract` and everybody who looks at the file takes them for texts.
    await store.create(skill(1, domain="d"))
    with closing(sqlite3.connect(settings.sqlite_path)) as db:
        assert db.execute("SELECT typeof(body), typeof(id), typeof(domain) FROM skills").fetchall() == [
            ("text", "text", "text")
        ]
