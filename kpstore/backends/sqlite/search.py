"""The search index of a table of documents, kept in memory by each handle and up to date with all of them.

Triggers note every change of a document in the table `document_changes`, within the transaction of the
change. A search reads, in one snapshot, what has been noted since the last one, brings the index up to date
with it, asks the index and fetches the rows of the page: so it sees whatever was acknowledged before it, by
any process. All of this runs on the thread of the connection for searches, which alone touches the index.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Sequence
from time import perf_counter
from typing import Any, TypeVar

from kpstore.backends.sqlite.columns import column_text
from kpstore.index import DocumentIndex
from kpstore.stores import Document, DocumentQuery

T = TypeVar("T")

CHANGES = "document_changes"
CHANGES_TABLE = """
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        position INTEGER NOT NULL
    """
_INDEXED = ("skills", "knowledge_units")
# Changes that are remembered, at 20 bytes each. A handle that missed more builds its index anew.
_KEPT = 50_000
# A search applies so many changes itself, in 20 ms at most; with more it does without the index until that
# has caught up in the background.
_AT_ONCE = 1000
_PER_SLICE = 64  # rows, read and put into the index in 1 ms


def create_changes(db: sqlite3.Connection) -> None:
    """Make the triggers that note changes."""
    for table in _INDEXED:
        for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            db.execute(
                f"CREATE TRIGGER IF NOT EXISTS {table}_{event.lower()}_is_noted AFTER {event} ON {table}"
                " BEGIN"
                f" INSERT INTO {CHANGES} (kind, position) VALUES ('{table}', {row}.position);"
                f" DELETE FROM {CHANGES} WHERE number = last_insert_rowid() - {_KEPT};"
                " END"
            )


class SearchIndex:
    """The index of one table.

    Args:
        table: `skills` or `knowledge_units`.
    """

    def __init__(self, table: str) -> None:
        self._table = table
        has_tags = table == "skills"
        self._columns = "position, quality, domain, texts, " + ("'', NULL" if has_tags else "type, agent_id")
        self._has_tags = has_tags
        self._index: DocumentIndex | None = None
        self._loaded = -1  # the position up to which rows are in it, while it is being built
        self._is_whole = False
        self._seen = 0  # the number of the last change that is in it

    @property
    def is_kept(self) -> bool:
        """Whether there is one, be it in the making."""
        return self._index is not None

    def search(
        self, db: sqlite3.Connection, query: DocumentQuery, offset: int, limit: int
    ) -> tuple[list[bytes], int] | None:
        """A page of the bodies that match, and the count of all; `None` if the index is not up to date."""
        if not self._is_whole:
            return None
        try:
            if not self._apply_changes(db, _AT_ONCE):
                return None
        except (TypeError, ValueError, OverflowError, sqlite3.Error):
            self._forget()  # a row that cannot be read concerns only those whose search finds it
            return None
        assert self._index is not None
        positions, total = _result(self._index.search(query, offset, limit))
        body = f"SELECT CAST(body AS BLOB) FROM {self._table} WHERE position = ?"
        bodies = [row[0] for position in positions for row in db.execute(body, (position,))]
        if len(bodies) < len(positions):  # rows went without a note: somebody switched the triggers off
            self._forget()
            return None
        return bodies, total

    def work(self, db: sqlite3.Connection, seconds: float) -> bool:
        """Build the index, or bring it up to date, for about that long; whether there is more to do."""
        until = perf_counter() + seconds
        while True:
            if self._is_whole:
                has_more = not self._apply_changes(db, _PER_SLICE)
                if self._index is not None and not has_more:
                    has_more = self._index.work(max(0.0, until - perf_counter()))
            else:
                self._load(db)
                has_more = True
            if not has_more or perf_counter() >= until:
                return has_more

    def _forget(self) -> None:
        self._index = None
        self._is_whole = False

    def _load(self, db: sqlite3.Connection) -> None:
        """Put some more rows into the index. What changes meanwhile is noted, and applied after them."""
        if self._index is None:
            self._index = DocumentIndex()
            self._loaded = -1
            self._seen = _last_change(db)
        query = f"SELECT {self._columns} FROM {self._table} WHERE position > ? ORDER BY position LIMIT ?"
        rows = db.execute(query, (self._loaded, _PER_SLICE)).fetchall()
        for row in rows:
            self._put(db, row)
        if rows:
            self._loaded = rows[-1][0]
        self._is_whole = len(rows) < _PER_SLICE

    def _apply_changes(self, db: sqlite3.Connection, limit: int) -> bool:
        """Bring the index up to date by at most so many changes; whether it is then."""
        assert self._index is not None
        last = _last_change(db)
        if last == self._seen:
            return True
        if last < self._seen or not self._has_notes(db):
            self._forget()  # too much was missed, or the file is not what it was
            return False
        until = min(last, self._seen + limit)
        changed = db.execute(
            f"SELECT DISTINCT position FROM {CHANGES} WHERE number > ? AND number <= ? AND kind = ?",
            (self._seen, until, self._table),
        )
        for (position,) in changed.fetchall():
            row = db.execute(
                f"SELECT {self._columns} FROM {self._table} WHERE position = ?", (position,)
            ).fetchone()
            if row is None:
                self._index.remove(position)
            else:
                self._put(db, row)
        self._seen = until
        return until == last

    def _has_notes(self, db: sqlite3.Connection) -> bool:
        """Whether every change since the last one seen is still noted."""
        query = f"SELECT 1 FROM {CHANGES} WHERE number = ?"
        return db.execute(query, (self._seen + 1,)).fetchone() is not None

    def _put(self, db: sqlite3.Connection, row: Sequence[Any]) -> None:
        position, quality, domain, texts, kind, agent_id = row
        tags = self._tags(db, position) if self._has_tags else frozenset[str]()
        document = Document(
            id="",
            body=b"",
            quality=float(quality),
            texts=(),
            domain=None if domain is None else column_text(domain),
            tags=tags,
            type=column_text(kind),
            agent_id=None if agent_id is None else column_text(agent_id),
        )
        assert self._index is not None
        self._index.put(position, document, bytes(texts))

    @staticmethod
    def _tags(db: sqlite3.Connection, position: int) -> frozenset[str]:
        rows = db.execute("SELECT tag FROM skill_tags WHERE skill = ?", (position,))
        return frozenset(column_text(tag) for (tag,) in rows)


def _last_change(db: sqlite3.Connection) -> int:
    number: int = db.execute(f"SELECT COALESCE(MAX(number), 0) FROM {CHANGES}").fetchone()[0]
    return number


def _result(steps: Generator[None, None, T]) -> T:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
