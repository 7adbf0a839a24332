"""Containers of a million small things, for which no garbage collection and no resize makes anybody wait.

CPython's collector goes through every container now and then: 0.2 s for 300,000
records. A dictionary of nothing but numbers, texts and bytes is not among them,
and so what the stores keep is in such dictionaries. Each is cut into many, since
one of a million entries takes 20 ms to grow.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Generic, TypeVar

from kpstore.index import Pages

V = TypeVar("V", int, str, bytes)

_SHARDS = 256
_MIX = 0x9E3779B97F4A7C15  # spreads numbers, whose hashes are themselves (Knuth's multiplicative hashing)
_SECOND = 1_000_000


class Shards(Generic[V]):
    """A dictionary by text."""

    def __init__(self) -> None:
        self._shards: list[dict[str, V]] = [{} for _ in range(_SHARDS)]

    def of(self, key: str) -> dict[str, V]:
        """The dictionary that has the key, if there is one."""
        # Not by the lowest bits: by those the dictionary itself tells its keys apart.
        return self._shards[hash(key) >> 20 & _SHARDS - 1]


class NumberedShards(Generic[V]):
    """A dictionary by number."""

    def __init__(self) -> None:
        self._shards: list[dict[int, V]] = [{} for _ in range(_SHARDS)]

    def of(self, number: int) -> dict[int, V]:
        """The dictionary that has what goes by this number."""
        return self._shards[number * _MIX >> 56 & _SHARDS - 1]


class Line(Pages[V]):
    """A list that grows, and never shrinks."""

    def __init__(self) -> None:
        super().__init__()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, value: V) -> None:
        """Add a value after all others."""
        self[self._length] = value
        self._length += 1


class Due:
    """Keys, each with a time after which somebody should look at it."""

    def __init__(self) -> None:
        # By second, and within one by the key's hash, so that no dictionary grows large.
        self._slots: list[int] = []  # a heap
        self._keys: dict[int, dict[str, None]] = {}

    def add(self, key: str, at: int) -> None:
        """Note the key for a time in microseconds since 1970."""
        slot = -(-at // _SECOND) * _SHARDS + (hash(key) >> 20 & _SHARDS - 1)
        keys = self._keys.get(slot)
        if keys is None:
            keys = self._keys[slot] = {}
            heappush(self._slots, slot)
        keys[key] = None

    def pop(self, now: int) -> str | None:
        """One of the keys whose time is past, which is forgotten; `None` if there is none."""
        if not self._slots or self._slots[0] // _SHARDS * _SECOND > now:
            return None
        keys = self._keys[self._slots[0]]
        key, _ = keys.popitem()
        if not keys:
            del self._keys[heappop(self._slots)]
        return key
