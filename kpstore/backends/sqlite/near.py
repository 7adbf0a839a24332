"""Reads on the event loop's own thread: by key, and no larger than that it would not notice them."""

from __future__ import annotations

import sqlite3

# What a read on the event loop's thread may take at most before it is left to another thread: 1,000 entries
# of an index, or texts of this size, are read in 0.1 ms, and in 10 ms where none of it is in memory.
NEAR_ROWS = 1000
NEAR_BYTES = 64 * 1024


class NearConnection(sqlite3.Connection):
    """The connection of the event loop's own thread."""


class TooMuchHereError(Exception):
    """A read on the event loop's thread found more than it may take."""


def is_near(db: sqlite3.Connection) -> bool:
    """Whether the connection is that of the event loop's thread, which nothing may hold up."""
    return isinstance(db, NearConnection)
