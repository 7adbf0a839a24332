"""Finding documents fast, for backends that keep an index of their own in memory.

Derived data: it holds no record, can be thrown away and built again from the documents at any time, and every
answer it gives is exact. `DocumentIndex` puts the parts together: `GramIndex` finds texts by any substring,
`Facets` what has something in common, and `Order` pages through any set of documents, best first. None of
them waits or keeps a thread: whoever owns an index calls it from one thread at a time.
"""

from kpstore.index.documents import DocumentIndex, text_of
from kpstore.index.facets import Facets
from kpstore.index.frames import Block, Frame, packed, unpacked
from kpstore.index.grams import GramIndex
from kpstore.index.order import Order, integer_key, quality_key
from kpstore.index.pages import Pages
from kpstore.index.texts import KeptTexts, Texts

__all__ = [
    "Block",
    "DocumentIndex",
    "Facets",
    "Frame",
    "GramIndex",
    "KeptTexts",
    "Order",
    "Pages",
    "Texts",
    "integer_key",
    "packed",
    "quality_key",
    "text_of",
    "unpacked",
]
