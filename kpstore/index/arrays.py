"""NumPy's arrays and roaring bitmaps, to and from each other."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

Ints: TypeAlias = NDArray[np.int32]
Positions: TypeAlias = NDArray[np.uint32]
Pairs: TypeAlias = NDArray[np.int64]
"""Two numbers in one: a small one, and below its lowest `PAIR_BITS` bits a document's position."""

PAIR_BITS = 32


def bitmap_of(positions: Positions) -> BitMap:
    """The set of these documents; from an array of Python's, which is read ten times as fast as NumPy's."""
    return BitMap(array("I", positions.tobytes()))


def distinct(numbers: Pairs) -> Pairs:
    """The numbers, once each and in order, where there are any (`np.unique` loads modules when called)."""
    ordered = np.sort(numbers)
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))]


def grouped(pairs: Pairs) -> Iterator[tuple[int, list[int]]]:
    """Each first one of the pairs, and the second ones with it, once each and in order."""
    if not len(pairs):
        return
    pairs = distinct(pairs)
    first = pairs >> PAIR_BITS
    begins = np.concatenate(([0], np.flatnonzero(first[1:] != first[:-1]) + 1))
    second = (pairs & (1 << PAIR_BITS) - 1).tolist()
    bounds = [*begins.tolist(), len(second)]
    for one, begin, end in zip(first[begins].tolist(), bounds, bounds[1:], strict=False):
        yield one, second[begin:end]
