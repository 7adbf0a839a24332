"""References: work whose cost says what the machine is worth at the moment, of the kind that a store does.

A busy machine does not make all work slower alike: a hop between threads, a cold cache and a disk each go
their own way. So there is one reference for each way in which a store answers, made up as its answers are.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import count
from math import log
from pathlib import Path
from statistics import median
from typing import Any, Literal

import msgspec

from kpstore_conformance import dataset

__all__ = ["MANY", "REFERENCES", "Kind", "Reference", "kinds_of", "nearest"]

Kind = Literal[
    "in-loop",
    "statement",
    "hop of 5",
    "hop of 20",
    "hop of 80",
    "synced hop of 4",
    "synced hop of 8",
    "synced hop of 16",
    "many in-loop",
    "many hop",
]
"""The kinds of references, by the names that baselines have for them."""

IN_LOOP: frozenset[Kind] = frozenset({"in-loop", "many in-loop"})
"""Those that never leave the event loop's thread, nor the process's memory."""

_ROWS = 1000

MANY = 1000
"""A call that gives so many records at once is one that gives many."""

_ROUNDS = 3
"""How often all rows are decoded beside such a call. Together they fill 6 MB, more than a processor has to
itself: what that takes depends on who else uses its cache and on whether the system has pages at hand, which
work on three units is not a measure of.
"""

_LOG_BYTES = 6_000_000
"""More than SQLite's log holds before it starts over: whether a commit makes the log's file longer or finds
room in it is a factor of two in what the disk takes.
"""


@cache
def _bodies() -> tuple[bytes, ...]:
    return tuple(msgspec.json.encode(unit.unit) for unit in dataset.units(_ROWS))


def _key(number: int) -> int:
    return number * 7 % _ROWS


class Reference(ABC):
    """Something to be timed beside a store's calls."""

    @abstractmethod
    async def call(self, number: int) -> object:
        """One unit of it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what it holds."""


class _InLoop(Reference):
    """Dictionary look-ups and the decoding of three knowledge units, on the event loop's own thread."""

    def __init__(self) -> None:
        self._bodies = dict(enumerate(_bodies()))

    async def call(self, number: int) -> object:
        return [msgspec.json.decode(self._bodies[_key(number + more)]) for more in range(3)]

    def close(self) -> None:
        """There is nothing."""


class _ManyInLoop(Reference):
    """The decoding of thousands of knowledge units, which are all there at the end, on the loop's thread."""

    async def call(self, number: int) -> object:
        return _decoded(_bodies())

    def close(self) -> None:
        """There is nothing."""


def _decoded(bodies: Sequence[bytes]) -> list[Any]:
    return [msgspec.json.decode(body) for _ in range(_ROUNDS) for body in bodies]


class _Rows(Reference):
    """A raw SQLite database, and a thread."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kpstore-reference-")
        self._names = [
            str(Path(self._folder.name) / f"reference.db{suffix}") for suffix in ("", "-wal", "-shm")
        ]
        self._thread = ThreadPoolExecutor(1, "reference")
        self._numbers = count()
        self._db = sqlite3.connect(self._names[0], isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("CREATE TABLE rows (id TEXT PRIMARY KEY, body BLOB) WITHOUT ROWID")
        self._db.execute("BEGIN")
        rows = ((f"{number}", body) for number, body in enumerate(_bodies()))
        self._db.executemany("INSERT INTO rows VALUES (?, ?)", rows)
        self._db.execute("COMMIT")
        self._db.execute("CREATE TABLE room AS SELECT zeroblob(?)", (_LOG_BYTES,))
        self._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    async def _hop(self, function: Callable[[int], object], number: int) -> object:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, number)

    def _read(self, number: int, rows: int) -> list[Any]:
        select = "SELECT body FROM rows WHERE id = ?"
        found = [self._db.execute(select, (f"{_key(number + more)}",)).fetchone() for more in range(rows)]
        return [msgspec.json.decode(body) for (body,) in found]

    def close(self) -> None:
        self._thread.shutdown()
        self._db.close()
        self._folder.cleanup()


class _Statement(_Rows):
    """Two rows read by their keys and decoded, on the event loop's own thread."""

    async def call(self, number: int) -> object:
        return self._read(number, 2)


class _Hop(_Rows):
    """A hop to a thread, where some rows are read by their keys and decoded.

    Where a busy machine leaves its caches cold, 130 µs of work become 250 and 670 µs not much more.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._page_rows = rows

    async def call(self, number: int) -> object:
        return await self._hop(self._page, number)

    def _page(self, number: int) -> object:
        return self._read(number, self._page_rows)


class _ManyHop(_Rows):
    """A hop to a thread, where all rows are read and decoded several times over, one after another: all of
    them together, 6 MB, would take 3.5 or 5.7 ms, as the thread's heap happens to have room for them or not.
    """

    async def call(self, number: int) -> object:
        return await self._hop(self._all, number)

    def _all(self, number: int) -> None:
        for _ in range(_ROUNDS):
            for (body,) in self._db.execute("SELECT body FROM rows"):
                msgspec.json.decode(body)


class _SyncedHop(_Rows):
    """A task that hops to a thread, where some rows change in a transaction that is then on the disk.

    A busy disk and a busy processor are each slower by a factor of their own, up to five: a call of which
    half is waiting for the disk is to be compared with work of which half is, too.
    """

    def __init__(self, changed: int) -> None:
        super().__init__()
        self._changed = changed

    async def call(self, number: int) -> object:
        return await asyncio.create_task(self._hop(self._write, number))

    def _write(self, number: int) -> object:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("SAVEPOINT work")
        for more, document in enumerate(self._read(number, self._changed)):
            document["number"] = next(self._numbers)
            row = (f"{_key(number + more)}", msgspec.json.encode(document))
            self._db.execute("INSERT OR REPLACE INTO rows VALUES (?, ?)", row)
        self._db.execute("RELEASE work")
        for name in self._names:
            os.stat(name)  # noqa: PTH116  # what is wanted is the system's part in it
        return self._db.execute("COMMIT")


REFERENCES: dict[Kind, Callable[[], Reference]] = {
    "in-loop": _InLoop,
    "statement": _Statement,
    "hop of 5": partial(_Hop, 5),
    "hop of 20": partial(_Hop, 20),
    "hop of 80": partial(_Hop, 80),
    "synced hop of 4": partial(_SyncedHop, 4),
    "synced hop of 8": partial(_SyncedHop, 8),
    "synced hop of 16": partial(_SyncedHop, 16),
    "many in-loop": _ManyInLoop,
    "many hop": _ManyHop,
}


def kinds_of(*, durable: bool, writes: bool, hops: bool, many: bool) -> tuple[Kind, ...]:
    """The kinds of references for calls like these; that which costs about the same is to be taken.

    Args:
        durable: whether the store keeps what it is given on a disk.
        writes: whether the calls change something.
        hops: whether other things went on in the event loop while a call was under way.
        many: whether a call gives at least `MANY` records.
    """
    if not durable:
        return ("many in-loop" if many else "in-loop",)
    if writes:
        return ("synced hop of 4", "synced hop of 8", "synced hop of 16")
    if many:
        return ("many hop",)
    return ("hop of 5", "hop of 20", "hop of 80") if hops else ("statement",)


def nearest(calls_ns: Sequence[int], references_ns: Mapping[Kind, Sequence[int]]) -> Kind:
    """The kind of reference whose median is, as factors go, nearest to that of the calls."""
    cost = median(calls_ns)
    return min(references_ns, key=lambda kind: abs(log(median(references_ns[kind]) / cost)))
