"""Values as columns of SQLite hold them."""

from __future__ import annotations

import sqlite3


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


def last_position(db: sqlite3.Connection, table: str) -> int:
    """The highest position in a table, or -1."""
    position: int = db.execute(f"SELECT COALESCE(MAX(position), -1) FROM {table}").fetchone()[0]
    return position
