"""What an index looks like outside memory: a row of frames, each of which is read and written in a moment.

Arrays are the bytes of NumPy's, of the kinds that the fields say; sets are roaring bitmaps, in their portable
format.
"""

from __future__ import annotations

import sys
from typing import TypeAlias

import msgspec

FORMAT = f"1 {sys.byteorder}"
"""Of frames; others are not read. An index is derived data, and is built again where it cannot be read."""


class Head(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The first frame.

    Attributes:
        format: `FORMAT`.
        indexed: a set, the documents in the trie.
        again: a set, documents that are to be put again, whatever else the frames say of them.
        laid_out_for, deep: see `GramIndex`.
    """

    format: str
    indexed: bytes
    again: bytes
    laid_out_for: int
    deep: int


class Documents(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Some documents, by position, and each one's facets.

    Attributes:
        positions: of `uint32`.
        keys: of `uint64`, a key of `Order` each.
        ends: of `uint32`, where each one's facets end in `facets`.
        facets: of `uint32`, the ids of facets.
    """

    positions: bytes
    keys: bytes
    ends: bytes
    facets: bytes


class Nodes(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The next nodes of the trie, numbered on from those before them; the first of all has number 1.

    Attributes:
        parents: of `int32`.
        letters: of `uint8`, by which each extends its parent's string.
        extended: of `bool`, whether all strings that extend a node's have nodes.
        ends: of `uint32`, where each one's posting ends in `postings`.
        postings: sets, one after another.
    """

    parents: bytes
    letters: bytes
    extended: bytes
    ends: bytes
    postings: bytes


class Names(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Facets: their ids, of `uint32`, and the name of each in UTF-8, in which surrogates may be alone."""

    ids: bytes
    names: list[bytes]


Frame: TypeAlias = Head | Documents | Nodes | Names

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Frame])


def packed(frames: list[Frame]) -> bytes:
    """The frames as bytes."""
    return _encoder.encode(frames)


def unpacked(data: bytes) -> list[Frame]:
    """The frames that were packed; raises `msgspec.DecodeError` for what are none."""
    return _decoder.decode(data)
