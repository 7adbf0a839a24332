"""How values look to the engine (`view`) and to a reader (`short`), who never sees an API key (GEN-11)."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Set
from datetime import datetime, timedelta
from typing import Any

__all__ = ["clip", "counted", "quote", "redact", "short", "snapshot", "view"]

# The prefix of a key (`kp_` and 8 digits) is public; more digits than that are part of the secret.
_KEY = re.compile(r"kp_[0-9a-f]{9,}", re.IGNORECASE)
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def redact(text: str) -> str:
    """The text with every raw API key in it, or part of one, replaced."""
    return _KEY.sub("kp_????????…", text)


_SCALARS = frozenset({str, int, float, bool, type(None), datetime, timedelta, bytes})


_FIELDS: dict[type, tuple[str, ...] | None] = {}


def _fields(kind: type) -> tuple[str, ...] | None:
    """The names of a record class's fields; `None` for any other class."""
    if kind not in _FIELDS:
        record = dataclasses.is_dataclass(kind)
        _FIELDS[kind] = tuple(field.name for field in dataclasses.fields(kind)) if record else None
    return _FIELDS[kind]


# A record may be nested half as deep as Python lets functions call each other. So there are no comprehensions
# below: each has a frame of its own in 3.11.


def view(value: object) -> Any:
    """A value as expectations see it: records as mappings of their fields, tuples as lists, sets frozen."""
    if type(value) in _SCALARS:
        return value
    seen = _outer_view(value)
    if type(seen) is dict:
        for key, item in seen.items():
            seen[key] = view(item)
    elif type(seen) is list:
        for index, item in enumerate(seen):
            seen[index] = view(item)
    return seen


def _outer_view(value: Any) -> Any:
    """The `view` of a value, but for what is in it. A mapping or list is a new one."""
    kind = type(value)
    if kind is dict:
        return value.copy()
    names = _fields(kind)
    if names is not None:
        return {name: getattr(value, name) for name in names}
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return frozenset(value)
    return value


def snapshot(value: Any) -> Any:
    """A copy that shares no container with the original; records stay records."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    inner: Any
    if kind is dict:
        inner = {}
        for key, item in value.items():
            inner[key] = snapshot(item)
        return inner
    if kind in (list, tuple, set, frozenset):
        inner = []
        for item in value:
            inner.append(snapshot(item))
        return kind(inner)
    names = _fields(kind)
    if names is None:
        return value
    copy = object.__new__(kind)
    for name in names:
        object.__setattr__(copy, name, snapshot(getattr(value, name)))
    return copy


def quote(text: str, room: int = 80) -> str:
    """The text in double quotes on one line: redacted, shortened in the middle, unprintable parts escaped."""
    text = redact(text)
    tail = ""
    if len(text) > room:
        head = room * 2 // 3
        tail = f" ({len(text):,} characters)"
        text = f"{text[:head]}…{text[len(text) - (room - head) :]}"
    return '"' + "".join(_escape(character) for character in text) + '"' + tail


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def counted(number: int, noun: str) -> str:
    """`1 item`, `2 items`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def clip(text: str, room: int) -> str:
    """The text cut to `room` characters."""
    return text if len(text) <= room else text[: room - 1] + "…"


def short(value: object, room: int = 200, *, items: int = 8, depth: int = 4) -> str:
    """A value on one line in YAML's flow style, at most about `room` characters long."""
    return clip(_short(value, items, depth), room)


def _short(value: object, items: int, depth: int) -> str:
    value = _outer_view(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else f".{value}".replace(".-", "-.")
    if isinstance(value, int):
        digits = value.bit_length() * 3 // 10
        return str(value) if digits < 40 else f"an integer of about {digits} digits"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    if isinstance(value, dict):
        if not value:
            return "{}"
        if depth == 0:
            return f"{{… {len(value)} keys}}"
        parts = [
            f"{_key(key)}: {_short(item, items, depth - 1)}" for key, item in list(value.items())[:items]
        ]
        return "{" + ", ".join(parts + _more(len(value) - items)) + "}"
    if isinstance(value, (list, frozenset)):
        if isinstance(value, frozenset):
            inner, open_, close = sorted(value, key=repr), "{$set: [", "]}"
        else:
            inner, open_, close = value, "[", "]"
        if depth == 0 and inner:
            return f"{open_}… {len(inner)} items{close}"
        parts = [_short(item, items, depth - 1) for item in inner[:items]]
        return open_ + ", ".join(parts + _more(len(inner) - items)) + close
    return redact(clip(re.sub(r" at 0x[0-9a-f]+", "", repr(value)), 80))


def _key(key: object) -> str:
    text = str(key)
    return text if re.fullmatch(r"[A-Za-z_@$][\w@.-]*", text) else quote(text, 40)


def _more(count: int) -> list[str]:
    return [f"… {count} more"] if count > 0 else []
