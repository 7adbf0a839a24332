"""Which texts contain a string, any string, exactly: a trie of the strings that occur in many texts.

Each node of the trie is a string of bytes and has a *posting*: the set of the documents whose text contains
it. A node is extended by one more byte while its posting is larger than a bound, and only then. So a query
either is in the trie, and its posting is the answer; or it is not, and then the way to it ends at a node with
few documents, which are looked through. Both take microseconds, whatever the query and however many texts
there are. Texts are bytes in UTF-8, in which a character's bytes never occur but at that character.

Source: the multigram index of J. Cho and S. Rajagopalan, "A Fast Regular Expression Indexing Engine" (ICDE
2002), whose grams are those that occur in few documents; here the frequent ones are kept too, as answers.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from kpstore.index.pages import PAGE_BITS, Pages

SEPARATOR = 0xFF
"""The byte between two texts of one document. No UTF-8 has it, so no query matches across it."""

# A posting of more documents than this is extended. Looking one document through takes 0.2 us, so
# that the dearest query costs 0.1 to 0.5 ms; a lower bound makes the trie deeper and larger.
_FEWEST, _MOST = 256, 2000
_SHARE = 200  # between these, one in so many documents
# Texts alike by the thousand (a boilerplate) would extend the trie by every one of their substrings.
_MAX_DEPTH = 16
_STARTS = 48  # places in a query from which the trie is tried
_SMALLEST = 6  # postings that are intersected
# Texts that are put into the trie together: more share the work, but sorting what is found in
# them is one step of work, of 0.5 ms.
_CHUNK_BYTES = 48 * 1024
# Documents that are looked through, or whose postings are changed, between two turns of others: 0.1 ms.
_PER_TURN = 256
# From so many new documents on, the trie is laid out before it is filled, by a sample of them: extending a
# node when it has filled up means to read its documents again, which costs as much as all the rest.
_MANY = 8192
_SAMPLE = 2048
# Room for the trie of some 200,000 documents, since a table that grows is copied while others wait:
# 100,000 take 220,000 nodes, of which 48,000 are extended.
_NODES, _ROWS = 1 << 20, 1 << 16
_ROOT = 1  # its row
_END = bytes((SEPARATOR,))
_NONE: dict[int, bytes] = {}

Turns: TypeAlias = Generator[None, None, None]
"""Work in steps of less than a millisecond: between any two of them, others may have their turn."""

_Ints: TypeAlias = NDArray[np.int32]
_Pairs: TypeAlias = NDArray[np.int64]  # a node or a byte, and a document in the lower bits
_PAIR_BITS = 32


@dataclass(slots=True, frozen=True)
class _Found:
    """What the trie knows of a query: exactly its documents, or a few more."""

    documents: BitMap
    is_exact: bool


class GramIndex:
    """Texts by position.

    What was put or removed lately is *pending*: not yet in the trie, and looked through by each query. `work`
    moves it there.

    Args:
        bound: how large a posting gets before it is extended; by default, what suits the number of documents.
    """

    def __init__(self, bound: int | None = None) -> None:
        self._fixed_bound = bound
        self._texts: Pages[bytes] = Pages()
        # What the postings say of pending documents: the text that they had, None where they had none.
        self._old: dict[int, bytes | None] = {}
        self._pending = BitMap()  # those documents
        self._recent: dict[int, bytes] = {}  # the texts that pending documents have now
        self._watchers: list[set[int]] = []
        self._job: Turns | None = None
        self._indexed = 0
        self._laid_out_for = 0  # documents
        self._overfull: list[int] = []
        # Nodes: 0 is the root, which is nobody's child, so that 0 stands for "no child" too.
        self._nodes = 1
        self._strings: Pages[bytes] = Pages()
        self._postings: Pages[BitMap] = Pages()
        self._strings[0], self._postings[0] = b"", BitMap()
        # Of each node that is extended, its row in the table of children; 0 of the others.
        self._row_of: _Ints = np.zeros(1, np.int32)
        self._node_of: _Ints = np.zeros(2, np.int32)
        self._children: _Ints = np.zeros((2, 256), np.int32)  # by row and next byte
        self._rows = 1
        self._add_row(0)

    # Documents ----------------------------------------------------------------

    @property
    def pending(self) -> int:
        """How many documents `work` still has to look at."""
        return len(self._old)

    def put(self, position: int, text: bytes) -> None:
        """Set a document's text, or replace it."""
        if position not in self._old:
            self._old[position] = self._texts.get(position)
            self._pending.add(position)
        self._texts[position] = self._recent[position] = text
        self._changed(position)

    def remove(self, position: int) -> None:
        """Remove a document that is there."""
        text = self._texts.pop(position)
        if self._recent.pop(position, None) is None:
            self._old[position] = text
            self._pending.add(position)
        self._changed(position)

    def _changed(self, position: int) -> None:
        for watcher in self._watchers:
            watcher.add(position)

    # Queries ------------------------------------------------------------------

    def find(self, query: bytes, within: BitMap | None = None) -> Generator[None, None, BitMap]:
        """The documents whose text contains the query, as of the moment when it ends.

        Args:
            query: not empty.
            within: where to look; `None` for everywhere.
        """
        changed: set[int] = set()
        self._watchers.append(changed)
        try:
            found = self._candidates(query)
            documents = found.documents - self._pending
            if within is not None:
                documents = documents & within
            if not found.is_exact:
                documents = BitMap((yield from self._verified(query, documents)))
            recent = yield from self._recent_with(query)
            if recent:
                documents = documents | (recent if within is None else recent & within)
        finally:
            self._watchers = [one for one in self._watchers if one is not changed]
        if changed:
            documents = documents.copy()
        for position in changed:
            documents.discard(position)
            if query in (self._texts.get(position) or b""):
                documents.add(position)
        return documents

    def _recent_with(self, query: bytes) -> Generator[None, None, BitMap]:
        if len(self._recent) <= _PER_TURN:
            return BitMap([position for position, text in self._recent.items() if query in text])
        return BitMap((yield from self._verified(query, list(self._recent))))

    def _verified(self, query: bytes, candidates: Iterable[int]) -> Generator[None, None, list[int]]:
        """The candidates whose text contains the query; one that has gone meanwhile does not."""
        found: list[int] = []
        rest = iter(candidates)
        page = self._texts.page
        while chunk := list(islice(rest, _PER_TURN)):
            # The dearest loop of all: what `get` does is written out.
            found += [each for each in chunk if query in page(each >> PAGE_BITS, _NONE).get(each, b"")]
            if len(chunk) == _PER_TURN:
                yield
        return found

    def _candidates(self, query: bytes) -> _Found:
        """The documents in the trie that contain the query, and perhaps others; none of the pending ones."""
        postings: list[BitMap] = []
        children, row_of = self._children, self._row_of
        for start in range(min(len(query), _STARTS)):
            row, node = _ROOT, 0
            for byte in query[start : start + _MAX_DEPTH]:
                node = children.item(row, byte)
                if node == 0:  # nowhere
                    return _Found(BitMap(), True)
                row = row_of.item(node)
                if row == 0:
                    break
            if self._strings[node] == query:
                return _Found(self._postings[node], True)
            postings.append(self._postings[node])
        postings.sort(key=len)
        # An intersection of one, since the caller may change what it gets.
        return _Found(BitMap.intersection(*postings[:_SMALLEST]), False)

    # Work ---------------------------------------------------------------------

    def work(self, seconds: float) -> bool:
        """Move pending documents into the trie for about that long; whether there is more to do."""
        until = perf_counter() + seconds
        while True:
            if self._job is None:
                if not self._old:
                    return False
                self._job = self._take_in()
            try:
                next(self._job)
            except StopIteration:
                self._job = None
            if perf_counter() >= until:
                return self._job is not None or bool(self._old)

    def _take_in(self) -> Turns:
        """Put some of the pending documents into the trie."""
        taken: dict[int, bytes | None] = {}
        gone: dict[int, bytes] = {}
        come: dict[int, bytes] = {}
        size = 0
        for position, old in self._old.items():
            new = taken[position] = self._recent.get(position)
            if old is not None:
                gone[position] = old
                size += len(old)
            if new is not None:
                come[position] = new
                size += len(new)
            if size >= _CHUNK_BYTES:
                break
        if len(self._recent) > _MANY and self._indexed + len(self._recent) > 2 * self._laid_out_for:
            yield from self._lay_out()
        yield from self._spread(gone, adds=False)
        yield from self._spread(come, adds=True)
        self._indexed += len(come) - len(gone)
        for position, new in taken.items():
            if self._recent.get(position) is new:
                del self._old[position]
                self._recent.pop(position, None)
                self._pending.discard(position)
            else:  # it was changed again meanwhile
                self._old[position] = new
        while self._overfull:
            yield from self._extend(self._overfull.pop())

    def _spread(self, texts: dict[int, bytes], *, adds: bool) -> Turns:
        """Add documents to all postings of their texts, or take them out."""
        if not texts:
            return
        data = np.frombuffer(b"".join(text + _END for text in texts.values()), np.uint8)
        lengths = np.fromiter((len(text) + 1 for text in texts.values()), np.int64, len(texts))
        documents = np.repeat(np.fromiter(texts, np.int64, len(texts)), lengths)
        for first in range(0, len(data), _CHUNK_BYTES):
            # Where a string of the trie may begin, and the row of the node that has been reached from there.
            at = first + np.flatnonzero(data[first : first + _CHUNK_BYTES] != SEPARATOR)
            row = np.full(len(at), _ROOT, np.int32)
            depth = 0
            while len(at):
                depth += 1
                if adds:
                    self._add_missing(row, data[at])
                node = self._children[row, data[at]]
                yield from self._post(node, documents[at], adds, is_deepest=depth == _MAX_DEPTH)
                yield
                row, at = self._row_of[node], at + 1
                goes_on = (row > 0) & (data[at] != SEPARATOR)
                row, at = row[goes_on], at[goes_on]

    def _add_missing(self, row: _Ints, byte: NDArray[np.uint8]) -> None:
        """Make the nodes that have no place in the trie yet."""
        missing = self._children[row, byte] == 0
        for place in np.unique(row[missing].astype(np.int64) << 8 | byte[missing]).tolist():
            self._add_node(self._node_of.item(place >> 8), place & 0xFF, BitMap())

    def _add_node(self, parent: int, byte: int, posting: BitMap) -> int:
        node = self._nodes
        self._nodes += 1
        self._strings[node] = self._strings[parent] + bytes((byte,))
        self._postings[node] = posting
        if node == len(self._row_of):
            self._row_of = _grown(self._row_of, _NODES)
        self._children[self._row_of[parent], byte] = node
        return node

    def _add_row(self, node: int) -> None:
        if self._rows == len(self._node_of):
            self._node_of = _grown(self._node_of, _ROWS)
            self._children = _grown(self._children, _ROWS)
        self._row_of[node] = self._rows
        self._node_of[self._rows] = node
        self._rows += 1

    def _post(self, nodes: _Ints, documents: NDArray[np.int64], adds: bool, is_deepest: bool) -> Turns:
        """Change the postings of the nodes: `documents[i]` contains the string of `nodes[i]`."""
        postings, bound = self._postings, self._bound
        groups = _grouped(nodes.astype(np.int64) << _PAIR_BITS | documents)
        while chunk := list(islice(groups, _PER_TURN)):
            for node, members in chunk:
                posting = postings[node]
                if not adds:
                    posting.difference_update(BitMap(members))
                    continue
                posting.update(members)
                if len(posting) > bound and not is_deepest and not self._row_of.item(node):
                    self._overfull.append(node)
            yield

    @property
    def _bound(self) -> int:
        return self._fixed_bound or _bound_for(self._indexed)

    def _lay_out(self) -> Turns:
        """Extend the nodes that will be too large when all that is pending is in the trie."""
        total = self._laid_out_for = self._indexed + len(self._recent)
        trial = GramIndex(max(4, _bound_for(total) * _SAMPLE // total))
        step = max(1, len(self._pending) // _SAMPLE)
        for number in range(0, len(self._pending), step):
            position = self._pending[min(number, len(self._pending) - 1)]
            if position in self._recent:
                trial.put(position, self._recent[position])
            if number % (64 * step) == 0:
                yield
        while trial.work(0):
            yield
        for string in [trial._strings[node] for node in trial._node_of[_ROOT + 1 : trial._rows]]:
            node = 0
            for byte in string:  # every prefix of it has been extended before it
                row = self._row_of.item(node)
                node = self._children.item(row, byte) or self._add_node(node, byte, BitMap())
            yield from self._extend(node)
            yield
        for node in range(trial._nodes):  # to let go of all at once would take 10 ms
            trial._postings.pop(node)
            if node % _PER_TURN == 0:
                yield

    def _extend(self, node: int) -> Turns:
        """Give a node its children."""
        if self._row_of[node]:
            return
        string = self._strings[node]
        pairs = []
        rest = iter(list(self._postings[node]))
        while chunk := list(islice(rest, _PER_TURN)):
            # What a document's text was when it was put into the posting.
            texts = [self._old[one] if one in self._pending else self._texts[one] for one in chunk]
            pairs.append(_following(string, chunk, texts))
            yield
        self._add_row(node)
        for byte, documents in _grouped(np.concatenate(pairs)) if pairs else ():
            child = self._add_node(node, byte, BitMap(documents))
            if len(documents) > self._bound and len(string) + 1 < _MAX_DEPTH:
                self._overfull.append(child)


def _following(string: bytes, documents: list[int], texts: list[bytes | None]) -> _Pairs:
    """A pair (byte, document) for each place where that byte follows the string in the document's text."""
    data = b"".join([text + _END for text in texts])  # type: ignore[operator]  # each has one
    places = []
    place = data.find(string)
    while place >= 0:
        places.append(place)
        place = data.find(string, place + 1)
    ends = np.cumsum([len(text) + 1 for text in texts])  # type: ignore[arg-type]
    at = np.array(places, np.int64)
    byte = np.frombuffer(data, np.uint8)[at + len(string)]
    inside = byte != SEPARATOR
    of = np.array(documents, np.int64)[np.searchsorted(ends, at[inside], side="right")]
    pairs: _Pairs = byte[inside].astype(np.int64) << _PAIR_BITS | of
    return pairs


def _grouped(pairs: _Pairs) -> Iterator[tuple[int, list[int]]]:
    """Each first one of the pairs, and the second ones with it, once each and in order."""
    if not len(pairs):
        return
    pairs.sort()
    pairs = pairs[np.concatenate(([True], pairs[1:] != pairs[:-1]))]
    first = pairs >> _PAIR_BITS
    begins = np.concatenate(([0], np.flatnonzero(first[1:] != first[:-1]) + 1))
    second = (pairs & (1 << _PAIR_BITS) - 1).tolist()
    bounds = [*begins.tolist(), len(second)]
    for one, begin, end in zip(first[begins].tolist(), bounds, bounds[1:], strict=False):
        yield one, second[begin:end]


def _bound_for(documents: int) -> int:
    return max(_FEWEST, min(_MOST, documents // _SHARE))


def _grown(table: _Ints, room: int) -> _Ints:
    """The table with twice as many rows, and at least so many: those never written take no memory."""
    larger = np.zeros((max(room, 2 * len(table)), *table.shape[1:]), table.dtype)
    larger[: len(table)] = table
    return larger
