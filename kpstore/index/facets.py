"""Values that documents have in common."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
from pyroaring import BitMap

from kpstore.index.arrays import PAIR_BITS, Positions, grouped, set_of, set_of_array
from kpstore.index.frames import Names
from kpstore.index.pages import Pages

_SHARDS = 64
BLOCK_BITS = 10
"""Documents that are equal without so many of their lowest bits are packed together."""
_FRAME_BYTES = 16 * 1024  # of names and sets: 800 at most, which are read in 0.8 ms

Members: TypeAlias = Pages[BitMap]
"""Documents by the id of a facet."""


class Facets:
    """Documents by the names of their facets, such as a domain or an agent."""

    def __init__(self) -> None:
        self._ids: list[dict[str, int]] = [{} for _ in range(_SHARDS)]  # by name
        self._names: Pages[str] = Pages()  # by id
        self._members: Members = Pages()
        self._next_id = 0
        # By document: the ids of its facets. Of those that were loaded, by block: the documents, where the
        # ids of each end, and the ids.
        self._of: Pages[bytes] = Pages()
        self._packed: dict[int, tuple[Positions, Positions, Positions]] = {}
        self._in_packed = BitMap()

    def __contains__(self, position: int) -> bool:
        return position in self._in_packed or self._of.get(position) is not None

    def of(self, position: int) -> array[int]:
        """The ids of the facets of a document that is there."""
        if position not in self._in_packed:
            return array("I", self._of[position])
        positions, ends, ids = self._packed[position >> BLOCK_BITS]
        at = int(np.searchsorted(positions, position))
        return array("I", ids[ends[at - 1] if at else 0 : ends[at]].tobytes())

    def _shard(self, name: str) -> dict[str, int]:
        return self._ids[hash(name) >> 20 & _SHARDS - 1]

    def add(self, position: int, names: Iterable[str]) -> None:
        """Add a document that is not there."""
        ids = array("I", (self._id(name) for name in names))
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
        for id in self.of(position):
            members = self._members.get(id)
            if members is None:  # the last name of this one went while the index was saved
                continue
            members.discard(position)
            if not members:
                self._members.pop(id)
                name = self._names.pop(id)
                del self._shard(name)[name]
        if position in self._in_packed:
            self._in_packed.discard(position)
        else:
            self._of.pop(position)

    def having(self, names: Iterable[str]) -> BitMap:
        """The documents that have one of these facets; a set of the caller's own."""
        ids = (self._shard(name).get(name) for name in names)
        return BitMap.union(BitMap(), *(self._members[id] for id in ids if id is not None))

    # Outside memory -----------------------------------------------------------

    def save_names(self, members: Members) -> Iterator[Names]:
        """The names of the facets of the documents that were saved, and the members that these had then."""
        ids: list[int] = []
        names: list[bytes] = []
        sets: list[bytes] = []
        size = 0

        def frame() -> Names:
            return Names(ids=np.array(ids, np.uint32).tobytes(), names=names, members=sets)

        for id, name in [(id, name) for shard in self._ids for name, id in shard.items()]:
            found = members.get(id)
            if found is None:  # it came meanwhile
                continue
            ids.append(id)
            names.append(name.encode("utf-8", "surrogatepass"))
            sets.append(found.serialize())
            size += len(names[-1]) + len(sets[-1])
            if size >= _FRAME_BYTES:
                yield frame()
                ids, names, sets, size = [], [], [], 0
        if ids:
            yield frame()

    def load(self, positions: Positions, ends: Positions, ids: Positions) -> None:
        """Take the documents of one block that were saved: the ids of each, one after another."""
        self._packed[int(positions[0]) >> BLOCK_BITS] = positions, ends, ids
        self._in_packed |= set_of_array(positions)
        self._next_id = max(self._next_id, int(ids.max(initial=0)) + 1)

    def load_names(self, names: Names) -> None:
        """Take some of the names that were saved."""
        for id, name, members in zip(
            np.frombuffer(names.ids, np.uint32).tolist(), names.names, names.members, strict=True
        ):
            text = name.decode("utf-8", "surrogatepass")
            self._names[id] = text
            self._shard(text)[text] = id
            self._members[id] = BitMap.deserialize(members)


def add_members(to: Members, positions: Positions, ends: Positions, ids: Positions) -> None:
    """Add some documents to the sets of their facets: the ids of each, one after another."""
    lengths = np.diff(ends, prepend=0)
    for id, members in grouped(ids.astype(np.int64) << PAIR_BITS | np.repeat(positions, lengths)):
        known = to.get(id)
        if known is None:
            to[id] = set_of(members)
        else:
            known.update(members)
