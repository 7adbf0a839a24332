"""The search index in a SQLite file: who opens the file searches at once, and finds what the rows hold."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kpstore_conformance import dataset

from kpstore import AllStores, Settings, StoredSkill, create_store
from kpstore.backends.sqlite import database, search, stored_index
from kpstore.backends.sqlite.stored_index import StoredIndex, UnreadableError, sweep
from kpstore.index import DocumentIndex, grams
from kpstore.index.postings import Postings
from kpstore.stores import DocumentQuery


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kpstore.db"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What matters at some thousand documents, at some hundred."""
    monkeypatch.setattr(search, "_WORTH_STORING", 300)
    monkeypatch.setattr(search, "_CHANGES_DUE", 100)
    monkeypatch.setattr(search, "_MANY", 100)
    monkeypatch.setattr(stored_index, "TOGETHER_BYTES", 4096)
    monkeypatch.setattr(grams, "_BLOCK_BYTES", 2048)
    monkeypatch.setattr(grams, "_PER_FRAME", 100)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[AllStores]:
    async with create_store("sqlite", settings=Settings(sqlite_path=str(path))) as stores:
        yield stores


def skill(number: int, text: str = "text", **more: Any) -> StoredSkill:
    given: dict[str, Any] = {
        "id": f"skill {number}",
        "name": f"number {number}",
        "description": text,
        "content": "some of the content",
        "tags": (f"tag{number % 7}", "all"),
        "quality_score": number % 10 / 10,
        "created_at": dataset.START,
        "updated_at": dataset.START,
    }
    return StoredSkill(**given | more)


async def fill(path: Path, count: int = 400) -> None:
    async with opened(path) as stores:
        await stores.skills.create_many([skill(number) for number in range(count)])
        await stores.skills.search(query="text")
        await stores.skills._quiet()  # type: ignore[attr-defined]


async def quiet(stores: AllStores) -> None:
    await stores.skills._quiet()  # type: ignore[attr-defined]


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
        db.commit()


def stored_generation(path: Path) -> int:
    found: int = rows(path, "SELECT MAX(generation) FROM search_indexes")[0][0]
    return found


def stored(path: Path) -> list[tuple[int, int]]:
    """How many frames each has that is stored: those it should have, and those that are there."""
    return rows(
        path,
        "SELECT pieces, (SELECT COUNT(*) FROM search_index_pieces"
        " WHERE piece >> 24 = generation AND piece & (1 << 23) = 0) FROM search_indexes",
    )


def forbid_reading(stores: AllStores, *names: str) -> None:
    """Fail where the rows are searched, or indexed."""
    for name in names or ("_search_rows", "_read_rows"):
        setattr(stores.skills if name == "_search_rows" else stores.skills._index, name, None)  # type: ignore[attr-defined]


async def totals(stores: AllStores) -> list[int]:
    asked: list[dict[str, Any]] = [
        {},
        {"query": "number 1"},
        {"query": "other"},
        {"query": "text"},
        {"tags": ["tag3"]},
        {"tags": ["many"]},
        {"min_quality": 0.5},
        {"query": "e", "min_quality": 0.8, "tags": ["tag1", "tag2"]},
    ]
    return [(await stores.skills.search(**one)).total for one in asked]


async def expected_totals(stores: AllStores) -> list[int]:
    """The same, of the records."""
    found = [one async for one in stores.skills.scan()]

    def has(text: str) -> Callable[[StoredSkill], bool]:
        return lambda one: any(text in each for each in (one.name, one.description, *one.tags))

    conditions: list[Callable[[StoredSkill], bool]] = [
        lambda _: True,
        has("number 1"),
        has("other"),
        has("text"),
        lambda one: "tag3" in one.tags,
        lambda one: "many" in one.tags,
        lambda one: one.quality_score >= 0.5,
        lambda one: has("e")(one) and one.quality_score >= 0.8 and not {"tag1", "tag2"}.isdisjoint(one.tags),
    ]
    return [sum(map(condition, found)) for condition in conditions]


async def test_the_next_handle_begins_with_what_is_stored(path: Path) -> None:
    await fill(path)
    ((pieces, there),) = stored(path)
    assert pieces == there > 1
    async with opened(path) as stores:
        forbid_reading(stores)
        assert await totals(stores) == await expected_totals(stores)
        page = await stores.skills.search(query="number 1", limit=5)
        assert [one.id for one in page.data] == [f"skill {n}" for n in (19, 109, 119, 129, 139)]


async def test_changes_since_then_are_taken_in_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_AT_ONCE", 10)
    await fill(path)
    async with opened(path) as stores:  # which never searches, and so has no index
        for number in range(30):
            await stores.skills.create(skill(number, "other", quality_score=1.0, tags=("new", "tag3")))
            await stores.skills.create(skill(1000 + number, tags=tuple(f"many {n}" for n in range(600))))
            await stores.skills.delete(f"skill {50 + number}")
        await stores.skills.create(skill(2000, "other", tags=("many",)))
        async with opened(path) as other:
            forbid_reading(other)
            assert await totals(other) == await expected_totals(other)
            await quiet(other)
            assert await totals(other) == await expected_totals(other)


async def test_it_is_stored_again_after_many_changes_and_no_sooner(path: Path) -> None:
    await fill(path)
    first = rows(path, "SELECT generation FROM search_indexes")
    async with opened(path) as stores:
        await totals(stores)
        await stores.skills.create_many([skill(number) for number in range(1000, 1090)])
    assert rows(path, "SELECT generation FROM search_indexes") == first
    async with opened(path) as stores:
        await totals(stores)
        await stores.skills.create_many([skill(number) for number in range(2000, 2300)])
        await quiet(stores)
        await totals(stores)
        await quiet(stores)
        ((pieces, there),) = stored(path)
        assert pieces == there
        assert rows(path, "SELECT generation FROM search_indexes") != first
        assert rows(path, "SELECT COUNT(DISTINCT piece >> 24) FROM search_index_pieces") == [(1,)]
    async with opened(path) as stores:
        forbid_reading(stores)
        assert await totals(stores) == await expected_totals(stores)


def stored_strings(path: Path) -> set[bytes]:
    """The strings that the index in the file knows."""
    with closing(sqlite3.connect(path)) as db:
        one = StoredIndex.last(db, "skills")
        assert one is not None
        steps = DocumentIndex.load(one.frames(lambda: db), partial(one.block, db))
        while True:
            try:
                next(steps)
            except StopIteration as done:
                known = done.value[0]._grams
                return {known._string(node) for node in range(known._nodes)}


async def test_nothing_of_what_was_deleted_is_in_it_after_close(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grams, "_FEWEST", 2)  # what three documents have is known letter by letter
    async with opened(path) as stores:
        await stores.skills.create_many([skill(n, "secret" if n % 2 else "text") for n in range(400)])
        await stores.skills.create_many([skill(1000 + n, "xylophone") for n in range(5)])
        await totals(stores)
        await quiet(stores)
    assert {b"secret", b"xylophone"} <= stored_strings(path)
    async with opened(path) as stores:
        await totals(stores)
        for number in range(1, 200, 2):
            await stores.skills.delete(f"skill {number}")
        for number in range(201, 400, 2):
            await stores.skills.create(skill(number, "replaced"))
    found = stored_strings(path)
    assert b"replaced" in found
    assert not any(b"secr" in string for string in found)
    async with opened(path) as stores:  # which is not searched, and changes too little to store it for that
        for number in range(5):
            await stores.skills.delete(f"skill {1000 + number}")
    found = stored_strings(path)
    assert b"replaced" in found
    assert not any(b"xy" in string for string in found)
    async with opened(path) as stores:
        forbid_reading(stores)
        assert await totals(stores) == await expected_totals(stores)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE search_index_pieces SET data = data || x'00' WHERE piece & 3 = 1",
        "UPDATE search_index_pieces SET data = zeroblob(length(data)) WHERE piece & 3 = 0",
        "UPDATE search_index_pieces"
        " SET data = CAST(substr(data, 1, 1500) || x'65' || substr(data, 1502) AS BLOB)"
        " WHERE piece = (SELECT MAX(piece) - 1 FROM search_index_pieces)",
        "DELETE FROM search_index_pieces WHERE piece & 3 = 2",
        "DELETE FROM search_index_pieces WHERE piece & (1 << 23) > 0",
        "UPDATE search_index_pieces SET checksum = checksum + 1 WHERE piece & (1 << 23) > 0",
        "UPDATE search_index_pieces SET data = 'text' WHERE piece & (1 << 23) > 0",
        "UPDATE search_index_pieces SET data = zeroblob(length(data))"
        " WHERE piece = (SELECT MAX(piece) FROM search_index_pieces)",
        "UPDATE search_indexes SET seen = seen - 50",
        "UPDATE search_indexes SET seen = seen + 1000",
        "UPDATE search_indexes SET pieces = 0",
    ],
)
async def test_one_that_cannot_be_relied_on_is_built_anew(path: Path, damage: str) -> None:
    await fill(path)
    if damage.startswith("UPDATE search_indexes SET seen"):  # of the changes since, some are forgotten
        change(
            path,
            "DELETE FROM document_changes WHERE number < (SELECT MAX(number) - 20 FROM document_changes)",
        )
    change(path, damage)
    async with opened(path) as stores:
        assert await totals(stores) == await expected_totals(stores)
        await quiet(stores)
        assert stores.skills._index._stored is None  # type: ignore[attr-defined]  # it was built from the rows
        forbid_reading(stores, "_search_rows")
        assert await totals(stores) == await expected_totals(stores)


# --- blocks, which are read later ----------------------------------------------------------------


@pytest.fixture
async def searcher(path: Path) -> AsyncIterator[sqlite3.Connection]:
    """A connection to a file in which an index is stored."""
    await fill(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The blocks that are read: the generation and number of each."""
    found = []
    block = StoredIndex.block

    def reading(stored: StoredIndex, db: sqlite3.Connection, number: int) -> bytes:
        found.append((stored.generation, number))
        return block(stored, db, number)

    monkeypatch.setattr(StoredIndex, "block", reading)
    return found


def lacking(db: sqlite3.Connection) -> search.SearchIndex:
    """An index that has begun with the one in the file, and has not read all of it."""
    index = search.SearchIndex("skills", is_stored=True)
    while not index.is_current:
        index.work(db, 0.0)
    assert index._index is not None
    assert not index._index.can_be_saved
    return index


def never_read_rows(index: search.SearchIndex) -> None:
    def reading(*_: Any) -> None:
        raise AssertionError

    index._read_rows = reading  # type: ignore[method-assign, assignment]


def finish(index: search.SearchIndex, db: sqlite3.Connection) -> None:
    while index.work(db, 1.0):
        pass


def puts(index: Any) -> list[int]:
    """The positions of the rows that are put into a `SearchIndex` from now on."""
    found: list[int] = []
    put = index._put

    def putting(db: sqlite3.Connection, row: Sequence[Any]) -> None:
        found.append(row[0])
        put(db, row)

    index._put = putting
    return found


def count(index: search.SearchIndex, db: sqlite3.Connection, text: str) -> int | None:
    """How many a search finds, if the index knows."""
    found = index.search(db, DocumentQuery(text=text), 0, 10)
    return None if found is None else found[1]


TEXTS = ("text", "number 1", "number 39", "tag3", "e", "nowhere")


def count_rows(db: sqlite3.Connection, text: str) -> int:
    ((found,),) = db.execute("SELECT COUNT(*) FROM skills WHERE instr(texts, ?) > 0", (text.encode(),))
    return int(found)


async def test_an_index_answers_before_all_of_it_has_been_read(
    searcher: sqlite3.Connection, read: list[tuple[int, int]]
) -> None:
    query = "SELECT COUNT(*) FROM search_index_pieces WHERE piece & (1 << 23) > 0"
    blocks = searcher.execute(query).fetchone()[0]
    index = lacking(searcher)
    assert len(read) <= 1  # by the first work that there was time for
    assert count(index, searcher, "tag3") == 57
    assert len(read) <= 7
    assert blocks > 20
    finish(index, searcher)
    assert len(read) == len(set(read)) == blocks
    searcher.execute("DELETE FROM search_index_pieces")  # of which it needs nothing any more
    for text in TEXTS:
        assert count(index, searcher, text) == count_rows(searcher, text)
    assert len(read) == blocks


async def change_much(path: Path) -> None:
    """So that another handle stores its index in the place of the one there was."""
    async with opened(path) as other:
        await other.skills.create_many([skill(number, "other") for number in range(200, 600)])
        await totals(other)
        await quiet(other)


@pytest.mark.parametrize("discovers", ["search", "work"])
async def test_an_index_that_lacks_blocks_begins_with_the_newer_one_in_their_place(
    path: Path, searcher: sqlite3.Connection, discovers: str
) -> None:
    index = lacking(searcher)
    await change_much(path)
    assert index._stored is not None
    assert searcher.execute("SELECT generation FROM search_indexes").fetchall() != [
        (index._stored.generation,)
    ]
    if discovers == "search":
        answers = [count(index, searcher, text) for text in TEXTS]
        assert None in answers
        for text, found in zip(TEXTS, answers, strict=True):
            assert found in (None, count_rows(searcher, text))
        assert index.is_soon_there(searcher)
    never_read_rows(index)
    finish(index, searcher)
    for text in TEXTS:
        assert count(index, searcher, text) == count_rows(searcher, text)


@pytest.mark.parametrize("is_table_there", [True, False])
async def test_a_damaged_block_is_not_read_again_and_again(
    searcher: sqlite3.Connection, read: list[tuple[int, int]], is_table_there: bool
) -> None:
    """The index in the file is given up, until there is another one."""
    index = lacking(searcher)
    searcher.execute("UPDATE search_index_pieces SET checksum = 0 WHERE piece & (1 << 23) > 0")
    if not is_table_there:
        searcher.execute("ALTER TABLE search_index_pieces RENAME TO elsewhere")
    read.clear()
    assert count(index, searcher, "tag3") is None
    if not is_table_there:
        searcher.execute("ALTER TABLE elsewhere RENAME TO search_index_pieces")
    assert len(read) == 1
    assert not index.is_soon_there(searcher)
    index.work(searcher, 0.0)
    assert index.is_far_off
    finish(index, searcher)
    assert len(read) == 1
    assert count(index, searcher, "tag3") == 57
    for transaction in index.begin_storing(searcher):
        if transaction is not None:
            transaction(searcher)
    assert count(lacking(searcher), searcher, "tag3") == 57


async def test_what_goes_on_while_an_index_lacks_blocks_is_found(
    path: Path, searcher: sqlite3.Connection
) -> None:
    index = lacking(searcher)
    async with opened(path) as other:
        await other.skills.create_many([skill(number, "other") for number in range(350, 450)])
        await other.skills.delete("skill 3")
        while index.work(searcher, 0.0):
            for text in TEXTS:
                assert count(index, searcher, text) == count_rows(searcher, text)


async def test_an_index_is_complete_before_the_stored_one_is_removed(searcher: sqlite3.Connection) -> None:
    """As when the last handle erases what was deleted. Texts, which are in the rows, are not read for it."""
    index = lacking(searcher)
    index.catch_up(searcher)
    assert index._texts.read_until is not None
    stored_index.remove_all(searcher)
    for transaction in index.store_last(searcher):
        if transaction is not None:
            transaction(searcher)
    again = lacking(searcher)
    finish(again, searcher)
    for one in (index, again):
        for text in TEXTS:
            assert count(one, searcher, text) == count_rows(searcher, text)


async def test_an_index_that_cannot_be_completed_is_not_built_anew_in_order_to_close(
    searcher: sqlite3.Connection,
) -> None:
    index = lacking(searcher)
    slices = iter([0.2])  # it begins with the rows, which the next slice would go on with
    index._build = lambda _: time.sleep(next(slices))  # type: ignore[method-assign, assignment]
    searcher.execute("UPDATE search_index_pieces SET checksum = 0 WHERE piece & (1 << 23) > 0")
    index.catch_up(searcher)
    assert not index.is_current
    assert list(index.store_last(searcher)) == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE skills SET quality = 'text' WHERE position = 7",
        "UPDATE skills SET texts = CAST('text' AS TEXT) WHERE position = 7",
        "UPDATE skills SET position = 1 << 33 WHERE position = 7",
        "DROP TABLE document_changes",
    ],
)
async def test_an_index_of_what_cannot_be_read_is_given_up_in_order_to_close(
    searcher: sqlite3.Connection, damage: str
) -> None:
    index = lacking(searcher)
    finish(index, searcher)
    assert index.is_kept
    searcher.execute(damage)
    index.catch_up(searcher)
    assert not index.is_kept


async def test_an_index_that_has_seen_the_change_before_the_oldest_noted_one_lacks_none(
    path: Path, searcher: sqlite3.Connection
) -> None:
    index = lacking(searcher)
    finish(index, searcher)
    never_read_rows(index)
    change(path, "UPDATE skills SET texts = texts WHERE position < 5")
    change(path, f"DELETE FROM document_changes WHERE number <= {index._seen}")
    assert count(index, searcher, "text") == count_rows(searcher, "text")
    assert index.is_kept


async def test_what_another_handle_stores_is_no_help_to_an_index_that_is_built_from_the_rows(
    path: Path, searcher: sqlite3.Connection
) -> None:
    searcher.execute("DELETE FROM search_indexes")
    index = search.SearchIndex("skills", is_stored=True)
    index.work(searcher, 0.0)
    await change_much(path)
    assert stored(path)
    assert index.is_far_off
    assert not index.is_soon_there(searcher)


async def test_a_handle_that_closes_stores_what_it_has_not_looked_at_yet(
    path: Path, searcher: sqlite3.Connection
) -> None:
    """Enough has changed since, though none of it by this handle, nor since it last searched."""
    index = lacking(searcher)
    finish(index, searcher)
    for changes, is_stored in ((90, False), (20, True)):
        async with opened(path) as other:
            await other.skills.create_many([skill(n, "other") for n in range(changes)])
        assert any(True for _ in index.store_last(searcher)) == is_stored


@pytest.mark.parametrize(("changes", "is_stored"), [(18, False), (19, True)])
async def test_a_handle_that_closes_stores_a_large_index_after_many_changes(
    path: Path, changes: int, is_stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for twenty documents: who waits for it to close would wait for all of them."""
    await fill(path, 380)
    before = stored_generation(path)
    monkeypatch.setattr(search, "_CHANGES_DUE", 1)
    async with opened(path) as stores:
        await stores.skills.create_many([skill(380 + number) for number in range(changes)])
        await stores.skills.search(query="text")
        await quiet(stores)
    assert (stored_generation(path) > before) == is_stored


@pytest.mark.parametrize("is_seen", [True, False])
async def test_an_index_is_stored_before_the_changes_since_are_forgotten(
    path: Path, searcher: sqlite3.Connection, is_seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few of them are of its own documents: half of those that are kept."""
    index = lacking(searcher)
    finish(index, searcher)
    monkeypatch.setattr(search, "_KEPT", 60)
    for count, is_due in (0, False), (29, False), (1, True), (5, True):
        for _ in range(count):
            change(path, "INSERT INTO document_changes (kind, position) VALUES ('knowledge_units', 1)")
        if is_seen:
            finish(index, searcher)
        assert index._is_due(searcher, 1000) == is_due


def test_a_last_index_is_stored_without_a_wait_for_the_disk_at_each_commit(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = FULL")
        database._store_indexes(db, [])
        assert db.execute("PRAGMA synchronous").fetchone() == (1,)  # NORMAL, which loses nothing before


async def test_documents_with_many_tags_are_put_in_again_some_at_a_time(path: Path) -> None:
    async with opened(path) as stores:
        tags = tuple(f"many {number}" for number in range(501))
        await stores.skills.create_many([skill(n, tags=tags if n < 40 else ()) for n in range(400)])
        await stores.skills.search()
        await quiet(stores)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        index = search.SearchIndex("skills", is_stored=True)
        put = puts(index)
        left = []
        while not index.is_current:
            index.work(db, 0.0)
            left.append(len(index._again))
        assert left[-4:] == [40, 24, 8, 0]
        assert sorted(put) == list(range(1, 41))
        assert index.search(db, DocumentQuery(tags=frozenset({"many 7"})), 0, 0) == ([], 40)


async def test_an_index_can_be_completed_on_another_connection(
    path: Path, searcher: sqlite3.Connection
) -> None:
    """The one on which it was begun is closed before the store is."""
    index = search.SearchIndex("skills", is_stored=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as first:
        index.work(first, 0.0)
        index.work(first, 0.0)
    assert index._loading is not None
    never_read_rows(index)
    index.catch_up(searcher)
    finish(index, searcher)
    for text in TEXTS:
        assert count(index, searcher, text) == count_rows(searcher, text)


async def test_a_handle_that_changed_nothing_reads_nothing_in_order_to_close(
    searcher: sqlite3.Connection, read: list[tuple[int, int]]
) -> None:
    index = lacking(searcher)
    read.clear()
    assert list(index.store_last(searcher)) == []
    assert read == []


async def search_and_lack(stores: AllStores) -> None:
    """Search, with an index that never finds the time to read blocks that no search needs."""

    def reading(postings: Postings) -> Generator[None, None, None]:
        yield

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Postings, "read_on", reading)
        assert (await stores.skills.search(query="tag3")).total == 57
        postings = stores.skills._index._index._grams._postings  # type: ignore[attr-defined]
        postings.read_on = partial(reading, postings)
    assert not postings.are_all_read


async def test_a_search_that_misses_a_block_waits_for_the_newer_index(path: Path) -> None:
    await fill(path)
    async with opened(path) as stores:
        forbid_reading(stores)
        await search_and_lack(stores)
        index = stores.skills._index  # type: ignore[attr-defined]
        begun_with = index._stored.generation
        await change_much(path)
        assert await totals(stores) == await expected_totals(stores)
        assert index._stored.generation > begun_with


async def test_a_search_that_misses_a_block_does_not_wait_for_writers(path: Path) -> None:
    """Who write without a pause, and before whom the index has nothing urgent to do."""
    await fill(path)
    async with opened(path) as stores:
        await search_and_lack(stores)
        await change_much(path)
        database = stores.skills._database  # type: ignore[attr-defined]
        database._flusher = flusher = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0.05)  # in which the index has begun to give way to them
        try:
            async with asyncio.timeout(20):
                assert await totals(stores) == await expected_totals(stores)
        finally:
            database._flusher = None
            flusher.cancel()


# --- built anew, or not at all -------------------------------------------------------------------


async def test_no_search_waits_for_an_index_that_is_built_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(path)
    change(path, "UPDATE search_index_pieces SET checksum = 0")
    monkeypatch.setattr(search, "_PER_SLICE", 1)
    async with opened(path) as stores:
        assert (await stores.skills.search(query="text")).total == 400
        assert not stores.skills._index._is_whole  # type: ignore[attr-defined]


async def test_one_of_another_format_is_built_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("kpstore.index.documents.FORMAT", "0 little")
        await fill(path)
    assert stored(path)
    async with opened(path) as stores:
        assert await totals(stores) == await expected_totals(stores)
        await quiet(stores)
    async with opened(path) as stores:  # it has been replaced
        forbid_reading(stores)
        assert await totals(stores) == await expected_totals(stores)


async def test_a_search_that_waits_is_answered_where_the_index_is_closed_under_it(path: Path) -> None:
    await fill(path)
    stores = await create_store("sqlite", settings=Settings(sqlite_path=str(path)))
    searches = [asyncio.ensure_future(totals(stores)) for _ in range(5)]
    await asyncio.sleep(0)
    await stores.close()
    for one in await asyncio.gather(*searches, return_exceptions=True):
        assert isinstance(one, (list, Exception))


@pytest.mark.parametrize(("few", "is_first"), [(False, True), (True, False)])
async def test_where_much_waits_texts_are_read_before_it_is_taken_in(
    path: Path, few: bool, is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are looked through again and again then; else, to read them can wait."""
    await fill(path)
    change(path, "UPDATE skills SET texts = texts")
    monkeypatch.setattr(search, "_MANY", 400 if few else 399)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        index = search.SearchIndex("skills", is_stored=True)
        while not index.is_current or index.backlog < 400:
            index.work(db, 0.0)
        while index.backlog == 400:
            index.work(db, 0.0)
        assert (index._texts.read_until is None) is is_first


async def test_one_that_would_be_mostly_pending_is_not_stored(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grams, "_CHUNK_BYTES", 1000)  # little is taken in at a time
    await fill(path)
    change(path, "DELETE FROM search_indexes")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        index = search.SearchIndex("skills", is_stored=True)
        while not index.is_current or not index._index or not index._index.can_be_saved:
            index.work(db, 0.0)
        assert index.backlog > 300
        working = index._bring_on
        index._bring_on = lambda *_: True  # type: ignore[method-assign]  # which has no time
        assert next(index.store_last(db), None) is None
        index._bring_on = working  # type: ignore[method-assign]
        while index.work(db, 1.0):
            pass
        assert next(index.store_last(db), None) is not None


@pytest.mark.parametrize(("documents", "is_stored"), [(299, False), (300, True)])
async def test_what_is_built_as_fast_as_it_is_loaded_is_not_stored(
    path: Path, documents: int, is_stored: bool
) -> None:
    await fill(path, documents)
    change(path, "DELETE FROM search_indexes")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        index = search.SearchIndex("skills", is_stored=True)
        finish(index, db)
        assert any(True for _ in index.begin_storing(db)) == is_stored


async def test_each_row_is_read_once(path: Path) -> None:
    """To build the index, or to have all texts in memory."""
    await fill(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        index = search.SearchIndex("skills", is_stored=False)
        put = puts(index)
        finish(index, db)
        assert put == list(range(1, 401))
        index = search.SearchIndex("skills", is_stored=True)
        assert not index.is_kept
        while index.work(db, 0.0):
            assert index.is_kept
        assert index._texts.read_until is None
        assert [position for position, _ in index._texts.of(put)] == put


async def test_small_stores_and_those_in_memory_store_none(path: Path) -> None:
    async with opened(path) as stores:
        await stores.skills.create_many([skill(number) for number in range(299)])
        await totals(stores)
    assert stored(path) == []
    async with create_store("sqlite", settings=Settings(sqlite_path=":memory:")) as stores:
        await stores.skills.create_many([skill(number) for number in range(1001)])
        await totals(stores)
        await quiet(stores)
        database = stores.skills._database  # type: ignore[attr-defined]
        assert await database.read(lambda db: db.execute("SELECT * FROM search_indexes").fetchall()) == []


# --- who writes, and when ------------------------------------------------------------------------


@pytest.fixture
def db() -> Any:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for name, columns in stored_index.TABLES.items():
            connection.execute(f"CREATE TABLE {name} ({columns})")
        yield connection


def test_one_that_is_being_written_is_left_alone_until_it_is_abandoned(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = StoredIndex.begin(db, "skills", 1)
    first.write(db, [(0, b"one")])
    assert StoredIndex.is_being_written(db, "skills")
    assert not StoredIndex.is_being_written(db, "knowledge_units")
    assert StoredIndex.last(db, "skills") is None
    assert not sweep(db)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 601 * 10**9)
    assert not StoredIndex.is_being_written(db, "skills")
    second = StoredIndex.begin(db, "skills", 2)
    second.write(db, [(0, b"two")])
    second.finish(db, "skills", 1)
    while sweep(db):
        pass
    assert db.execute("SELECT data FROM search_index_pieces").fetchall() == [(b"two",)]
    with pytest.raises(UnreadableError):
        first.write(db, [(1, b"more")])
    found = StoredIndex.last(db, "skills")
    assert found is not None
    assert found.seen == 2


def test_the_last_one_of_each_table_is_kept(db: sqlite3.Connection) -> None:
    for kind, seen in (("skills", 1), ("knowledge_units", 2), ("skills", 3)):
        one = StoredIndex.begin(db, kind, seen)
        one.write(db, [(number, b"%d %d" % (seen, number)) for number in range(5)])
        one.finish(db, kind, 5)
    while sweep(db):
        pass
    kept = [data for (data,) in db.execute("SELECT data FROM search_index_pieces ORDER BY piece")]
    assert kept == [b"%d %d" % (seen, number) for seen in (2, 3) for number in range(5)]


def test_one_that_is_being_written_outlives_a_newer_one(db: sqlite3.Connection) -> None:
    """Whose handle was faster; that of a single frame does not."""
    whole, slow, fast = (StoredIndex.begin(db, "skills", seen) for seen in (1, 2, 3))
    whole.write(db, [(0, b"whole")])
    whole.finish(db, "skills", 1)
    slow.write(db, [(0, b"slow")])
    fast.finish(db, "skills", 1)
    left = [generation for (generation,) in db.execute("SELECT generation FROM search_indexes")]
    assert left == [slow.generation, fast.generation]
    slow.write(db, [(1, b"slow")])
    slow.finish(db, "skills", 2)  # older, and whole: the newer one is the last all the same
    found = StoredIndex.last(db, "skills")
    assert found is not None
    assert found.generation == fast.generation


@pytest.mark.parametrize("gone", [(2,), (3,), (2, 3), (2, 3, 4)])
def test_whatever_piece_belongs_to_no_index_is_removed(db: sqlite3.Connection, gone: tuple[int, ...]) -> None:
    """Be it the first and only one of its generation, and beside those of others."""
    for generation in range(1, 5):
        one = StoredIndex.begin(db, "skills", generation)
        one.write(db, [(0, b"%d" % generation)])
    for generation in gone:
        db.execute("DELETE FROM search_indexes WHERE generation = ?", (generation,))
    while sweep(db):
        pass
    kept = [int(data) for (data,) in db.execute("SELECT data FROM search_index_pieces ORDER BY piece")]
    assert kept == [generation for generation in range(1, 5) if generation not in gone]


def test_pieces_are_written_together_up_to_a_size(db: sqlite3.Connection) -> None:
    """And others have their turn for each that only waits to be written."""
    blocks = [bytes(500 + 7 * number % 300) for number in range(200)]
    written: list[int] = []
    turns = 0
    for transaction in stored_index.storing("skills", 1, blocks):
        if transaction is None:
            turns += 1
        elif not isinstance(transaction, partial):
            transaction(db)  # it begins, or, in the end, has nothing to remove
        elif "pieces" in transaction.keywords:
            pieces = transaction.keywords["pieces"]
            assert [data for _, data in pieces] == blocks[sum(written) :][: len(pieces)]
            written.append(len(pieces))
            size = sum(len(data) for _, data in pieces)
            last = len(pieces[-1][1])
            assert size - last < stored_index.TOGETHER_BYTES  # 4,096
            assert size >= stored_index.TOGETHER_BYTES or sum(written) == len(blocks)
    assert sum(written) == len(blocks)
    assert turns == len(blocks) - len(written) + 1


# --- kills ---------------------------------------------------------------------------------------

WRITER = """
    import asyncio, sys, random
    sys.path.insert(0, {folder!r})
    import test_sqlite_stored_index as tests
    from kpstore.backends.sqlite import search, stored_index

    search._WORTH_STORING, search._CHANGES_DUE, search._MANY = 300, 20, 20
    stored_index.TOGETHER_BYTES = 2048

    async def main():
        dice = random.Random({seed})
        async with tests.opened(tests.Path({path!r})) as stores:
            while True:
                many = [tests.skill(dice.randrange(1500), dice.choice(["text", "other"])) for _ in range(260)]
                await stores.skills.create_many(many)
                await stores.skills.delete(f"skill {{dice.randrange(1500)}}")
                await stores.skills.search(query="other")
                print(flush=True)

    asyncio.run(main())
"""


async def test_a_kill_at_any_moment_leaves_an_index_that_agrees_with_the_rows(path: Path) -> None:
    """Killed while it writes, while it stores the index, and while it removes the last one."""
    dice = random.Random(0)
    await fill(path, 300)
    read = 0
    for seed in range(8):
        script = textwrap.dedent(WRITER.format(folder=str(Path(__file__).parent), seed=seed, path=str(path)))
        writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()  # it has begun
        await asyncio.sleep(dice.uniform(0, 0.5))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        async with opened(path) as stores:
            assert await totals(stores) == await expected_totals(stores)
            index = stores.skills._index  # type: ignore[attr-defined]
            read += index._stored is not None  # it did not come from the rows
            if seed % 2:
                await quiet(stores)
                assert await totals(stores) == await expected_totals(stores)
    assert read > 4
    with suppress(FileNotFoundError):
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("version", [2, 3])
async def test_a_file_of_an_older_version_is_upgraded(path: Path, version: int) -> None:
    async with opened(path) as stores:
        await stores.skills.create(skill(1))
    schema_now = rows(path, "SELECT name, sql FROM sqlite_master ORDER BY name")
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE INDEX skills_by_domain ON skills (domain, quality DESC)")
        db.execute("CREATE INDEX knowledge_units_by_type ON knowledge_units (type, quality DESC)")
        if version == 2:
            db.execute("DROP TABLE search_indexes")
            db.execute("DROP TABLE search_index_pieces")
            name = "skills_insert_is_noted"
            (sql,) = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()
            db.execute(f"DROP TRIGGER {name}")
            db.execute(sql.replace(str(search._KEPT), "50000"))
        db.execute(f"PRAGMA user_version = {version}")
        db.commit()
    assert rows(path, "SELECT name, sql FROM sqlite_master ORDER BY name") != schema_now
    async with opened(path) as stores:
        assert (await stores.skills.search(query="text")).total == 1
    assert rows(path, "SELECT name, sql FROM sqlite_master ORDER BY name") == schema_now
