"""Documents in a table: the hooks of a `DocumentStore`, for skills and for knowledge units."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from kpstore.stores import Document, DocumentQuery, StoreContext
from kpstore.stores.documents import DocumentStore

if TYPE_CHECKING:  # the database's schema needs this module to upgrade old files
    from kpstore.backends.sqlite.database import Database

R = TypeVar("R")

# Between two texts in the column `texts`. No UTF-8 has this byte, so no query can match across it.
_SEPARATOR = b"\xff"
# A list as one parameter, since there may be more values than SQLite allows parameters.
_ANY_OF = "(SELECT value FROM json_each(?))"


def text_column(value: str | None) -> str | bytes | None:
    """A text as SQLite can hold it: old rows may have lone surrogates, which only go in as bytes."""
    if value is None or value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")
    return value


def column_text(value: object) -> str:
    """The text that `text_column` made; a `ValueError` for what is none."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogatepass")
    if not isinstance(value, str):
        raise ValueError(f"a {type(value).__name__} where a text should be")  # noqa: TRY004  # as the decoding's
    return value


def texts_column(texts: Iterable[str]) -> bytes:
    """The folded texts of a document in one value; `instr` on bytes finds a query in it exactly."""
    return _SEPARATOR.join(text.encode("utf-8", "surrogatepass") for text in texts)


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
                texts_column(document.texts),
                *(value(document) for value in cls.columns.values()),
            ),
        ).fetchone()
        cls._stored(db, document, position)

    async def _put(self, documents: Sequence[Document]) -> None:
        def put(db: sqlite3.Connection) -> None:
            for document in documents:
                self._store(db, document)

        await self._database.write(put)

    async def _get(self, id: str) -> bytes | None:
        return await self._database.read(self._body, id)

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

    async def _search(self, query: DocumentQuery, offset: int, limit: int) -> tuple[list[bytes], int]:
        where, values = self._conditions(query)

        def search(db: sqlite3.Connection) -> tuple[list[bytes], int]:
            total = db.execute(f"SELECT COUNT(*) FROM {self.table}{where}", values).fetchone()[0]
            if limit == 0 or offset >= total:
                return [], total
            rows = db.execute(
                f"SELECT CAST(body AS BLOB) FROM {self.table}{where}"
                " ORDER BY quality DESC, position LIMIT ? OFFSET ?",
                (*values, limit, offset),
            )
            return [body for (body,) in rows], total

        return await self._database.search(search)

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


def last_position(db: sqlite3.Connection, table: str) -> int:
    """The highest position in a table, or -1."""
    position: int = db.execute(f"SELECT COALESCE(MAX(position), -1) FROM {table}").fetchone()[0]
    return position


def _json(values: Iterable[str]) -> str:
    return json.dumps(sorted(values))
