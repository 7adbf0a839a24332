"""The search index of a table of documents in the database file, from which a handle starts its own.

It is derived data, written now and then, piece by piece, in the background: a row in `search_indexes` says
what it is the index of, and that all of its pieces are there. One that is not whole, or damaged, or whose
later changes are not remembered any more, is not read, and the rows are indexed anew.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeAlias
from zlib import crc32

import msgspec

from kpstore.index import Frame, packed, unpacked

TABLES = {
    "search_indexes": """
        generation INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        seen INTEGER NOT NULL,
        begun_at INTEGER NOT NULL,
        pieces INTEGER NOT NULL DEFAULT 0
    """,
    # `piece` is the generation, and in its lowest 24 bits a number.
    "search_index_pieces": """
        piece INTEGER PRIMARY KEY,
        checksum INTEGER NOT NULL,
        data BLOB NOT NULL
    """,
}
# One is written in one transaction, which other writers may have to wait for: 1 ms.
PIECE_BYTES = 128 * 1024
_NUMBER_BITS = 24
# After so long, one that is still not whole is taken for that of a process that ended.
_ABANDONED_AFTER_US = 600 * 1_000_000


Transaction: TypeAlias = Callable[[sqlite3.Connection], object]


class UnreadableError(Exception):
    """A stored index is not there any more, or not as it was written."""


class StoredIndex:
    """An index in the file.

    Args:
        generation: its number.
        seen: the number of the last change in it.
        pieces: how many it has; 0 as long as it is not whole.
    """

    def __init__(self, generation: int, seen: int, pieces: int = 0) -> None:
        self._generation = generation
        self.seen = seen
        self._pieces = pieces

    @classmethod
    def last(cls, db: sqlite3.Connection, kind: str) -> StoredIndex | None:
        """The last one of a table that is whole."""
        row = db.execute(
            "SELECT generation, seen, pieces FROM search_indexes WHERE kind = ? AND pieces > 0"
            " ORDER BY generation DESC LIMIT 1",
            (kind,),
        ).fetchone()
        return None if row is None else cls(*row)

    def frames(self, db: sqlite3.Connection) -> Iterator[Frame]:
        """What was written; raises `UnreadableError`, and the driver's errors."""
        for number in range(self._pieces):
            row = db.execute(
                "SELECT checksum, data FROM search_index_pieces WHERE piece = ?", (self._piece(number),)
            ).fetchone()
            # What cannot be trusted to the last bit does not get as far as the code in C that unpacks it.
            if row is None or crc32(row[1]) != row[0]:
                raise UnreadableError
            try:
                yield from unpacked(row[1])
            except msgspec.DecodeError as error:  # of another format
                raise UnreadableError from error

    def _piece(self, number: int) -> int:
        return self._generation << _NUMBER_BITS | number

    # Writing ------------------------------------------------------------------

    @staticmethod
    def is_being_written(db: sqlite3.Connection, kind: str) -> bool:
        """Whether some handle is at it."""
        query = "SELECT 1 FROM search_indexes WHERE kind = ? AND pieces = 0 AND begun_at > ?"
        return db.execute(query, (kind, _now() - _ABANDONED_AFTER_US)).fetchone() is not None

    @classmethod
    def begin(cls, db: sqlite3.Connection, kind: str, seen: int) -> StoredIndex:
        """Begin to write a new one."""
        (generation,) = db.execute(
            "INSERT INTO search_indexes (kind, seen, begun_at) VALUES (?, ?, ?) RETURNING generation",
            (kind, seen, _now()),
        ).fetchone()
        return cls(generation, seen)

    def write(self, db: sqlite3.Connection, data: bytes) -> None:
        """Write the next piece; `UnreadableError` if another handle has taken this index for abandoned."""
        query = "SELECT 1 FROM search_indexes WHERE generation = ?"
        if db.execute(query, (self._generation,)).fetchone() is None:
            raise UnreadableError
        piece = self._piece(self._pieces)
        db.execute("INSERT INTO search_index_pieces VALUES (?, ?, ?)", (piece, crc32(data), data))
        self._pieces += 1

    def finish(self, db: sqlite3.Connection, kind: str) -> None:
        """All pieces are there: from now on it is the one, and those before it are no more."""
        db.execute(
            "UPDATE search_indexes SET pieces = ? WHERE generation = ?", (self._pieces, self._generation)
        )
        db.execute(
            "DELETE FROM search_indexes WHERE kind = ? AND generation < ? AND (pieces > 0 OR begun_at < ?)",
            (kind, self._generation, _now() - _ABANDONED_AFTER_US),
        )


def sweep(db: sqlite3.Connection) -> bool:
    """Remove a few pieces that belong to no index; whether there may be more."""
    first = 0
    while True:
        query = "SELECT MIN(piece) FROM search_index_pieces WHERE piece >= ?"
        piece = db.execute(query, (first,)).fetchone()[0]
        if piece is None:
            return False
        generation = piece >> _NUMBER_BITS
        query = "SELECT 1 FROM search_indexes WHERE generation = ?"
        if db.execute(query, (generation,)).fetchone() is None:
            db.execute("DELETE FROM search_index_pieces WHERE piece IN (?, ?)", (piece, piece + 1))
            return True
        first = generation + 1 << _NUMBER_BITS


def remove_all(db: sqlite3.Connection) -> None:
    """Remove all indexes that are stored."""
    for table in TABLES:
        db.execute(f"DELETE FROM {table}")


def storing(kind: str, seen: int, frames: Iterable[Frame]) -> Iterator[Transaction | None]:
    """What stores an index in the place of the last one, to be done in this order, each in a transaction.

    `None` stands where others may have their turn.
    """
    stored: StoredIndex
    has_more = True

    def begin(db: sqlite3.Connection) -> None:
        nonlocal stored
        stored = StoredIndex.begin(db, kind, seen)

    def sweep_some(db: sqlite3.Connection) -> None:
        nonlocal has_more
        has_more = sweep(db)

    yield begin
    for piece in _pieces_of(frames):
        yield None if piece is None else partial(stored.write, data=piece)
    yield partial(stored.finish, kind=kind)
    while has_more:
        yield sweep_some


def _pieces_of(frames: Iterable[Frame]) -> Iterator[bytes | None]:
    """The frames in pieces of about the size to be written; `None` where there is none yet."""
    together: list[Frame] = []
    size = 0
    for frame in frames:
        together.append(frame)
        size += len(packed([frame]))
        if size < PIECE_BYTES:
            yield None
        else:
            yield packed(together)
            together, size = [], 0
    if together:
        yield packed(together)


def _now() -> int:
    return time.time_ns() // 1000
