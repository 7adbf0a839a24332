"""Pairs of numbers in one: sorted, once each, and by the first of the two."""

from __future__ import annotations

import numpy as np
import pytest

from kpstore.index.arrays import distinct, grouped, grouped_in_turns

HIGHEST = 2**32 - 1
PAIRS = [0, 1, 1, 3 << 32 | 7, 3 << 32 | HIGHEST, 5 << 32, 2**30 << 32 | 1]
GROUPS = [(0, [0, 1]), (3, [7, HIGHEST]), (5, [0]), (2**30, [1])]


def array_of(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    ("given", "expected"), [([], []), ([0], [0]), ([1, 0, 1, 0], [0, 1]), ([7, 5, 7], [5, 7])]
)
def test_each_number_once_and_in_order(given: list[int], expected: list[int]) -> None:
    assert distinct(array_of(*given)).tolist() == expected


def test_pairs_by_the_first_of_them() -> None:
    assert list(grouped(array_of(*PAIRS[::-1]))) == GROUPS
    assert list(grouped(array_of(4 << 32))) == [(4, [0])]
    assert list(grouped(array_of())) == []


@pytest.mark.parametrize("size", range(1, 6))
def test_some_of_them_at_a_time(size: int) -> None:
    pairs = distinct(array_of(*PAIRS))
    assert list(grouped_in_turns(pairs, size)) == [GROUPS[n : n + size] for n in range(0, len(GROUPS), size)]
    assert list(grouped_in_turns(array_of(), size)) == []
