"""Values that documents have in common."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from pyroaring import BitMap

from kpstore.index.pages import Pages

_SHARDS = 64


class Facets:
    """Documents by the names of their facets, such as a domain or an agent."""

    def __init__(self) -> None:
        self._ids: list[dict[str, int]] = [{} for _ in range(_SHARDS)]  # by name
        self._names: Pages[str] = Pages()  # by id
        self._members: Pages[BitMap] = Pages()  # by id
        self._next_id = 0
        self._of: Pages[bytes] = Pages()  # by document: the ids of its facets

    def __contains__(self, position: int) -> bool:
        return self._of.get(position) is not None

    def _shard(self, name: str) -> dict[str, int]:
        return self._ids[hash(name) >> 20 & _SHARDS - 1]

    def add(self, position: int, names: Iterable[str]) -> None:
        """Add a document that is not there."""
        ids = array("Q", (self._id(name) for name in names))
        for id in ids:
            self._members[id].add(position)
        self._of[position] = ids.tobytes()

    def _id(self, name: str) -> int:
        shard = self._shard(name)
        id = shard.get(name)
        if id is None:
            id = shard[name] = self._next_id
            self._next_id += 1
            self._names[id], self._members[id] = name, BitMap()
        return id

    def remove(self, position: int) -> None:
        """Remove a document that is there."""
        for id in memoryview(self._of.pop(position)).cast("Q"):
            members = self._members[id]
            members.discard(position)
            if not members:
                name = self._names.pop(id)
                del self._shard(name)[name]
                self._members.pop(id)

    def having(self, names: Iterable[str]) -> BitMap:
        """The documents that have one of these facets; a set of the caller's own."""
        ids = (self._shard(name).get(name) for name in names)
        return BitMap.union(BitMap(), *(self._members[id] for id in ids if id is not None))
