"""Documents in a table: the hooks of a `DocumentStore`, for skills and for knowledge units."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from kpstore.backends.sqlite.columns import last_position, text_column
from kpstore.backends.sqlite.search import SearchIndex
from kpstore.backends.sqlite.stored_index import Transaction, UnreadableError
from kpstore.errors import KpStoreError
from kpstore.index import text_of
from kpstore.stores import Document, DocumentQuery, StoreContext
from kpstore.stores.documents import DocumentStore

if TYPE_CHECKING:  # the database's schema needs this module to upgrade old files
    from kpstore.backends.sqlite.database import Database

R = TypeVar("R")

# New documents that are left to the next search to take into the index.
_BACKLOG = 256
# Writes go before the index, whose work takes the interpreter from them: as long as fewer documents than the
# first number wait for it, each of which takes a search 0.2 us, it only works while nobody writes; as long as
# fewer than the second one do, in turns with them.
_PATIENCE, _HASTE = 2048, 8192
# Of its work, to which a hop of 0.1 ms comes; and in haste, when each search takes longer than that anyway.
_SLICE_S, _LONG_SLICE_S = 0.0003, 0.001
# Documents in one call that waits until they are in the index.
_LARGE = 1000

# A list as one parameter, since there may be more values than SQLite allows parameters.
_ANY_OF = "(SELECT value FROM json_each(?))"


Column: TypeAlias = Callable[[Document], str | bytes | None]


class SqliteDocuments(DocumentStore[R]):
    """The hooks of a `DocumentStore` on one table.

    A subclass names the `table` and its `columns`: the value of each for a
    document, beside `id`, `body`, `quality` and `texts`, which every table has.
    """

    table: ClassVar[str]
    columns: ClassVar[dict[str, Column]]

    def __init__(self, context: StoreContext, database: Database) -> None:
        super().__init__(context)
        self._database = database
        self._index = SearchIndex(self.table, is_stored=database.is_file)
        database.indexes.append(self._index)
        self._indexing: asyncio.Task[None] | None = None
        self._is_indexed = asyncio.Event()  # or will not be soon
        self._storing: asyncio.Task[None] | None = None
        self._awaited = 0  # by how many
        self._written = 0  # documents, by this handle
        self._unsearched = 0  # of them, since the index was last told to take them in

    @staticmethod
    def _stored(db: sqlite3.Connection, document: Document, position: int) -> None:
        """Write what a table beside the main one holds of the document."""

    @staticmethod
    def _removed(db: sqlite3.Connection, position: int) -> None:
        """Remove what a table beside the main one holds of the document."""

    @classmethod
    def _store(cls, db: sqlite3.Connection, document: Document) -> None:
        """Insert the document, or replace the one with its id in its place."""
        names = ["id", "body", "quality", "texts", *cls.columns]
        marks = ["CAST(? AS TEXT)" if name == "body" else "?" for name in names]
        updates = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        (position,) = db.execute(
            f"INSERT INTO {cls.table} ({', '.join(names)}) VALUES ({', '.join(marks)})"
            f" ON CONFLICT (id) DO UPDATE SET {updates} RETURNING position",
            (
                text_column(document.id),
                document.body,
                document.quality,
                text_of(document.texts),
                *(value(document) for value in cls.columns.values()),
            ),
        ).fetchone()
        cls._stored(db, document, position)

    async def _put(self, documents: Sequence[Document]) -> None:
        def put(db: sqlite3.Connection) -> int | None:
            for document in documents:
                self._store(db, document)
            return None if self._index.is_kept else last_position(db, self.table)

        last = await self._database.write(put)
        self._unsearched += len(documents)
        self._written += len(documents)
        # Who fills a store will search it; who adds a few to many perhaps never does.
        if self._unsearched >= _BACKLOG and (last is None or last < 2 * self._written):
            self._keep_up()
            # So that nobody stores faster than the index can follow.
            if len(documents) > _LARGE:
                await self._quiet()

    async def _get(self, id: str) -> bytes | None:
        return await self._database.look_up(self._body, id)

    def _body(self, db: sqlite3.Connection, id: str) -> bytes | None:
        row = db.execute(f"SELECT CAST(body AS BLOB) FROM {self.table} WHERE id = ?", (id,)).fetchone()
        return None if row is None else row[0]

    async def _delete(self, id: str) -> bool:
        def delete(db: sqlite3.Connection) -> bool:
            row = db.execute(f"DELETE FROM {self.table} WHERE id = ? RETURNING position", (id,)).fetchone()
            if row is None:
                return False
            self._removed(db, row[0])
            return True

        return await self._database.write(delete)

    def _keep_up(self) -> None:
        """See to it that there is an index, and that it takes in what is new."""
        if self._indexing is None and self._storing is None and not self._context.closed:
            self._indexing = asyncio.create_task(self._take_in())

    async def _take_in(self) -> None:
        try:
            while await self._work():
                if self._index.is_current or self._index.is_far_off:
                    self._is_indexed.set()
                await self._give_way()
        except KpStoreError:
            pass  # closed, or damaged: a search says so, or does without the index
        finally:
            self._is_indexed.set()
            self._indexing = None
        if not self._context.closed:
            self._storing = asyncio.create_task(self._store_index())

    async def _work(self) -> bool:
        """Work on the index for a moment; whether there is more to do."""
        self._unsearched = 0
        seconds = _SLICE_S if self._index.backlog < _HASTE else _LONG_SLICE_S
        return await self._database.search(self._index.work, seconds)

    async def _give_way(self) -> None:
        """Let those write who do, if nobody waits for the index."""
        index = self._index
        while (
            not index.is_far_off
            and not self._awaited
            and self._unsearched < _BACKLOG
            and index.backlog < _HASTE
        ):
            # In turns with them while it lacks what they wrote: all of it at once would hold some up.
            if not await self._database.written() or not index.is_current or index.backlog >= _PATIENCE:
                return

    async def _store_index(self) -> None:
        """Write the index into the file, if it is time to."""
        try:
            await self._write_index()
        except (KpStoreError, UnreadableError):
            pass  # closed, full, or taken for abandoned: the next time
        finally:
            self._storing = None
        if self._unsearched >= _BACKLOG:
            self._keep_up()

    async def _write_index(self) -> None:
        storing = await self._database.search(self._index.begin_storing)

        def step(_: sqlite3.Connection) -> tuple[bool, Transaction | None]:
            """Whether there was one more, and it; on the thread of the index."""
            for transaction in storing:
                return True, transaction
            return False, None

        while (found := await self._database.search(step))[0]:
            if found[1] is not None:
                await self._database.write(found[1])

    async def _stop(self) -> None:
        """Wait for what goes on in the background, which ends when the store is closed."""
        await self._quiet()

    async def _quiet(self) -> None:
        """Wait until the index has taken in what there is."""
        with self._waiting():
            while going := [task for task in (self._indexing, self._storing) if task is not None]:
                await asyncio.wait(going)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Somebody waits for the index, which gives way to nobody then."""
        self._awaited += 1
        try:
            yield
        finally:
            self._awaited -= 1

    async def _search(self, query: DocumentQuery, offset: int, limit: int) -> tuple[list[bytes], int]:
        def search(db: sqlite3.Connection, may_wait: bool) -> tuple[bool, tuple[list[bytes], int] | None]:
            found = self._index.search(db, query, offset, limit)
            if found is not None:
                return self._index.backlog < _BACKLOG, found
            if may_wait and self._index.is_soon_there(db):
                return False, None
            return False, self._search_rows(db, query, offset, limit)

        is_up_to_date, found = await self._database.search(search, True)
        if not is_up_to_date:
            self._keep_up()
        if found is None:
            if self._indexing is not None:
                self._is_indexed.clear()  # the one there was may have been given up
                with self._waiting():
                    await self._is_indexed.wait()
            _, found = await self._database.search(search, False)
            assert found is not None
        return found

    def _search_rows(
        self, db: sqlite3.Connection, query: DocumentQuery, offset: int, limit: int
    ) -> tuple[list[bytes], int]:
        """The same without an index of our own."""
        where, values = self._conditions(query)
        total = db.execute(f"SELECT COUNT(*) FROM {self.table}{where}", values).fetchone()[0]
        if limit == 0 or offset >= total:
            return [], total
        rows = db.execute(
            f"SELECT CAST(body AS BLOB) FROM {self.table}{where}"
            " ORDER BY quality DESC, position LIMIT ? OFFSET ?",
            (*values, limit, offset),
        )
        return [body for (body,) in rows], total

    def _conditions(self, query: DocumentQuery) -> tuple[str, list[Any]]:
        """A WHERE clause, and its values."""
        conditions: list[str] = []
        values: list[Any] = []
        if query.min_quality is not None:
            conditions.append("quality >= ?")
            values.append(query.min_quality)
        if query.domain is not None:
            conditions.append("domain = ?")
            values.append(query.domain)
        if query.types:
            conditions.append(f"type IN {_ANY_OF}")
            values.append(_json(query.types))
        if query.tags:
            conditions.append(f"position IN (SELECT skill FROM skill_tags WHERE tag IN {_ANY_OF})")
            values.append(_json(query.tags))
        if query.text is not None:
            conditions.append("instr(texts, ?) > 0")
            values.append(query.text.encode())
        return (f" WHERE {' AND '.join(conditions)}" if conditions else ""), values

    async def _last_position(self) -> int:
        return await self._database.read(last_position, self.table)

    async def _scan(self, after: int, until: int, limit: int) -> list[tuple[int, bytes]]:
        def scan(db: sqlite3.Connection) -> list[tuple[int, bytes]]:
            return db.execute(
                f"SELECT position, CAST(body AS BLOB) FROM {self.table}"
                " WHERE position > ? AND position <= ? ORDER BY position LIMIT ?",
                (after, until, limit),
            ).fetchall()

        return await self._database.search(scan)


def _json(values: Iterable[str]) -> str:
    return json.dumps(sorted(values))
