"""The search index of a table of documents, kept in memory by each handle and up to date with all of them.

Triggers note every change of a document in the table `document_changes`, within the transaction of the
change. A search reads, in one snapshot, what has been noted since the last one, brings the index up to date
with it, asks the index and fetches the rows of the page: so it sees whatever was acknowledged before it, by
any process. All of this runs on the thread of the connection for searches, which alone touches the index.

A large index is also stored in the file now and then, for handles to come: see `stored_index`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any, TypeVar

from pyroaring import BitMap

from kpstore.backends.sqlite.columns import column_text
from kpstore.backends.sqlite.stored_index import StoredIndex, Transaction, UnreadableError, storing
from kpstore.index import DocumentIndex, KeptTexts
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
_KEPT = 250_000
# A search applies so many changes itself, in 20 ms at most; for more it waits.
_AT_ONCE = 1000
_PER_SLICE = 16  # rows, read and put into the index in 0.3 ms
# Fewer documents are indexed in half a second.
_WORTH_STORING = 2000
# Documents that are waited for by nobody, and not stored before they are in the index.
_MANY = 2000
# It is stored again after so many changes, or one for so many documents: those that the stored one
# lacks are put in by the handle that begins with it, at 20 us each. To store all of a million takes half
# a minute, and so a handle that closes leaves more of them to the next one than it could.
_CHANGES_DUE = 2000
_DOCUMENTS_A_CHANGE, _MOST_CHANGES_DUE = 4, 100_000
_DOCUMENTS_A_LAST_CHANGE = 20


def create_changes(db: sqlite3.Connection) -> None:
    """Make the triggers that note changes."""
    for table, event, name in _triggers():
        row = "OLD" if event == "DELETE" else "NEW"
        db.execute(
            f"CREATE TRIGGER IF NOT EXISTS {name} AFTER {event} ON {table}"
            " BEGIN"
            f" INSERT INTO {CHANGES} (kind, position) VALUES ('{table}', {row}.position);"
            f" DELETE FROM {CHANGES} WHERE number = last_insert_rowid() - {_KEPT};"
            " END"
        )


def drop_changes(db: sqlite3.Connection) -> None:
    """Remove the triggers that note changes."""
    for _, _, name in _triggers():
        db.execute(f"DROP TRIGGER IF EXISTS {name}")


def _triggers() -> Iterator[tuple[str, str, str]]:
    """Table, event and name of each."""
    for table in _INDEXED:
        for event in ("INSERT", "UPDATE", "DELETE"):
            yield table, event, f"{table}_{event.lower()}_is_noted"


class _RowTexts(KeptTexts):
    """The texts of a table: in its rows, and in memory as soon as they have been read.

    Looking for a string in one takes 0.2 us here, and 1.5 us in a row.
    """

    def __init__(self, table: str, connection: Callable[[], sqlite3.Connection]) -> None:
        super().__init__()
        self._connection = connection  # that there is while it is being used
        self.read_until: int | None = None  # those up to here have been read; all, if it is `None`
        among = "position IN (SELECT value FROM json_each(?))"
        self._rows = f"SELECT position, texts FROM {table} WHERE {among}"
        self._containing = f"SELECT position FROM {table} WHERE {among} AND instr(texts, ?)"
        self._next = f"SELECT position, texts FROM {table} WHERE position > ? ORDER BY position LIMIT ?"

    def read_on(self) -> None:
        """Read some more into memory; the rows are those that the index is of."""
        rows = self._connection().execute(self._next, (self.read_until, _PER_SLICE)).fetchall()
        for position, text in rows:
            self.put(position, bytes(text))
        self.read_until = rows[-1][0] if len(rows) == _PER_SLICE else None

    def of(self, positions: Sequence[int]) -> list[tuple[int, bytes]]:
        """See `Texts`."""
        found = super().of(positions)
        for position, text in self._of_rows(self._rows, positions):
            found.append((position, bytes(text)))
        return found

    def containing(self, query: bytes, positions: Sequence[int]) -> list[int]:
        """See `Texts`."""
        found = super().containing(query, positions)
        found += [row[0] for row in self._of_rows(self._containing, positions, query)]
        return found

    def _of_rows(self, statement: str, positions: Sequence[int], *more: bytes) -> Iterable[tuple[Any, ...]]:
        """The same of those of which there is no text in memory."""
        missing = (
            [] if self.read_until is None else [one for one in positions if self._texts.get(one) is None]
        )
        if not missing:
            return ()
        return self._connection().execute(statement, (f"[{','.join(map(str, missing))}]", *more))


class SearchIndex:
    """The index of one table. Its methods are called on one thread at a time, and get its connection.

    Args:
        table: `skills` or `knowledge_units`.
        is_stored: whether it is kept in the file too, from where other handles begin.
    """

    def __init__(self, table: str, *, is_stored: bool) -> None:
        self._table = table
        self._is_stored = is_stored
        has_tags = table == "skills"
        self._columns = "position, quality, domain, texts, " + ("'', NULL" if has_tags else "type, agent_id")
        self._has_tags = has_tags
        self._db: sqlite3.Connection  # that of the call
        self._texts = _RowTexts(table, self._connection)
        self._index: DocumentIndex | None = None
        # The one in the file from which it begins, or began, and what loads it.
        self._stored: StoredIndex | None = None
        self._loading: Generator[None, None, tuple[DocumentIndex, BitMap]] | None = None
        self._unreadable: int | None = None  # the generation of one in the file
        self._rows_until: int | None = None  # while it is built from the rows: those up to here are in it
        self._again: list[int] = []  # positions to be put in again, beside those that changed
        self._seen = 0  # the number of the last change that is in it
        self._unstored = 0  # changes since the one in the file
        self.is_current = False

    def _connection(self) -> sqlite3.Connection:
        return self._db

    @property
    def is_kept(self) -> bool:
        """Whether there is one, be it in the making."""
        return self._index is not None or self._loading is not None

    # Searching ----------------------------------------------------------------

    def search(
        self, db: sqlite3.Connection, query: DocumentQuery, offset: int, limit: int
    ) -> tuple[list[bytes], int] | None:
        """A page of the bodies that match, and the count of all; `None` if the index is not up to date."""
        if not self._is_whole:
            return None
        self._db = db
        try:
            if not self._apply_changes(db, _AT_ONCE):
                return None
            assert self._index is not None
            positions, total = _result(self._index.search(query, offset, limit))
        except UnreadableError:
            self._give_up_stored()
            return None
        except (TypeError, ValueError, OverflowError, sqlite3.Error):
            self._forget()  # a row that cannot be read concerns only those whose search finds it
            return None
        body = f"SELECT CAST(body AS BLOB) FROM {self._table} WHERE position = ?"
        bodies = [row[0] for position in positions for row in db.execute(body, (position,))]
        if len(bodies) < len(positions):  # rows went without a note: somebody switched the triggers off
            self._forget()
            return None
        return bodies, total

    def is_soon_there(self, db: sqlite3.Connection) -> bool:
        """Whether it takes less to bring it up to date than to search through the rows."""
        return (
            self._is_whole
            or self._loading is not None
            or (self._index is None and self._readable(db) is not None)
        )

    @property
    def _is_whole(self) -> bool:
        """Whether all is in it but the latest changes."""
        return self._index is not None and not self.is_far_off

    @property
    def is_far_off(self) -> bool:
        """Whether it is being built from the rows."""
        return self._rows_until is not None

    @property
    def backlog(self) -> int:
        """How many documents are found more slowly until `work` has been at them."""
        return 0 if self._index is None else self._index.pending

    # Building, and following the changes --------------------------------------

    def work(self, db: sqlite3.Connection, seconds: float) -> bool:
        """Build the index, or bring it up to date, for about that long; whether there is more to do."""
        until = perf_counter() + seconds
        if self._bring_on(db, until):
            return True
        while self._texts.read_until is not None:
            self._texts.read_on()
            if perf_counter() >= until:
                return True
        return False

    def _bring_on(self, db: sqlite3.Connection, until: float) -> bool:
        """The same, but for what it does not lack in order to be whole."""
        self._db = db
        while True:
            try:
                if not self._is_whole:
                    self._build(db)
                    has_more = True
                else:
                    has_more = not self._apply_changes(db, _PER_SLICE)
                    if self._index is not None and not has_more:
                        has_more = self._work(self._index, until)
            except UnreadableError:
                self._give_up_stored()
                has_more = True
            if not has_more or perf_counter() >= until:
                return has_more

    def _work(self, index: DocumentIndex, until: float) -> bool:
        """Go on with what the index put off; whether there is more."""
        # To take in many documents is to look through many more, each of them time and again.
        if index.pending > _MANY and self._texts.read_until is not None:
            self._texts.read_on()
            return True
        return index.work(max(0.0, until - perf_counter()))

    def _forget(self) -> None:
        self._texts = _RowTexts(self._table, self._connection)
        self._index = self._stored = self._loading = self._rows_until = None
        self._again = []
        self.is_current = False

    def _give_up_stored(self) -> None:
        """Forget the index, since the one in the file from which it began cannot be read, or not any more."""
        assert self._stored is not None
        self._unreadable = self._stored.generation
        self._forget()

    def _build(self, db: sqlite3.Connection) -> None:
        """Go on with it. What changes meanwhile is noted, and applied after it."""
        if self._loading is not None:
            self._load()
        elif self._rows_until is not None:
            self._rows_until = self._read_rows(db, self._rows_until)
        elif (stored := self._readable(db)) is not None:
            self._stored = stored
            self._loading = DocumentIndex.load(
                stored.frames(self._connection),
                lambda number: stored.block(self._db, number),
                self._texts,
            )
            self._texts.read_until = -1
            self._seen = stored.seen
            self._unstored = 0
        else:
            self._index = DocumentIndex(self._texts)
            self._rows_until = -1
            self._seen = _last_change(db)

    def _readable(self, db: sqlite3.Connection) -> StoredIndex | None:
        """The one in the file, if it can be brought up to date."""
        stored = StoredIndex.last(db, self._table) if self._is_stored else None
        if stored is None or stored.generation == self._unreadable or not _has_notes(db, stored.seen):
            return None
        return stored

    def _load(self) -> None:
        assert self._loading is not None
        try:
            next(self._loading)
        except StopIteration as done:
            self._index, again = done.value
            self._again = list(again)
            self._loading = None
        except ValueError as error:  # of another format
            raise UnreadableError from error

    def _read_rows(self, db: sqlite3.Connection, after: int) -> int | None:
        """Put in the next ones; up to where they are in it then, or `None` if all are."""
        query = f"SELECT {self._columns} FROM {self._table} WHERE position > ? ORDER BY position LIMIT ?"
        rows = db.execute(query, (after, _PER_SLICE)).fetchall()
        for row in rows:
            self._put(db, row)
        return rows[-1][0] if len(rows) == _PER_SLICE else None

    def _apply_changes(self, db: sqlite3.Connection, limit: int) -> bool:
        """Bring the index up to date by so many changes at most; whether it is then."""
        for position in self._again[-limit:]:
            self._put_again(db, position)
        del self._again[-limit:]
        last = _last_change(db)
        until = min(last, self._seen + limit)
        if last != self._seen:
            if last < self._seen or not _has_notes(db, self._seen):
                self._forget()  # too much was missed, or the file is not what it was
                return False
            changed = db.execute(
                f"SELECT DISTINCT position FROM {CHANGES} WHERE number > ? AND number <= ? AND kind = ?",
                (self._seen, until, self._table),
            ).fetchall()
            for (position,) in changed:
                self._put_again(db, position)
            self._unstored += len(changed)
            self._seen = until
        self.is_current = until == last and not self._again
        return self.is_current

    def _put_again(self, db: sqlite3.Connection, position: int) -> None:
        query = f"SELECT {self._columns} FROM {self._table} WHERE position = ?"
        row = db.execute(query, (position,)).fetchone()
        if row is not None:
            self._put(db, row)
        else:
            assert self._index is not None
            self._index.remove(position)

    # Storing ------------------------------------------------------------------

    def begin_storing(self, db: sqlite3.Connection) -> Iterator[Transaction | None]:
        """What stores it, if it is time to: see `storing`. As long as that goes on, `work` has to wait."""
        if (
            self._is_due(db, min(self._changes_due(_DOCUMENTS_A_CHANGE), _MOST_CHANGES_DUE))
            and self._is_worth_storing
            and not StoredIndex.is_being_written(db, self._table)
        ):
            yield from self._storing()

    def store_last(self, db: sqlite3.Connection) -> Iterator[Transaction | None]:
        """What stores it before it is let go of, if that is worth it."""
        changes = self._changes_due(_DOCUMENTS_A_LAST_CHANGE)
        if self._is_whole and self._is_due(db, changes):
            self.catch_up(db)
            if self._is_due(db, changes) and self._is_worth_storing:
                yield from self._storing()

    def _changes_due(self, documents: int) -> int:
        """How many changes the stored one may lack: one for so many documents, or a few."""
        return max(_CHANGES_DUE, 0 if self._index is None else len(self._index) // documents)

    def _storing(self) -> Iterator[Transaction | None]:
        assert self._index is not None
        self._unstored = 0
        return storing(self._table, self._seen, self._index.save())

    def _is_due(self, db: sqlite3.Connection, changes: int) -> bool:
        """Whether the one in the file lacks so many changes, or is none to begin with."""
        if not self._is_stored:
            return False
        stored = StoredIndex.last(db, self._table)
        if stored is None or stored.generation == self._unreadable:
            return True
        behind = self._seen - stored.seen
        self._unstored = min(self._unstored, behind)  # another handle may have stored it
        unseen = _last_change(db) - self._seen
        return self._unstored + unseen >= changes or behind + unseen >= _KEPT // 2

    @property
    def _is_worth_storing(self) -> bool:
        """Whether it is up to date, and so large that it is better loaded than built."""
        index = self._index
        return (
            self.is_current
            and index is not None
            and len(index) >= _WORTH_STORING
            and index.can_be_saved
            and index.pending <= _MANY
        )

    def catch_up(self, db: sqlite3.Connection) -> None:
        """Have it whole and up to date, if that takes less than to build it, and need nothing of the file."""
        if self._index is not None and len(self._index) < _WORTH_STORING:
            return
        try:
            while self.is_soon_there(db) and self._bring_on(db, perf_counter() + 0.1):
                if self.is_current and self.backlog > _MANY:
                    break  # it takes too long for somebody who waits
        except (TypeError, ValueError, OverflowError, sqlite3.Error):
            self._forget()

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


def _has_notes(db: sqlite3.Connection, seen: int) -> bool:
    """Whether every change since that one is still noted."""
    if seen == _last_change(db):
        return True
    return db.execute(f"SELECT 1 FROM {CHANGES} WHERE number = ?", (seen + 1,)).fetchone() is not None


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
