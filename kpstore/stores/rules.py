"""Checks of what callers pass in, shared by the six stores (clause GEN-5).

Each check takes the value and the name of its field, and returns the value in
the form in which it is stored, or raises `ValidationError`. No message ever
contains the value.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Collection, Generator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeGuard, TypeVar

import msgspec

from kpstore.errors import ValidationError

T = TypeVar("T")

MAX_IDENTIFIER = 512  # characters; GEN-5
MAX_LIMIT = 1000  # records of one page; PAGE-2
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
# JSON nested deeper than this is refused: the interpreter's own recursion limit is 1000
# frames, and comparing, encoding and decoding a value each take one per level.
MAX_DEPTH = 500
# Nodes looked at between two turns of the event loop: about 0.3 ms.
_NODES_PER_TURN = 1000
_RAW_KEY = re.compile(r"kp_[0-9a-f]{8,}")  # even where a key of an object is an API key, GEN-11
_NAME_SHOWN = 100  # characters of a key in an error's path

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

VISIBILITIES = ("private", "org", "network")


# A caller's object may be of a subclass whose methods do anything, and its `__class__` may lie, but its
# type does not. So each check asks the type, and turns the value into the plain one that it is by that
# type's own method, before it compares, measures or goes through it.


def is_a(value: object, kind: type[T]) -> TypeGuard[T]:
    """Whether the value is of this type, whatever it says of itself."""
    return issubclass(type(value), kind)


def text(value: object, field: str) -> str:
    """Any text that every backend can hold: no U+0000, no lone surrogates."""
    plain = _plain_text(value, field)
    _check_text(plain, field)
    return plain


def _plain_text(value: object, field: str) -> str:
    if not is_a(value, str):
        raise ValidationError(field, "must be text")
    return str.__str__(value)


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


def short_text(value: object, field: str, max_length: int) -> str:
    """Text of at most `max_length` characters; a longer one is not even looked at."""
    plain = _plain_text(value, field)
    if len(plain) > max_length:
        raise too_large(field, max_length)
    _check_text(plain, field)
    return plain


def identifier(value: object, field: str) -> str:
    """Text of 1 to 512 characters."""
    plain = _plain_text(value, field)
    if not plain:
        raise ValidationError(field, "must not be empty")
    if len(plain) > MAX_IDENTIFIER:
        raise ValidationError(field, f"must be at most {MAX_IDENTIFIER} characters long")
    _check_text(plain, field)
    return plain


def choice(value: object, field: str, allowed: Collection[str]) -> str:
    """One of the texts in `allowed`."""
    plain = str.__str__(value) if is_a(value, str) else None
    if plain is None or plain not in allowed:
        raise ValidationError(field, f"must be one of {', '.join(sorted(allowed))}")
    return plain


def number(value: object, field: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number from `low` to `high`; a `bool` is none."""
    if is_a(value, float):
        result = float.__float__(value)
    elif is_a(value, int) and not is_a(value, bool):
        whole = int.__int__(value)
        if not INT64_MIN <= whole <= INT64_MAX:
            raise ValidationError(field, "must fit in 64 signed bits")
        result = float(whole)
    else:
        raise ValidationError(field, "must be a number")
    if not math.isfinite(result):
        raise ValidationError(field, "must be a finite number")
    if not low <= result <= high:
        raise ValidationError(field, f"must be from {low:g} to {high:g}")
    return result


def integer(value: object, field: str, low: int, high: int = INT64_MAX) -> int:
    """A whole number from `low` to `high`; a `bool` is none."""
    if is_a(value, bool) or not is_a(value, int):
        raise ValidationError(field, "must be a whole number")
    whole = int.__int__(value)
    if not low <= whole <= high:
        raise ValidationError(field, f"must be from {low} to {high}")
    return whole


def boolean(value: object, field: str) -> bool:
    """`True` or `False`."""
    if value is not True and value is not False:
        raise ValidationError(field, "must be true or false")
    return value


def moment(value: object, field: str) -> datetime:
    """An aware `datetime`, in UTC."""
    if not is_a(value, datetime):
        raise ValidationError(field, "must be a datetime")
    try:
        is_aware = datetime.utcoffset(value) is not None
        if is_aware:
            return _EPOCH + datetime.__sub__(value, _EPOCH)
    except OverflowError:
        raise ValidationError(field, "must be within the years 1 to 9999 in UTC") from None
    except Exception as error:  # whatever a time zone of the caller's raises
        raise ValidationError(field, "must have a time zone that works") from error
    raise ValidationError(field, "must be an aware datetime (one with a time zone)")


def optional_moment(value: object, field: str) -> datetime | None:
    """An aware `datetime` in UTC, or `None`."""
    return None if value is None else moment(value, field)


def micros(value: object, field: str) -> int:
    """A `timedelta`, in whole microseconds."""
    if not is_a(value, timedelta):
        raise ValidationError(field, "must be a timedelta")
    return timedelta.__floordiv__(value, _MICROSECOND)


def texts(value: object, field: str) -> tuple[str, ...]:
    """A list, tuple or set of texts; a bare text is none."""
    kinds: tuple[type[Collection[object]], ...] = (list, tuple, set, frozenset)
    for kind in kinds:
        if is_a(value, kind):
            items = list(kind.__iter__(value))
            if _are_plain_texts(items):
                return tuple(items)  # type: ignore[arg-type]  # each is a text
            return tuple(text(item, f"{field}[{index}]") for index, item in enumerate(items))
    raise ValidationError(field, "must be a list of texts")


def _are_plain_texts(items: list[object]) -> bool:
    """Whether all of them are texts with nothing to refuse: of 60,000 tags, in 2 ms instead of 30."""
    if not all(type(item) is str for item in items):
        return False
    joined = "".join(items)  # type: ignore[arg-type]  # each is a text
    try:
        return "\0" not in joined and bool(joined.isascii() or joined.encode())
    except UnicodeEncodeError:  # though two lone surrogates side by side are still two
        return False


def filter_texts(value: object, field: str) -> tuple[str, ...]:
    """As `texts`; `None`, an empty text and an empty collection are no filter."""
    if value is None or (is_a(value, str) and not str.__str__(value)):
        return ()
    return texts(value, field)


def fields_of(record: object, kind: type, field: str) -> dict[str, Any]:
    """The fields of a caller's record, read once."""
    if not is_a(record, kind):
        raise ValidationError(field, f"must be a {kind.__name__}")
    try:
        return {name: getattr(record, name) for name in kind.__slots__}
    except Exception as error:  # fields that were never set, or that a subclass computes
        raise ValidationError(field, "must have all its fields") from error


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
    has_turned = False
    while True:
        try:
            next(walk)
        except StopIteration as done:
            copy = done.value
            break
        await asyncio.sleep(0)
        has_turned = True
    # While others had their turn, they may have changed the value: then the copy is a mixture.
    if has_turned and not _is_same(value, copy):
        raise ValidationError(field, "must not change while it is being stored")
    return copy


def _is_same(value: object, copy: object) -> bool:
    try:
        return msgspec.json.encode(value) == msgspec.json.encode(copy)
    except (TypeError, ValueError, RecursionError):  # what is no JSON now was none when it was copied
        return False


_Path = tuple[Any, ...]  # (parent path or None, key), so that a name is only built for an error


def _name(field: str, path: _Path | None) -> str:
    parts: list[str] = []
    while path is not None:
        path, key = path
        parts.append(f"[{key}]" if isinstance(key, int) else f".{key[:_NAME_SHOWN]}")
    name = field + "".join(reversed(parts))
    return _RAW_KEY.sub("kp_…", name).encode("utf-8", "replace").decode()


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
