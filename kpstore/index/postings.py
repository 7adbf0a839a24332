"""The postings of a trie's nodes: those that were stored, packed, and those that have changed since."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator

from pyroaring import BitMap

from kpstore.index.frames import Block
from kpstore.index.pages import Pages

_PER_TURN = 512  # sets that are changed, in 0.3 ms


class Postings:
    """The documents of each node, a number from 0 on.

    A packed posting takes a quarter of the memory of a set, and is made one by each `get`. Its block is read
    when one of the postings in there is asked for, or when there is time; what reading it raises, `get` and
    `own` raise too.
    """

    def __init__(self) -> None:
        # Packed are those of the nodes from 1 on, in their order: where each ends in its block; by block, the
        # first node, and the block once it has been read.
        self._ends = array("I")
        self._firsts = array("I")
        self._blocks: list[Block | None] = []
        self._read: Callable[[int], Block] | None = None
        self._are_read = 0  # of the blocks, so many from the first one on, and perhaps others
        self._without = BitMap()  # documents that the packed postings name and that are not there any more
        self._sets: Pages[BitMap] = Pages()  # all others, and the packed ones that have changed
        self.sets = 0

    def get(self, node: int) -> BitMap:
        """The posting of a node; not to be changed."""
        posting = self._sets.get(node)
        return self._unpacked(node) if posting is None else posting

    def size(self, node: int) -> int:
        """About how many documents a node has, be its posting read or not."""
        posting = self._sets.get(node)
        if posting is not None:
            return len(posting)
        _, begin, end = self._place(node)
        return (end - begin) // 2  # bytes

    def _unpacked(self, node: int) -> BitMap:
        number, begin, end = self._place(node)
        posting = BitMap.deserialize(self._block(number)[begin:end])
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

    def without(self, documents: BitMap) -> Iterator[None]:
        """Remove documents from all postings, in steps of 0.3 ms."""
        self._without |= documents
        for sets in self._sets.chunks(_PER_TURN):
            for posting in sets:
                posting.difference_update(documents)
            yield

    # Packed ones --------------------------------------------------------------

    def read_with(self, read: Callable[[int], Block]) -> None:
        """What gives the blocks of packed postings, by number."""
        self._read = read

    def pack(self, ends: bytes, counts: bytes) -> None:
        """Add the postings of the next nodes, the first of all being 1, which are in the next blocks.

        Args:
            ends: of `uint32`, where each one's posting ends in its block.
            counts: of `uint32`, how many of them are in each block.
        """
        first = len(self._ends) + 1
        self._ends.frombytes(ends)
        for count in array("I", counts):
            self._firsts.append(first)
            self._blocks.append(None)
            first += count

    @property
    def are_all_read(self) -> bool:
        """Whether no block has to be read any more."""
        return self._are_read == len(self._blocks)

    def read_on(self) -> Generator[None, None, None]:
        """Read one block of those that have not been read: 0.1 ms, or what the disk takes."""
        self._block(self._are_read)
        self._are_read += 1
        yield

    def _place(self, node: int) -> tuple[int, int, int]:
        """Of a packed posting: the number of its block, and from where to where it lies in there."""
        number = bisect_right(self._firsts, node) - 1
        begin = 0 if node == self._firsts[number] else self._ends[node - 2]
        return number, begin, self._ends[node - 1]

    def _block(self, number: int) -> Block:
        block = self._blocks[number]
        if block is None:
            assert self._read is not None
            block = self._blocks[number] = self._read(number)
        return block
