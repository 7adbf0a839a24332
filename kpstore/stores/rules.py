"""Checks of what callers pass in, shared by the six stores (clause GEN-5).

Each check takes the value and the name of its field, and returns the value in
the form in which it is stored, or raises `ValidationError`. No message ever
contains the value.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Generator
from datetime import UTC, datetime
from typing import Any

from kpstore.errors import ValidationError

MAX_IDENTIFIER = 512  # characters; GEN-5
MAX_LIMIT = 1000  # records of one page; PAGE-2
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
# JSON nested deeper than this is refused: the interpreter's own recursion limit is 1000
# frames, and comparing, encoding and decoding a value each take one per level.
MAX_DEPTH = 500
# Nodes looked at between two turns of the event loop: about 0.3 ms.
_NODES_PER_TURN = 1000
_NAME_SHOWN = 100  # characters of a key in an error's path

VISIBILITIES = ("private", "org", "network")


def text(value: object, field: str) -> str:
    """Any text that every backend can hold: no U+0000, no lone surrogates."""
    if not isinstance(value, str):
        raise ValidationError(field, "must be text")
    value = str.__str__(value)  # a subclass becomes the text that it is
    _check_text(value, field)
    return value


def _check_text(value: str, field: str) -> None:
    if "\0" in value:
        raise ValidationError(field, "must not contain U+0000")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValidationError(field, "must not contain lone surrogates") from None


def optional_text(value: object, field: str) -> str | None:
    """Text, or `None`."""
    return None if value is None else text(value, field)


def identifier(value: object, field: str) -> str:
    """Text of 1 to 512 characters."""
    if not isinstance(value, str):
        raise ValidationError(field, "must be text")
    if not value:
        raise ValidationError(field, "must not be empty")
    if len(value) > MAX_IDENTIFIER:
        raise ValidationError(field, f"must be at most {MAX_IDENTIFIER} characters long")
    return text(value, field)


def choice(value: object, field: str, allowed: Collection[str]) -> str:
    """One of the texts in `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise ValidationError(field, f"must be one of {', '.join(sorted(allowed))}")
    return str.__str__(value)


def number(value: object, field: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number from `low` to `high`; a `bool` is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValidationError(field, "must be a number")
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        raise ValidationError(field, "must fit in 64 signed bits")
    result = float(value)
    if not math.isfinite(result):
        raise ValidationError(field, "must be a finite number")
    if not low <= result <= high:
        raise ValidationError(field, f"must be from {low:g} to {high:g}")
    return result


def integer(value: object, field: str, low: int, high: int = INT64_MAX) -> int:
    """A whole number from `low` to `high`; a `bool` is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValidationError(field, "must be a whole number")
    if not low <= value <= high:
        raise ValidationError(field, f"must be from {low} to {high}")
    return int(value)


def boolean(value: object, field: str) -> bool:
    """`True` or `False`."""
    if not isinstance(value, bool):
        raise ValidationError(field, "must be true or false")
    return value


def moment(value: object, field: str) -> datetime:
    """An aware `datetime`, in UTC."""
    if not isinstance(value, datetime):
        raise ValidationError(field, "must be a datetime")
    if value.utcoffset() is None:
        raise ValidationError(field, "must be an aware datetime (one with a time zone)")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValidationError(field, "must be within the years 1 to 9999 in UTC") from None


def optional_moment(value: object, field: str) -> datetime | None:
    """An aware `datetime` in UTC, or `None`."""
    return None if value is None else moment(value, field)


def texts(value: object, field: str) -> tuple[str, ...]:
    """A list, tuple or set of texts; a bare text is none."""
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValidationError(field, "must be a list of texts")
    return tuple(text(item, f"{field}[{index}]") for index, item in enumerate(value))


def filter_texts(value: object, field: str) -> tuple[str, ...]:
    """As `texts`; `None`, an empty text and an empty collection are no filter."""
    if value is None or (isinstance(value, str) and not value):
        return ()
    return texts(value, field)


def page(offset: object, limit: object) -> tuple[int, int]:
    """The bounds of a page (clause PAGE-2)."""
    return integer(offset, "offset", 0), integer(limit, "limit", 0, MAX_LIMIT)


def too_large(field: str, max_bytes: int) -> ValidationError:
    """The error for a record over `KP_MAX_RECORD_BYTES`."""
    return ValidationError(field, f"must not be larger than {max_bytes} bytes (KP_MAX_RECORD_BYTES)")


async def json_value(value: object, field: str, max_bytes: int) -> Any:
    """A deep copy of a JSON value that every backend can hold.

    Only `dict` with text keys, `list`, `str`, `int` of 64 signed bits, finite
    `float`, `bool` and `None`; at most 500 levels deep. It gives up as soon as
    the value is certain to be larger than `max_bytes`, and lets the event loop
    turn while it works on a large one (clause GEN-2).
    """
    walk = _copy_json(value, field, max_bytes)
    while True:
        try:
            next(walk)
        except StopIteration as done:
            return done.value
        await asyncio.sleep(0)


_Path = tuple[Any, ...]  # (parent path or None, key), so that a name is only built for an error


def _name(field: str, path: _Path | None) -> str:
    parts: list[str] = []
    while path is not None:
        path, key = path
        parts.append(f"[{key}]" if isinstance(key, int) else f".{key[:_NAME_SHOWN]}")
    return (field + "".join(reversed(parts))).encode("utf-8", "replace").decode()


def _copy_json(value: object, field: str, max_bytes: int) -> Generator[None, None, Any]:
    result: list[Any] = [None]
    # Containers still to be copied: (where the copy goes, its key there, the original, its path, its depth).
    stack: list[tuple[Any, Any, Any, _Path | None, int]] = []
    size = 0
    nodes = 0

    def leaf(item: object, path: _Path | None) -> int:
        """Check a value that holds no others; its smallest possible size in JSON."""
        kind = type(item)
        if kind is str:
            if len(item) > max_bytes:  # type: ignore[arg-type]
                raise too_large(field, max_bytes)
            if "\0" in item or not item.isascii():  # type: ignore[operator, attr-defined]
                _check_text(item, _name(field, path))  # type: ignore[arg-type]
            return len(item) + 2  # type: ignore[arg-type]
        if item is None or kind is bool:
            return 4
        if kind is int:
            if not INT64_MIN <= item <= INT64_MAX:  # type: ignore[operator]
                raise ValidationError(_name(field, path), "must fit in 64 signed bits")
            return 1
        if kind is float:
            if not math.isfinite(item):  # type: ignore[arg-type]
                raise ValidationError(_name(field, path), "must be a finite number")
            return 3
        raise ValidationError(
            _name(field, path), "must be JSON: an object, a list, text, a number, true, false or null"
        )

    if type(value) is dict or type(value) is list:
        stack.append((result, 0, value, None, 1))
    else:
        leaf(value, None)
        result[0] = value
    while stack:
        target, key, original, path, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise ValidationError(field, f"must not be nested deeper than {MAX_DEPTH} levels")
        is_object = type(original) is dict
        # Brackets, commas and colons; before the copy, so that a huge container is not copied first.
        nodes += 1
        if nodes % _NODES_PER_TURN == 0:
            yield
        size += 2 + max(0, len(original) - 1) + (len(original) if is_object else 0)
        if size > max_bytes:
            raise too_large(field, max_bytes)
        copy: Any = original.copy()
        target[key] = copy
        nested: list[tuple[Any, Any, Any, _Path | None, int]] = []
        for name, item in copy.items() if is_object else enumerate(copy):
            here = (path, name)
            if is_object:
                if type(name) is not str:
                    raise ValidationError(_name(field, path), "must have keys that are text")
                size += leaf(name, here)
            kind = type(item)
            if kind is dict or kind is list:
                nested.append((copy, name, item, here, depth + 1))
            else:
                size += leaf(item, here)
            nodes += 1
            if size > max_bytes:
                raise too_large(field, max_bytes)
            if nodes % _NODES_PER_TURN == 0:
                yield
        stack.extend(reversed(nested))
    return result[0]
