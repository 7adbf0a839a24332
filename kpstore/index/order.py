"""Pages of any set of documents in the order of a number of theirs, without sorting the set."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Generator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from kpstore.index.arrays import Positions, set_of, set_of_array
from kpstore.index.pages import PAGE_BITS

# A leaf that holds different keys has to be sorted when a page ends in it: 30 us for so many.
_LEAF_LIMIT = 128
# A set of so many is sorted faster than the tree is walked.
_FEW = 256
# Where so many of a set are to be expected below a node, they are sorted at once: a step further down the
# tree takes 5 to 10 us with a million documents, and sorting one of them 0.3.
_AT_ONCE = 48
_SIGN = 1 << 63
_ALL_BITS = (1 << 64) - 1


@dataclass(slots=True)
class _Leaf:
    """Documents with keys from `low` to `high` at most: any number with one key, or a few with several."""

    members: BitMap
    low: int
    high: int


@dataclass(slots=True)
class _Fork:
    """Documents whose keys agree with `key` in all bits above `bit`, parted by that bit."""

    members: BitMap
    key: int
    bit: int
    low: _Node
    high: _Node

    @property
    def lowest(self) -> int:
        """The lowest key that would be in here."""
        return self.key >> self.bit + 1 << self.bit + 1

    @property
    def highest(self) -> int:
        """The highest key that would be in here."""
        return self.lowest | (1 << self.bit + 1) - 1


_Node: TypeAlias = _Leaf | _Fork


class Order:
    """Documents by a key, a whole number of 64 bits, the highest first; those with equal keys by position.

    A binary tree over the bits of the keys. Each node has the set of all documents below it, so that how many
    of a set come before a place in the order is a matter of a few intersections.
    """

    def __init__(self) -> None:
        self._root: _Node | None = None
        self._keys: dict[int, array[int]] = {}

    @property
    def members(self) -> BitMap:
        """All documents; not to be changed."""
        return BitMap() if self._root is None else self._root.members

    def key(self, position: int) -> int:
        """The key of a document that is there."""
        return self._keys[position >> PAGE_BITS][position & (1 << PAGE_BITS) - 1]

    def add(self, position: int, key: int) -> None:
        """Add a document that is not there."""
        number = position >> PAGE_BITS
        page = self._keys.get(number)
        if page is None:
            page = self._keys[number] = array("Q", bytes(8 << PAGE_BITS))
        page[position & (1 << PAGE_BITS) - 1] = key
        parent: _Fork | None = None
        node = self._root
        while isinstance(node, _Fork):
            if (key ^ node.key) >> node.bit + 1:
                break
            node.members.add(position)
            parent, node = node, node.high if key >> node.bit & 1 else node.low
        if isinstance(node, _Leaf) and (node.low == key == node.high or len(node.members) < _LEAF_LIMIT):
            node.members.add(position)
            node.low, node.high = min(node.low, key), max(node.high, key)
            return
        new = self._with(node, position, key)
        if parent is None:
            self._root = new
        elif key >> parent.bit & 1:
            parent.high = new
        else:
            parent.low = new

    def _with(self, node: _Node | None, position: int, key: int) -> _Node:
        """The node, to which a document does not fit, with it."""
        leaf = _Leaf(set_of((position,)), key, key)
        if node is None:
            return leaf
        members = node.members | leaf.members
        if isinstance(node, _Leaf) and node.low != node.high:
            return self._parted(members)
        other = node.key if isinstance(node, _Fork) else node.low
        bit = (key ^ other).bit_length() - 1
        return _Fork(members, key, bit, *((node, leaf) if key > other else (leaf, node)))

    def _parted(self, members: BitMap) -> _Node:
        """The documents in two leaves, or in one if all have one key."""
        keys = {position: self.key(position) for position in members}
        low, high = min(keys.values()), max(keys.values())
        if low == high:
            return _Leaf(members, low, high)
        bit = (low ^ high).bit_length() - 1
        lows, highs = (
            {position: key for position, key in keys.items() if key >> bit & 1 == side} for side in (0, 1)
        )
        return _Fork(
            members,
            high,
            bit,
            _Leaf(set_of(lows), low, max(lows.values())),
            _Leaf(set_of(highs), min(highs.values()), high),
        )

    def fill(self, positions: Positions, keys: NDArray[np.uint64]) -> Generator[None, None, None]:
        """Add documents, in ascending order, where there are none; in steps of 0.1 ms."""
        number_of = positions >> PAGE_BITS
        begins = np.flatnonzero(np.diff(number_of, prepend=-1))
        for begin, end in pairwise([*begins.tolist(), len(positions)]):
            page = self._keys[number_of.item(begin)] = array("Q", bytes(8 << PAGE_BITS))
            np.frombuffer(page, np.uint64)[positions[begin:end] & (1 << PAGE_BITS) - 1] = keys[begin:end]
            yield
        order = np.argsort(keys, kind="stable")
        if len(positions):
            self._root = yield from _tree(positions[order], keys[order])

    def remove(self, position: int) -> None:
        """Remove a document that is there."""
        key = self.key(position)
        path: list[_Fork] = []
        node = self._root
        while isinstance(node, _Fork):
            node.members.discard(position)
            path.append(node)
            node = node.high if key >> node.bit & 1 else node.low
        assert node is not None
        node.members.discard(position)
        first = position >> PAGE_BITS << PAGE_BITS
        if not self.members.range_cardinality(first, first + (1 << PAGE_BITS)):
            del self._keys[position >> PAGE_BITS]
        if node.members:
            return
        if not path:
            self._root = None
            return
        parent = path.pop()
        sibling = parent.low if node is parent.high else parent.high
        if not path:
            self._root = sibling
        elif path[-1].high is parent:
            path[-1].high = sibling
        else:
            path[-1].low = sibling

    def count(self, among: BitMap | None, least: int = 0) -> int:
        """How many documents of a set (`None`: of all) have at least this key."""
        return sum(_common(among, members) for members in self._parts(least, _ALL_BITS))

    def between(self, least: int, most: int) -> BitMap:
        """The documents with `least <= key <= most`; not to be changed."""
        parts = self._parts(least, most)
        return parts[0] if len(parts) == 1 else BitMap.union(BitMap(), *parts)

    def _parts(self, least: int, most: int) -> list[BitMap]:
        """Disjoint sets that have the documents with such keys between them."""
        parts: list[BitMap] = []
        nodes = [] if self._root is None else [self._root]
        while nodes:
            node = nodes.pop()
            low, high = (node.lowest, node.highest) if isinstance(node, _Fork) else (node.low, node.high)
            if least <= low and high <= most:
                parts.append(node.members)
            elif high < least or low > most:
                continue
            elif isinstance(node, _Fork):
                nodes += (node.low, node.high)
            else:
                inside = [one for one in node.members if least <= self.key(one) <= most]
                parts.append(BitMap(inside))
        return parts

    def last(self, count: int) -> list[int]:
        """The documents with the lowest keys, so many of them, the lowest first."""
        found: list[int] = []
        nodes = [] if self._root is None else [self._root]
        while nodes and len(found) < count:
            node = nodes.pop()
            if isinstance(node, _Fork):
                nodes += (node.high, node.low)
            elif node.low == node.high:
                found += islice(node.members, count)
            else:
                found += sorted(node.members, key=self.key)
        return found[:count]

    def page(self, among: BitMap | None, offset: int, end: int) -> list[int]:
        """Numbers `offset` to `end` - 1 in the order of the documents of a set (`None`: of all)."""
        if self._root is None or offset >= end:
            return []
        if among is not None and len(among) <= _FEW:
            return self._sorted(among)[offset:end]
        found: list[int] = []
        nodes: list[_Node] = [self._root]
        wanted = end - offset
        small = 0 if among is None else _AT_ONCE * len(self._root.members) // len(among)
        while nodes and len(found) < wanted:
            node = nodes.pop()
            if offset:
                inside = _common(among, node.members)
                if inside <= offset:
                    offset -= inside
                    continue
            elif among is not None and not among.intersect(node.members):
                continue
            # Below a small one there may be more than was to be expected.
            if isinstance(node, _Fork) and (len(node.members) > small or _common(among, node.members) > _FEW):
                nodes += (node.low, node.high)
                continue
            members = node.members if among is None else node.members & among
            last = offset + wanted - len(found)
            if isinstance(node, _Leaf) and node.low == node.high:
                found += members[offset:last]
            else:
                found += self._sorted(members)[offset:last]
            offset = 0
        return found

    def _sorted(self, members: BitMap) -> list[int]:
        # Those of one key stay in the order of their positions, in which they come.
        return sorted(members, key=self.key, reverse=True)


def _tree(positions: Positions, keys: NDArray[np.uint64]) -> Generator[None, None, _Node]:
    """The tree of documents in the order of their keys."""
    low, high = keys.item(0), keys.item(-1)
    if low == high or len(keys) < _LEAF_LIMIT:
        yield
        return _Leaf(set_of_array(positions), low, high)
    bit = (low ^ high).bit_length() - 1
    at = int(np.searchsorted(keys, np.uint64(high >> bit << bit)))
    lower = yield from _tree(positions[:at], keys[:at])
    higher = yield from _tree(positions[at:], keys[at:])
    return _Fork(lower.members | higher.members, high, bit, lower, higher)


def _common(among: BitMap | None, members: BitMap) -> int:
    return len(members) if among is None else among.intersection_cardinality(members)


def quality_key(quality: float) -> int:
    """The key of a quality, or of any other number: the higher, the higher."""
    (bits,) = struct.unpack("<Q", struct.pack("<d", quality + 0.0))  # -0.0 is equal to 0.0
    return bits ^ (_ALL_BITS if bits & _SIGN else _SIGN)  # type: ignore[no-any-return]


def integer_key(number: int) -> int:
    """The key of a whole number of 64 signed bits."""
    return number + _SIGN
