"""What the machine itself takes: no store can be faster than the floor it stands on.

Measured by the same method, in the same process and folder, and at the same time as the operations.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import aiosqlite

from kpstore_conformance.bench.measure import closed_loop, collector_held
from kpstore_conformance.bench.result import Pass, Timing

__all__ = ["FLOORS", "measure_floors"]

FLOORS = {
    "dict_get": "a coroutine that looks a key up in a dict",
    "sqlite_statement": "a SELECT by primary key, by sqlite3 on the event loop's own thread",
    "thread_hop": "the same SELECT on aiosqlite's thread: one hop there and back",
    "fdatasync": "4 KiB at the end of a file in the folder used, and fdatasync",
}
"""The floors, and what each one is."""

_ROWS = 10_000
_BODY = "x" * 600  # as long as a knowledge unit
_SELECT = "SELECT body FROM rows WHERE id = ?"


async def measure_floors(folder: Path, passes: int, calls: int) -> dict[str, Timing]:
    """The floors of this machine, on the disk of `folder`: `calls` calls a pass, a tenth of the slow one."""
    table = dict.fromkeys(range(_ROWS), _BODY)
    path = folder / "floors.db"
    with (
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as here,
        (folder / "floors.log").open("wb") as log,
    ):
        here.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, body TEXT)")
        here.execute("BEGIN")
        here.executemany("INSERT INTO rows VALUES (?, ?)", table.items())
        here.execute("COMMIT")
        async with aiosqlite.connect(path) as elsewhere:

            async def look_up(id: int) -> object:
                return table[id]

            async def select(id: int) -> object:
                return here.execute(_SELECT, (id,)).fetchall()

            async def select_elsewhere(id: int) -> object:
                return await elsewhere.execute_fetchall(_SELECT, (id,))

            async def sync(_: int) -> None:
                log.write(bytes(4096))
                log.flush()
                os.fdatasync(log.fileno())

            measured: dict[str, tuple[Callable[[int], Awaitable[object]], int]] = {
                "dict_get": (look_up, calls),
                "sqlite_statement": (select, calls),
                "thread_hop": (select_elsewhere, calls),
                "fdatasync": (sync, max(10, calls // 10)),
            }
            return {
                name: Timing([await _timed(function, count) for _ in range(passes)])
                for name, (function, count) in measured.items()
            }


async def _timed(function: Callable[[int], Awaitable[object]], count: int) -> Pass:
    calls = [partial(function, number * 7919 % _ROWS) for number in range(count)]
    with collector_held():
        return (await closed_loop(calls)).to_pass()
