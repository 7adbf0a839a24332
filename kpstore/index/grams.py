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

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from kpstore.index.arrays import (
    PAIR_BITS,
    Ints,
    Pairs,
    Positions,
    distinct,
    grouped,
    grouped_in_turns,
    set_of,
)
from kpstore.index.frames import Block, Nodes
from kpstore.index.pages import chunked
from kpstore.index.postings import Postings
from kpstore.index.texts import KeptTexts, Texts

SEPARATOR = 0xFF
"""The byte between two texts of one document. No UTF-8 has it, so no query matches across it."""

# A posting of more documents than this is extended: one in so many documents, but at least the first number
# and at most the second. Looking one through takes 0.2 us, and 0.9 where texts are in no cache, as those of a
# million: the dearest query costs 0.1 to 4 ms. Lower bounds make the trie deeper and larger.
_FEWEST = 256
_SHARE, _MOST = 200, 5000
# The same of strings that are sought: those of less than three characters, and beginnings of words. They are
# one in fourteen of all that are known, and so most queries cost 0.7 ms at most.
_SOUGHT_SHARE, _MOST_SOUGHT = 1250, 800
_CHARACTERS = 3
_WORD_BYTES = 16
# Texts alike by the thousand (a boilerplate) would extend the trie by every one of their substrings: strings
# longer than the first number are extended only as long as all such postings together have no more than so
# many entries for each document; a tag or a phrase that is frequent takes a few.
_DEEP, _MAX_DEPTH = 16, 64
_DEEP_SHARE = 100
# Texts that are kept while they extend more than one node.
_FOLLOWED_BYTES = 4 * 1024 * 1024
_STARTS = 48  # places in a query from which the trie is tried
_SMALLEST = 6  # postings that are intersected
# Texts that are put into the trie together: twice as many share a quarter of the work.
_CHUNK_BYTES = 256 * 1024
# Places in them that are looked at together, by the byte there: a step of work, of 0.1 ms.
_PLACES = 16 * 1024
# Documents that are looked through between two turns of others, and postings that are changed: 0.1 ms.
_PER_TURN = 256
_POSTINGS_PER_TURN = 32
_FEW = 16  # documents leave a posting one by one in 0.5 us, and as a set in 1 to 3 us
# From so many new documents on, the trie is laid out before it is filled, by a sample of them: extending a
# node when it has filled up means to read its documents again, which costs as much as all the rest.
_MANY = 8192
_SAMPLE = 2048
# Documents of which it is not known what text the postings have of them leave all postings together, which
# takes 1 us a posting: when there are so many, each of which every query looks through until then. A share of
# the postings, so that one document's share of the work is the same however many there are.
_FEWEST_UNKNOWN, _SETS_PER_UNKNOWN = 64, 1000
# Room for the trie of some 200,000 documents, since a table that grows is copied while others wait:
# 100,000 take 220,000 nodes, of which 48,000 are extended.
_NODES, _ROWS = 1 << 20, 1 << 16
_COLUMNS = 64  # bytes that occur in texts of one language, in lower case; all of Unicode has 243
_ROOT = 1  # its row
# A block of postings, 0.2 ms to make. From a file that is not cached it is read page by page, in 0.3 ms, and
# a search may need six: larger ones would make it wait.
_PER_BLOCK, _BLOCK_BYTES = 512, 16 * 1024
# A frame of nodes, and those of the last block besides: 40 kB, 0.3 ms to be read.
_PER_FRAME = 4096
_END = bytes((SEPARATOR,))
# Words begin with bytes of letters or digits, after others. Characters of three bytes or more begin one each,
# as most of them belong to scripts that do not separate words; but for those from U+2000 to U+2FFF: signs.
_BETWEEN, _IN_WORD, _ALONE = range(3)
_LETTERS = bytes(byte for byte in range(0xFF) if byte >= 0x80 or chr(byte).isalnum())
_KINDS = np.array(
    [_BETWEEN if byte not in _LETTERS else _IN_WORD if byte < 0xE0 else _ALONE for byte in range(256)],
    np.uint8,
)
_SIGN = 0xE2
_OF_WORDS = _LETTERS + b"-'_."  # and go on with these: broadsheet-style, interface's, package.json
_BEGINNING_SHARE = 4
_WITHIN_CHARACTER = bytes(range(0x80, 0xC0))


Turns: TypeAlias = Generator[None, None, None]
"""Work in steps of less than a millisecond: between any two of them, others may have their turn."""


@dataclass(slots=True, frozen=True)
class _Found:
    """What the trie knows of a query: exactly its documents, or a few more."""

    documents: BitMap
    is_exact: bool


class GramIndex:
    """Texts by position.

    What was put lately is *pending*: not yet in the trie, and looked through by each query. `work` moves it
    there. What was replaced or removed is *stale*: the postings still have it, and no query heeds them.

    Args:
        bound: how large a posting gets before it is extended; by default, what suits the number of documents.
        texts: where the texts are; by default, they are kept in memory.
    """

    def __init__(self, bound: int | None = None, texts: Texts | None = None) -> None:
        self._fixed_bounds = None if bound is None else _Bounds(bound, bound)
        self._texts = KeptTexts() if texts is None else texts
        self._in_trie = BitMap()
        self._stale = BitMap()  # of these
        self._old: dict[int, bytes] = {}  # the texts that the postings have of stale documents, where known
        self._hidden = BitMap()  # those of which the postings are not to be believed
        # The texts of pending documents: of those that are not in the trie, and of those that are stale.
        self._new: dict[int, bytes] = {}
        self._replaced: dict[int, bytes] = {}
        self._watchers: list[set[int]] = []
        self._job: Turns | None = None
        self._laid_out_for = 0  # documents
        self._deep = 0  # entries of postings of long strings that are extended
        self._overfull: list[int] = []
        # Nodes: 0 is the root, which is nobody's child, so that 0 stands for "no child" too.
        self._nodes = 1
        self._parent: Ints = np.zeros(1, np.int32)
        self._letter: NDArray[np.uint8] = np.zeros(1, np.uint8)  # by which it extends its parent's string
        self._is_sought: NDArray[np.bool_] = np.zeros(1, np.bool_)
        self._postings = Postings()
        # Of each node that is extended, its row in the table of children; 0 of the others.
        self._row_of: Ints = np.zeros(1, np.int32)
        self._node_of: Ints = np.zeros(2, np.int32)
        self._children: Ints = np.zeros((2, _COLUMNS), np.int32)  # by row, and column of the next byte
        self._rows = 1
        # The columns of the bytes that occur: 1 and on. In column 0, that of all others, nobody has a child.
        self._column_of: NDArray[np.uint8] = np.zeros(256, np.uint8)
        self._columns = 1
        self._postings[0] = BitMap()
        self._add_row(0)

    # Documents ----------------------------------------------------------------

    @property
    def pending(self) -> int:
        """How many documents `work` has to look at."""
        return len(self._new) + (len(self._stale) if self._has_many_unknown else len(self._old))

    def put(self, position: int, text: bytes) -> None:
        """Set a document's text, or replace it."""
        self._new.pop(position, None)
        old = self._texts.put(position, text)
        if position in self._in_trie:
            self._make_stale(position, old)
            self._replaced[position] = text
        else:
            self._new[position] = text
        self._hidden.add(position)
        self._changed(position)

    def remove(self, position: int) -> None:
        """Remove a document, if it is there."""
        self._new.pop(position, None)
        self._replaced.pop(position, None)
        old = self._texts.remove(position)
        if position in self._in_trie:
            self._make_stale(position, old)
            self._hidden.add(position)
        else:
            self._hidden.discard(position)
        self._changed(position)

    def _make_stale(self, position: int, old: bytes | None) -> None:
        if position not in self._stale:
            self._stale.add(position)
            if old is not None:
                self._old[position] = old

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
            documents = found.documents - self._hidden
            if within is not None:
                documents &= within
            if not found.is_exact:
                documents = BitMap((yield from self._verified(query, documents)))
            recent = BitMap((yield from self._recent_with(query)))
            if within is not None:
                recent &= within
            documents |= recent
        finally:
            self._watchers = [one for one in self._watchers if one is not changed]
        for position in changed:
            documents.discard(position)
        if changed:
            documents.update(self._texts.containing(query, list(changed)))
        return documents

    def _verified(self, query: bytes, candidates: BitMap) -> Generator[None, None, list[int]]:
        """The candidates whose text contains the query; one that has gone meanwhile does not."""
        found: list[int] = []
        for chunk in chunked(candidates, _PER_TURN):
            found += self._texts.containing(query, chunk)
            if len(chunk) == _PER_TURN:
                yield
        return found

    def _recent_with(self, query: bytes) -> Generator[None, None, list[int]]:
        """The pending documents whose text contains the query."""
        found: list[int] = []
        for texts in (self._new, self._replaced):
            if len(texts) <= _PER_TURN:
                found += [position for position, text in texts.items() if query in text]
                continue
            for chunk in chunked(list(texts), _PER_TURN):
                found += [position for position in chunk if query in texts.get(position, b"")]
                yield
        return found

    def _candidates(self, query: bytes) -> _Found:
        """The documents in the trie that contain the query, and perhaps others; of the hidden ones, any."""
        nodes: list[int] = []
        end = 0  # of the part of the query that they cover
        children, row_of = self._children, self._row_of
        looked_at = np.frombuffer(query[: _STARTS + _MAX_DEPTH], np.uint8)  # a query may be a megabyte long
        columns = self._column_of[looked_at].tolist()
        for start in range(min(len(query), _STARTS)):
            row, node, depth = _ROOT, 0, 0
            for column in columns[start : start + _MAX_DEPTH]:
                node = children.item(row, column)
                if node == 0:  # nowhere
                    return _Found(BitMap(), True)
                row = row_of.item(node)
                depth += 1
                if row == 0:
                    break
            if depth == len(query):
                return _Found(self._postings.get(node), True)
            if start + depth > end:  # or it is a part of one that was found
                end = start + depth
                nodes.append(node)
            if end == len(query):
                break
        smallest = sorted(nodes, key=self._postings.size)[:_SMALLEST]
        return _Found(BitMap.intersection(*map(self._postings.get, smallest)), False)

    # Work ---------------------------------------------------------------------

    def work(self, seconds: float) -> bool:
        """Move pending documents into the trie for about that long; whether there is more to do."""
        until = perf_counter() + seconds
        while True:
            if self._job is None:
                if self._old:
                    self._job = self._take_out()
                elif self._has_many_unknown:
                    self._job = self._purge()
                elif self._new:
                    self._job = self._take_in()
                elif not self._postings.are_all_read:
                    self._job = self._postings.read_on()
                else:
                    return False
            try:
                next(self._job)
            except StopIteration:
                self._job = None
            if perf_counter() >= until:
                return self.is_at_work or bool(self._new or self._old) or self._has_many_unknown

    @property
    def _has_many_unknown(self) -> bool:
        """Whether there are many stale documents of which it is not known which postings have them."""
        sets = self._postings.sets
        return len(self._stale) - len(self._old) >= max(_FEWEST_UNKNOWN, sets // _SETS_PER_UNKNOWN)

    def _purge(self) -> Turns:
        """Take all stale documents out of all postings."""
        going = self._stale.copy()
        yield from self._postings.without(going)
        yield from self._have_left(going)

    def _take_out(self) -> Turns:
        """Take some of the stale documents out of the postings that have them."""
        going = dict(_first(self._old))
        yield from self._spread(going, adds=False)
        yield from self._have_left(going)

    def _have_left(self, going: Iterable[int]) -> Turns:
        for some in chunked(going, _PER_TURN):
            gone = BitMap(some)
            self._stale -= gone
            self._in_trie -= gone
            for position in some:
                self._old.pop(position, None)
                text = self._replaced.pop(position, None)
                if text is None:
                    self._hidden.discard(position)
                else:
                    self._new[position] = text
                    self._changed(position)  # for a query that has looked there before
            yield

    def _take_in(self) -> Turns:
        """Put some of the new documents into the trie."""
        if len(self._new) > max(_MANY, len(self._in_trie), self._laid_out_for):
            yield from self._lay_out()
        come = dict(_first(self._new))
        self._in_trie.update(come)
        yield from self._spread(come, adds=True)
        for some in chunked(come, _PER_TURN):
            for position in some:
                if position not in self._stale:  # or it was changed again meanwhile
                    del self._new[position]
                    self._hidden.discard(position)
                    self._changed(position)  # for a query that began without the trie's knowing it
            yield
        while self._overfull:
            yield from self._extend(self._overfull.pop())

    def _spread(self, texts: dict[int, bytes], *, adds: bool) -> Turns:
        """Add documents to all postings of their texts, or take them out."""
        if not texts:
            return
        yield
        data = np.frombuffer(b"".join(text + _END for text in texts.values()), np.uint8)
        yield
        lengths = np.fromiter((len(text) + 1 for text in texts.values()), np.int64, len(texts))
        documents = np.repeat(np.fromiter(texts, np.uint32, len(texts)), lengths)
        yield
        parts = []
        for first in range(0, len(data), _PLACES):
            parts.append(_by_byte(data, first))
            yield
        occurring = np.flatnonzero(np.diff([ends for _, ends in parts], prepend=0).any(axis=0)).tolist()
        for byte in occurring:
            self._column(byte)
        column = self._column_of[data]
        begins = _begins_word(data)
        yield
        for places in _places(parts, occurring):
            yield
            # Where a string of the trie may begin, and the row of the node that has been reached from there.
            at = places
            row = np.full(len(at), _ROOT, np.int32)
            depth = 0
            while len(at):
                depth += 1
                node = self._children[row, column[at]]
                missing = node == 0
                if adds and missing.any():
                    new = at[missing]
                    self._add_missing(row[missing], data[new], begins[new - (depth - 1)])
                    node = self._children[row, column[at]]
                yield
                yield from self._post(node, documents[at], adds=adds, is_deepest=depth == _MAX_DEPTH)
                yield
                row, at = self._row_of[node], at + 1
                goes_on = (row > 0) & (node > 0) & (data[at] != SEPARATOR)
                row, at = row[goes_on], at[goes_on]

    def _add_missing(self, row: Ints, byte: NDArray[np.uint8], begins: NDArray[np.bool_]) -> None:
        """Make the nodes that have no place in the trie yet; `begins` says which begin words there."""
        children: Pairs = row.astype(np.int64) << 8 | byte
        new = distinct(children)
        often = _often(np.searchsorted(new, children), begins, len(new)).tolist()
        for child, begins_words in zip(new.tolist(), often, strict=True):
            node, letter = self._node_of.item(child >> 8), child & 0xFF
            is_sought = _is_sought(self._string(node) + bytes((letter,)), begins_words)
            self._add_node(node, letter, BitMap(), is_sought=is_sought)

    def _add_node(self, parent: int, byte: int, posting: BitMap, *, is_sought: bool) -> int:
        node = self._nodes
        self._nodes += 1
        self._make_room(self._nodes)
        self._parent[node], self._letter[node] = parent, byte
        self._is_sought[node] = is_sought
        self._postings[node] = posting
        self._children[self._row_of[parent], self._column(byte)] = node
        return node

    def _column(self, byte: int) -> int:
        """The column of a byte, which has one from now on."""
        column = self._column_of.item(byte)
        if column:
            return column
        column = self._columns
        self._columns += 1
        if column == self._children.shape[1]:
            wider = np.zeros((len(self._children), 2 * column), np.int32)
            wider[: self._rows, :column] = self._children[: self._rows]
            self._children = wider
        self._column_of[byte] = column
        return column

    def _make_room(self, nodes: int) -> None:
        if nodes > len(self._row_of):
            room = max(nodes, _NODES)
            self._row_of = _grown(self._row_of, room)
            self._parent = _grown(self._parent, room)
            self._letter = _grown(self._letter, room)
            self._is_sought = _grown(self._is_sought, room)

    def _add_row(self, node: int) -> None:
        self._make_room_for_rows(self._rows + 1)
        self._row_of[node] = self._rows
        self._node_of[self._rows] = node
        self._rows += 1

    def _make_room_for_rows(self, rows: int) -> None:
        if rows > len(self._node_of):
            room = max(rows, _ROWS)
            self._node_of = _grown(self._node_of, room)
            self._children = _grown(self._children, room)

    def _post(self, nodes: Ints, documents: Positions, *, adds: bool, is_deepest: bool) -> Turns:
        """Change the postings of the nodes: `documents[i]` contains the string of `nodes[i]`."""
        own, bounds = self._postings.own, self._bounds
        pairs = distinct(nodes.astype(np.int64) << PAIR_BITS | documents)
        yield
        for groups in grouped_in_turns(pairs, _POSTINGS_PER_TURN):
            for node, members in groups:
                posting = own(node)
                if adds:
                    posting.update(members)
                    if (
                        len(posting) > bounds.sought
                        and not is_deepest
                        and not self._row_of.item(node)
                        and len(posting) > bounds.of(self._is_sought.item(node))
                    ):
                        self._overfull.append(node)
                elif len(members) > _FEW:
                    posting.difference_update(BitMap(members))
                else:
                    for member in members:
                        posting.discard(member)
            yield

    @property
    def _bounds(self) -> _Bounds:
        return self._fixed_bounds or _bounds_for(len(self._in_trie))

    def _string(self, node: int) -> bytes:
        letters = bytearray()
        while node:
            letters.append(self._letter.item(node))
            node = self._parent.item(node)
        letters.reverse()
        return bytes(letters)

    def _lay_out(self) -> Turns:
        """Extend the nodes that will be too large when all that is new is in the trie."""
        total = self._laid_out_for = len(self._in_trie) + len(self._new)
        trial = GramIndex()
        trial._fixed_bounds = _Bounds(*(max(4, bound * _SAMPLE // total) for bound in _bounds_for(total)))
        step = max(1, len(self._new) // _SAMPLE)
        for number in range(0, len(self._hidden), step):
            position = self._hidden[min(number, len(self._hidden) - 1)]
            if position in self._new:
                trial.put(position, self._new[position])
            if number % (64 * step) == 0:
                yield
        while trial.work(0):
            yield
        for row in range(_ROOT + 1, trial._rows):
            node = 0
            string = trial._string(trial._node_of.item(row))  # its prefixes have been extended before it
            for byte in string:
                place = self._row_of.item(node), self._column(byte)
                # Whether it is sought does not matter any more, as it is extended now.
                node = self._children.item(place) or self._add_node(node, byte, BitMap(), is_sought=False)
            yield from self._extend(node)
            yield
        for node in range(trial._nodes):  # to let go of all at once would take 10 ms
            trial._postings.pop(node)
            if node % _PER_TURN == 0:
                yield

    def _extend(self, node: int) -> Turns:
        """Give a node its children, and theirs to those of them that are too large."""
        string = self._string(node)
        if not self._may_extend(node, len(string)):
            return
        parts: list[_Following] = []
        size = 0
        for chunk in chunked(list(self._postings.get(node)), _PER_TURN):
            # What is hidden will leave the posting, and then come back by the text that it has now.
            seen = [position for position in chunk if position not in self._hidden]
            if seen:
                parts.append(_following(string, self._texts.of(seen)))
                size += len(parts[-1].data)
            yield
        extended = [(node, string, parts)]
        while extended:
            node, string, parts = extended.pop()
            if not self._may_extend(node, len(string)):
                continue
            self._add_row(node)
            if len(string) >= _DEEP:
                self._deep += len(self._postings.get(node))
            for byte, members, begins_words in _next_bytes(parts):
                longer = string + bytes((byte,))
                is_sought = _is_sought(longer, begins_words)
                child = self._add_node(node, byte, set_of(members), is_sought=is_sought)
                if len(members) <= self._bounds.of(is_sought) or len(longer) == _MAX_DEPTH:
                    continue
                # A frequent word is a chain of nodes of the same documents, which are read once for all.
                if size <= _FOLLOWED_BYTES:
                    extended.append((child, longer, [part.after(byte) for part in parts]))
                else:
                    self._overfull.append(child)
            yield

    def _may_extend(self, node: int, depth: int) -> bool:
        """Whether a node that is too large, the string of which has this length, can be given children."""
        if self._row_of.item(node):
            return False
        entries = len(self._postings.get(node))
        return depth < _DEEP or self._deep + entries <= _DEEP_SHARE * len(self._in_trie)

    # Outside memory -----------------------------------------------------------

    @property
    def believed(self) -> BitMap:
        """The documents of which the trie is right."""
        return self._in_trie - self._stale

    @property
    def deep(self) -> int:
        """The number of entries in postings of long strings that are extended."""
        return self._deep

    @property
    def is_at_work(self) -> bool:
        """Whether something has been begun that `work` has to end; to be loaded, for example."""
        return self._job is not None or not self._postings.are_all_read

    def save(self) -> Iterator[Nodes | Block]:
        """The trie, with the documents that are `believed` when this begins; `work` has to wait meanwhile."""
        stale = self._stale.copy()
        number_of = np.zeros(self._nodes, np.int32)  # those that nobody has any more are left out
        kept = 0
        # For the next frame, and the next block.
        nodes: list[int] = []
        ends: list[int] = []
        counts: list[int] = []
        in_block = 0
        postings = bytearray()

        def block() -> Block:
            nonlocal in_block
            data = bytes(postings)
            counts.append(in_block)
            in_block = 0
            postings.clear()
            return data

        def frame() -> Nodes:
            at = np.array(nodes, np.int32)
            data = Nodes(
                parents=number_of[self._parent[at]].tobytes(),
                letters=self._letter[at].tobytes(),
                extended=(self._row_of[at] > 0).tobytes(),
                sought=self._is_sought[at].tobytes(),
                ends=np.array(ends, np.uint32).tobytes(),
                counts=np.array(counts, np.uint32).tobytes(),
            )
            for written in (nodes, ends, counts):
                written.clear()
            return data

        for node in range(1, self._nodes):
            posting = self._postings.get(node)
            if stale and posting.intersect(stale):
                posting = posting - stale
            if not posting:
                continue
            kept += 1
            number_of[node] = kept
            nodes.append(node)
            postings += posting.serialize()
            ends.append(len(postings))
            in_block += 1
            if in_block == _PER_BLOCK or len(postings) >= _BLOCK_BYTES:
                yield block()
                if len(nodes) >= _PER_FRAME:
                    yield frame()
        if in_block:
            yield block()
        if nodes:
            yield frame()

    def load(self, nodes: Nodes) -> None:
        """Take the next frame of an index that was saved, into one that is new."""
        parents = np.frombuffer(nodes.parents, np.int32)
        extended = np.frombuffer(nodes.extended, np.bool_)
        first, end = self._nodes, self._nodes + len(parents)
        self._make_room(end)
        self._nodes = end
        self._parent[first:end] = parents
        self._is_sought[first:end] = np.frombuffer(nodes.sought, np.bool_)
        letters = self._letter[first:end] = np.frombuffer(nodes.letters, np.uint8)
        for byte in np.flatnonzero(np.bincount(letters)).tolist():
            self._column(byte)
        rows = int(np.count_nonzero(extended))
        self._make_room_for_rows(self._rows + rows)
        at = first + np.flatnonzero(extended)
        self._row_of[at] = np.arange(self._rows, self._rows + rows)
        self._node_of[self._rows : self._rows + rows] = at
        self._rows += rows
        self._children[self._row_of[parents], self._column_of[letters]] = np.arange(first, end)
        self._postings.pack(nodes.ends, nodes.counts)

    def begin(self, believed: BitMap, deep: int, read_block: Callable[[int], Block]) -> None:
        """What is known of the trie that is `load`ed next, and what gives the blocks that were saved."""
        self._postings.read_with(read_block)
        self._in_trie = believed
        self._deep = deep


def _first(texts: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Some documents and their texts, those for one chunk."""
    size = 0
    for position, text in texts.items():
        yield position, text
        size += len(text)
        if size >= _CHUNK_BYTES:
            break


_Part: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Places in some of the texts, ordered by the byte there, and where in this order those of each byte end."""


def _by_byte(data: NDArray[np.uint8], first: int) -> _Part:
    """The part that begins at `first`."""
    byte = data[first : first + _PLACES]
    ends = np.cumsum(np.bincount(byte, minlength=SEPARATOR)[:SEPARATOR])
    return first + np.argsort(byte, kind="stable"), ends


def _places(parts: list[_Part], occurring: list[int]) -> Iterator[NDArray[np.int64]]:
    """All places, some at a time: those of the same bytes, which meet the same nodes, as far as possible."""
    found: list[NDArray[np.int64]] = []
    count = 0
    for byte in occurring:
        for order, ends in parts:
            places = order[ends.item(byte - 1) if byte else 0 : ends.item(byte)]
            found.append(places)
            count += len(places)
            if count >= _PLACES:
                yield np.concatenate(found)
                found, count = [], 0
    if count:
        yield np.concatenate(found)


@dataclass(slots=True, frozen=True)
class _Following:
    """What follows a string in some texts.

    Attributes:
        data: the texts, with a separator after each.
        at: the place behind the string, for each time that it occurs.
        of: the document there.
        begins: whether it is the beginning of a word.
    """

    data: NDArray[np.uint8]
    at: NDArray[np.int64]
    of: NDArray[np.int64]
    begins: NDArray[np.bool_]

    def pairs(self) -> Pairs:
        """A pair (byte, document) for each byte that follows."""
        byte = self.data[self.at]
        inside = byte != SEPARATOR
        pairs: Pairs = byte[inside].astype(np.int64) << PAIR_BITS | self.of[inside]
        return pairs

    def after(self, byte: int) -> _Following:
        """What follows the string and this byte, which is not the separator."""
        there = self.data[self.at] == byte
        return _Following(self.data, self.at[there] + 1, self.of[there], self.begins[there])


def _following(string: bytes, texts: list[tuple[int, bytes]]) -> _Following:
    data = b"".join([text + _END for _, text in texts]) or _END
    places = []
    place = data.find(string)
    while place >= 0:
        places.append(place)
        place = data.find(string, place + 1)
    at = np.array(places, np.int64)
    ends = np.cumsum([len(text) + 1 for _, text in texts])
    of = np.array([position for position, _ in texts], np.int64)
    letters = np.frombuffer(data, np.uint8)
    return _Following(
        letters, at + len(string), of[np.searchsorted(ends, at, side="right")], _begins_word(letters)[at]
    )


def _next_bytes(parts: list[_Following]) -> Iterator[tuple[int, list[int], bool]]:
    """Each byte that follows a string in some texts, with the documents where it does, in order; and whether
    the string begins words there.
    """
    if not parts:
        return
    which = np.concatenate([part.data[part.at] for part in parts])
    often = _often(which, np.concatenate([part.begins for part in parts]), 256)
    for byte, members in grouped(np.concatenate([part.pairs() for part in parts])):
        yield byte, members, often.item(byte)


class _Bounds(NamedTuple):
    """How large postings get before they are extended: most of them, and those of strings that are sought."""

    most: int
    sought: int

    def of(self, is_sought: bool) -> int:
        return self.sought if is_sought else self.most


def _bounds_for(documents: int) -> _Bounds:
    return _Bounds(
        most=min(_MOST, max(_FEWEST, documents // _SHARE)),
        sought=min(_MOST_SOUGHT, max(_FEWEST, documents // _SOUGHT_SHARE)),
    )


def _is_sought(string: bytes, begins_words: bool) -> bool:
    """Whether a string is likely to be asked for, or what it is the beginning of."""
    if len(string.translate(None, _WITHIN_CHARACTER)) < _CHARACTERS:
        return True
    return begins_words and len(string) <= _WORD_BYTES and not string.translate(None, _OF_WORDS)


def _begins_word(data: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Of each place in texts that end with separators, whether a word begins there."""
    kind = _KINDS[data]
    sign = data == _SIGN
    kind[sign | np.roll(sign, 1) | np.roll(sign, 2)] = _BETWEEN  # with the two bytes after it
    begins: NDArray[np.bool_] = kind == _ALONE
    begins |= (kind == _IN_WORD) & (np.roll(kind, 1) == _BETWEEN)
    return begins


def _often(which: NDArray[Any], begins: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Of so many strings, whether each begins a word often: at one place in four, at least.

    Args:
        which: the number of the string at each place.
        begins: whether it begins a word there.
        count: how many strings there are.
    """
    places, beginning = np.bincount(which, minlength=count), np.bincount(which[begins], minlength=count)
    often: NDArray[np.bool_] = beginning * _BEGINNING_SHARE >= places
    return often


def _grown(table: NDArray[Any], room: int) -> NDArray[Any]:
    """The table with twice as many rows, and at least so many: those never written take no memory."""
    larger = np.zeros((max(room, 2 * len(table)), *table.shape[1:]), table.dtype)
    larger[: len(table)] = table
    return larger
