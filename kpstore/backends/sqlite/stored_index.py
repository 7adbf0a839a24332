"""The search index of a table of documents in the database file, from which a handle starts its own.

It is derived data, written now and then, piece by piece, in the background: a row in `search_indexes` says
what it is the index of, and that all of its pieces are there. One that is not whole, or damaged, or whose
later changes are not remembered any more, is not read, and the rows are indexed anew.

A handle that begins with one reads its frames, and answers; it reads the blocks when it needs one, or when it
has time. What has been read once does not depend on the file any more. Until then, another handle may put a
newer index in the place of this one: who misses a block then begins with the newer one.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeAlias
from zlib import crc32

import msgspec

from kpstore.index import Block, Frame, packed, unpacked

TABLES = {
    "search_indexes": """
        generation INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        seen INTEGER NOT NULL,
        begun_at INTEGER NOT NULL,
        pieces INTEGER NOT NULL DEFAULT 0
    """,
    # `piece` is the generation, and in its lowest 24 bits a frame's number, or `_BLOCKS` plus a block's.
    "search_index_pieces": """
        piece INTEGER PRIMARY KEY,
        checksum INTEGER NOT NULL,
        data BLOB NOT NULL
    """,
}
# So many are written in one transaction, which other writers may have to wait for: 1 ms.
TOGETHER_BYTES = 128 * 1024
_SWEPT = 12  # pieces that are removed in one
_NUMBER_BITS = 24
_BLOCKS = 1 << 23
# After so long, one that is still not whole is taken for that of a process that ended.
_ABANDONED_AFTER_US = 600 * 1_000_000


Transaction: TypeAlias = Callable[[sqlite3.Connection], object]


class UnreadableError(Exception):
    """A stored index is not there any more, or not as it was written."""


class StoredIndex:
    """An index in the file.

    Args:
        generation: its number, which no other one ever has.
        seen: the number of the last change in it.
        frames: how many it has; 0 as long as it is not whole.
    """

    def __init__(self, generation: int, seen: int, frames: int = 0) -> None:
        self.generation = generation
        self.seen = seen
        self._frames = frames

    @classmethod
    def last(cls, db: sqlite3.Connection, kind: str) -> StoredIndex | None:
        """The last one of a table that is whole."""
        row = db.execute(
            "SELECT generation, seen, pieces FROM search_indexes WHERE kind = ? AND pieces > 0"
            " ORDER BY generation DESC LIMIT 1",
            (kind,),
        ).fetchone()
        return None if row is None else cls(*row)

    def frames(self, connection: Callable[[], sqlite3.Connection]) -> Iterator[Frame]:
        """All frames, each read on the connection there is at that time; raises `UnreadableError`."""
        for number in range(self._frames):
            data = self._read(connection(), number)
            try:
                yield unpacked(data)
            except msgspec.DecodeError as error:  # of another format
                raise UnreadableError from error

    def block(self, db: sqlite3.Connection, number: int) -> Block:
        """A block by its number; raises `UnreadableError`."""
        return self._read(db, _BLOCKS | number)

    def _read(self, db: sqlite3.Connection, number: int) -> bytes:
        query = "SELECT checksum, CAST(data AS BLOB) FROM search_index_pieces WHERE piece = ?"
        try:
            row = db.execute(query, (self._piece(number),)).fetchone()
        except sqlite3.Error as error:
            raise UnreadableError from error
        # What cannot be trusted to the last bit does not get as far as the code in C that unpacks it.
        if row is None or crc32(row[1]) != row[0]:
            raise UnreadableError
        data: bytes = row[1]
        return data

    def _piece(self, number: int) -> int:
        return self.generation << _NUMBER_BITS | number

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

    def write(self, db: sqlite3.Connection, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Write some pieces; `UnreadableError` if another handle has taken this index for abandoned."""
        query = "SELECT 1 FROM search_indexes WHERE generation = ?"
        if db.execute(query, (self.generation,)).fetchone() is None:
            raise UnreadableError
        for number, data in pieces:
            row = self._piece(number), crc32(data), data
            db.execute("INSERT INTO search_index_pieces VALUES (?, ?, ?)", row)

    def finish(self, db: sqlite3.Connection, kind: str, frames: int) -> None:
        """All pieces are there: from now on it is the one, and those before it are no more."""
        db.execute("UPDATE search_indexes SET pieces = ? WHERE generation = ?", (frames, self.generation))
        db.execute(
            "DELETE FROM search_indexes WHERE kind = ? AND generation < ? AND (pieces > 0 OR begun_at < ?)",
            (kind, self.generation, _now() - _ABANDONED_AFTER_US),
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
            db.execute(
                "DELETE FROM search_index_pieces WHERE piece IN (SELECT piece FROM search_index_pieces"
                " WHERE piece >= ? AND piece < ? ORDER BY piece LIMIT ?)",
                (piece, generation + 1 << _NUMBER_BITS, _SWEPT),
            )
            return True
        first = generation + 1 << _NUMBER_BITS


def remove_all(db: sqlite3.Connection) -> None:
    """Remove all indexes that are stored."""
    for table in TABLES:
        db.execute(f"DELETE FROM {table}")


def storing(kind: str, seen: int, saved: Iterable[Frame | Block]) -> Iterator[Transaction | None]:
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
    frames = blocks = 0
    pieces: list[tuple[int, bytes]] = []
    size = 0
    for one in saved:
        if isinstance(one, bytes):
            pieces.append((_BLOCKS | blocks, one))
            blocks += 1
        else:
            pieces.append((frames, packed(one)))
            frames += 1
        size += len(pieces[-1][1])
        if size < TOGETHER_BYTES:
            yield None
        else:
            yield partial(stored.write, pieces=pieces)
            pieces, size = [], 0
    if pieces:
        yield partial(stored.write, pieces=pieces)
    yield partial(stored.finish, kind=kind, frames=frames)
    while has_more:
        yield sweep_some


def _now() -> int:
    return time.time_ns() // 1000
