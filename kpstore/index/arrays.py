"""NumPy's arrays and roaring bitmaps, to and from each other."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

Ints: TypeAlias = NDArray[np.int32]
Positions: TypeAlias = NDArray[np.uint32]
Pairs: TypeAlias = NDArray[np.int64]
"""Two numbers in one: a small one, and below its lowest `PAIR_BITS` bits a document's position."""

PAIR_BITS = 32


def set_of(positions: Iterable[int]) -> BitMap:
    """A set that is going to change.

    By default, documents that follow one another are kept as runs, and those that come after them too: a set
    of ten thousand runs takes eight times the memory, and 40 us instead of 0.1 to be compared.
    """
    return BitMap(positions, optimize=False)


def set_of_array(positions: Positions) -> BitMap:
    """The same; from an array of Python's, which is read ten times as fast as NumPy's."""
    return set_of(array("I", positions.tobytes()))


def distinct(numbers: Pairs) -> Pairs:
    """Numbers from 0 on, once each and in order (`np.unique` loads modules when it is called)."""
    ordered = np.sort(numbers)
    return ordered[np.diff(ordered, prepend=-1) > 0]


def grouped(pairs: Pairs) -> Iterator[tuple[int, list[int]]]:
    """Each first one of the pairs, and the second ones with it, once each and in order."""
    for groups in grouped_in_turns(distinct(pairs), max(1, len(pairs))):
        yield from groups


def grouped_in_turns(pairs: Pairs, size: int) -> Iterator[list[tuple[int, list[int]]]]:
    """The same of pairs that are distinct and in order, so many first ones at a time."""
    first = pairs >> PAIR_BITS
    begins = np.append(np.flatnonzero(np.diff(first, prepend=-1)), len(pairs))
    for number in range(0, len(begins) - 1, size):
        bounds = begins[number : number + size + 1]
        begin, end = bounds.item(0), bounds.item(-1)
        second = (pairs[begin:end] & (1 << PAIR_BITS) - 1).tolist()
        parts = pairwise((bounds - begin).tolist())
        yield [(one, second[at:to]) for one, (at, to) in zip(first[bounds[:-1]].tolist(), parts, strict=True)]
