"""One index over the documents of a store: every filter of a search, its exact total and any page of it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

import numpy as np
from pyroaring import BitMap

from kpstore.index.facets import BLOCK_BITS, Facets, Members, add_members
from kpstore.index.frames import FORMAT, Block, Documents, Frame, Head, Names, Nodes
from kpstore.index.grams import SEPARATOR, GramIndex
from kpstore.index.order import Order, quality_key
from kpstore.index.pages import Pages
from kpstore.index.texts import Texts
from kpstore.stores.documents import Document, DocumentQuery

_SEPARATOR = bytes((SEPARATOR,))
# A facet takes 1 us to add; tags of documents with more of them than this are compared one by one instead.
_MANY_TAGS = 500


def text_of(texts: Sequence[str]) -> bytes:
    """The folded texts of a document as the index takes them. Old records may have lone surrogates."""
    joined = "\0".join(texts)
    if joined.count("\0") < len(texts):  # no text has any itself
        # A skill with 60,000 tags takes a fifth of the time so.
        return joined.encode("utf-8", "surrogatepass").replace(b"\0", _SEPARATOR)
    return _SEPARATOR.join(text.encode("utf-8", "surrogatepass") for text in texts)


class DocumentIndex:
    """Documents by position: a number that only grows, below 2^32.

    A facet is a value that documents have in common, such as a domain; its name begins with a letter that
    tells what it is. All methods are quick: `work` does what takes longer, whenever there is time.

    Args:
        texts: where the texts of the documents are; by default, they are kept in memory.
    """

    def __init__(self, texts: Texts | None = None) -> None:
        self._order = Order()
        self._grams = GramIndex(texts=texts)
        self._facets = Facets()
        self._many_tags: dict[int, frozenset[str]] = {}  # of documents with more than have a facet each

    # Documents ----------------------------------------------------------------

    def put(self, position: int, document: Document, text: bytes) -> None:
        """Add a document, or replace the one at this position. `text` is the `text_of` its texts."""
        if position in self._facets:
            self._forget(position)
        self._order.add(position, quality_key(document.quality))
        if len(document.tags) > _MANY_TAGS:
            self._many_tags[position] = document.tags
        self._facets.add(position, _names(document))
        self._grams.put(position, text)

    def remove(self, position: int) -> None:
        """Remove a document; nothing happens if there is none."""
        if position in self._facets:
            self._forget(position)
        self._grams.remove(position)

    def _forget(self, position: int) -> None:
        self._order.remove(position)
        self._many_tags.pop(position, None)
        self._facets.remove(position)

    # Queries ------------------------------------------------------------------

    def search(
        self, query: DocumentQuery, offset: int, limit: int
    ) -> Generator[None, None, tuple[list[int], int]]:
        """A page of the positions that match, by quality descending, then position; and the count of all.

        It yields where others may have their turn, and answers as of the moment when it ends.
        """
        among = self._with_facets(query)
        if query.text is not None and (among is None or among):
            found = yield from self._grams.find(query.text.encode("utf-8", "surrogatepass"), among)
            facets = self._with_facets(query)  # which may have changed meanwhile
            among = found if facets is None else found & facets
        least = 0 if query.min_quality is None else quality_key(query.min_quality)
        total = self._order.count(among, least)
        return self._order.page(among, offset, min(offset + limit, total)), total

    def _with_facets(self, query: DocumentQuery) -> BitMap | None:
        """The documents that pass the filters by facets; `None` for all of them."""
        conditions = []
        if query.domain is not None:
            conditions.append(self._of("d", (query.domain,)))
        if query.types:
            conditions.append(self._of("t", query.types))
        if query.tags:
            many = BitMap(at for at, tags in self._many_tags.items() if not tags.isdisjoint(query.tags))
            conditions.append(self._of("g", query.tags) | many)
        return BitMap.intersection(*conditions) if conditions else None

    def _of(self, kind: str, values: Iterable[str]) -> BitMap:
        return self._facets.having(kind + value for value in values)

    def of_agent(self, agent_id: str) -> BitMap:
        """The documents of an agent."""
        return self._of("a", (agent_id,))

    # Work ---------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """How many documents are found more slowly, until `work` has been at them."""
        return self._grams.pending

    def work(self, seconds: float) -> bool:
        """Go on with what was put off, for about that long; whether there is more to do."""
        return self._grams.work(seconds)

    # Outside memory -----------------------------------------------------------

    def __len__(self) -> int:
        return len(self._order.members)

    @property
    def can_be_saved(self) -> bool:
        """Whether `work` is not amid something, such as reading what was loaded."""
        return not self._grams.is_at_work

    def save(self) -> Iterator[Frame | Block]:
        """The index as it is when this begins. Documents may change meanwhile, but `work` has to wait.

        One that changes may be saved as it was, as it is or in part: it is to be put again, or removed, from
        the index that is loaded. Each is 0.1 to 1 ms of work, one of documents 2.5, and at most 1 MB but for
        rare ones.
        """
        yield Head(
            format=FORMAT,
            indexed=self._grams.believed.serialize(),
            again=BitMap(self._many_tags).serialize(),
            deep=self._grams.deep,
        )
        members = self._order.members
        by_facet: Members = Pages()  # as the frames say, however documents change until they are all there
        for number in range((members.max() >> BLOCK_BITS) + 1 if members else 0):
            first = number << BLOCK_BITS
            block = list(self._order.members & BitMap(range(first, first + (1 << BLOCK_BITS))))
            if block:
                facets = [self._facets.of(position) for position in block]
                positions = np.array(block, np.uint32)
                ends = np.cumsum([len(ids) for ids in facets]).astype(np.uint32)
                ids = b"".join(ids.tobytes() for ids in facets)
                yield Documents(
                    positions=positions.tobytes(),
                    keys=array("Q", map(self._order.key, block)).tobytes(),
                    ends=ends.tobytes(),
                    facets=ids,
                )
                add_members(by_facet, positions, ends, np.frombuffer(ids, np.uint32))
        yield from self._grams.save()
        yield from self._facets.save_names(by_facet)

    @classmethod
    def load(
        cls, frames: Iterator[Frame], read_block: Callable[[int], Block], texts: Texts | None = None
    ) -> Generator[None, None, tuple[DocumentIndex, BitMap]]:
        """An index that was saved, and the documents that have to be put into it again.

        It yields where others may have their turn. Raises `ValueError` for frames that are not to be read.

        Args:
            frames: all that were saved, in their order.
            read_block: gives a block that was saved, by its number from 0 on. The index asks for each one
                once, when a search or `work` needs it, or when `work` has nothing else to do. What this
                raises, they raise, and then the index is to be thrown away.
            texts: as of the index.
        """
        index = cls(texts)
        head = next(frames, None)
        if not isinstance(head, Head) or head.format != FORMAT:
            raise ValueError("a search index of another format")
        believed = BitMap.deserialize(head.indexed)
        index._grams.begin(believed.copy(), head.deep, read_block)
        positions, keys = [np.zeros(0, np.uint32)], [np.zeros(0, np.uint64)]
        for frame in frames:
            match frame:
                case Documents():
                    positions.append(np.frombuffer(frame.positions, np.uint32))
                    keys.append(np.frombuffer(frame.keys, np.uint64))
                    ends, ids = (np.frombuffer(part, np.uint32) for part in (frame.ends, frame.facets))
                    index._facets.load(positions[-1], ends, ids)
                case Nodes():
                    index._grams.load(frame)
                case Names():
                    index._facets.load_names(frame)
            yield
        yield from index._order.fill(np.concatenate(positions), np.concatenate(keys))
        return index, index._order.members - believed | BitMap.deserialize(head.again)


def _names(document: Document) -> Iterable[str]:
    yield f"t{document.type}"
    if document.domain is not None:
        yield f"d{document.domain}"
    if document.agent_id is not None:
        yield f"a{document.agent_id}"
    if len(document.tags) <= _MANY_TAGS:
        for tag in document.tags:
            yield f"g{tag}"
