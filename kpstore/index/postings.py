"""The postings of a trie's nodes: those as they were read, packed, and those that have changed since."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from kpstore.index.pages import Pages

_PER_TURN = 512  # sets that are changed, in 0.3 ms


@dataclass(frozen=True, slots=True)
class _Block:
    first: int  # node
    ends: NDArray[np.uint32]
    data: bytes


class Postings:
    """The documents of each node, a number from 0 on.

    A packed posting takes a quarter of the memory of a set, and is made one by each `get`.
    """

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._starts: list[int] = []  # their first nodes
        self._without = BitMap()  # documents that the packed postings name and that are not there any more
        self._sets: Pages[BitMap] = Pages()  # all others, and the packed ones that have changed
        self.sets = 0

    def get(self, node: int) -> BitMap:
        """The posting of a node; not to be changed."""
        posting = self._sets.get(node)
        return self._unpacked(node) if posting is None else posting

    def _unpacked(self, node: int) -> BitMap:
        block = self._blocks[bisect_right(self._starts, node) - 1]
        at = node - block.first
        begin = block.ends.item(at - 1) if at else 0
        posting = BitMap.deserialize(block.data[begin : block.ends.item(at)])
        if posting.intersect(self._without):
            posting -= self._without
        return posting

    def own(self, node: int) -> BitMap:
        """The posting of a node, to be changed."""
        posting = self._sets.get(node)
        if posting is None:
            posting = self._unpacked(node)
            self[node] = posting
        return posting

    def __setitem__(self, node: int, posting: BitMap) -> None:
        """The posting of a node that had none."""
        self._sets[node] = posting
        self.sets += 1

    def pop(self, node: int) -> None:
        """Remove the posting of a node that is not packed."""
        self._sets.pop(node)
        self.sets -= 1

    def pack(self, first: int, ends: NDArray[np.uint32], data: bytes) -> None:
        """Add the postings of nodes from the first one on: where each ends in the data."""
        self._blocks.append(_Block(first, ends, data))
        self._starts.append(first)

    def without(self, documents: BitMap) -> Iterator[None]:
        """Remove documents from all postings, in steps of 0.3 ms."""
        self._without |= documents
        for sets in self._sets.chunks(_PER_TURN):
            for posting in sets:
                posting.difference_update(documents)
            yield
