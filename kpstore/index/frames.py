"""What an index looks like outside memory: frames and blocks, each of which is read and written in a moment.

All frames are read, in their order, before the index answers; they are a twentieth of it at most. The rest
are blocks, numbered from 0 on: sets, one after another, which the frames tell where to find. Arrays are the
bytes of NumPy's, of the kinds that the fields say; sets are roaring bitmaps, in their portable format.
"""

from __future__ import annotations

import sys
from typing import TypeAlias

import msgspec

FORMAT = f"4 {sys.byteorder}"
"""Of frames; others are not read. An index is derived data, and is built again where it cannot be read."""


class Head(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The first frame.

    Attributes:
        format: `FORMAT`.
        indexed: a set, the documents in the trie.
        again: a set, documents that are to be put again, whatever else the frames say of them.
        deep: see `GramIndex`.
    """

    format: str
    indexed: bytes
    again: bytes
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
        sought: of `bool`, whether a node's string is one that is extended sooner.
        ends: of `uint32`, where each one's posting ends in its block.
        counts: of `uint32`, how many of them have their postings in the next block, in the one after it, ...
    """

    parents: bytes
    letters: bytes
    extended: bytes
    sought: bytes
    ends: bytes
    counts: bytes


class Names(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Some facets.

    Attributes:
        ids: of `uint32`.
        names: in UTF-8, in which surrogates may be alone.
        members: a set each, the documents that have it.
    """

    ids: bytes
    names: list[bytes]
    members: list[bytes]


Frame: TypeAlias = Head | Documents | Nodes | Names
Block: TypeAlias = bytes

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


def packed(frame: Frame) -> bytes:
    """The frame as bytes."""
    return _encoder.encode(frame)


def unpacked(data: bytes) -> Frame:
    """The frame that was packed; raises `msgspec.DecodeError` for what is none."""
    return _decoder.decode(data)
