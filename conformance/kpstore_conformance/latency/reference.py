"""References: work whose cost says what the machine is worth at the moment, of the kind that a store does."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import msgspec

from kpstore_conformance import dataset

__all__ = ["Hop", "InLoop", "Reference", "SyncedHop"]

_ROWS = 1000


def _bodies() -> list[bytes]:
    return [msgspec.json.encode(unit.unit) for unit in dataset.units(_ROWS)]


class Reference(ABC):
    """Something to be timed beside a store's calls; `kind` says what."""

    kind: str
    hops: bool
    """Whether other threads have a part in it."""

    @abstractmethod
    async def call(self, number: int) -> object:
        """One unit of it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what it holds."""


class InLoop(Reference):
    """Dictionary look-ups and the decoding of a few knowledge units, on the event loop's own thread."""

    kind = "in-loop"
    hops = False

    def __init__(self) -> None:
        self._bodies = dict(enumerate(_bodies()))

    async def call(self, number: int) -> object:
        """Three units: about 10 us."""
        found = None
        for key in range(number, number + 3):
            found = msgspec.json.decode(self._bodies[key * 7 % _ROWS])
        return found

    def close(self) -> None:
        """There is nothing."""


class Hop(Reference):
    """One hop to a thread of its own, where a raw SQLite statement reads a row by its key."""

    kind = "hop"
    hops = True

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kpstore-reference-")
        self._thread = ThreadPoolExecutor(1, "reference")
        self._numbers = count()
        self._db = self._thread.submit(self._connect).result()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(Path(self._folder.name) / "reference.db", isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE rows (id TEXT PRIMARY KEY, body BLOB) WITHOUT ROWID")
        db.execute("BEGIN")
        db.executemany("INSERT INTO rows VALUES (?, ?)", ((f"{n}", body) for n, body in enumerate(_bodies())))
        db.execute("COMMIT")
        return db

    async def call(self, number: int) -> object:
        """One row."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, number * 7 % _ROWS)

    def _do(self, number: int) -> object:
        return self._db.execute("SELECT body FROM rows WHERE id = ?", (f"{number}",)).fetchone()

    def close(self) -> None:
        """Close the database and end the thread."""
        self._thread.submit(self._db.close).result()
        self._thread.shutdown()
        self._folder.cleanup()


class SyncedHop(Hop):
    """The same hop for a write: a row is replaced, committed, and on the disk."""

    kind = "synced hop"

    def _do(self, number: int) -> object:
        body = f"{next(self._numbers)}".encode() * 100
        return self._db.execute("INSERT OR REPLACE INTO rows VALUES (?, ?)", (f"{number}", body)).rowcount
